"""Filling tensors: constants, ranges, triangles, the identity."""

from __future__ import annotations

import torch

from portable_mps.dispatch import moves
from portable_mps.dispatch.checks import number_of
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import once_each

_fill = Pointwise("fill", ("a",), 1, promotion=Promotion.NONE)
_WORDS = {4: torch.int32, 8: torch.int64}  # by size
_LEAST = 1 << 20  # bytes from which it pays to fill words wider than an element


@implements("fill_.Scalar")
def fill_scalar_(self: torch.Tensor, value: complex) -> torch.Tensor:
    """Set all elements to a number."""
    # Expanded tensors may be filled with a number, not with a tensor. Of a single element torch asks less, so that
    # x[0] = 1e9 makes a half infinite.
    number = (
        number_of(value, self.dtype) if self.numel() != 1 else torch.full((), value, dtype=self.dtype, device="cpu")
    )
    fill_tensor_(once_each(self), number)
    return self


@implements("fill_.Tensor")
def fill_tensor_(self: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Set all elements to that of a tensor without dimensions. RuntimeError for another."""
    if value.dim() != 0:
        raise RuntimeError(
            f"fill_ only supports 0-dimension value tensor but got tensor with {value.dim()} dimensions."
        )
    target = self
    if value.is_cpu and value.dtype == self.dtype:
        target, value = _in_words(self, value)
    if target.is_complex() or value.is_complex():
        return self.copy_(value)
    _fill((target,), (value,))
    return self


def _in_words(self: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as integers of a complex number's width, or, where `self` is large, of as many elements as lie in a word."""
    if self.itemsize in _WORDS and self.is_complex() and not (self.is_conj() or self.is_neg()):
        words = self.view(_WORDS[self.itemsize])
    elif self.itemsize < 4 and self.nbytes >= _LEAST:
        words, _ = moves.in_words(self, self)
    else:
        return self, value
    return words, value.expand(words.itemsize // self.itemsize).contiguous().view(words.dtype)[0]


def _kaiser_window(
    window_length: int,
    periodic: bool = True,
    beta: float = 12.0,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """I0(beta * sqrt(1 - x^2)) / I0(beta) at window_length points x from -1 to 1 (Kaiser, 1966)."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if window_length < 0:
        raise RuntimeError(f"kaiser_window requires non-negative window_length, got window_length={window_length}")
    if layout not in (None, torch.strided):
        raise RuntimeError(f"kaiser_window is not implemented for sparse types, got: {layout}")
    if not (dtype.is_floating_point or dtype.is_complex):
        raise RuntimeError(f"kaiser_window expects floating point dtypes, got: {dtype}")
    if window_length < 2:
        return torch.ones(window_length, dtype=dtype, device=device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    points = window_length + 1 if periodic else window_length
    x = torch.arange(points, dtype=wide, device=device) * (2 / (points - 1)) - 1
    window = torch.special.i0((1 - x * x).clamp_min(0).sqrt() * beta)
    window = window / torch.special.i0(torch.full((), beta, dtype=wide, device=device))
    return window.to(dtype)[:window_length]


for _overload in ("", ".periodic", ".beta"):
    register(f"kaiser_window{_overload}", _kaiser_window)


@implements("zero_")
def zero_(self: torch.Tensor) -> torch.Tensor:
    """Set all elements to zero."""
    return fill_scalar_(self, 0)
