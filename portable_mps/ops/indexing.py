"""Reading and writing a tensor through index tensors: index, index_put_, index_select, index_add, take, embedding.

Everything here and in ops/scatter.py is one kernel, `indexed`, with other strides. Indices are checked on the device:
one out of range touches nothing and raises at the next synchronisation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import Strided, dtype_defines, resized, word, written
from portable_mps.runtime import device

_MAX_INDICES = 8
_INDEX_TYPES = {torch.int64: "int64_t", torch.int32: "int"}
_OPERATIONS = {"sum": "AtomicAdd", "prod": "AtomicMul", "amin": "AtomicMin", "amax": "AtomicMax"}
_HALF = (torch.float16, torch.bfloat16)


@functools.cache
def _kernel(indices: int) -> Strided:
    return Strided("indexing", "main", pointers=3 + indices, operands=3, extras="qqII" * indices)


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
    shape = values.shape
    if values.numel() == 0:
        return
    expanded = [index.expand(shape) for index in indices]
    if any(index.stride() != expanded[0].stride() or index.dtype != indices[0].dtype for index in expanded):
        expanded = [index.to(torch.int64).contiguous() for index in expanded]
    errors = device.current().errors
    extras: list[int] = []
    for k, (size, stride) in enumerate(extents):
        dim = dims[k] if dims else k
        extras += [size, stride, errors.arm(message.format(index="{index}", dim=dim, size=size), kind), 0]
    defines: dict[str, Any] = {"K": len(indices), "I": _INDEX_TYPES[expanded[0].dtype], "WRAP": int(wrap)}
    if action in ("get", "put"):
        defines |= {"ACTION": action.upper(), "T": word(base.dtype)}
    else:
        operation = _OPERATIONS[action]
        if base.dtype == torch.bool:  # a sum of bools is a logical or, a product a logical and
            operation = {"AtomicAdd": "AtomicMax", "AtomicMul": "AtomicMin"}.get(operation, operation)
        defines |= {"ACTION": "COMBINE", "OPERATION": operation, **dtype_defines("T", base.dtype)}
    reads, writes = [*expanded, base], [values]
    if action != "get":
        reads, writes = [*expanded, values], [base]
    # The kernel reaches all of base through the indices, in 64-bit arithmetic.
    _kernel(len(indices))(
        shape,
        (values.stride(), base_strides, expanded[0].stride()),
        (values, base, errors.address, *expanded),
        extras,
        reads,
        writes,
        **defines,
    )


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
    strides = list(base.stride())
    extent = (base.size(dim), strides[dim])
    strides[dim] = 0
    indexed(action, base, strides, values, (index,), (extent,), message, kind, wrap, (dim,))


def wrapped_dim(dim: int, rank: int) -> int:
    """dim counted from the front; IndexError in torch's words."""
    span = max(rank, 1)
    if not -span <= dim < span:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})")
    return dim % span


# Advanced indexing ------------------------------------------------------------------------------------------------

_OUT_OF_BOUNDS = "index {index} is out of bounds for dimension {dim} with size {size}"


def _expand_masks(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Boolean masks become one long index for each of their dimensions; the host waits for their length."""
    result: list[torch.Tensor | None] = []
    for index in indices:
        if index is None:
            result.append(None)
        elif index.dtype in (torch.bool, torch.uint8):
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
        elif index.is_floating_point() or index.is_complex() or index.dtype not in (torch.int8, torch.int16):
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        else:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if len(result) > self.dim():
        raise IndexError(f"too many indices for tensor of dimension {self.dim()} (got {len(result)})")
    return result + [None] * (self.dim() - len(result))


class _Plan:
    """Advanced indexing of `self`: the result's shape, and over it the strides of self and the index tensors."""

    def __init__(self, self_: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> None:
        found = _expand_masks(self_, indices)
        self.dims = [d for d, index in enumerate(found) if index is not None]
        tensors = [index.to(self_.device) for index in found if index is not None]
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
        self.indices = [index.reshape([*([1] * (len(common) - index.dim())), *index.shape, *missing]) for index in tensors]
        if any(size == 0 for size, _ in self.extents) and 0 not in self.shape:
            dim = next(d for d in self.dims if sizes[d] == 0)
            raise IndexError(f"index is out of bounds for dimension {dim} with size 0")


def _run(action: str, base: torch.Tensor, values: torch.Tensor, plan: _Plan) -> None:
    if len(plan.indices) > _MAX_INDICES:
        raise RuntimeError(f"indexing with more than {_MAX_INDICES} index tensors is not supported on MPS")
    indexed(action, base, plan.strides, values, plan.indices, plan.extents, _OUT_OF_BOUNDS, dims=plan.dims)


@implements("index.Tensor")
def index(self: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    # Not left to the structured operator: its meta function would look for a mask's nonzero elements a second time.
    plan = _Plan(self, indices)
    out = torch.empty(plan.shape, dtype=self.dtype, device=self.device)
    if plan.indices:
        _run("get", self, out, plan)
    else:
        out.copy_(self)
    return out


@implements("index.Tensor_out")
def index_out(self: torch.Tensor, indices: Sequence[torch.Tensor | None], *, out: torch.Tensor) -> torch.Tensor:
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
            f"Index put requires the source and destination dtypes match, got {_name(self.dtype)} for the destination "
            f"and {_name(values.dtype)} for the source."
        )
    values = values.to(self.device)
    if not accumulate and values.numel() == 1 and _is_one_mask(self, indices):
        mask = next(i for i in indices if i is not None)
        before = sum(i is None for i in indices[: next(d for d, i in enumerate(indices) if i is not None)])
        mask = mask.reshape([*mask.shape, *([1] * (self.dim() - before - mask.dim()))])
        return masked_fill_tensor_(self, mask, values.reshape(()))
    plan = _Plan(self, indices)
    try:
        expanded = values.expand(plan.shape)
    except RuntimeError:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(values.shape)} cannot be broadcast to indexing result of "
            f"shape {plan.shape}"
        ) from None
    if not plan.indices:
        self.copy_(self + expanded if accumulate else expanded)
    elif accumulate:
        target = combining(self)
        if target is not self:
            plan = _Plan(target, [*_full(plan, self.dim())])
        _run("sum", target, expanded.to(target.dtype), plan)
        if target is not self:
            self.copy_(target)
    else:
        _run("put", self, expanded, plan)
    return self


def _full(plan: _Plan, rank: int) -> list[torch.Tensor | None]:
    """The plan's indices by dimension, masks already expanded."""
    by_dim = dict(zip(plan.dims, plan.indices, strict=True))
    trailing = min((index.dim() for index in plan.indices), default=0) and _trailing(plan)
    return [by_dim[d].flatten(by_dim[d].dim() - trailing) if d in by_dim and trailing else by_dim.get(d) for d in range(rank)]
