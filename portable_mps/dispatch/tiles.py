"""The tile of a matrix product: what each engine offers, and which one a product takes.

The choice is a small model of time: waves of tiles over the adapter's cores, and what splitting K costs in memory.
`portable-mps tune` measures instead, and what it found for a class of shapes (dispatch/tuning.py) comes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from portable_mps.dispatch import engines
from portable_mps.dispatch.engines import PLAIN, SUBGROUP, WORKGROUP
from portable_mps.runtime import device
from portable_mps.runtime.adapter import Adapter

_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_WAVES = {WORKGROUP: (1, 2, 3, 4), SUBGROUP: (1, 2, 3, 4), PLAIN: (1, 2, 4, 6, 8)}  # for which K is split besides
_UNROLLED = (16, 12, 9, 8, 6, 4, 3, 2, 1)
CORES = 64  # where the driver does not tell
# Of one core, in multiply-adds: filling and draining a tile's pipeline (per element of it), a byte of memory, and one
# more dispatch, with what it costs the host. The latter two as the fastest engine counts, which does most meanwhile.
_PIPELINE, _BYTE, _LAUNCH = 96, 50, 12_000_000
_SPEEDS = {WORKGROUP: 1.0, SUBGROUP: 0.7, PLAIN: 0.125}
_REGISTER_FILE, _FULL_CORE = 1 << 16, 256  # registers of a core, and threads that keep it busy


@dataclass(frozen=True)
class Tile:
    """A workgroup's part of a product, and its variant of the kernel.

    m, n: elements of the result; k: elements of the inner dimension at a time; threads: of the workgroup; shared: bytes
    of its shared memory (none where the driver stages); registers: 32-bit ones of a thread, roughly; rate: what it
    reaches of the engine's best, roughly; defines: the rest of the compile key.
    """

    engine: str
    m: int
    n: int
    k: int
    threads: int
    shared: int
    registers: int
    rate: float
    defines: tuple[tuple[str, Any], ...] = ()

    @property
    def variant(self) -> dict[str, Any]:
        """What the compile key has of it: engine and sizes."""
        return {"ENGINE": engines.ENGINES[::-1].index(self.engine), "BM": self.m, "BN": self.n, "BK": self.k} | dict(
            self.defines
        )


@dataclass(frozen=True)
class Shape:
    """A class of products: batch of (m, k) by (k, n); which operands are contiguous along K; element types."""

    batch: int
    m: int
    n: int
    k: int
    a_along_k: bool
    b_along_k: bool
    dtype: torch.dtype
    accumulator: str = "float"

    @property
    def tile_class(self) -> tuple[Any, ...]:
        """What tuning tells shapes apart by: powers of two."""
        sizes = (max(0, size - 1).bit_length() for size in (self.batch, self.m, self.n, self.k))
        return (*sizes, self.a_along_k, self.b_along_k, str(self.dtype), self.accumulator)


@dataclass(frozen=True)
class Choice:
    """A tile, and among how many workgroups K is split, `part` of it for each."""

    tile: Tile
    splits: int
    part: int


_ACCUMULATOR_BYTES = {"float": 4, "int": 4, "double": 8, "int64_t": 8}


def _plain(adapter: Adapter, shape: Shape) -> Iterator[Tile]:
    """Elements of a thread by tile; the software driver gains nothing from unrolling, and pays most for loads."""
    size = _ACCUMULATOR_BYTES[shape.accumulator]
    rows = ((64, 64, 16, 8, 8, 1.0),) if adapter.is_software else _PLAIN_TILES
    for m, n, depth, tm, tn, rate in rows:
        defines = (("TM", tm), ("TN", tn), ("UNROLL", 2 if adapter.is_software else depth))
        shared = 2 * depth * (m + n + 8) * size
        threads = m // tm * (n // tn)
        # Sums, the factors of two steps, what is fetched ahead, and addresses.
        registers = size // 4 * (tm * tn + 2 * (tm + tn) + (m + n) * depth // threads) + 16
        yield Tile(PLAIN, m, n, depth, threads, shared, registers, rate, defines)


_PLAIN_TILES = (
    (128, 128, 8, 8, 8, 1.0),
    (128, 64, 8, 8, 8, 0.93),
    (64, 64, 8, 8, 4, 0.84),
    (64, 64, 16, 4, 4, 0.68),
)


def _subgroup(adapter: Adapter, shape: Shape) -> Iterator[Tile]:
    """Each fragment shape of the adapter, with subgroups side by side."""
    element = shape.dtype.itemsize
    word = 16 // element
    for fm, fn, fk in engines.fragments(adapter, shape.dtype):
        starts = (fk if shape.a_along_k else fm, fk if shape.b_along_k else fn)
        if any(start % word for start in starts):  # fragments are loaded from words
            continue
        for m, n, wm, wn, rate in _SOFTWARE_SUBGROUP_TILES if adapter.is_software else _SUBGROUP_TILES:
            depth = max(32 // element * 2, fk)
            subgroups = m // wm * (n // wn)
            threads = subgroups * adapter.subgroup_size
            lines_a, words_a = (m, depth // word) if shape.a_along_k else (depth, m // word)
            lines_b, words_b = (n, depth // word) if shape.b_along_k else (depth, n // word)
            if wm % fm or wn % fn or depth % fk or lines_a * words_a % threads or lines_b * words_b % threads:
                continue
            shared = 16 * (lines_a * (words_a + 1) + lines_b * (words_b + 1)) + 4 * subgroups * fm * fn
            lanes = adapter.subgroup_size
            registers = wm * wn // lanes + (wm + wn) * fk * element // 4 // adapter.operand_lanes
            registers += 4 * (lines_a * words_a + lines_b * words_b) // threads + 16
            fragment = engines.fragment_defines(adapter, shape.dtype, (fm, fn, fk))
            defines = (("WM", wm), ("WN", wn), *fragment.items(), ("SUBGROUP", adapter.subgroup_size))
            yield Tile(SUBGROUP, m, n, depth, threads, shared, registers, rate, defines)


_SOFTWARE_SUBGROUP_TILES = ((32, 32, 16, 16, 1.0),)  # larger ones take seconds to compile
_SUBGROUP_TILES = ((128, 256, 64, 64, 1.0), (128, 128, 64, 64, 0.8), (128, 128, 64, 32, 0.75), (64, 64, 32, 32, 0.45))


def _workgroup(adapter: Adapter, shape: Shape) -> Iterator[Tile]:
    """By how many rows of 2 bytes are stored at a time: more would leave the driver less memory to load ahead."""
    component = engines.COMPONENTS[shape.dtype]
    for m, n, depth, threads, patch, rate, turned in _WORKGROUP_TILES:
        granularity = adapter.workgroup_matrices.get((*component, threads))
        depth = depth * 2 // shape.dtype.itemsize
        if granularity is None or any(size % g for size, g in zip((m, n, depth), granularity, strict=True)):
            continue
        if shape.b_along_k:  # which needs more memory, too
            rate, patch = turned, min(patch, 16)
        defines = (("WORKGROUP", threads), ("PATCH", patch))
        yield Tile(WORKGROUP, m, n, depth, threads, 2 * patch * (n + 8), m * n // threads, rate, defines)


# The last is the rate where the right operand is contiguous along K, so that the driver must turn it.
_WORKGROUP_TILES = (
    (128, 256, 32, 256, 32, 1.0, 0.88),
    (256, 128, 32, 256, 32, 0.9, 0.82),
    (128, 128, 32, 128, 16, 0.94, 0.55),
    (64, 128, 32, 128, 64, 0.65, 0.55),
    (128, 64, 32, 128, 32, 0.62, 0.55),
    (64, 64, 32, 128, 16, 0.5, 0.44),
    (32, 128, 64, 128, 16, 0.33, 0.3),
)
_OFFERS = {PLAIN: _plain, SUBGROUP: _subgroup, WORKGROUP: _workgroup}


def fitting(shape: Shape, engine: str) -> list[Tile]:
    """The engine's tiles within the adapter's limits; never none of the plain one."""
    adapter = device.current().adapter
    registers = adapter.matrix_registers if engine == SUBGROUP else adapter.registers
    tiles = [
        tile
        for tile in _OFFERS[engine](adapter, shape)
        if tile.shared <= adapter.max_shared_memory
        and tile.threads <= adapter.max_workgroup
        and (tile.registers <= registers or adapter.is_software)
    ]
    if not tiles and engine == PLAIN:
        least = (("TM", 4), ("TN", 4), ("UNROLL", 2))
        return [Tile(PLAIN, 32, 32, 16, 64, 2 * 16 * 72 * _ACCUMULATOR_BYTES[shape.accumulator], 64, 0.3, least)]
    return tiles


def choices(shape: Shape, engine: str, splits_k: bool = True) -> Iterator[tuple[float, Choice]]:
    """Every tile and split that could serve, with its modelled time in multiply-adds of one core."""
    cores = device.current().adapter.cores or CORES
    for tile in fitting(shape, engine):
        tiles = math.ceil(shape.m / tile.m) * math.ceil(shape.n / tile.n) * shape.batch
        full = {cores * waves // tiles for waves in _WAVES[engine]}
        # Parts in whole turns of the unrolled loop, where there are enough of them.
        turn = tile.k * _UNROLLED[0]
        unit = turn if tile.engine == WORKGROUP and shape.k >= 8 * turn else tile.k
        for splits in sorted(full.union(_SPLITS) - {0}) if splits_k else (1,):
            part = math.ceil(shape.k / (splits * unit)) * unit
            if splits > 1 and (part < 4 * tile.k or tiles * splits > _WAVES[engine][-1] * cores):
                break
            if splits > 1 and (splits - 1) * part >= shape.k:
                continue
            turns = _turns(tile, math.ceil(tiles * splits / cores))
            time = turns * tile.m * tile.n * (part + _PIPELINE) / (tile.rate * _care(tile, shape, part))
            if splits > 1:
                sums = 4 * shape.batch * shape.m * shape.n
                time += (_LAUNCH + sums * (2 * splits + 1) * _BYTE / cores) * _SPEEDS[engine]
            yield time, Choice(tile, splits, part)


def _turns(tile: Tile, groups: int) -> float:
    """How long a core takes for so many workgroups, counted in ones at its full rate.

    It has as many at a time as its registers hold; with few threads, as when some are left over, its units idle.
    """
    if tile.engine == WORKGROUP or device.current().adapter.is_software:
        return groups
    together = max(1, _REGISTER_FILE // (tile.registers * tile.threads))
    rounds, rest = divmod(groups, together)
    return sum(
        times * count / min(1.0, count * tile.threads / _FULL_CORE) ** 0.75
        for times, count in ((rounds, together), (1, rest))
        if count
    )


def _care(tile: Tile, shape: Shape, part: int) -> float:
    """What is left of a tile's rate where the driver cannot run loads ahead, or must clamp them."""
    if tile.engine != WORKGROUP:
        return 1.0
    unroll, tail = unrolled(tile, part, shape.k)
    clamped = shape.m < tile.m or shape.n < tile.n
    return (0.65 + 0.35 * min(unroll, 16) / 16) * (0.6 if tail else 1.0) * (0.5 if clamped else 1.0)


