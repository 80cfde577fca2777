"""Kernels over lists of tensors: one dispatch for all the parameters of a model.

kernels/lists.slangh is the other half. The addresses lie in a table on the device, which is kept while the same tensors
come again, as in a training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from portable_mps.dispatch.launch import grid
from portable_mps.dispatch.promotion import storage
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_CHUNK = 4096  # elements a workgroup, as in kernels/lists.slangh
_AHEAD = 4  # elements that a thread reads before it writes
_REMEMBERED = 128  # tables
_EVERYTHING = [(0, 2**64 - 1)]  # the memory that a dispatch over lists touches, as far as hazards go

_tables: dict[tuple[int, ...], tuple[torch.Tensor, tuple[int, int, int]]] = {}


class ListKernel:
    """An entry point of kernels/<stem>.slang whose `Params` start with the table and the number of tensors.

    The addresses of single tensors (or 64-bit integers) and the numbers, in the compute type, come between the two.
    """

    def __init__(self, stem: str, entry: str, addresses: int = 0, numbers: int = 0) -> None:
        self._templates = {number: Template(stem, entry, f"Q{addresses}Q{numbers}{number}I") for number in "fd"}

    def __call__(
        self,
        lists: Sequence[Sequence[torch.Tensor]],
        compute: torch.dtype,
        addresses: Sequence[torch.Tensor | int | None] = (),
        numbers: Sequence[float] = (),
        groups: tuple[int, int, int] | None = None,
        **defines: Any,
    ) -> None:
        """Launch over lists of one length, whose i-th tensors lie in memory alike (`alike`).

        compute: a dtype whose compute type is the kernel's A. groups: the workgroups, if not one for each part of the
        first list's tensors.
        """
        table, parts = table_of(lists)
        groups = groups or parts
        if 0 in groups:
            return
        accumulator = storage(compute).compute
        template = self._templates["d" if accumulator == "double" else "f"]
        ahead = 1 if device.current().adapter.is_software else _AHEAD
        kernel = template.variant(A=accumulator, LISTS=len(lists), AHEAD=ahead, **defines)
        places = [a.data_ptr() if isinstance(a, torch.Tensor) else a or 0 for a in addresses]
        packed = template.layout.pack(table.data_ptr(), *places, *numbers, len(lists[0]))
        device.current().stream.recorder.launch_on_ranges(kernel, packed, groups, [], _EVERYTHING)


def types(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Definitions of a dtype: NAME its storage, LOAD_NAME(x) and STORE_NAME(x)."""
    row = storage(dtype)
    return {name: row.type, f"LOAD_{name}(x)": row.load.format("x"), f"STORE_{name}(x)": row.store.format("x")}


def alike(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether elements at one place of a shape are at one place in memory in all, and all are dense on the device."""
    first = tensors[0]
    shape = first.shape
    if first.is_contiguous():
        return all(t.is_contiguous() and t.shape == shape and t.is_mps for t in tensors)
    # Dense in another order of dimensions, as the weights of a channels_last model.
    stride = first.stride()
    return (
        first.dim() == 4
        and first.is_contiguous(memory_format=torch.channels_last)
        and all(t.shape == shape and t.stride() == stride and t.is_mps for t in tensors)
    )


def table_of(lists: Sequence[Sequence[torch.Tensor]]) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """The table on the device, and the workgroups for it."""
    sizes = [t.numel() for t in lists[0]]
    key = (*sizes, *[t.data_ptr() for tensors in lists for t in tensors])
    known = _tables.get(key)
    if known is None:
        if len(_tables) >= _REMEMBERED:
            _tables.pop(next(iter(_tables)))
        count = len(sizes)
        words = np.zeros(len(key) + count + 1, np.uint64)
        words[1 : count + 1] = np.cumsum([-(-size // _CHUNK) for size in sizes])
        words[count + 1 :] = key
        table = torch.from_numpy(words.view(np.int64)).to("mps")
        known = _tables[key] = table, grid(int(words[count]))
    return known
