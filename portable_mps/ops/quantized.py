"""Quantised tensors: made of integers with a scale and a zero point, for the whole tensor or for each channel.

What moves elements, or keeps their order, works on the integers; the rest on the numbers that they stand for.
csrc/quantized.cpp makes the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch.functionality import implements_for, take
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import wrapped_dim

_TAKEN = """
q_scale q_zero_point q_per_channel_scales q_per_channel_zero_points q_per_channel_axis qscheme
as_strided view unfold _reshape_alias squeeze squeeze.dim squeeze.dims unsqueeze empty_quantized empty_like
set_.source_Storage_storage_offset
"""
take("Quantized", _TAKEN.split())

_INTEGERS = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.qint32: torch.int32}
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_affine_float_qparams)


def _integers(quantized: torch.Tensor) -> torch.Tensor:
    """The memory itself, to be changed in place."""
    return _C.quantized_integers(quantized)


def _integer_dtype(name: str, dtype: torch.dtype | None) -> torch.dtype:
    if dtype not in _INTEGERS:
        raise RuntimeError(f"ScalarType {dtype} is not supported in {name}.")
    return _INTEGERS[dtype]


def _along(parameter: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """[channels] to broadcast along `axis` of a tensor of this rank."""
    return parameter.reshape([-1 if d == axis else 1 for d in range(rank)])


def _rounded(
    x: torch.Tensor, scale: torch.Tensor | float, zero_point: torch.Tensor | int, dtype: torch.dtype
) -> torch.Tensor:
    """Integers; like FBGEMM, to which ATen turns, this rounds the sum with the zero point, ties to even."""
    limits = torch.iinfo(dtype)
    reciprocal = scale.to(torch.float32).reciprocal() if isinstance(scale, torch.Tensor) else _reciprocal(scale)
    places = (x * reciprocal + zero_point).round_()
    if dtype == torch.int32:  # whose ends are no float32
        places = places.clamp_(-(2.0**40), 2.0**40).to(torch.int64)
    return places.clamp_(limits.min, limits.max).to(dtype)


def _reciprocal(scale: float) -> float:
    """In float32, as FBGEMM has it."""
    return float(torch.tensor(scale, dtype=torch.float32).reciprocal())


def _check_input(x: torch.Tensor) -> None:
    if x.dtype != torch.float32:
        names = {torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16"}
        raise RuntimeError(f"Quantize only works on Float Tensor, got {names.get(x.dtype, x.dtype)}")


def _check_zero_point(name: str, low: int, high: int, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    if low < limits.min:
        raise RuntimeError(f"{name} zero_point {low} is below lower bound.")
    if high > limits.max:
        raise RuntimeError(f"{name} zero_point {high} is above upper bound.")


# Quantising -----------------------------------------------------------------------------------------------------------


@implements("quantize_per_tensor")
def quantize_per_tensor(self: torch.Tensor, scale: float, zero_point: int, dtype: torch.dtype) -> torch.Tensor:
    """float32 to quint8, qint8 or qint32: round(self / scale + zero_point)."""
    integers = _integer_dtype("new_qtensor", dtype)
    _check_input(self)
    _check_zero_point("quantize_tensor_per_tensor_affine", zero_point, zero_point, integers)
    return _C.quantized_per_tensor(_rounded(self, scale, zero_point, integers), scale, zero_point)


@implements("quantize_per_tensor.tensor_qparams")
def quantize_by_tensors(
    self: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The host waits for the scale and the zero point."""
    return quantize_per_tensor(self, scale.item(), int(zero_point.item()), dtype)