def choose(shape: Shape, engine: str, splits_k: bool = True) -> Choice | None:
    """The tile and split for `shape`; None where the engine has no tile for it. splits_k: whether K may be split."""
    from portable_mps.dispatch import tuning

    offers = list(choices(shape, engine, splits_k))
    if not offers:
        return None
    among = [choice for _, choice in offers]
    expected = min(offers, key=lambda offer: offer[0])[1]
    known = tuning.remembered(shape, among)
    if known is None and splits_k and tuning.pays(shape, engine):
        from portable_mps import tune

        try:
            tune.search(shape)
            known = tuning.remembered(shape, among)
        except torch.OutOfMemoryError:  # there is room for one product, not for the search's
            tuning.remember(shape, expected, on_disk=False)
    return known or expected


def unrolled(tile: Tile, part: int, depth: int, taps: int = 1) -> tuple[int, bool]:
    """How many steps of K the workgroup engine writes out for parts of a depth, and whether some are left over.

    taps: how many products are summed up; steps of several are written out where each has few.
    """
    steps = part // tile.k
    if taps > 1 and steps < 8 and part == depth and depth % tile.k == 0:
        return next(count for count in _UNROLLED if steps * taps % count == 0), False
    whole = next(count for count in _UNROLLED if steps % count == 0)
    unroll = whole if whole >= 4 or steps < 8 else 8
    return unroll, any(size % (unroll * tile.k) for size in (part, depth % part))
