"""What torch.amp.GradScaler runs on the device: unscale the gradients, adapt the scale."""

from __future__ import annotations

import torch

from portable_mps.dispatch.launch import launch
from portable_mps.dispatch.lists import ListKernel, table_of_copies, types
from portable_mps.dispatch.registry import implements
from portable_mps.runtime.kernel import Template

_unscale = ListKernel("amp", "unscale", addresses=2)
_update_scale = Template("amp", "update_scale", "QQQffi")


def _check_number(name: str, tensor: torch.Tensor, dtype: torch.dtype = torch.float32) -> None:
    if tensor.numel() != 1:
        raise RuntimeError(f"{name} must be a 1-element tensor.")
    if tensor.dtype != dtype:
        raise RuntimeError(f"{name} must be a {dtype} tensor.")
    if not tensor.is_mps:
        raise RuntimeError(f"{name} must be on the MPS device, but is on {tensor.device}")


@implements("_amp_foreach_non_finite_check_and_unscale_")
def unscale_(self: list[torch.Tensor], found_inf: torch.Tensor, inv_scale: torch.Tensor) -> None:
    """self *= inv_scale, and found_inf = 1 where an element of self is infinite or NaN."""
    _check_number("found_inf", found_inf)
    _check_number("inv_scale", inv_scale)
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in self:
        if not tensor.is_mps or tensor.layout != torch.strided:
            raise RuntimeError("scaled_grads must be strided (not sparse) tensors on the MPS device.")
        if not tensor.is_floating_point():
            raise RuntimeError("scaled_grads must be floating point tensors.")
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for dtype, tensors in by_dtype.items():
        table, copied = table_of_copies([tensors])
        _unscale(table, dtype, (found_inf, inv_scale), **types("T", dtype))
        for tensor, copy in copied:
            tensor.copy_(copy)


@implements("_amp_update_scale_")
def update_scale_(
    self: torch.Tensor,
    growth_tracker: torch.Tensor,
    found_inf: torch.Tensor,
    scale_growth_factor: float,
    scale_backoff_factor: float,
    growth_interval: int,
) -> torch.Tensor:
    """GradScaler's update: the scale backs off after infinities, and grows after `growth_interval` steps without."""
    _check_number("current_scale", self)
    _check_number("growth_tracker", growth_tracker, torch.int32)
    _check_number("found_inf", found_inf)
    arguments = (self, growth_tracker, found_inf, scale_growth_factor, scale_backoff_factor, growth_interval)
    launch(_update_scale, (1, 1, 1), arguments, (found_inf,), (self, growth_tracker))
    return self