@implements("quantize_per_tensor.tensors")
def quantize_list(
    tensors: Sequence[torch.Tensor], scales: torch.Tensor, zero_points: torch.Tensor, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Each tensor, quantised by its scale and zero point."""
    parameters = zip(tensors, scales.tolist(), zero_points.tolist(), strict=True)
    return [quantize_per_tensor(t, scale, int(zero_point), dtype) for t, scale, zero_point in parameters]


@implements("quantize_per_tensor_dynamic")
def quantize_dynamically(self: torch.Tensor, dtype: torch.dtype, reduce_range: bool) -> torch.Tensor:
    """With the scale and zero point that its own range asks for. The host waits for it."""
    if dtype not in (torch.qint8, torch.quint8):
        raise RuntimeError(f"dtype {dtype} not supported")
    scale, zero_point = torch._choose_qparams_per_tensor(self, reduce_range)
    if dtype == torch.qint8:
        zero_point -= 64 if reduce_range else 128
    return quantize_per_tensor(self, scale, zero_point, dtype)


@implements("quantize_per_channel")
def quantize_per_channel(
    self: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, axis: int, dtype: torch.dtype
) -> torch.Tensor:
    """scales and zero_points: one for each place along `axis`. ATen keeps the scales in float64."""
    integers = _integer_dtype("new_qtensor", dtype)
    _check_input(self)
    if not 0 <= axis < self.dim():
        raise RuntimeError(
            f"Channel axis out of range in per channel affine quantization. Got: {axis}Expected: [0, {self.dim()})"
        )
    if scales.numel() != zero_points.numel():
        raise RuntimeError("number of elements in scales and zero_points must match")
    if scales.numel() != self.size(axis):
        raise RuntimeError(f"length of scales must equal to channel, expected {self.size(axis)} got, {scales.numel()}")
    if zero_points.is_floating_point():
        raise NotImplementedError("quantize_per_channel: zero points of a floating dtype are not supported on MPS")
    if zero_points.numel():
        low, high = zero_points.aminmax()
        _check_zero_point("quantize_tensor_per_channel_affine", int(low), int(high), integers)
    steps, origins = (_along(t.to(self.device), axis, self.dim()) for t in (scales, zero_points))
    return _C.quantized_per_channel(_rounded(self, steps, origins, integers), scales, zero_points, axis)


@implements("_make_per_tensor_quantized_tensor")
def of_integers(self: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    """A quantised tensor of integers, one scale and zero point."""
    return _C.quantized_per_tensor(self.clone(), scale, zero_point)


@implements("_make_per_channel_quantized_tensor")
def of_integers_by_channel(
    self: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> torch.Tensor:
    """A quantised tensor of integers, a scale and zero point for each index along `axis`."""
    return _C.quantized_per_channel(self.clone(), scale, zero_point, axis)


@implements_for("Quantized", "_empty_affine_quantized")
def empty(
    size: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    scale: float,
    zero_point: int,
    layout: torch.layout | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """An uninitialised tensor with one scale and zero point."""
    memory = _integer_dtype("new_qtensor", dtype)
    chosen = torch.contiguous_format if memory_format in (None, torch.preserve_format) else memory_format
    integers = torch.empty(size, dtype=memory, device=device, memory_format=chosen)
    return _C.quantized_per_tensor(integers, scale, zero_point)


@implements_for("Quantized", "_empty_per_channel_affine_quantized")
def empty_by_channel(
    size: Sequence[int],
    *,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    axis: int,
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.layout | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """An uninitialised tensor with a scale and zero point for each index along `axis`."""
    integers = torch.empty(size, dtype=_integer_dtype("new_qtensor", dtype), device=device)
    return _C.quantized_per_channel(integers, scales.to(device), zero_points.to(device), axis)


# Back -----------------------------------------------------------------------------------------------------------------


@implements_for("Quantized", "int_repr")
def int_repr(self: torch.Tensor) -> torch.Tensor:
    """A copy of the integers."""
    return _integers(self).clone()


@implements("dequantize.self")
def of_numbers(self: torch.Tensor) -> torch.Tensor:
    """A tensor that is not quantised, in float32."""
    return self.to(torch.float32)


@implements_for("Quantized", "dequantize.self")
def dequantize(self: torch.Tensor) -> torch.Tensor:
    """float32: (integer - zero_point) * scale."""
    if self.qscheme() not in _PER_CHANNEL:
        return (_integers(self).to(torch.int32) - self.q_zero_point()).to(torch.float32) * self.q_scale()
    axis, rank = self.q_per_channel_axis(), self.dim()
    scales, zero_points = self.q_per_channel_scales(), self.q_per_channel_zero_points()
    places = _integers(self).to(torch.int32) - _along(zero_points.to(torch.int32), axis, rank)
    return places.to(torch.float32) * _along(scales.to(torch.float32), axis, rank)


@implements_for("Quantized", "dequantize.tensors")
def dequantize_list(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor in float32."""
    return [dequantize(t) for t in tensors]


def _again(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """float32 numbers quantised as another tensor is."""
    if like.qscheme() in _PER_CHANNEL:
        parameters = like.q_per_channel_scales(), like.q_per_channel_zero_points(), like.q_per_channel_axis()
        return quantize_per_channel(numbers, *parameters, like.dtype)
    return quantize_per_tensor(numbers, like.q_scale(), like.q_zero_point(), like.dtype)


# Moving and changing elements -----------------------------------------------------------------------------------------


@implements_for("Quantized", "clone")
def clone(self: torch.Tensor, *, memory_format: torch.memory_format = torch.preserve_format) -> torch.Tensor:
    """A copy, also of scales and zero points."""
    return _C.quantized_like(_integers(self).clone(memory_format=memory_format), self)


@implements_for("Quantized", "copy_")
def copy_(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Between devices, too; the destination takes the source's scale and zero point, or rounds a float32 source."""
    if not self.is_quantized:
        raise RuntimeError(
            "Copying from quantized Tensor to non-quantized Tensor is not allowed, please use dequantize to get a "
            "float Tensor from a quantized Tensor"
        )
    if not src.is_quantized:
        if src.dtype != torch.float32:
            raise RuntimeError(f"Quantized copy only works with kFloat as source Tensor, but got {src.dtype}")
        rounded = _again(src.to(self.device).expand(self.shape), self)
        _integers(self).copy_(_integers(rounded), non_blocking)
        return self
    if self.qscheme() != src.qscheme():
        raise RuntimeError("Quantized Copy only works with same qscheme")
    if self.dtype != src.dtype:
        raise RuntimeError("Quantized Copy only works with same data type")
    _integers(self).copy_(_integers(src), non_blocking)
    if self.qscheme() in _PER_CHANNEL and self.device != src.device:
        # Scales lie on a device: those of an empty tensor on this one are taken.
        scales, zero_points = (t.to(self.device) for t in (src.q_per_channel_scales(), src.q_per_channel_zero_points()))
        src = torch._empty_per_channel_affine_quantized(
            [0] * self.dim(),
            scales=scales,
            zero_points=zero_points,
            axis=src.q_per_channel_axis(),
            dtype=self.dtype,
            device=self.device,
        )
    _C.take_quantizer(self, src)
    return self


@implements_for("Quantized", "fill_.Scalar", "fill_.Tensor")
def fill_(self: torch.Tensor, value: torch.Tensor | float) -> torch.Tensor:
    """Set all elements to a number, quantised."""
    return copy_(self, torch.full((), float(value), device=self.device))


def _need_one_scale(name: str, self: torch.Tensor) -> None:
    if self.qscheme() in _PER_CHANNEL:
        raise NotImplementedError(f"{name}: only tensors quantized as a whole are supported")


def _on_integers(name: str, function: Callable[..., Any]) -> None:
    """An operator that moves elements without a look at them."""

    def run(self: torch.Tensor, *args: Any) -> torch.Tensor:
        _need_one_scale(name, self)
        return _C.quantized_like(function(_integers(self), *args), self)

    implements_for("Quantized", name)(run)


_on_integers("index_select", torch.index_select)
_on_integers("index.Tensor", torch.ops.aten.index.Tensor)
_on_integers("flip", torch.flip)
_on_integers("max", torch.max)
_on_integers("min", torch.min)


def _ordered(name: str, function: Callable[..., Any]) -> None:
    """An operator that puts elements in order, and tells where each was."""

    def run(self: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        _need_one_scale(name, self)
        values, indices = function(_integers(self), *args, **kwargs)
        return _C.quantized_like(values, self), indices

    implements_for("Quantized", name)(run)


_ordered("max.dim", torch.max)
_ordered("min.dim", torch.min)
_ordered("sort.stable", torch.ops.aten.sort.stable)
_ordered("topk", torch.topk)


@implements_for("Quantized", "cat")
def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """With the scale and zero point of the first."""
    first = tensors[0]
    dim = wrapped_dim(dim, first.dim())
    for other in tensors:
        if other.qscheme() in _PER_CHANNEL:
            raise RuntimeError("Only per-tensor quantization is supported in 'cat'!")
        if other.dtype != first.dtype:
            raise RuntimeError("All dtypes must be the same.")
    same = all((t.q_scale(), t.q_zero_point()) == (first.q_scale(), first.q_zero_point()) for t in tensors)
    if same:
        return _C.quantized_like(torch.cat([_integers(t) for t in tensors], dim), first)
    return _again(torch.cat([dequantize(t) for t in tensors], dim), first)


@implements_for("Quantized", "masked_fill_.Scalar", "masked_fill_.Tensor")
def masked_fill_(self: torch.Tensor, mask: torch.Tensor, value: torch.Tensor | float) -> torch.Tensor:
    """Set the elements where the mask is true to a number, quantised."""
    filled = torch.full((), float(value), device=self.device).expand(self.shape)
    _integers(self).copy_(torch.where(mask, _integers(_again(filled, self)), _integers(self)))
    return self


@implements_for("Quantized", "_index_put_impl_")
def index_put_(
    self: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    values: torch.Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> torch.Tensor:
    """Set elements at tensors of indices, quantised. RuntimeError with `accumulate`."""
    if accumulate:
        raise RuntimeError("index_put for quantized tensors is currently only supported for accumulate=False")
    if self.qscheme() in _PER_CHANNEL:
        raise RuntimeError(
            "index_put for quantized tensors is currently only supported for per tensor quantized tensors"
        )
    rounded = _again(values.to(torch.float32), self)
    torch.ops.aten._index_put_impl_(_integers(self), indices, _integers(rounded), False, unsafe)
    return self


@implements_for("Quantized", "equal")
def equal(self: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether dtype, scale, zero point and integers are the same."""
    if not other.is_quantized or self.dtype != other.dtype or self.qscheme() != other.qscheme():
        return False
    if self.qscheme() in _PER_CHANNEL:
        same = self.q_per_channel_axis() == other.q_per_channel_axis() and torch.equal(
            self.q_per_channel_scales(), other.q_per_channel_scales()
        )
        same = same and torch.equal(self.q_per_channel_zero_points(), other.q_per_channel_zero_points())
    else:
        same = (self.q_scale(), self.q_zero_point()) == (other.q_scale(), other.q_zero_point())
    return same and torch.equal(_integers(self), _integers(other))


# On the numbers -------------------------------------------------------------------------------------------------------


def _numbers(value: Any) -> Any:
    return dequantize(value) if isinstance(value, torch.Tensor) and value.is_quantized else value


def _comparison(name: str) -> None:
    function = getattr(torch, name)

    def run(self: torch.Tensor, other: torch.Tensor | float) -> torch.Tensor:
        return function(_numbers(self), _numbers(other))

    implements_for("Quantized", f"{name}.Tensor", f"{name}.Scalar")(run)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _comparison(_name)


def _keeping_scale(name: str, function: Callable[..., Any]) -> None:
    def run(self: torch.Tensor, *args: Any) -> torch.Tensor:
        return _again(function(dequantize(self), *args), self)

    implements_for("Quantized", name)(run)


_keeping_scale("relu", torch.relu)
_keeping_scale("clamp", torch.clamp)
_keeping_scale("mean.dim", torch.mean)


@implements_for("Quantized", "relu_")
def relu_(self: torch.Tensor) -> torch.Tensor:
    """Set negative elements to zero."""
    return copy_(self, torch.relu(dequantize(self)))
