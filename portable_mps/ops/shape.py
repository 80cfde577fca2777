"""Moving elements about and making ramps: cat, flip, roll, tril, arange, padding."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from portable_mps.dispatch import atomics, deterministic
from portable_mps.dispatch.checks import COMPLEX, FLOATS, INTEGERS, number_of, require_dtype
from portable_mps.dispatch.lists import ListKernel, table_of_joined
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import (
    Linear,
    by_parts,
    castable,
    copy_reversed,
    dtype_defines,
    has_repeats,
    on_device,
    once_each,
    resized,
    separate,
    word,
    word_of,
    wrapped_dim,
    written,
)
from portable_mps.ops.selection import Compaction, coordinates
from portable_mps.runtime import device

_triangle = Linear("shape", "triangle", "QQxxxq")
_pad = Linear("shape", "pad", "QQxxxxxxxiii")
_ramps = {"double": Linear("shape", "ramp", "Qxdddd"), "float": Linear("shape", "ramp", "Qxffff")}


def finish(out: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """`result` into `out`, unless it is there already: kernels here write contiguous tensors."""
    return out if out is result else out.copy_(result)


def in_format_of(like: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """`result`, channels-last where `like` is: kernels here write contiguous tensors."""
    return result.contiguous(memory_format=suggest_memory_format(like))


def contiguous_out(out: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`out` resized, or a contiguous tensor to take its place until `finish`."""
    resized(out, shape)
    return out if out.is_contiguous() else torch.empty(shape, dtype=out.dtype, device=out.device)


# Joining and reordering -------------------------------------------------------------------------------------------


_MANY = 8  # tensors from which one dispatch with a table is cheaper than a copy each
_cat = ListKernel("cat", "cat", addresses=2)


@implements("cat.out")
def cat_out(tensors: Sequence[torch.Tensor], dim: int = 0, *, out: torch.Tensor) -> torch.Tensor:
    """Tensors joined along `dim`, in their common dtype. ValueError for none."""
    if not tensors:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    if len(tensors) >= _MANY and (joined := table_of_joined(tensors, dim if dim >= 0 else dim + out.dim(), out)):
        table, rows, pitch = joined
        _cat(table, torch.float32, (rows, pitch), T=word_of(min(out.itemsize, 8)), ROWS=int(rows > 1))
        return out
    castable(out, functools.reduce(torch.promote_types, [t.dtype for t in tensors]), TypeError)
    on_device(*tensors)
    separate(out, *tensors)
    # Empty vectors are let through whatever the others' shape, as torch has always done.
    parts = [t for t in tensors if t.dim() != 1 or t.size(0) != 0]
    if not parts:
        return resized(out, (0,))
    if parts[0].dim() == 0:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    dim = wrapped_dim(dim, parts[0].dim())
    shape = list(parts[0].shape)
    for position, part in enumerate(parts[1:], 1):
        others = [size for d, size in enumerate(part.shape) if d != dim]
        if part.dim() != len(shape):
            raise RuntimeError(f"Tensors must have same number of dimensions: got {len(shape)} and {part.dim()}")
        if others != [size for d, size in enumerate(shape) if d != dim]:
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {dim}. Got {list(part.shape)} for tensor number "
                f"{position} in the list, where {shape} was expected"
            )
    shape[dim] = sum(part.size(dim) for part in parts)
    separate(resized(out, shape), *tensors)  # a larger out may reach into an input, or be one
    places, start = [], 0
    for part in parts:
        places.append(out.narrow(dim, start, part.size(dim)))
        start += part.size(dim)
    for place, part in zip(places, parts, strict=True):
        place.copy_(part)
    return out


