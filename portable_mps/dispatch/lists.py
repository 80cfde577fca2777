"""Kernels over lists of tensors: one dispatch for all the parameters of a model.

kernels/lists.slangh is the other half. The addresses lie in a table on the device, which is kept while the same tensors
come again, as in a training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from portable_mps import _C
from portable_mps.dispatch.promotion import storage
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_AHEAD = 16  # elements of all lists that a thread reads before it writes
_EVERYTHING = [(0, 2**64 - 1)]  # the memory that a dispatch over lists touches, as far as hazards go

Groups = tuple[int, int, int]


class Table(NamedTuple):
    """Where the tensors of lists are: on the device, workgroups for it, whether vectors of four are aligned in all."""

    words: torch.Tensor
    groups: Groups
    is_wide: bool
    lists: int
    length: int  # tensors in each


_tables = _C.ListTables()


class ListKernel:
    """An entry point of kernels/<stem>.slang whose `Params` start with the table and the number of tensors.

    The addresses of single tensors (or 64-bit integers) and the numbers, in the compute type, come between the two.
    """

    def __init__(self, stem: str, entry: str, addresses: int = 0, numbers: int = 0) -> None:
        self._templates = {number: Template(stem, entry, f"Q{addresses}Q{numbers}{number}I") for number in "fd"}

    def __call__(
        self,
        table: Table,
        compute: torch.dtype,
        addresses: Sequence[torch.Tensor | int | None] = (),
        numbers: Sequence[float] = (),
        groups: Groups | None = None,
        **defines: Any,
    ) -> None:
        """Launch over what the table lists.

        compute: a dtype whose compute type is the kernel's A. groups: the workgroups, if not one for each part of the
        first list's tensors.
        """
        groups = groups or table.groups
        if 0 in groups:
            return
        accumulator = storage(compute).compute
        template = self._templates["d" if accumulator == "double" else "f"]
        is_wide = table.is_wide and not device.current().adapter.is_software
        ahead = max(_AHEAD // table.lists // 4, 1) * 4 if is_wide else 1
        kernel = template.variant(A=accumulator, LISTS=table.lists, AHEAD=ahead, WIDE=int(is_wide), **defines)
        places = [a.data_ptr() if isinstance(a, torch.Tensor) else a or 0 for a in addresses]
        packed = template.layout.pack(table.words.data_ptr(), *places, *numbers, table.length)
        stream = device.current().stream
        stream.recorder.launch_on_ranges(kernel, packed, groups, [], _EVERYTHING)
        stream.poll()  # a dispatch for a whole model is worth handing over at once


def table_of(lists: Sequence[Sequence[torch.Tensor]], aside: int = 0) -> Table | None:
    """The table of lists whose i-th tensors are alike: of one shape, dense on the device, laid out in one order.

    Each list has one dtype. The last `aside` of them are of single elements, wherever these are. None for other lists.
    """
    found = _tables.of(lists, aside)
    return found and Table(*found, len(lists), len(lists[0]))


def table_of_copies(
    lists: Sequence[Sequence[torch.Tensor]], counters: Sequence[Sequence[torch.Tensor]] = ()
) -> tuple[Table, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The table of lists whose i-th tensors share a shape, contiguous copies in the place of those that are not alike.

    And (original, copy) of each that was copied, to write back. Each list has one dtype and is on the device, as are
    the counters, lists of single elements.
    """
    copied: list[tuple[torch.Tensor, torch.Tensor]] = []
    table = table_of([*lists, *counters], len(counters))
    if table is None:
        rows = [t if _C.lie_alike(t) else [x.contiguous() for x in t] for t in zip(*lists, strict=True)]
        dense = list(zip(*rows, strict=True))
        table = table_of([*dense, *counters], len(counters))
        assert table is not None
        for originals, tensors in zip(lists, dense, strict=True):
            copied += [pair for pair in zip(originals, tensors, strict=True) if pair[0] is not pair[1]]
    return table, copied


def table_of_joined(parts: Sequence[torch.Tensor], dim: int, out: torch.Tensor) -> tuple[Table, int, int] | None:
    """The table of contiguous tensors of one dtype and of where they belong in `out`, joined of them along `dim`.

    And the rows that each has before that dimension, and the elements of a row of `out`, which is as large as that
    takes, and apart from them in memory. Elements of 16 bytes are two. None for others.
    """
    found = _tables.joining(parts, dim, out)
    return found and (Table(*found[:3], 2, len(parts)), *found[3:])


def types(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Definitions of a dtype: NAME its storage, LOAD_NAME(x) and STORE_NAME(x)."""
    row = storage(dtype)
    return {name: row.type, f"LOAD_{name}(x)": row.load.format("x"), f"STORE_{name}(x)": row.store.format("x")}
