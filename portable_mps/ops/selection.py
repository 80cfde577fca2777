"""Operators whose result depends on which elements are set: nonzero, masked_select, masked_scatter_."""

from __future__ import annotations

import torch

from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import resized, separate, written
from portable_mps.ops.indexing import indexed
from portable_mps.ops.masked_fill import masked_assign
from portable_mps.runtime.kernel import Template

_CHUNK = 1024  # as in kernels/selection.slang
_POSITIONS, _RANKS = 2, 3

_count = Template("selection", "count", "QQq")
_offsets = Template("selection", "offsets", "Qq")
_place = Template("selection", "place", "QQQqq")


class Compaction:
    """The set elements of a contiguous boolean tensor, in memory order."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask
        self.size = mask.numel()
        self.chunks = -(-self.size // _CHUNK)
        self.counts = torch.empty(self.chunks + 1, dtype=torch.int64, device=mask.device)
        launch(_count, grid(self.chunks), (mask, self.counts, self.size), [mask], [self.counts], STAGE=0)
        launch(_offsets, (1, 1, 1), (self.counts, self.chunks), [], [self.counts], STAGE=1)

    def total(self) -> int:
        """How many are set; waits for the device."""
        return int(self.counts[self.chunks].item())

    def positions(self, limit: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """int64 positions of the first `limit` set elements, into a contiguous `out` where given."""
        out = torch.empty(limit, dtype=torch.int64, device=self.mask.device) if out is None else out
        self._run(_POSITIONS, out, limit)
        return out

    def ranks(self) -> torch.Tensor:
        """int64, for each element: how many are set up to and with it, less one."""
        out = torch.empty(self.size, dtype=torch.int64, device=self.mask.device)
        self._run(_RANKS, out, 0)
        return out

    def _run(self, stage: int, out: torch.Tensor, limit: int) -> None:
        if out.numel():
            arguments = (self.mask, self.counts, out, self.size, limit)
            launch(_place, grid(self.chunks), arguments, [self.mask, self.counts], [out], STAGE=stage)


def _mask_of(self: torch.Tensor) -> torch.Tensor:
    return (self if self.dtype == torch.bool else self != 0).contiguous()


def coordinates(positions: torch.Tensor, shape: torch.Size, dim: int = 1) -> torch.Tensor:
    """Row-major positions as coordinates, a column (or, with dim 0, a row) for each dimension of `shape`."""
    columns: list[torch.Tensor] = []
    for size in reversed(shape):
        columns.append(positions % size if len(columns) < len(shape) - 1 else positions)
        positions = positions.div(size, rounding_mode="trunc")
    if not columns:
        sides = (0, positions.numel()) if dim == 0 else (positions.numel(), 0)
        return torch.empty(sides, dtype=torch.int64, device=positions.device)
    return torch.stack(columns[::-1], dim=dim)


@implements("nonzero")
def nonzero(self: torch.Tensor) -> torch.Tensor:
    """The host waits for the number of elements that are set."""
    if self.numel() == 0:
        return torch.empty((0, self.dim()), dtype=torch.int64, device=self.device)
    refuse_as_cpu("nonzero", self.dtype)
    found = Compaction(_mask_of(self))
    return coordinates(found.positions(found.total()), self.shape, 0).t()  # as on the CPU


@implements("nonzero.out")
def nonzero_out(self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Indices (count, dimensions), int64, of the elements that are not zero; the host waits for their number."""
    written(out, torch.int64)
    result = nonzero(self)
    return resized(out, result.shape).copy_(result)


@implements("nonzero_static")
def nonzero_static(self: torch.Tensor, *, size: int, fill_value: int = -1) -> torch.Tensor:
    """`size` rows, the spare ones filled; the host does not wait."""
    if size < 0:
        raise RuntimeError("nonzero_static: 'size' must be an non-negative integer")
    if self.numel() == 0 or self.dim() == 0 or size == 0:
        return torch.full((size, self.dim()), fill_value, dtype=torch.int64, device=self.device)
    positions = torch.full((size,), -1, dtype=torch.int64, device=self.device)
    Compaction(_mask_of(self)).positions(size, positions)
    return coordinates(positions, self.shape).masked_fill_((positions < 0).unsqueeze(1), fill_value)


@implements("nonzero_static.out")
def nonzero_static_out(self: torch.Tensor, *, size: int, fill_value: int = -1, out: torch.Tensor) -> torch.Tensor:
    """The first `size` rows of `nonzero_out`, with `fill_value` behind them where there are fewer."""
    written(out, torch.int64)
    result = nonzero_static(self, size=size, fill_value=fill_value)
    return resized(out, result.shape).copy_(result)


@implements("masked_select")
def masked_select(self: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The elements where the mask is true, in one dimension. RuntimeError for one that is not bool."""
    if mask.dtype != torch.bool:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    values, flags = torch.broadcast_tensors(self, mask)
    if flags.numel() == 0:
        return torch.empty(0, dtype=self.dtype, device=self.device)
    refuse_as_cpu("masked_select", self.dtype, torch.bool)
    found = Compaction(flags.contiguous())
    positions = found.positions(found.total())
    flat = values.reshape(-1)
    out = torch.empty(positions.shape, dtype=self.dtype, device=self.device)
    indexed("get", flat, (0,), out, (positions,), ((flat.numel(), flat.stride(0)),), "")
    return out


@implements("masked_select.out")
def masked_select_out(self: torch.Tensor, mask: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`masked_select` into `out`."""
    if out.dtype != self.dtype:
        raise RuntimeError("masked_select(): self and result must have the same scalar type")
    separate(out, self, mask)
    result = masked_select(self, mask)
    return resized(out, result.shape).copy_(result)


@implements("masked_scatter_")
def masked_scatter_(self: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The set elements take those of `source` in order. Where there may be too few, the host waits for the count."""
    if self.dtype != source.dtype:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{scalar_type(self.dtype)} and {scalar_type(source.dtype)}"
        )
    if mask.dtype != torch.bool:
        raise RuntimeError(f"masked_scatter_ only supports boolean masks, but got mask with dtype {mask.dtype}")
    flags = mask.expand(self.shape).contiguous()
    if self.numel() == 0:
        return self
    refuse_as_cpu("masked_scatter", self.dtype, torch.bool, self.dtype)
    found = Compaction(flags)
    if source.numel() < self.numel() and found.total() > source.numel():
        raise RuntimeError("Number of elements of source < number of ones in mask")
    if source.numel() == 0:
        return self
    ranks = found.ranks().view(self.shape)
    taken = torch.empty(self.shape, dtype=self.dtype, device=self.device)
    # Elements that are not set look at place 0 and are thrown away.
    ranks.masked_fill_(~flags, 0)
    flat = source.reshape(-1)
    indexed("get", flat, [0] * self.dim(), taken, (ranks,), ((flat.numel(), flat.stride(0)),), "")
    masked_assign((self,), (self, flags, taken))
    return self
