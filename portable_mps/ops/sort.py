"""sort, topk, kthvalue, median and mode: the rows along a dimension in order, stable, NaN after all numbers."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.promotion import storage
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.rows import split_at
from portable_mps.dispatch.strided import apart_or_same, dtype_defines, resized, separate, wrapped_dim, written
from portable_mps.runtime.kernel import Template

_TILE = 1024  # as in kernels/sort.slang
_MOST_KEPT = 512  # of a tile: past it, topk sorts all
_WIDE_FROM = 2**31 - 2 * _TILE
_WIDE_KEYS = ("double", "int64_t", "uint64_t")

_templates = {
    (entry, index): Template("sort", entry, f"QQQQQQQ6{index}I") for entry in ("tiles", "merge") for index in "IQ"
}

Pairs = tuple[torch.Tensor, torch.Tensor]


class _Sorter:
    """The launches for one input: `source` is contiguous and seen as (outer, size, inner)."""

    def __init__(self, source: torch.Tensor, dim: int, descending: bool) -> None:
        self.source = source
        outer, self.size, self.inner = split_at(source.shape, dim)
        self.rows = outer * self.inner
        self.index = "Q" if self.rows * self.size >= _WIDE_FROM else "I"
        compute = storage(source.dtype).compute
        self.key = torch.int64 if compute in _WIDE_KEYS else torch.int32
        self.defines: dict[str, Any] = {
            "K": "uint64_t" if compute in _WIDE_KEYS else "uint",
            "Index": "uint64_t" if self.index == "Q" else "uint",
            "DESCENDING": int(descending),
            **dtype_defines("T", source.dtype),
        }
        if self.size >= 2**32:
            raise RuntimeError("sort: rows of 2^32 elements and more are not supported on MPS")

    def pairs(self, size: int) -> Pairs:
        """Room for the keys and places of rows of `size`."""
        count, device = self.rows * size, self.source.device
        return torch.empty(count, dtype=self.key, device=device), torch.empty(count, dtype=torch.int32, device=device)

    def run(
        self, entry: str, size: int, kept: int, step: int, pairs: Pairs | None, out: Pairs, final: bool, segment: int
    ) -> None:
        per_tile = _TILE >> segment if entry == "tiles" and size <= _TILE else 1
        tiles = -(-self.rows // per_tile) * -(-size // _TILE)
        source: tuple[Any, Any] = pairs or (0, 0)
        targets = (*out, *source, 0, 0) if final else (0, 0, *source, *out)
        launch(
            _templates[entry, self.index],
            grid(tiles),
            (self.source, *targets, self.rows, size, self.size, kept, self.inner, step, segment),
            (self.source, *(pairs or ())),
            out,
            FROM_PAIRS=int(pairs is not None),
            TO_PAIRS=int(not final),
            **self.defines,
        )


def sort_into(source: torch.Tensor, dim: int, descending: bool, values: torch.Tensor, indices: torch.Tensor) -> None:
    """Sort, or keep the first elements where `values` and `indices` (int64) are shorter along dim. All contiguous."""
    if values.numel() == 0:
        return
    sorter = _Sorter(source, dim, descending)
    kept = values.size(dim) if values.dim() else 1
    out = (values, indices)
    size, pairs = sorter.size, None
    whole = kept == size
    while size > _TILE and not whole:  # the best of each tile go on
        shorter = size // _TILE * kept + min(kept, size % _TILE)
        fewer = sorter.pairs(shorter)
        sorter.run("tiles", size, shorter, kept, pairs, fewer, final=False, segment=10)
        size, pairs = shorter, fewer
    if size <= _TILE:
        segment = max(size - 1, 0).bit_length()
        sorter.run("tiles", size, kept, kept, pairs, out, final=True, segment=segment)
        return
    runs = sorter.pairs(size)
    sorter.run("tiles", size, size, _TILE, None, runs, final=False, segment=10)
    length, spare = _TILE, sorter.pairs(size) if size > 2 * _TILE else None
    while 2 * length < size:
        assert spare is not None
        sorter.run("merge", size, size, length, runs, spare, final=False, segment=0)
        runs, spare, length = spare, runs, 2 * length
    sorter.run("merge", size, size, length, runs, out, final=True, segment=0)


def first_sorted(self: torch.Tensor, dim: int, kept: int, descending: bool) -> Pairs:
    """(values, int64 indices) of the first `kept` elements in order along dim; contiguous."""
    dim = wrapped_dim(dim, self.dim())
    shape = list(self.shape)
    size = shape[dim] if shape else 1
    if shape:
        shape[dim] = kept
    sorts_all = kept == size or kept > _MOST_KEPT
    full = self.shape if sorts_all else shape
    values = torch.empty(full, dtype=self.dtype, device=self.device)
    indices = torch.empty(full, dtype=torch.int64, device=self.device)
    sort_into(self.contiguous(), dim, descending, values, indices)
    if sorts_all and kept != size:
        return values.narrow(dim, 0, kept).contiguous(), indices.narrow(dim, 0, kept).contiguous()
    return values, indices


def _into(values: torch.Tensor, indices: torch.Tensor, results: Pairs) -> Pairs:
    return resized(values, results[0].shape).copy_(results[0]), resized(indices, results[1].shape).copy_(results[1])


def _checked(self: torch.Tensor, values: torch.Tensor, indices: torch.Tensor) -> None:
    written(values, self.dtype)
    written(indices, torch.int64)


@implements("sort.values_stable")
def sort_values_stable(
    self: torch.Tensor,
    *,
    stable: bool | None,
    dim: int = -1,
    descending: bool = False,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> Pairs:
    """Always stable. The indices are int64."""
    _checked(self, values, indices)
    dim = wrapped_dim(dim, self.dim())
    resized(values, self.shape)
    resized(indices, self.shape)
    apart_or_same(values, self)
    if values.is_contiguous() and indices.is_contiguous():
        source = self.contiguous()
        sort_into(
            source.clone() if source.data_ptr() == values.data_ptr() else source, dim, descending, values, indices
        )
        return values, indices
    return _into(values, indices, first_sorted(self, dim, self.size(dim) if self.dim() else 1, descending))


@implements("topk.values")
def topk_values(
    self: torch.Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
    *,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> Pairs:
    """The k first in order, sorted whether asked for or not; NaN counts as the largest."""
    _checked(self, values, indices)
    dim = wrapped_dim(dim, self.dim())
    if not 0 <= k <= (self.size(dim) if self.dim() else 1):
        raise RuntimeError("selected index k out of range")
    if self.dim() and (k == 0 or self.numel() == 0):
        shape = list(self.shape)
        shape[dim] = k
        return resized(values, shape), resized(indices, shape)
    return _into(values, indices, first_sorted(self, dim, k, largest))


# One element of each row ------------------------------------------------------------------------------------------


def _picked(results: Pairs, dim: int, place: torch.Tensor | int, keepdim: bool) -> Pairs:
    """The elements at `place` (a number, or an index with size 1 along dim) of sorted rows."""
    values, indices = results
    if values.dim() == 0:
        return values, indices
    if isinstance(place, int):
        picked = values.narrow(dim, place, 1), indices.narrow(dim, place, 1)
    else:
        picked = values.gather(dim, place), indices.gather(dim, place)
    return picked if keepdim else (picked[0].squeeze(dim), picked[1].squeeze(dim))


def _row_size(name: str, self: torch.Tensor, dim: int) -> int:
    size = self.size(dim) if self.dim() else 1
    if size == 0:
        raise IndexError(f"{name}(): Expected reduction dim {dim} to have non-zero size.")
    return size


@implements("kthvalue.values")
def kthvalue_values(
    self: torch.Tensor,
    k: int,
    dim: int = -1,
    keepdim: bool = False,
    *,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> Pairs:
    """The k-th smallest, counted from 1."""
    _checked(self, values, indices)
    separate(values, self)
    separate(indices, self)
    dim = wrapped_dim(dim, self.dim())
    size = _row_size("kthvalue", self, dim)
    if not 1 <= k <= size:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}")
    if self.dim():
        require_dtype("kthvalue_cpu", self, FLOATS | INTEGERS)
    return _into(values, indices, _picked(first_sorted(self, dim, k, False), dim, k - 1, keepdim))


def _median(self: torch.Tensor, dim: int, keepdim: bool, skip_nan: bool) -> Pairs:
    """The lower of two middle elements; NaN if a row has one, unless they are skipped."""
    size = self.size(dim) if self.dim() else 1
    if not self.is_floating_point():
        return _picked(first_sorted(self, dim, (size + 1) // 2, False), dim, (size - 1) // 2, keepdim)
    results = first_sorted(self, dim, size, False)
    if self.dim() == 0:
        return results
    nans = results[0].isnan().sum(dim, keepdim=True)
    numbers = size - nans
    if skip_nan:
        place = (numbers - 1).clamp_min(0).div(2, rounding_mode="trunc")
    else:
        place = torch.where(nans > 0, numbers, torch.full_like(numbers, (size - 1) // 2))
    return _picked(results, dim, place, keepdim)


def _median_all(self: torch.Tensor, skip_nan: bool) -> torch.Tensor:
    require_dtype("median_cpu", self, FLOATS | INTEGERS)
    if self.numel() == 0:
        if not self.is_floating_point():
            raise RuntimeError(f"median() of an empty tensor is not defined for {self.dtype}")
        return torch.full((), torch.nan, dtype=self.dtype, device=self.device)
    return _median(self.reshape(-1), 0, False, skip_nan)[0].clone()


def _median_dim(
    name: str, self: torch.Tensor, dim: int, keepdim: bool, values: torch.Tensor, indices: torch.Tensor
) -> Pairs:
    require_dtype("median_out", self, FLOATS | INTEGERS)
    _checked(self, values, indices)
    dim = wrapped_dim(dim, self.dim())
    _row_size(name, self, dim)
    return _into(values, indices, _median(self, dim, keepdim, name == "nanmedian"))


@implements("median")
def median(self: torch.Tensor) -> torch.Tensor:
    """The lower median of all elements, NaN if one is."""
    return _median_all(self, False)


@implements("nanmedian")
def nanmedian(self: torch.Tensor) -> torch.Tensor:
    """The lower median of all elements that are not NaN."""
    return _median_all(self, True)


@implements("median.dim_values")
def median_dim_values(
    self: torch.Tensor, dim: int, keepdim: bool = False, *, values: torch.Tensor, indices: torch.Tensor
) -> Pairs:
    """The lower median along `dim`, and where it is."""
    return _median_dim("median", self, dim, keepdim, values, indices)


@implements("nanmedian.dim_values")
def nanmedian_dim_values(
    self: torch.Tensor, dim: int, keepdim: bool = False, *, values: torch.Tensor, indices: torch.Tensor
) -> Pairs:
    """The lower median along `dim` of the elements that are not NaN, and where it is."""
    return _median_dim("nanmedian", self, dim, keepdim, values, indices)


@implements("mode.values")  # torch's own asks for the devices it knows
def mode_values(
    self: torch.Tensor, dim: int = -1, keepdim: bool = False, *, values: torch.Tensor, indices: torch.Tensor
) -> Pairs:
    """The most frequent element along `dim`, the least of several, and where it is."""
    found, places = mode(self, dim, keepdim)
    written(values, found.dtype)
    written(indices, places.dtype)
    return resized(values, found.shape).copy_(found), resized(indices, places.shape).copy_(places)


@implements("mode")
def mode(self: torch.Tensor, dim: int = -1, keepdim: bool = False) -> Pairs:
    """The most frequent value of each row, the smallest of several, and the last place where it stands."""
    dim = wrapped_dim(dim, self.dim())
    size = _row_size("mode", self, dim)
    results = first_sorted(self, dim, size, False)
    if self.dim() == 0:
        return results
    ordered = results[0]
    changes = ordered.narrow(dim, 1, size - 1) != ordered.narrow(dim, 0, size - 1)
    edge = torch.ones_like(ordered.narrow(dim, 0, 1), dtype=torch.bool)
    place = torch.arange(size, device=self.device).view([-1 if d == dim else 1 for d in range(self.dim())])
    starts = (place * torch.cat((edge, changes), dim)).cummax(dim)[0]
    lengths = (place + 1 - starts) * torch.cat((changes, edge), dim)
    return _picked(results, dim, lengths.argmax(dim, keepdim=True), keepdim)
