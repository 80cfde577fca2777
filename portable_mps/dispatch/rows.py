"""Kernels that give each row of contiguous tensors to a few threads or a workgroup: softmax, layer norms, scans.

A row is `size` elements that lie `inner` apart; kernels/rows.slangh is the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.launch import Prepared, check_turns, grid
from portable_mps.dispatch.promotion import storage
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

THREADS = 256  # a workgroup, as in kernels/place.slangh
_KEPT = (4, 16)  # elements of a row that a thread keeps in registers, by variant
_WIDTH, _ALIGNED = 4, 16  # elements of a vector, and of which bytes the places of any dtype's are multiples
_WIDE_FROM = 2**31 - 1024
_REMEMBERED = 4096  # launches, by shape


class RowKernel:
    """An entry point of kernels/<stem>.slang whose `Params` are `tensors` addresses, `scalars` numbers in the compute
    type, and the indices rows, size and inner, with the geometry last."""

    def __init__(self, stem: str, entry: str, tensors: int, scalars: int = 0) -> None:
        self._templates = {
            (number, index): Template(stem, entry, f"{tensors}Q{scalars}{number}3{index}I")
            for number in "fd"
            for index in "IQ"
        }
        self._plans: dict[tuple[Any, ...], Prepared] = {}

    def __call__(
        self,
        tensors: Sequence[torch.Tensor | None],
        writes: Sequence[torch.Tensor],
        shape: tuple[int, int, int],
        types: dict[str, torch.dtype],
        scalars: tuple[float, ...] = (),
        keep: bool = True,
        **defines: Any,
    ) -> None:
        """Launch over (outer, size, inner) elements.

        None stands for a tensor that the variant does not touch. types: the dtype of each type that the kernel names;
        the first decides the compute type. keep: rows short enough stay in registers.
        """
        given = [t for t in tensors if t is not None]
        aligned = all([t.data_ptr() % _ALIGNED == 0 for t in given])
        key = (shape, scalars, keep, aligned, *types.values(), *defines.values())
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            plan = self._plans[key] = self._prepare(shape, types, scalars, keep, aligned, defines)
        plan.record(tensors, [t for t in given if all(t is not w for w in writes)], writes)

    def _prepare(
        self,
        shape: tuple[int, int, int],
        types: dict[str, torch.dtype],
        scalars: tuple[float, ...],
        keep: bool,
        aligned: bool,
        defines: dict[str, Any],
    ) -> Prepared:
        outer, size, inner = shape
        rows = outer * inner
        height = threads_along(size)
        if inner > 1:  # neighbouring rows are neighbours in memory: at least 32 of them a workgroup
            height = min(height, 8)
        vectors = aligned and inner == 1 and size % _WIDTH == 0
        each = _WIDTH * -(-size // (_WIDTH * height)) if vectors else -(-size // height)
        items = next((n for n in _KEPT if each <= n), 0) if keep else 0
        if not items:
            check_turns(next(iter(self._templates.values())).stem, 3 * -(-each // _WIDTH))
        wide = rows * size >= _WIDE_FROM
        compute = storage(next(iter(types.values()))).compute
        words: dict[str, Any] = {"A": "int" if compute == "bool" else compute, "ITEMS": items, "VECTORS": int(vectors)}
        words["SHUFFLES"] = int(device.current().adapter.features["subgroup_shuffle"])
        words |= {"Index": "uint64_t", "Offset": "int64_t"} if wide else {"Index": "uint", "Offset": "int"}
        for name, dtype in types.items():
            row = storage(dtype)
            words |= {
                name: row.type,
                f"LOAD_{name}(x)": row.load.format("x"),
                f"STORE_{name}(x)": row.store.format("x"),
            }
        template = self._templates["d" if compute == "double" else "f", "Q" if wide else "I"]
        geometry = (height.bit_length() - 1) | (16 if inner == 1 else 0)
        groups = grid(-(-rows // (THREADS // height)))
        return Prepared(template, groups, (*scalars, rows, size, inner, geometry), **words, **defines)


def threads_along(size: int) -> int:
    """Threads, a power of two, that share a row of `size` elements: each has about four."""
    height = THREADS
    while height > 1 and (height >> 1) * _KEPT[0] >= size:
        height >>= 1
    return height


def split_at(shape: Sequence[int], dim: int) -> tuple[int, int, int]:
    """(outer, size, inner) of a contiguous tensor seen along `dim`; a scalar is one row of one element."""
    if not shape:
        return 1, 1, 1
    outer = inner = 1
    for size in shape[:dim]:
        outer *= size
    for size in shape[dim + 1 :]:
        inner *= size
    return outer, shape[dim], inner