@implements("flip")
def flip(self: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """self with the order of elements along `dims` reversed."""
    flipped = [wrapped_dim(d, self.dim()) for d in dims]
    for d in flipped:
        if flipped.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    out = torch.empty_like(self)
    if self.numel() == 0 or self.dim() == 0:
        return out.copy_(self)
    refuse_as_cpu("flip", self.dtype)
    copy_reversed(out, self, flipped)
    return out


@implements("roll")
def roll(self: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    """self with elements shifted along `dims`, those that leave at one end coming in at the other."""
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not shifts:
        raise RuntimeError("`shifts` required")
    if not dims and len(shifts) == 1:
        return roll(self.reshape(-1), shifts, [0]).view(self.shape)
    if len(shifts) != len(dims):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(shifts)}, dims:{len(dims)}")
    result = self
    for shift, dim in zip(shifts, dims, strict=True):
        size = self.size(dim)
        shift = shift % size if size else 0
        parts = (result.narrow(dim, size - shift, shift), result.narrow(dim, 0, size - shift))
        result = torch.cat(parts, dim)
    return result


# Triangles and the identity ---------------------------------------------------------------------------------------


def _triangular(self: torch.Tensor, diagonal: int, out: torch.Tensor, upper: bool) -> torch.Tensor:
    if self.dim() < 2:
        raise RuntimeError(f"{'triu' if upper else 'tril'}: input tensor must have at least 2 dimensions")
    require_dtype("triu" if upper else "tril", self, FLOATS | INTEGERS | COMPLEX | {torch.bool})
    written(out, self.dtype)
    if out is self and has_repeats(out) and 0 not in out.stride()[:-2]:  # only zeros are written, which may meet
        ones = torch.ones(self.shape, dtype=torch.bool, device=self.device)
        zero = ones.tril(diagonal - 1) if upper else ones.triu(diagonal + 1)
        repeated = [d for d, stride in enumerate(out.stride()) if stride == 0]
        once_each(out).masked_fill_(zero.any(repeated, keepdim=True), 0)
        return out
    target = contiguous_out(out, self.shape)
    if self.numel():
        source = self.contiguous()
        arguments = (target, source, self.numel(), self.size(-2), self.size(-1), diagonal)
        _triangle(self.numel(), arguments, [source], [target], T=word(self.dtype), TRIANGLE=1 if upper else -1)
    return finish(out, target)


@implements("tril.out")
def tril_out(self: torch.Tensor, diagonal: int = 0, *, out: torch.Tensor) -> torch.Tensor:
    """self with zeros above a diagonal."""
    return _triangular(self, diagonal, out, upper=False)


@implements("triu.out")
def triu_out(self: torch.Tensor, diagonal: int = 0, *, out: torch.Tensor) -> torch.Tensor:
    """self with zeros below a diagonal."""
    return _triangular(self, diagonal, out, upper=True)


def _triangle_indices(rows: int, columns: int, offset: int, upper: bool, dtype: torch.dtype | None) -> torch.Tensor:
    if rows < 0 or columns < 0:
        raise RuntimeError("row and col must be non-negative")
    lower = sum(min(max(r + offset + (0 if upper else 1), 0), columns) for r in range(rows))
    count = rows * columns - lower if upper else lower
    result = torch.empty((2, count), dtype=dtype or torch.int64, device="mps")
    require_dtype("triu_indices" if upper else "tril_indices", result, frozenset((torch.int32, torch.int64)))
    if count == 0:
        return result
    mask = torch.ones((rows, columns), dtype=torch.bool, device="mps")
    mask = mask.triu(offset) if upper else mask.tril(offset)
    return coordinates(Compaction(mask).positions(count), mask.shape, 0).to(result.dtype)


@implements("tril_indices")
def tril_indices(
    row: int,
    col: int,
    offset: int = 0,
    *,
    dtype: torch.dtype | None = torch.int64,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """Rows and columns (2, count) of the elements on and below a diagonal."""
    return _triangle_indices(row, col, offset, False, dtype)


@implements("triu_indices")
def triu_indices(
    row: int,
    col: int,
    offset: int = 0,
    *,
    dtype: torch.dtype | None = torch.int64,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """Rows and columns (2, count) of the elements on and above a diagonal."""
    return _triangle_indices(row, col, offset, True, dtype)


@implements("eye.m_out")
def eye_m_out(n: int, m: int, *, out: torch.Tensor) -> torch.Tensor:
    """(n, m) with ones on the diagonal. RuntimeError for negative sizes."""
    for name, size in (("n", n), ("m", m)):
        if size < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {size}")
    if out.dtype == torch.complex32 or out.dtype in (torch.uint16, torch.uint32, torch.uint64):
        raise NotImplementedError(f"\"eye\" not implemented for '{scalar_type(out.dtype)}'")
    resized(out, (n, m)).zero_()
    out.diagonal().fill_(1)
    return out


@implements("eye.out")
def eye_out(n: int, *, out: torch.Tensor) -> torch.Tensor:
    """(n, n) with ones on the diagonal."""
    return eye_m_out(n, n, out=out)


@implements("trace")
def trace(self: torch.Tensor) -> torch.Tensor:
    """The sum of a matrix's diagonal. RuntimeError for other than a matrix."""
    if self.dim() != 2:
        raise RuntimeError("trace: expected a matrix")
    return self.diagonal().sum()


@implements("narrow_copy")
def narrow_copy(self: torch.Tensor, dim: int, start: int, length: int) -> torch.Tensor:
    """`narrow`, contiguous and in memory of its own. The CPU checks the length last."""
    if self.dim() and dim >= self.dim():
        raise RuntimeError(f"narrow_copy(): expected dim < {self.dim()}, but got {dim}")
    view = self.narrow(dim, start, max(length, 0))
    if length < 0:
        size = self.size(dim)
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return view.clone(memory_format=torch.contiguous_format)


# Ramps ------------------------------------------------------------------------------------------------------------


def _ramp(kind: int, out: torch.Tensor, size: int, start: float, end: float, step: float, base: float) -> torch.Tensor:
    target = out if out.numel() == size and out.is_contiguous() else None
    if target is None:
        if out.numel() != size:
            resized(out, (size,))
        target = contiguous_out(out, out.shape)
    if not out.is_floating_point() and kind == 0:  # as ATen, which truncates start and step
        real = "int64_t"
        _ramp_integer(
            size,
            (target, size, int(start), int(end), int(step), 0),
            [],
            [target],
            R=real,
            RAMP=kind,
            **dtype_defines("T", out.dtype),
        )
    elif size:
        real = "double" if device.current().adapter.features["float64"] else "float"
        arguments = (target, size, start, end, step, base)
        _ramps[real](size, arguments, [], [target], R=real, RAMP=kind, **dtype_defines("T", out.dtype))
    return finish(out, target)


_ramp_integer = Linear("shape", "ramp", "Qxqqqq")


def _check_range(start: float, end: float, step: float) -> None:
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")


@implements("arange.start_out")
def arange_start_out(start: float, end: float, step: float = 1, *, out: torch.Tensor) -> torch.Tensor:
    """Numbers from `start` in steps, without `end`."""
    require_dtype("arange_cpu", out, FLOATS | INTEGERS)
    _check_range(start, end, step)
    if out.dtype == torch.int64:
        start, end, step = int(start), int(end), int(step)
        if step == 0:
            raise ValueError("step must be nonzero")
        size = -(-(end - start) // step)
    else:
        size = math.ceil((end - start) / step)
    return _ramp(0, out, size, start, end, step, 0)


@implements("range.out")
def range_out(start: float, end: float, step: float = 1, *, out: torch.Tensor) -> torch.Tensor:
    """Numbers from `start` in steps, with `end` where a step meets it."""
    require_dtype("range_cpu", out, FLOATS | INTEGERS)
    _check_range(start, end, step)
    return _ramp(0, out, math.floor((end - start) / step) + 1, start, end, step, 0)


def _spaced(kind: int, out: torch.Tensor, start: Any, end: Any, steps: int, base: float) -> torch.Tensor:
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    if steps <= 1:  # nothing is divided: of any dtype
        if kind == 2:  # in torch, which has NaN where Python has a complex number or an exception
            start = torch.pow(torch.tensor(float(base), dtype=torch.float64, device="cpu"), start).item()
        resized(out, (steps,))
        return out.fill_(start) if steps else out
    name, allowed = ("linspace_cpu", "logspace_cpu")[kind - 1], FLOATS | INTEGERS | COMPLEX - {torch.complex32}
    require_dtype(name, out, allowed)
    if out.is_complex():
        ends = complex(start), complex(end)
        real = torch.promote_types(out.dtype.to_real(), torch.float32)
        sides = [(e.real for e in ends), (e.imag for e in ends)]
        places = torch.complex(*(torch.linspace(a, b, steps, dtype=real, device=out.device) for a, b in sides))
        return resized(out, (steps,)).copy_(base**places if kind == 2 else places)
    numbers = [number_of(value, out.dtype) for value in (start, end)]  # or torch's error
    if not out.is_floating_point():
        start, end = (number.item() for number in numbers)
    start, end = float(start), float(end)
    return _ramp(kind, out, steps, start, end, (end - start) / (steps - 1), base)


@implements("linspace.out")
def linspace_out(start: float, end: float, steps: int, *, out: torch.Tensor) -> torch.Tensor:
    """`steps` numbers from `start` to `end`, equally far apart."""
    return _spaced(1, out, start, end, steps, 0)


@implements("logspace.out")
def logspace_out(start: float, end: float, steps: int, base: float = 10.0, *, out: torch.Tensor) -> torch.Tensor:
    """`base` to the power of the numbers of `linspace_out`."""
    return _spaced(2, out, start, end, steps, base)


@implements("repeat_interleave.Tensor")
def repeat_interleave(repeats: torch.Tensor, *, output_size: int | None = None) -> torch.Tensor:
    """Position i of the result is the first whose cumulative count passes i; the host waits without output_size."""
    if repeats.dim() != 1:
        raise RuntimeError("repeat_interleave only accept 1D vector as repeat")
    if repeats.dtype not in (torch.int64, torch.int32):
        raise RuntimeError("repeats has to be Long or Int tensor")
    if repeats.numel() == 0:
        return torch.empty_like(repeats)
    ends = repeats.cumsum(0)
    if output_size is None:
        lowest, output_size = torch.stack((repeats.amin().to(torch.int64), ends[-1])).tolist()
        if lowest < 0:
            raise RuntimeError("repeats can not be negative")
    places = torch.arange(output_size, device=repeats.device)
    return torch.searchsorted(ends, places, right=True).to(repeats.dtype)


# Padding by reflection and replication ----------------------------------------------------------------------------


def _padding(
    name: str, self: torch.Tensor, padding: Sequence[int], reflect: bool
) -> tuple[list[int], list[int], list[int]]:
    """(depth, height, width) of self and of the result, and what is put before each."""
    dims = len(padding) // 2
    if self.dim() not in (dims + 1, dims + 2) or any(size == 0 for size in self.shape[1:]):
        raise RuntimeError(
            f"{name}: Expected {dims + 1}D or {dims + 2}D (batch mode) tensor with possibly 0 batch "
            f"size and other non-zero dimensions for input, but got: {list(self.shape)}"
        )
    own = [1] * (3 - dims) + list(self.shape[-dims:])
    before, after = [0, 0, 0], [0, 0, 0]
    for k in range(dims):
        before[2 - k], after[2 - k] = padding[2 * k], padding[2 * k + 1]
        if reflect and (padding[2 * k] >= own[2 - k] or padding[2 * k + 1] >= own[2 - k]):
            raise RuntimeError(
                f"Argument #{4 + 2 * k}: Padding size should be less than the corresponding input dimension, but "
                f"got: padding ({padding[2 * k]}, {padding[2 * k + 1]}) at dimension {self.dim() - 1 - k} of input "
                f"{list(self.shape)}"
            )
    padded = [size + b + a for size, b, a in zip(own, before, after, strict=True)]
    if any(size < 1 for size in padded):
        raise RuntimeError(f"input (size: {own}) is too small for the padding {list(padding)}")
    return own, padded, before


def pad_out(
    name: str, self: torch.Tensor, padding: Sequence[int], out: torch.Tensor | None, reflect: bool
) -> torch.Tensor:
    """Padded `self`, as new tensor where `out` is None."""
    own, padded, before = _padding(name, self, padding, reflect)
    if self.numel():
        require_dtype(name, self, FLOATS | INTEGERS | COMPLEX - {torch.complex32})
    dims = len(padding) // 2
    shape = [*self.shape[:-dims], *padded[3 - dims :]]
    if out is None:
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
    target = contiguous_out(out, shape)
    source = self.contiguous()
    if target.numel():
        arguments = (target, source, target.numel(), *padded, *own, *before)
        defines = {"T": word(self.dtype), "PAD": int(not reflect), "FORWARD": 1}
        _pad(target.numel(), arguments, [source], [target], **defines)
    return finish(out, target)


def pad_backward(
    name: str, grad: torch.Tensor, self: torch.Tensor, padding: Sequence[int], out: torch.Tensor | None, reflect: bool
) -> torch.Tensor:
    """The gradient of `pad_out`; added up in float32 for half types."""
    own, padded, before = _padding(name, self, padding, reflect)
    dims = len(padding) // 2
    if list(grad.shape) != [*self.shape[:-dims], *padded[3 - dims :]]:
        raise RuntimeError(f"{name}: gradOutput of unexpected shape {list(grad.shape)}")
    if out is None:
        out = torch.empty(self.shape, dtype=grad.dtype, device=self.device)
    resized(out, self.shape)
    if grad.is_complex():
        return out.copy_(by_parts(lambda part: pad_backward(name, part, self, padding, None, reflect), grad))
    dtype = torch.float32 if self.dtype in (torch.float16, torch.bfloat16) else grad.dtype
    total = torch.zeros(self.shape, dtype=dtype, device=self.device)
    source = grad.to(dtype).contiguous()
    if source.numel():
        deterministic.alert(f"{name}_backward")
        atomics.require(f"{name}_backward", dtype)
        arguments = (source, total, source.numel(), *padded, *own, *before)
        defines = {"PAD": int(not reflect), "FORWARD": 0, **dtype_defines("T", dtype)}
        _pad(source.numel(), arguments, [source], [total], **defines)
    return out.copy_(total)


def _register_padding(kind: str, dims: int) -> None:
    """The four operators of one kind and number of dimensions; not all of them exist."""
    name, reflect = f"{kind}_pad{dims}d", kind == "reflection"

    @implements(f"{name}.out")
    def out(self: torch.Tensor, padding: Sequence[int], *, out: torch.Tensor) -> torch.Tensor:
        return pad_out(name, self, padding, out, reflect)

    @implements(f"{name}_backward.grad_input")
    def backward_out(
        grad_output: torch.Tensor, self: torch.Tensor, padding: Sequence[int], *, grad_input: torch.Tensor
    ) -> torch.Tensor:
        return pad_backward(name, grad_output, self, padding, grad_input, reflect)

    if dims > 1:  # not structured, or structured without a memory format

        @implements(name)
        def functional(self: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
            return in_format_of(self, pad_out(name, self, padding, None, reflect))

    if dims > 1:

        @implements(f"{name}_backward")
        def backward(grad_output: torch.Tensor, self: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
            return in_format_of(self, pad_backward(name, grad_output, self, padding, None, reflect))


for _kind in ("reflection", "replication"):
    for _dims in (1, 2, 3):
        _register_padding(_kind, _dims)


@implements("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(self: torch.Tensor, groups: int) -> torch.Tensor:
    """self with its channels in turn from each of `groups`. RuntimeError for fewer than three dimensions."""
    if self.dim() < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(self.shape)}")
    channels = self.size(1)
    if groups <= 0 or channels % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {channels} channels and {groups} groups."
        )
    split = self.reshape(self.size(0), groups, channels // groups, *self.shape[2:])
    return in_format_of(self, split.transpose(1, 2).reshape(self.shape))
