"""torchvision's operators: nms, roi_align, roi_pool, their position-sensitive forms, deform_conv2d."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from portable_mps.dispatch.registry import register_for

_FAMILIES = {
    "torchvision_nms": ("nms",),
    "torchvision_rois": ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"),
    "torchvision_deform_conv": ("deform_conv2d",),
}
"""The files of ops/ with the kernels, each in their table OPERATORS."""
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastMPS)  # type: ignore[attr-defined]


def register(module: ModuleType) -> None:
    """Register our kernels; nothing where torchvision could not load the library that defines its operators."""
    if not torch._C._dispatch_has_kernel("torchvision::nms"):
        return
    for family, names in _FAMILIES.items():
        for name in names:
            _register_kernel(family, name)
            if name != "nms":
                _register_kernel(family, f"_{name}_backward")
            _register_autocast(name)


def _register_kernel(family: str, name: str) -> None:
    """The kernel, imported with its first call: importing torchvision must not wait for all of ops/."""

    def run(*arguments: Any) -> Any:
        return import_module(f"portable_mps.ops.{family}").OPERATORS[name](*arguments)

    register_for("torchvision", name, run)


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
