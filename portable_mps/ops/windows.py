"""Sliding windows: im2col, col2im (torch.nn.Unfold and Fold) and the gradient of Tensor.unfold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from portable_mps.dispatch.checks import COMPLEX, FLOATS, require_dtype
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import Linear, by_parts, dtype_defines, resized, word, wrapped_dim, written
from portable_mps.ops.shape import contiguous_out, finish

_unfold_backward = Linear("windows", "unfold_backward", "QQxxxxxx")
_COLUMNS = "QQxxxxxiiiiiiii"
_im2col = Linear("windows", "im2col", _COLUMNS)
_col2im = Linear("windows", "col2im", _COLUMNS)


@implements("unfold_backward")
def unfold_backward(grad_in: torch.Tensor, input_sizes: Sequence[int], dim: int, size: int, step: int) -> torch.Tensor:
    """The gradient of windows along one dimension: elements of overlapping ones are added up."""
    if grad_in.is_complex():
        return by_parts(lambda part: unfold_backward(part, input_sizes, dim, size, step), grad_in)
    out = torch.zeros(list(input_sizes), dtype=grad_in.dtype, device=grad_in.device)
    if out.dim() == 0 or grad_in.numel() == 0:
        return out.copy_(grad_in.reshape(out.shape)) if out.dim() == 0 else out
    dim = wrapped_dim(dim, out.dim())
    grad = grad_in.contiguous()
    inner = math.prod(input_sizes[dim + 1 :])
    arguments = (out, grad, out.numel(), input_sizes[dim], inner, grad.size(dim), size, step)
    defines = dtype_defines("T", grad.dtype)
    _unfold_backward(out.numel(), arguments, [grad], [out], UNFOLD_BACKWARD=1, **defines)
    return out


def _pair(values: Sequence[int]) -> list[int]:
    return [values[0], values[0]] if len(values) == 1 else list(values)


def _windows(
    size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> list[int]:
    for name, values, least in (("kernel_size", kernel, 1), ("dilation", dilation, 1), ("stride", stride, 1)):
        if min(values) < least:
            raise RuntimeError(f"{name} should be greater than zero, but got {name}: {list(values)}")
    if min(padding) < 0:
        raise RuntimeError(f"padding should be non-negative, but got padding: {list(padding)}")
    return [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, k, d, p, t in zip(size, kernel, dilation, padding, stride, strict=True)
    ]


@implements("im2col.out")
def im2col_out(
    self: torch.Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """(N, C, H, W) or (C, H, W) to (N, C * kernel, windows)."""
    kernel, dilation, padding, stride = (_pair(v) for v in (kernel_size, dilation, padding, stride))
    if self.dim() not in (3, 4) or any(size == 0 for size in self.shape[-3:]):
        raise RuntimeError(
            f"Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {list(self.shape)}"
        )
    rows, places = _windows(self.shape[-2:], kernel, dilation, padding, stride)
    if rows < 1 or places < 1:
        raise RuntimeError(
            f"Given input with spatial size {list(self.shape[-2:])}, kernel_size={kernel}, "
            f"dilation={dilation}, padding={padding}, calculated shape of the array of sliding blocks "
            f"as ({rows}, {places}), but its components must be at least one."
        )
    image = self.contiguous()
    shape = [*self.shape[:-3], self.size(-3) * kernel[0] * kernel[1], rows * places]
    written(out, self.dtype)
    require_dtype("im2col_out_cpu", self, FLOATS | COMPLEX | {torch.bool})
    columns = contiguous_out(out, shape)
    arguments = (image, columns, out.numel(), *self.shape[-2:], rows, places, *kernel, *dilation, *padding, *stride)
    _im2col(out.numel(), arguments, [image], [columns], COLUMNS=0, T=word(self.dtype))
    return finish(out, columns)


@implements("im2col")
def im2col(
    self: torch.Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Windows of (batch, channels, height, width) as columns (batch, channels * window, windows)."""
    return im2col_out(self, kernel_size, dilation, padding, stride, out=self.new_empty(0))


@implements("col2im.out")
def col2im_out(
    self: torch.Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """(N, C * kernel, windows) or (C * kernel, windows) to (N, C, H, W): overlapping windows are added up."""
    written(out, self.dtype)
    if self.is_complex():
        result = by_parts(lambda part: col2im(part, output_size, kernel_size, dilation, padding, stride), self)
        return resized(out, result.shape).copy_(result)
    size, kernel, dilation, padding, stride = (_pair(v) for v in (output_size, kernel_size, dilation, padding, stride))
    if self.dim() not in (2, 3) or any(extent == 0 for extent in self.shape[-2:]):
        raise RuntimeError(
            f"Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero "
            f"dimensions for input, but got: {list(self.shape)}"
        )
    rows, places = _windows(size, kernel, dilation, padding, stride)
    taps = kernel[0] * kernel[1]
    if self.size(-2) % taps:
        raise RuntimeError(
            f"Expected size of input's dimension 1 to be divisible by the product of kernel_size, but "
            f"got input.size(1)={self.size(-2)} and kernel_size=({kernel[0]}, {kernel[1]})."
        )
    if rows < 1 or places < 1 or self.size(-1) != rows * places:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={dilation}, padding={padding}, "
            f"stride={stride}, expected size of input's dimension 2 to match the calculated number of "
            f"sliding blocks {rows} * {places} = {rows * places}, but got {self.size(-1)}."
        )
    columns = self.contiguous()
    image = contiguous_out(out, [*self.shape[:-2], self.size(-2) // taps, *size])
    arguments = (image, columns, out.numel(), *size, rows, places, *kernel, *dilation, *padding, *stride)
    _col2im(out.numel(), arguments, [columns], [image], COLUMNS=1, **dtype_defines("T", self.dtype))
    return finish(out, image)


@implements("col2im")
def col2im(
    self: torch.Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """The sum of `im2col`'s columns at their places."""
    return col2im_out(self, output_size, kernel_size, dilation, padding, stride, out=self.new_empty(0))
