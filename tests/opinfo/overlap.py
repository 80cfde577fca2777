"""The check `overlap`: outputs and in-place targets that overlap themselves or an input raise where the CPU raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from opinfo import both, compare, samples
from opinfo.both import Problems, Sample


@torch.no_grad()
def overlap(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """What the CPU refuses is refused with its type; where it gives the operator's result, so do we.

    Elsewhere elements were read after they had been written, or written twice: their values are an accident.
    """
    if op.inplace_variant is not None and not sample.broadcasts_input and isinstance(sample.input, torch.Tensor):
        yield from _inplace(op, dtype, sample)
    if op.supports_out:
        yield from _out(op, dtype, sample)


def _inplace(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    for name, target in _self_overlapping(sample.input):
        yield from _judged(
            op, dtype, op.inplace_variant, f"in place, {name}", both.with_tensor(sample, sample.input, target)
        )
    for tensor in both.tensors(sample):
        if tensor is not sample.input and _is_alike(tensor, sample.input):
            for name, written, read in _overlapping(sample.input, tensor):
                other = both.with_tensor(both.with_tensor(sample, tensor, read), sample.input, written)
                yield from _judged(op, dtype, op.inplace_variant, f"in place, {name}", other)


def _out(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    expected, refusal = both.attempt(lambda: samples.call(op, op, sample, "cpu"))
    if refusal is not None or not isinstance(expected, torch.Tensor) or expected.layout != torch.strided:
        return
    for name, target in _self_overlapping(expected):
        yield from _judged(op, dtype, op, f"out= {name}", _with_out(sample, target))
    for tensor in both.tensors(sample):
        if _is_alike(tensor, expected):
            for name, written, read in _overlapping(expected, tensor):
                yield from _judged(
                    op, dtype, op, f"out= {name}", _with_out(both.with_tensor(sample, tensor, read), written)
                )


def _with_out(sample: Sample, out: torch.Tensor) -> Sample:
    return both.replaced(sample, sample.input, sample.args, {**sample.kwargs, "out": out})


def _is_alike(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    same = tensor.shape == other.shape and tensor.dtype == other.dtype
    return same and tensor.layout == other.layout == torch.strided and tensor.numel() > 1


def _self_overlapping(like: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of its shape and first values, several of whose elements share memory.

    Each has memory for all its elements behind it: the CPU's kernels that take outputs for contiguous write there.
    """
    if like.layout != torch.strided or like.numel() < 2:
        return
    flat = like.detach().flatten().clone()
    strides = list(torch.empty(like.shape, device="meta").stride())
    first = next(dim for dim, size in enumerate(like.shape) if size > 1)
    strides[first] = 0
    yield f"expanded along {first}", flat.clone().as_strided(like.shape, strides)
    yield "expanded along all", flat.clone().as_strided(like.shape, [0] * like.dim())
    if like.dim() > 1:
        yield "partially overlapping", flat.as_strided(like.shape, [1] * like.dim())


def _overlapping(written: torch.Tensor, read: torch.Tensor) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Pairs of a target and an input with read's values that share memory."""
    read = read.detach()
    count = read.numel()
    same = read.clone(memory_format=torch.contiguous_format)
    yield "is an input", same, same
    flat = torch.cat([read.flatten(), read.flatten()[:1]])
    yield "starts behind an input's start", flat[1:].view(read.shape), flat[:count].view(read.shape)
    if read.dim() > 1 and read.shape[0] == read.shape[1]:
        yield "is an input transposed", same.transpose(0, 1), same


def _judged(op: Any, dtype: torch.dtype, function: Any, name: str, sample: Sample) -> Problems:
    expected, refusal = both.attempt(lambda: samples.call(op, function, sample, "cpu"))
    if refusal is not None:
        error = both.attempt(lambda: samples.call(op, function, sample, "mps"))[1]
        yield both.named(name, both.different_refusal(refusal, error))
        return

    plain = _without_overlap(op, function, sample)
    meant = compare.promises_values(op) and compare.are_equal(expected, plain, compare.tolerance(op, dtype))

    def check() -> None:
        actual, error = both.attempt(lambda: samples.call(op, function, sample, "mps"))
        if error is not None and (meant or "unsupported operation" not in str(error)):
            raise error  # where the CPU computes something else, a refusal is as good
        if error is not None:
            return
        compare.assert_agree(
            both.processed(op, sample, actual),
            both.processed(op, sample, expected),
            compare.tolerance(op, dtype),
            again=lambda state: both.processed(op, sample, both.reseeded(op, function, sample, state)),
            reference=lambda: both.processed(op, sample, plain),
            values=meant,
        )

    yield both.named(name, both.attempt(check)[1])


def _without_overlap(op: Any, function: Any, sample: Sample) -> Any:
    """The CPU's result where every argument has memory of its own."""
    copied = pytree.tree_map(
        lambda leaf: leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, torch.Tensor) else leaf,
        (sample.input, tuple(sample.args), sample.kwargs),
    )
    return both.attempt(lambda: samples.call(op, function, both.replaced(sample, *copied), "cpu"))[0]
