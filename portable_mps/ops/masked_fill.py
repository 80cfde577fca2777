"""masked_fill_: one value where a mask is true. Values of other places are kept, also where they are NaN."""

from __future__ import annotations

import torch

from portable_mps.dispatch.checks import number_of
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import once_each, warn_if_expanded

masked_assign = Pointwise(
    "masked_fill", ("b ? c : a",), 3, promotion=Promotion.NONE, complex=True, like="masked_fill.Scalar"
)


def _masked(self: torch.Tensor, mask: torch.Tensor, value: torch.Tensor) -> None:
    """self[mask] = value, in place."""
    if mask.dtype != torch.bool:
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.dtype}")
    mask = mask.expand(self.shape)
    if warn_if_expanded("masked_fill_", self):
        self, repeated = once_each(self), [d for d, stride in enumerate(self.stride()) if stride == 0]
        mask = mask.any(repeated, keepdim=True)
    masked_assign((self,), (self, mask, value))


@implements("masked_fill_.Scalar")
def masked_fill_scalar_(self: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor:
    """Set the elements where the mask is true to a number."""
    _masked(self, mask, number_of(value, self.dtype))
    return self


@implements("masked_fill_.Tensor")
def masked_fill_tensor_(self: torch.Tensor, mask: torch.Tensor, value: torch.Tensor | float) -> torch.Tensor:
    """Set the elements where the mask is true to that of a tensor without dimensions."""
    if not isinstance(value, torch.Tensor):
        return masked_fill_scalar_(self, mask, value)
    if value.dim() != 0:
        raise RuntimeError(
            f"masked_fill_ only supports a 0-dimensional value tensor, but got tensor with {value.dim()} dimension(s)."
        )
    if value.is_complex() and not self.is_complex():
        return masked_fill_scalar_(self, mask, value.item())  # which refuses what does not fit
    _masked(self, mask, value.to(self.dtype))
    return self
