"""Copies that only move memory: in words wider than an element where both sides lie so, or in tiles."""

from __future__ import annotations

import torch

from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.strided import collapse, word
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_transpose = Template("transpose", "transpose", "QQqqqqqqqqiiiii")
_TILES = (64, 32, 16)  # of transpose.slang, along both dimensions
_NARROWEST = 16  # of what is worth a tile
_LEAST = 1 << 16  # bytes from which it pays to look
_WIDER = (torch.int64, torch.int32, torch.int16)


def are_large(destination: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether it pays to look for a better way to move the one to the other, and they certainly share no memory."""
    if source.nbytes < _LEAST:
        return False
    if destination.untyped_storage().data_ptr() != source.untyped_storage().data_ptr():
        return True
    start, origin = destination.data_ptr(), source.data_ptr()
    are_contiguous = destination.is_contiguous() and source.is_contiguous()
    return are_contiguous and (start + source.nbytes <= origin or origin + source.nbytes <= start)


def in_words(destination: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both, of one shape and dtype, as the widest elements that they are in memory without gaps."""
    if destination.dim() == 0 or destination.is_complex():
        return destination, source
    wider: tuple[torch.dtype, ...] = _WIDER
    if destination.is_contiguous() and source.is_contiguous():
        destination, source = destination.view(-1), source.view(-1)
        wider = _WIDER[1:]  # of which a thread moves four, 16 bytes
    for wide in wider:
        times = wide.itemsize // destination.dtype.itemsize
        if times > 1 and _comes_in(destination, times) and _comes_in(source, times):
            return destination.view(wide), source.view(wide)
    return destination, source


def _comes_in(tensor: torch.Tensor, times: int) -> bool:
    """Whether `view` takes so many elements for one."""
    outer = tensor.stride()[:-1]
    multiples = (tensor.shape[-1], tensor.storage_offset(), tensor.data_ptr() // tensor.dtype.itemsize, *outer)
    return tensor.stride(-1) == 1 and all(number % times == 0 for number in multiples)


def transpose(destination: torch.Tensor, source: torch.Tensor) -> bool:
    """Copy in tiles, if the two, of one shape and dtype and apart in memory, are contiguous along two dimensions."""
    order = sorted(range(destination.dim()), key=destination.stride().__getitem__, reverse=True)
    strides = [[t.stride(d) for d in order] for t in (destination, source)]
    dims = collapse([destination.shape[d] for d in order], strides)
    rows = next((dim for dim in dims if dim[1] == 1), None)
    columns = next((dim for dim in dims if dim[2] == 1), None)
    if rows is None or columns is None or rows is columns or len(dims) > 5 or min(rows[0], columns[0]) < _NARROWEST:
        return False
    outer = [dim for dim in dims if dim is not rows and dim is not columns]
    count = 1
    for size, *_ in outer:
        count *= size
    outer += [(1, 0, 0)] * (3 - len(outer))
    tile = _tile(source.dtype.itemsize)
    tiles = -(-columns[0] // tile)
    groups = tiles * -(-rows[0] // tile) * count
    if max(rows[0], columns[0], groups) >= 2**31:
        return False
    numbers = (columns[1], rows[2], *(dim[1] for dim in outer), *(dim[2] for dim in outer))
    sizes = (columns[0], rows[0], tiles, outer[0][0], outer[1][0])
    arguments = (destination, source, *numbers, *sizes)
    launch(_transpose, grid(groups), arguments, (source,), (destination,), T=word(source.dtype), TILE=tile)
    return True


def _tile(item: int) -> int:
    """The largest tile whose elements of so many bytes fit into a workgroup's memory: 64 takes 33 KiB for 8 bytes."""
    shared = device.current().adapter.max_shared_memory
    return next(tile for tile in _TILES if tile * (tile + 1) * item <= shared)
