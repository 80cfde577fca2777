"""Reading and writing a tensor through index tensors: index, index_put_, index_select, index_add, take.

Everything here and in ops/scatter.py is one kernel, `indexed`, with other strides. Indices are checked on the device:
one out of range touches nothing and raises at the next synchronisation.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from portable_mps.dispatch import deterministic
from portable_mps.dispatch.checks import number_of, raise_where
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import (
    Strided,
    dtype_defines,
    extent,
    on_device,
    resized,
    separate,
    warn_if_expanded,
    word_of,
    wrapped_dim,
    written,
)  # fmt: skip
from portable_mps.ops.masked_fill import masked_fill_tensor_
from portable_mps.runtime import device

_MAX_INDICES = 8
_INDEX_TYPES = {torch.int64: "int64_t", torch.int32: "int"}
_OPERATIONS = {"sum": "AtomicAdd", "prod": "AtomicMul", "amin": "AtomicMin", "amax": "AtomicMax"}
_HALF = (torch.float16, torch.bfloat16)
_MANY = 32  # terms of a sum that are worth copies of it


@functools.cache
def _kernel(indices: int) -> Strided:
    return Strided("indexing", "run", pointers=3 + indices, operands=3, extras="qqII" * indices)


def indexed(
    action: str,
    base: torch.Tensor,
    base_strides: Sequence[int],
    values: torch.Tensor,
    indices: Sequence[torch.Tensor],
    extents: Sequence[tuple[int, int]],
    message: str,
    kind: type[Exception] = IndexError,
    wrap: bool = True,
    dims: Sequence[int] = (),
) -> None:
    """Move or combine the elements of `base` that the index tensors point at.

    values has the iteration's shape; indices are expandable to it. base_strides are base's over that shape, 0 where an
    index decides; extents gives the size and the stride of the dimension that each index goes through. action: "get"
    fills values from base, "put" writes base, and the keys of _OPERATIONS combine into base. message may use {index},
    {dim} and {size}; wrap allows negative indices.
    """
    if base.is_complex() and action == "sum":  # by parts
        base, values = torch.view_as_real(base), torch.view_as_real(values)
        base_strides = [*(2 * stride for stride in base_strides), 1]
        indices = [index.unsqueeze(-1) for index in indices]
        extents = [(size, 2 * stride) for size, stride in extents]
    if values.numel() == 0:
        return
    indices = [index.expand(values.shape) for index in indices]
    access = _Access(
        action, base, base_strides, values, indices, extents, message, kind, wrap, dims or range(len(indices))
    )
    if deterministic.is_wanted(action, base.dtype):
        _launch_in_order(access)
    else:
        _launch(access)


class _Access(NamedTuple):
    """`indexed`'s arguments, the indices expanded."""

    action: str
    base: torch.Tensor
    base_strides: Sequence[int]
    values: torch.Tensor
    indices: Sequence[torch.Tensor]
    extents: Sequence[tuple[int, int]]
    message: str
    kind: type[Exception]
    wrap: bool
    dims: Sequence[int]


