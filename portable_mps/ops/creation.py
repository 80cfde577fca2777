"""Filling tensors: constants, ranges, triangles, the identity."""

from __future__ import annotations

import torch

from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements

_fill = Pointwise("fill", ("a",), 1, promotion=Promotion.NONE)


@implements("fill_.Scalar")
def fill_scalar_(self: torch.Tensor, value: float) -> torch.Tensor:
    # Through a tensor of the dtype, which refuses a value that does not fit as torch does.
    _fill((self,), (torch.full((), value, dtype=self.dtype, device="cpu"),))
    return self


@implements("fill_.Tensor")
def fill_tensor_(self: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if value.dim() != 0:
        raise RuntimeError(
            f"fill_ only supports 0-dimension value tensor but got tensor with {value.dim()} dimensions."
        )
    _fill((self,), (value,))
    return self


@implements("zero_")
def zero_(self: torch.Tensor) -> torch.Tensor:
    return fill_scalar_(self, 0)
