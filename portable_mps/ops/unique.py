"""Distinct elements and slices: unique, unique_consecutive, and both along a dimension.

The host waits for their number. Inverse indices and counts that are not asked for are empty.
"""

from __future__ import annotations

import torch

from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import wrapped_dim
from portable_mps.ops.selection import Compaction
from portable_mps.ops.sort import first_sorted

Unique = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _none(self: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64, device=self.device)


def _starts(changes: torch.Tensor) -> torch.Tensor:
    """Where runs start: at the front, and where there is a change from the element before."""
    return torch.cat((torch.ones(1, dtype=torch.bool, device=changes.device), changes))


def _runs(
    starts: torch.Tensor, order: torch.Tensor | None, return_inverse: bool, return_counts: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(places of the runs' starts, run of each element, lengths). order: where the elements were before sorting."""
    found = Compaction(starts)
    places = found.positions(found.total())
    inverse = counts = _none(starts)
    if return_inverse:
        inverse = found.ranks()
        if order is not None:
            inverse = torch.empty_like(inverse).scatter_(0, order, inverse)
    if return_counts:
        end = torch.full((1,), starts.numel(), dtype=torch.int64, device=starts.device)
        counts = torch.cat((places, end)).diff()
    return places, inverse, counts


def _flat(self: torch.Tensor, is_sorted: bool, return_inverse: bool, return_counts: bool) -> Unique:
    if self.numel() == 0:
        inverse = torch.empty(self.shape, dtype=torch.int64, device=self.device) if return_inverse else _none(self)
        return torch.empty(0, dtype=self.dtype, device=self.device), inverse, _none(self)
    elements, order = self.reshape(-1), None
    if not is_sorted:
        elements, order = first_sorted(elements, 0, elements.numel(), False)
    starts = _starts(elements[1:] != elements[:-1])
    places, inverse, counts = _runs(starts, order, return_inverse, return_counts)
    return elements.index_select(0, places), inverse.view(self.shape) if return_inverse else inverse, counts


@implements("_unique")
def _unique(self: torch.Tensor, sorted: bool = True, return_inverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return _flat(self, False, return_inverse, False)[:2]


@implements("_unique2")
def _unique2(
    self: torch.Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Unique:
    """Sorted whether asked for or not; every NaN is distinct."""
    return _flat(self, False, return_inverse, return_counts)


@implements("unique_consecutive")
def unique_consecutive(
    self: torch.Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Unique:
    """(elements that differ from the one before, the inverse, counts), of all or along `dim`."""
    if dim is None:
        return _flat(self, True, return_inverse, return_counts)
    return unique_dim_consecutive(self, dim, return_inverse, return_counts)


# Slices -----------------------------------------------------------------------------------------------------------


def _ranks(rows: torch.Tensor) -> torch.Tensor:
    """int64 [r, n]: the number of distinct smaller elements in the row [r, n]."""
    ordered, order = first_sorted(rows, 1, rows.size(1), False)
    changes = torch.zeros(rows.shape, dtype=torch.int64, device=rows.device)
    changes[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(changes).scatter_(1, order, changes.cumsum(1))


def _lexicographic(slices: torch.Tensor) -> torch.Tensor:
    """int64 [n]: an order of the slices [n, size].

    Ranks of the elements, then of pairs, of fours …: as many sorts in turn as the logarithm of `size` (Karp, Miller and
    Rosenberg, "Rapid identification of repeated patterns", 1972).
    """
    count = slices.size(0)
    ranks = _ranks(slices.t().contiguous())
    while ranks.size(0) > 1:
        pairs = ranks.size(0) // 2
        rest = ranks[2 * pairs :]
        ranks = torch.cat((_ranks(ranks[0 : 2 * pairs : 2] * count + ranks[1 : 2 * pairs : 2]), rest))
    return first_sorted(ranks[0], 0, count, False)[1]


def _along(self: torch.Tensor, dim: int, is_sorted: bool, return_inverse: bool, return_counts: bool) -> Unique:
    dim = wrapped_dim(dim, self.dim())
    if self.dim() == 0:
        return _flat(self.reshape(1), True, return_inverse, return_counts)
    if self.size(dim) == 0:
        if sum(size == 0 for size in self.shape) != 1:
            raise RuntimeError("Number of zero sized dimensions is more than one, so unique cannot be applied ")
        return torch.empty_like(self), _none(self), _none(self)
    if self.numel() == 0:
        raise RuntimeError("There are 0 sized dimensions, and they aren't selected, so unique cannot be applied")
    slices = self.movedim(dim, 0).reshape(self.size(dim), -1)
    order = None if is_sorted else _lexicographic(slices)
    ordered = slices if order is None else slices.index_select(0, order)
    starts = _starts((ordered[1:] != ordered[:-1]).any(1))
    places, inverse, counts = _runs(starts, order, return_inverse, return_counts)
    kept = places if order is None else order.index_select(0, places)
    return self.index_select(dim, kept), inverse, counts


@implements("unique_dim")
def unique_dim(
    self: torch.Tensor, dim: int, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Unique:
    """(distinct slices along `dim`, sorted, the inverse, counts)."""
    return _along(self, dim, False, return_inverse, return_counts)


@implements("unique_dim_consecutive")
def unique_dim_consecutive(
    self: torch.Tensor, dim: int, return_inverse: bool = False, return_counts: bool = False
) -> Unique:
    """(slices along `dim` that differ from the one before, the inverse, counts)."""
    return _along(self, dim, True, return_inverse, return_counts)