def _launch(access: _Access) -> None:
    """In one dispatch, where threads may race for an element."""
    action, base, values, indices = access.action, access.base, access.values, access.indices
    if any(index.stride() != indices[0].stride() or index.dtype != indices[0].dtype for index in indices):
        indices = [index.to(torch.int64).contiguous() for index in indices]
    errors = device.current().errors
    times = _elements_of_a_word(access, indices)
    extras: list[int] = []
    for dim, (size, stride) in zip(access.dims, access.extents, strict=True):
        code = errors.arm(access.message.format(index="{index}", dim=dim, size=size), access.kind)
        extras += [size, stride // times, code, 0]
    defines: dict[str, Any] = {"K": len(indices), "I": _INDEX_TYPES[indices[0].dtype], "WRAP": int(access.wrap)}
    if action in ("get", "put"):
        defines |= {"ACTION": action.upper(), "T": word_of(times * base.element_size())}
    else:
        operation = _OPERATIONS[action]
        if base.dtype == torch.bool:  # a sum of bools is a logical or, a product a logical and
            operation = {"AtomicAdd": "AtomicMax", "AtomicMul": "AtomicMin"}.get(operation, operation)
        defines |= {"ACTION": "COMBINE", "OPERATION": operation, **dtype_defines("T", base.dtype)}
    shape, strides = list(values.shape), [list(values.stride()), list(access.base_strides)]
    if times > 1:
        shape[-1] //= times
        strides = [[*(stride // times for stride in steps[:-1]), 1] for steps in strides]
    # The kernel reaches all of base through the indices, in 64-bit arithmetic.
    _kernel(len(indices))(
        shape,
        (*strides, indices[0].stride()),
        (values, base, errors.address, *indices),
        extras,
        [*indices, base if action == "get" else values],
        [values if action == "get" else extent(base)],
        **defines,
    )


def _elements_of_a_word(access: _Access, indices: Sequence[torch.Tensor]) -> int:
    """How many elements of a row are moved as one: it is contiguous on both sides, and no index tells them apart."""
    values, base, item = access.values, access.base, access.base.element_size()
    is_moved = access.action in ("get", "put") and values.dim() > 0
    if not is_moved or access.base_strides[-1] != 1 or values.stride(-1) != 1 or any(i.stride(-1) for i in indices):
        return 1
    steps = (*values.stride()[:-1], *access.base_strides[:-1], *(stride for _, stride in access.extents))
    places = (values.shape[-1], values.data_ptr() // item, base.data_ptr() // item, *steps)
    return next(times for times in (16, 8, 4, 2, 1) if times * item <= 16 and not any(n % times for n in places))


def _launch_in_order(access: _Access) -> None:
    """Without races, for `deterministic.is_wanted`; the host waits for the number of places."""
    action, base = access.action, access.base
    inside = []
    for dim, index, (size, _) in zip(access.dims, access.indices, access.extents, strict=True):
        index = index.to(torch.int64)
        if access.wrap:
            index = torch.where(index < 0, index + size, index)
        message = access.message.format(index="of element {index}", dim=dim, size=size)
        raise_where((index < 0) | (index >= size), message, access.kind)
        inside.append(index.clamp(0, max(size - 1, 0)))
    strides = [stride for _, stride in access.extents]
    at = deterministic.places(access.values.shape, access.base_strides, inside, strides)
    unique, results = deterministic.grouped(action, at, access.values)
    flat = base.as_strided((base.untyped_storage().nbytes() // base.element_size() - base.storage_offset(),), (1,))
    if action != "put":
        results = deterministic.COMBINED[action](flat.index_select(0, unique), results)
    _launch(access._replace(
        action="put", base=flat, base_strides=(0,), values=results, indices=(unique,), extents=((flat.numel(), 1),),
        wrap=False, dims=(0,),
    ))  # fmt: skip


def combining(base: torch.Tensor) -> torch.Tensor:
    """A tensor to combine into in place of `base`: sums of half types are kept in float32 and rounded once."""
    return base.float() if base.dtype in _HALF else base


def along(
    action: str,
    base: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    values: torch.Tensor,
    message: str = "index out of range in self",
    kind: type[Exception] = IndexError,
    wrap: bool = False,
) -> None:
    """`indexed` through one dimension; index has values' rank or is to be expanded along it."""
    is_in_copies = action == "sum" and base.dtype != torch.bool and not deterministic.is_wanted(action, base.dtype)
    if is_in_copies and (copies := copies_of_sums(values.numel(), base.numel())) > 1:
        length = values.size(dim) // copies * copies
        many = torch.zeros((copies, *base.shape), dtype=base.dtype, device=base.device)
        each, *strides = many.stride()
        extent_of_one = (base.size(dim), strides[dim])
        strides[dim : dim + 1] = (each, 0)
        index = index.expand(values.shape)
        parts = [t.narrow(dim, 0, length).unflatten(dim, (copies, -1)) for t in (values, index)]
        indexed(action, many, strides, parts[0], (parts[1],), (extent_of_one,), message, kind, wrap, (dim,))
        base += many.sum(0, dtype=base.dtype)
        values, index = (t.narrow(dim, length, t.size(dim) - length) for t in (values, index))
    strides = list(base.stride())
    extent = (base.size(dim), strides[dim])
    strides[dim] = 0
    indexed(action, base, strides, values, (index,), (extent,), message, kind, wrap, (dim,))


def copies_of_sums(terms: int, places: int) -> int:
    """Into how many copies of so many places to add the terms, before the copies are added up.

    Fewer threads wait for the same element, and the error grows with the terms of a copy, not with all of them.
    """
    of_each = terms // max(places, 1)
    return min(64, of_each // 8) if of_each >= _MANY else 1


# Advanced indexing ------------------------------------------------------------------------------------------------

_OUT_OF_BOUNDS = "index {index} is out of bounds for dimension {dim} with size {size}"


def _on_device(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """The index tensors, which may be on the CPU, where `self` is."""
    result: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.device != self.device:
            if index.device.type != "cpu":
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed tensor ({self.device})"
                )
            index = index.to(self.device)
        result.append(index)
    return result


def _expand_masks(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Boolean masks become one long index for each of their dimensions; the host waits for their length."""
    result: list[torch.Tensor | None] = []
    for index in indices:
        if index is None:
            result.append(None)
        elif index.dtype in (torch.bool, torch.uint8):
            if index.dtype == torch.uint8:
                warnings.warn(
                    "indexing with dtype torch.uint8 is now deprecated, please use a dtype torch.bool instead.",
                    UserWarning,
                    stacklevel=4,
                )
            at = len(result)
            if index.dim() > self.dim() - at or index.shape != self.shape[at : at + index.dim()]:
                for offset in range(index.dim()):
                    if at + offset >= self.dim() or index.size(offset) != self.size(at + offset):
                        raise IndexError(
                            f"The shape of the mask {list(index.shape)} at index {offset} does not match the shape "
                            f"of the indexed tensor {list(self.shape)} at index {at + offset}"
                        )
            result += list(index.nonzero().unbind(1))
        elif index.dtype in _INDEX_TYPES:
            result.append(index)
        else:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if len(result) > self.dim():
        raise IndexError(f"too many indices for tensor of dimension {self.dim()} (got {len(result)})")
    return result + [None] * (self.dim() - len(result))


class _Plan:
    """Advanced indexing of `self`: the result's shape, and over it the strides of self and the index tensors."""

    def __init__(self, self_: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> None:
        found = _expand_masks(self_, _on_device(self_, indices))
        self.dims = [d for d, index in enumerate(found) if index is not None]
        tensors = [index for index in found if index is not None]
        try:
            common = torch.broadcast_shapes(*(index.shape for index in tensors))
        except RuntimeError:
            shapes = ", ".join(str(list(index.shape)) for index in tensors)
            raise IndexError(
                f"shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}"
            ) from None
        # The indexed dimensions' place: where they are if adjacent, else in front.
        first = self.dims[0] if self.dims else 0
        adjacent = self.dims == list(range(first, first + len(self.dims)))
        front = [d for d in range(first if adjacent else 0)]
        rest = [d for d in range(len(front), self_.dim()) if d not in self.dims]
        sizes, strides = self_.shape, self_.stride()
        self.shape = [sizes[d] for d in front] + list(common) + [sizes[d] for d in rest]
        self.strides = [strides[d] for d in front] + [0] * len(common) + [strides[d] for d in rest]
        self.extents = [(sizes[d], strides[d]) for d in self.dims]
        missing = [1] * len(rest)
        self.indices = [
            index.reshape([*([1] * (len(common) - index.dim())), *index.shape, *missing]) for index in tensors
        ]
        if any(size == 0 for size, _ in self.extents) and 0 not in self.shape:
            dim = next(d for d in self.dims if sizes[d] == 0)
            raise IndexError(f"index is out of bounds for dimension {dim} with size 0")


def _run(action: str, base: torch.Tensor, values: torch.Tensor, plan: _Plan) -> None:
    indices, extents = plan.indices, plan.extents
    if len(indices) > _MAX_INDICES:
        indices, extents = _folded(indices, extents)
    indexed(action, base, plan.strides, values, indices, extents, _OUT_OF_BOUNDS, dims=plan.dims[: len(indices)])


def _folded(
    indices: Sequence[torch.Tensor], extents: Sequence[tuple[int, int]]
) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    """As many indices as a kernel takes, the last of them an offset that stands for all that are left."""
    kept = _MAX_INDICES - 1
    end = 1 + sum((size - 1) * stride for size, stride in extents[kept:])
    offset: Any = 0
    outside: Any = False
    for index, (size, stride) in zip(indices[kept:], extents[kept:], strict=True):
        outside = outside | (index < -size) | (index >= size)
        offset = offset + torch.where(index < 0, index + size, index).to(torch.int64) * stride
    return [*indices[:kept], torch.where(outside, end, offset)], [*extents[:kept], (end, 1)]


@implements("index.Tensor")
def index(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """self at tensors of indices, as NumPy has it. IndexError at the next synchronisation for one out of range."""
    # Not left to the structured operator: its meta function would look for a mask's nonzero elements a second time.
    plan = _Plan(self, indices)
    if self.is_contiguous():
        out = torch.empty(plan.shape, dtype=self.dtype, device=self.device)
    else:  # as TensorIterator lays out what it computes from these
        views = [self.as_strided(plan.shape, plan.strides), *(i.expand(plan.shape) for i in plan.indices)]
        strides = torch._prims_common.compute_elementwise_output_strides(*views)
        out = torch.empty_strided(plan.shape, strides, dtype=self.dtype, device=self.device)
    if plan.indices:
        _run("get", self, out, plan)
    else:
        out.copy_(self)
    return out


@implements("index.Tensor_out")
def index_out(self: torch.Tensor, indices: Sequence[torch.Tensor | None], *, out: torch.Tensor) -> torch.Tensor:
    """`index` into `out`."""
    written(out, self.dtype)
    result = index(self, indices)
    return resized(out, result.shape).copy_(result)


@implements("_index_put_impl_")
def _index_put_impl_(
    self: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    values: torch.Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> torch.Tensor:
    if self.dtype != values.dtype:
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {scalar_type(self.dtype)} for the "
            f"destination and {scalar_type(values.dtype)} for the source."
        )
    if values.device != self.device and values.dim() == 0 and values.device.type == "cpu":
        values = values.to(self.device)
    on_device(self, values)
    warn_if_expanded("index_put_", self)
    indices = _on_device(self, indices)
    if not accumulate and values.numel() == 1 and _is_one_mask(self, indices):
        mask = next(i for i in indices if i is not None)
        before = sum(i is None for i in indices[: next(d for d, i in enumerate(indices) if i is not None)])
        mask = mask.reshape([*mask.shape, *([1] * (self.dim() - before - mask.dim()))])
        return masked_fill_tensor_(self, mask, values.reshape(()))
    target = combining(self) if accumulate else self
    plan = _Plan(target, indices)
    try:
        expanded = values.expand(plan.shape)
    except RuntimeError:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(values.shape)} cannot be broadcast to indexing result of "
            f"shape {plan.shape}"
        ) from None
    if not plan.indices:
        self.copy_(self + expanded if accumulate else expanded)
        return self
    _run("sum" if accumulate else "put", target, expanded.to(target.dtype), plan)
    return self if target is self else self.copy_(target)


def _is_one_mask(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> bool:
    """Whether `indices` is one boolean mask that fits, so that no index needs to be known."""
    present = [(d, index) for d, index in enumerate(indices) if index is not None]
    if len(present) != 1:
        return False
    at, mask = present[0]
    return mask.dtype == torch.bool and mask.dim() > 0 and mask.shape == self.shape[at : at + mask.dim()]


# One dimension ----------------------------------------------------------------------------------------------------


def _check_vector(name: str, index: torch.Tensor) -> None:
    if index.dim() > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector, but got dim: {index.dim()}")
    if index.dtype not in _INDEX_TYPES:
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index but got: {index.dtype}")


def _spread(index: torch.Tensor, dim: int, rank: int) -> torch.Tensor:
    """A vector of indices along dimension `dim` of a tensor of `rank` dimensions."""
    return index.reshape([1] * dim + [-1] + [1] * (rank - dim - 1))


@implements("index_select")
def index_select(self: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """The slices along `dim` that a vector of indices names."""
    _check_vector("index_select", index)
    refuse_as_cpu("index_select", self.dtype, torch.int64)
    dim = wrapped_dim(dim, self.dim())
    if self.dim() == 0:
        if index.numel() != 1:
            raise RuntimeError("index_select(): Index to scalar can have only 1 value")
        out = torch.empty((), dtype=self.dtype, device=self.device)
        along("get", self.reshape(1), 0, index.reshape(1), out.reshape(1))
        return out
    shape = list(self.shape)
    shape[dim] = index.numel()
    out = torch.empty(shape, dtype=self.dtype, device=self.device)
    along("get", self, dim, _spread(index, dim, self.dim()), out)
    return out


@implements("index_select.out")
def index_select_out(self: torch.Tensor, dim: int, index: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`index_select` into `out`."""
    if out.dtype != self.dtype:
        raise RuntimeError("index_select(): self and result must have the same scalar type")
    separate(out, self, index)
    result = index_select(self, dim, index)
    return resized(out, result.shape).copy_(result)


def check_source(name: str, self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> None:
    """Raise unless `source` has a slice of self's shape for each element of `index`."""
    _check_vector(name, index)
    if self.dtype != source.dtype:
        raise RuntimeError(
            f"{name}(): self and source expected to have the same dtype, but got (self) "
            f"{scalar_type(self.dtype)} and (source) {scalar_type(source.dtype)}"
        )
    slices = [list(t.shape[:dim]) + list(t.shape[dim + 1 :]) for t in (self, source)]
    if slices[0] != slices[1]:
        raise RuntimeError(f"{name}(): Source/destination tensor must have same slice shapes.")
    if index.numel() != (source.size(dim) if source.dim() else 1):
        raise RuntimeError(f"{name}(): Number of indices ({index.numel()}) should be equal to source.size(dim)")


def _into(
    action: str,
    name: str,
    out: torch.Tensor,
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    source: torch.Tensor,
    message: str = "index out of range in self",
) -> torch.Tensor:
    """out = self with the slices of `source` put in or combined at `index`."""
    dim = wrapped_dim(dim, self.dim())
    check_source(name, self, dim, index, source)
    separate(out, index, source)
    if out is not self:
        written(out, self.dtype)
        resized(out, self.shape).copy_(self)
    base = out if action == "put" else combining(out)
    view = base.reshape(1) if base.dim() == 0 else base
    values = source.to(base.dtype)
    values = values.reshape(1) if values.dim() == 0 else values
    if values.dim() == view.dim():
        along(action, view, dim, _spread(index, dim, view.dim()), values, message)
    return out if base is out else out.copy_(base)


@implements("index_add.out")
def index_add_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: float = 1, out: torch.Tensor
) -> torch.Tensor:
    """self with alpha times the slices of `source` added at a vector of indices."""
    refuse_as_cpu("index_add", self.dtype, torch.int64, self.dtype)
    scaled = source
    if alpha != 1:
        separate(out, index, source)  # which the scaled copy would not show
        scaled = combining(source) * alpha
    if scaled.dtype != source.dtype:
        check_source("index_add", self, wrapped_dim(dim, self.dim()), index, source)
        scaled = scaled.to(source.dtype)
    return _into("sum", "index_add", out, self, dim, index, scaled)


@implements("index_copy.out")
def index_copy_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    """self with the slices of `source` at a vector of indices."""
    if index.dtype != torch.int64:
        raise RuntimeError(f"index_copy_(): Expected a long tensor for index, but got {scalar_type(index.dtype)}")
    refuse_as_cpu("index_copy", self.dtype, torch.int64, self.dtype)
    message = "index_copy_(): index {index} is out of bounds for dimension {dim} with size {size}"
    return _into("put", "index_copy_", out, self, dim, index, source, message)


@implements("index_fill_.int_Scalar")
def index_fill_scalar_(self: torch.Tensor, dim: int, index: torch.Tensor, value: float) -> torch.Tensor:
    """Set the slices at a vector of indices to a number."""
    refuse_as_cpu("index_fill.int_Scalar", self.dtype, torch.int64)
    return index_fill_tensor_(self, dim, index, number_of(value, self.dtype).to(self.device))


@implements("index_fill_.int_Tensor")
def index_fill_tensor_(self: torch.Tensor, dim: int, index: torch.Tensor, value: torch.Tensor | float) -> torch.Tensor:
    """Set the slices at a vector of indices to the element of a tensor without dimensions."""
    if not isinstance(value, torch.Tensor):
        return index_fill_scalar_(self, dim, index, value)
    refuse_as_cpu("index_fill.int_Scalar", self.dtype, torch.int64)
    if value.dim() != 0:
        raise RuntimeError(f"Only supports 0-dimensional value tensor, but got tensor with {value.dim()} dimensions.")
    if index.dtype != torch.int64:
        raise IndexError("index_fill_(): Expected dtype int64 for index.")
    if index.dim() > 1:
        raise IndexError("Index has to be a vector/scalar")
    warn_if_expanded("index_fill_", self)
    dim = wrapped_dim(dim, self.dim())
    view = self if self.dim() else self.reshape(1)
    shape = list(view.shape)
    shape[dim] = index.numel()
    values = value.to(self.device, self.dtype).expand(shape)
    along("put", view, dim, _spread(index, dim, view.dim()), values, _OUT_OF_BOUNDS, wrap=True)
    return self


# The flattened tensor ---------------------------------------------------------------------------------------------

_TAKE_RANGE = "out of range: tried to access index {index} on a tensor of {size} elements."


@implements("take")
def take(self: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Elements at indices into self as if it had one dimension."""
    if index.dtype != torch.int64:
        raise RuntimeError(f"take(): Expected a long tensor for index, but got {scalar_type(index.dtype)}")
    refuse_as_cpu("take", self.dtype, torch.int64)
    out = torch.empty(index.shape, dtype=self.dtype, device=self.device)
    on_device(index, self)
    if self.numel() == 0 and index.numel() != 0:
        raise IndexError("take(): tried to take from an empty tensor")
    flat = self.reshape(-1)
    indexed("get", flat, [0] * index.dim(), out, (index,), ((flat.numel(), flat.stride(0)),), _TAKE_RANGE)
    return out


@implements("take.out")
def take_out(self: torch.Tensor, index: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`take` into `out`."""
    if out.dtype != self.dtype:
        raise RuntimeError("take(): self and out expected to have the same dtype")
    separate(out, self, index)
    result = take(self, index)
    return resized(out, result.shape).copy_(result)


@implements("put_")
def put_(self: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False) -> torch.Tensor:
    """Set, or with `accumulate` add to, elements at indices into self as if it had one dimension."""
    if index.dtype != torch.int64:
        raise RuntimeError(f"put_(): Expected a long tensor for index, but got {scalar_type(index.dtype)}")
    if self.dtype != source.dtype:
        raise RuntimeError("put_(): self and source expected to have the same dtype")
    refuse_as_cpu("put", self.dtype, torch.int64, self.dtype)
    if index.numel() != source.numel():
        raise RuntimeError(
            f"put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{source.numel()}, index.numel() = {index.numel()}"
        )
    if self.numel() == 0 and index.numel() != 0:
        raise IndexError("put_(): Cannot put elements into an empty tensor")
    base = combining(self) if accumulate else self
    flat = base.contiguous().view(-1)
    values = source.to(base.dtype).reshape(index.shape)
    action = "sum" if accumulate else "put"
    indexed(action, flat, [0] * index.dim(), values, (index,), ((flat.numel(), 1),), _TAKE_RANGE)
    return self if flat.data_ptr() == self.data_ptr() else self.copy_(flat.view(self.shape))
