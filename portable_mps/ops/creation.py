"""Filling tensors: constants, ranges, triangles, the identity."""

from __future__ import annotations

import torch

from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements

_fill = Pointwise("fill", ("a",), 1, promotion=Promotion.NONE)


@implements("fill_.Scalar")
def fill_scalar_(self: torch.Tensor, value: complex) -> torch.Tensor:
    # Through a tensor of the dtype, which refuses a value that does not fit as torch does.
    return fill_tensor_(self, torch.full((), value, dtype=self.dtype, device="cpu"))


@implements("fill_.Tensor")
def fill_tensor_(self: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if value.dim() != 0:
        raise RuntimeError(
            f"fill_ only supports 0-dimension value tensor but got tensor with {value.dim()} dimensions."
        )
    if self.is_complex() or value.is_complex():
        return self.copy_(value)
    _fill((self,), (value,))
    return self


@implements("zero_")
def zero_(self: torch.Tensor) -> torch.Tensor:
    return fill_scalar_(self, 0)
