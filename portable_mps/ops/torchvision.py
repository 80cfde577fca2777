"""torchvision's operators on this device; imported once torchvision is (compatibility/torchvision.py), not before."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.registry import register_for
from portable_mps.ops import torchvision_deform_conv, torchvision_nms, torchvision_rois

_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastMPS)  # type: ignore[attr-defined]


def _widened(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.float() if narrow else value


def _register_autocast(name: str) -> None:
    """What torchvision registers for other devices: compute in float32, and results of the first tensor's dtype."""
    operator = getattr(torch.ops.torchvision, name).default

    def run(*arguments: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            results = operator(*(_widened(argument) for argument in arguments))
        if name == "nms":  # indices
            return results
        dtype = arguments[0].dtype
        return results.to(dtype) if isinstance(results, torch.Tensor) else tuple(r.to(dtype) for r in results)

    register_for("torchvision", name, run, key="AutocastMPS")


for _family in (torchvision_nms, torchvision_rois, torchvision_deform_conv):
    for _name, _function in _family.OPERATORS.items():
        register_for("torchvision", _name, _function)
        if not _name.endswith("_backward"):
            _register_autocast(_name)
