"""The check `strides`: a result lies in memory as the CPU's does, whatever the layout of the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from opinfo import both
from opinfo.both import Problems, Sample

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@torch.no_grad()
def strides(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """Inputs as they come, channels-last and transposed: equal values, and equal strides of what has several."""
    for name, laid_out in _layouts(sample):
        for problem in both.compared(op, dtype, op, laid_out, also=_assert_same_strides):
            yield both.named(name, problem)


def _layouts(sample: Sample) -> Iterator[tuple[str, Sample]]:
    yield "as given", sample
    dims = {t.dim() for t in both.tensors(sample) if t.layout == torch.strided and t.numel() > 1}
    if dims & _CHANNELS_LAST.keys():
        yield "channels-last", both.mapped(sample, _channels_last)
    if dims - {0, 1}:
        yield "transposed", both.mapped(sample, _transposed)


def _channels_last(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided or leaf.dim() not in _CHANNELS_LAST:
        return leaf
    return leaf.contiguous(memory_format=_CHANNELS_LAST[leaf.dim()])


def _transposed(leaf: Any) -> Any:
    """Equal elements, of which the first dimension is the dense one."""
    if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided or leaf.dim() < 2:
        return leaf
    order = list(range(leaf.dim()))[::-1]
    return leaf.permute(order).contiguous().permute(order)


def _assert_same_strides(actual: Any, expected: Any) -> None:
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        if isinstance(theirs, torch.Tensor) and theirs.layout == torch.strided and theirs.numel() > 1:
            several = [i for i, size in enumerate(theirs.shape) if size > 1]
            if [mine.stride(i) for i in several] != [theirs.stride(i) for i in several]:
                raise AssertionError(f"strides {mine.stride()} instead of {theirs.stride()} for {tuple(theirs.shape)}")
