"""What attention runs on: the shapes of a problem, and the tiles and variants of its kernels on each engine."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from portable_mps.dispatch.engines import COMPONENTS, SUBGROUP, WORKGROUP, engine_for, fragment_defines, fragments
from portable_mps.dispatch.promotion import storage
from portable_mps.runtime import device


@dataclass(frozen=True)
class Problem:
    """What both passes know: query (batch, heads, rows, width), key (batch, heads / group, columns, width), value
    (batch, heads / group, columns, depth), and a mask that is expanded to (batch, heads, rows, columns)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor | None
    is_causal: bool
    scale: float
    dropout: float
    extents: torch.Tensor | None = None  # where a mask of bool lets anything take part: kernels/attention/extents.slang

    @property
    def lines(self) -> int:
        """Batches times heads."""
        return self.query.shape[0] * self.query.shape[1]

    @property
    def group(self) -> int:
        """How many heads of the query share one of the key."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def rows(self) -> int:
        """Queries of a head."""
        return self.query.shape[2]

    @property
    def columns(self) -> int:
        """Keys of a head."""
        return self.key.shape[2]

    @property
    def width(self) -> int:
        """Of a query and of a key."""
        return self.query.shape[3]

    @property
    def depth(self) -> int:
        """Of a value."""
        return self.value.shape[3]

    def bias_strides(self) -> tuple[int, ...]:
        """Strides of the added mask, zeros for none."""
        return (0, 0, 0, 0) if self.bias is None else tuple(self.bias.stride())

    def sizes(self) -> tuple[int, ...]:
        """lines, heads, group, rows, columns, width, depth, as the kernels' parameters have them."""
        return (self.lines, self.query.shape[1], self.group, self.rows, self.columns, self.width, self.depth)

    def numbers(self) -> tuple[float, float, float]:
        """(scale, the share that dropout keeps, its reciprocal or 0)."""
        keep = 1 - self.dropout
        return (self.scale, keep, 1 / keep if keep else 0.0)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of one row a head, the heads of a group as rows of one head."""
        return tensor.squeeze(2).unflatten(1, (self.key.shape[1], self.group))

    def packed(self) -> Problem:
        """The same problem with heads that share keys as rows of one head, so that keys are read once."""
        bias = None if self.bias is None else self.pack(self.bias)
        return replace(self, query=self.pack(self.query), bias=bias, extents=None)

    def variant(self) -> dict[str, Any]:
        """The compile key's part that every kernel has."""
        row = storage(self.query.dtype)
        mask = row if self.bias is None else storage(self.bias.dtype)
        is_bool = self.bias is not None and self.bias.dtype == torch.bool
        return {
            "T": row.type,
            "LOAD(x)": row.load.format("x"),
            "STORE(x)": row.store.format("x"),
            "B": mask.type,
            "LOAD_B(x)": mask.load.format("x"),
            "BIASED": 0 if self.bias is None else 2 if is_bool else 1,
            "EXTENTS": int(self.extents is not None),
            "CAUSAL": int(self.is_causal),
            "DROPOUT": int(self.dropout > 0),
        }


def in_place(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, or a copy where the kernels cannot address it: rows are contiguous and not too far apart."""
    far = tensor.shape[2] > 1 and abs(tensor.stride(2)) >= 2**31
    return tensor if tensor.stride(3) == 1 and not far else tensor.contiguous()


def row_stride(tensor: torch.Tensor) -> int:
    """Elements from one row to the next of (batch, heads, rows, width); 0 for a single row."""
    return tensor.stride(2) if tensor.shape[2] > 1 else 0


def rows_are_outside(tensor: torch.Tensor) -> bool:
    """Whether heads lie within rows in memory, as in a view of (batch, rows, heads, width)."""
    apart = tensor.shape[1] > 1 and tensor.shape[2] > 1 and tensor.shape[3] > 1
    return apart and tensor.stride(3) == 1 and tensor.stride(1) < tensor.stride(2)


def expanded(bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """A mask for every head; one of bool as what is added, where tiles of that are loaded at once."""
    if bias is None:
        return None
    if bias.dtype == torch.bool and engine_for(query.dtype) == WORKGROUP:
        once = bias[tuple(slice(1) if stride == 0 else slice(None) for stride in bias.stride())]
        bias = torch.where(once, *_ends(query.dtype))
    return bias.expand(*query.shape[:3], key.shape[2])


@functools.cache
def _ends(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added where a mask of bool is true, and where not: numbers of the host."""
    return torch.tensor(0.0, dtype=dtype), torch.tensor(-torch.inf, dtype=dtype)


FORWARD_LAYOUT = "9Q12q2Q4i9I3f"  # of Params in kernels/attention/forward.slangh
BACKWARD_LAYOUT = "10Q10q2Q6i9I3f"  # and in backward.slangh
FORWARD, QUERIES, KEYS, BIAS = "FORWARD", "QUERIES", "KEYS", "BIAS"  # which kernel; MODE of the backward ones


def plain_tile(problem: Problem, rows: int, mode: str) -> dict[str, int]:
    """Tile and vectors of the plain engine, by the wider of the rows and how many there are to a workgroup.

    mode: FORWARD, or the backward kernel's.
    """
    wide = max(problem.width, problem.depth)
    each = 1 if wide <= 16 else 2 if wide <= 32 else 4
    groups = -(-wide // (16 * each))
    adapter = device.current().adapter
    large = 2 if wide > 128 or adapter.is_software or adapter.max_shared_memory < 31 << 10 else 4
    squares, results = {FORWARD: (1, 1), QUERIES: (2, 1), KEYS: (2, 2), BIAS: (3, 0)}[mode]

    def sums(tile: tuple[int, int]) -> int:
        return squares * tile[0] * tile[1] + results * tile[0] * each * groups

    # Where registers are few, parts of wide rows on their way to shared memory fill them: Intel's compiler was seen to.
    sides = 2 if mode == KEYS else 1
    if adapter.registers < 128 and sides * each * groups > 8:
        large = 1
    # A quarter of the registers for all that is not sums: with less, compilers were seen to spill.
    shapes = [(large, large), (2, 2), (1, 2)]
    if mode == FORWARD and large == 4 and rows > 64 and adapter.max_shared_memory >= 46 << 10:
        shapes.insert(0, (8, 4))
    tiles = [(1 if rows <= 16 else height, across) for height, across in shapes]
    height, across = next((tile for tile in tiles if sums(tile) <= adapter.registers * 3 // 4), tiles[-1])
    return {
        "RM": height,
        "CN": across,
        "VEC": each,
        "WIDE": groups,
        # What is unrolled takes seconds to compile on the software driver.
        "UNROLL": 1 if adapter.is_software else 8 if mode == FORWARD else 16,
    }


def _is_aligned(*tensors: torch.Tensor, elements: int = 4) -> bool:
    """Whether so many elements of a row can be one load everywhere."""
    return all(
        t.shape[3] % elements == 0
        and t.data_ptr() % (elements * t.element_size()) == 0
        and all(s % elements == 0 for s in t.stride()[:3])
        for t in tensors
    )


def plain_defines(problem: Problem, rows: int, mode: str, *others: torch.Tensor) -> dict[str, Any]:
    """The compile key of a plain kernel."""
    return {
        **problem.variant(),
        **plain_tile(problem, rows, mode),
        "VECTOR": int(_is_aligned(problem.query, problem.key, problem.value, *others)),
        "EXACT": int(problem.query.dtype == torch.float32),
    }


@dataclass(frozen=True)
class WorkgroupTile:
    """Rows of the workgroup's own side and of the other side a turn, threads, and turns that are written out."""

    own: int
    other: int
    threads: int
    unroll: int = 1
    narrow: int = 16


# By the wider of width and depth, rounded up; tuned on an H100.
_ROUNDED = (32, 64, 128, 256)
FORWARD_TILES = {
    32: WorkgroupTile(64, 64, 128, 2),
    64: WorkgroupTile(64, 64, 128, 2),
    128: WorkgroupTile(128, 64, 256, 4, 32),
    256: WorkgroupTile(128, 32, 256, 1, 32),
}
FEW_ROWS_TILES = {
    32: WorkgroupTile(32, 64, 128),
    64: WorkgroupTile(32, 64, 128),
    128: WorkgroupTile(32, 64, 128),
    256: WorkgroupTile(32, 32, 128),
}
QUERY_TILES = {
    32: WorkgroupTile(64, 64, 128),
    64: WorkgroupTile(64, 128, 128),
    128: WorkgroupTile(128, 64, 256, 1, 32),
    256: WorkgroupTile(32, 32, 128),
}
KEY_TILES = {
    32: WorkgroupTile(64, 32, 128),
    64: WorkgroupTile(64, 32, 128),
    128: WorkgroupTile(64, 64, 256, 1, 32),
    256: WorkgroupTile(32, 32, 128),
}


_MASKS = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "BFloat16"}


def _mask_defines(mask: torch.Tensor | None, is_inside: bool) -> dict[str, Any]:
    """Whether tiles of the mask can be loaded at once, and without a check, as they end where its own side does."""
    if mask is None or mask.dtype not in _MASKS:
        return {"TILED": 0}
    span = sum((n - 1) * s for n, s in zip(mask.shape[2:], mask.stride()[2:], strict=True))
    return {"TILED": int(span < 1 << 31), "MASK_E": _MASKS[mask.dtype], "INSIDE": int(is_inside)}


def workgroup_defines(
    problem: Problem, tiles: dict[int, WorkgroupTile], own: int, *others: torch.Tensor
) -> tuple[WorkgroupTile, dict[str, Any]] | None:
    """A tile and what the matrices of a workgroup need to know; None where they cannot be had.

    own: how many rows the side has of which a workgroup takes a part.
    """
    dtype = problem.query.dtype
    if engine_for(dtype) != WORKGROUP:
        return None
    tensors = (problem.query, problem.key, problem.value, *others)
    if any(t.shape[2] * t.stride(2) >= 2**31 for t in tensors):  # their addressing counts in 32 bits
        return None
    width, depth = (next(r for r in _ROUNDED if size <= r) for size in (problem.width, problem.depth))
    tile = tiles[max(width, depth)]
    if not _is_granted(tile, dtype):
        return None
    defines = {
        **problem.variant(),
        **_mask_defines(problem.bias, own % tile.own == 0),
        "E": "half" if dtype == torch.float16 else "BFloat16",
        "ROUNDED": int(dtype == torch.bfloat16),
        "W": width,
        "D": depth,
        "FULL": int(width == problem.width and depth == problem.depth),
        "ALIGNED": int(_is_aligned(*tensors, elements=8)),
        "THREADS": tile.threads,
        "UNROLL": tile.unroll,
        "NARROW": tile.narrow,
    }
    return tile, defines


def _is_granted(tile: WorkgroupTile, dtype: torch.dtype) -> bool:
    """Whether the adapter's matrices come in this tile's sizes."""
    adapter = device.current().adapter
    granularity = adapter.workgroup_matrices.get((*COMPONENTS[dtype], tile.threads))
    if granularity is None or tile.threads > adapter.max_workgroup:
        return False
    m, n, k = granularity
    return not (tile.own % m or tile.other % n or tile.other % k or tile.narrow % n)


def workgroup_forward_defines(problem: Problem, output: torch.Tensor) -> dict[str, Any] | None:
    """The compile key of the forward kernel of workgroup matrices."""
    tiles = FEW_ROWS_TILES if problem.rows <= 32 else FORWARD_TILES
    found = workgroup_defines(problem, tiles, problem.rows, output)
    if found is None:
        return None
    tile, defines = found
    return {**defines, "BR": tile.own, "BC": tile.other}


@dataclass(frozen=True)
class SubgroupTile:
    """Subgroups of a workgroup, rows of its own side that each has, and rows of the other side a turn."""

    subgroups: int
    height: int
    other: int

    @property
    def own(self) -> int:
        """Rows of a workgroup, which its subgroups share."""
        return self.subgroups * self.height


SUBGROUP_TILES = (
    SubgroupTile(4, 32, 32),
    SubgroupTile(4, 16, 32),
    SubgroupTile(4, 8, 32),
    SubgroupTile(4, 16, 16),
    SubgroupTile(2, 16, 32),
    SubgroupTile(2, 16, 16),
    SubgroupTile(2, 8, 16),
)
SOFTWARE_SUBGROUP_TILES = (SubgroupTile(2, 16, 16),)  # larger ones take seconds to compile
_STEPS = (16, 32, 64, 96, 128, 192, 256)  # to which width and depth are rounded up


def subgroup_defines(problem: Problem, mode: str, *others: torch.Tensor) -> tuple[SubgroupTile, dict[str, Any]] | None:
    """A tile and what the fragments of a subgroup need to know; None where they cannot be had.

    mode: FORWARD, or the backward kernel's.
    """
    dtype = problem.query.dtype
    if engine_for(dtype) != SUBGROUP or mode == BIAS or dtype == torch.float32:  # whose weights fill no half of a patch
        return None
    adapter = device.current().adapter
    width, depth = (next((s for s in _STEPS if size <= s), 0) for size in (problem.width, problem.depth))
    own = problem.columns if mode == KEYS else problem.rows
    tiles = SOFTWARE_SUBGROUP_TILES if adapter.is_software else SUBGROUP_TILES
    shapes = sorted(fragments(adapter, dtype), key=math.prod, reverse=True)
    for tile, shape in itertools.product(tiles, shapes):
        # The backward kernels keep twice as much for a row: with more of them, a core has few workgroups at a time.
        is_high = tile.own > max(32, 2 * own) or (mode != FORWARD and tile.height > 16)
        if is_high or not _fits(tile, shape, width, depth, mode):
            continue
        # Where drivers keep copies of operands, those of the keys' two sums are too many if all are loaded ahead.
        has_copies = adapter.operand_lanes < adapter.subgroup_size
        defines = {
            **problem.variant(),
            "E": "half" if dtype == torch.float16 else "BFloat16",
            "HALF": int(dtype == torch.float16),
            **fragment_defines(adapter, dtype, shape),
            "SUBGROUP": adapter.subgroup_size,
            "SUBGROUPS": tile.subgroups,
            "WM": tile.height,
            "OTHER": tile.other,
            "W": width,
            "D": depth,
            "ALIGNED": int(_is_aligned(problem.query, problem.key, problem.value, *others, elements=8)),
            "WRITTEN_OUT": int(not adapter.is_software and not (mode == KEYS and has_copies)),
        }
        return tile, defines
    return None


def _fits(tile: SubgroupTile, shape: tuple[int, int, int], width: int, depth: int, mode: str) -> bool:
    """Whether fragments of this shape make the tile up, within the adapter's limits; width and depth rounded up."""
    adapter = device.current().adapter
    (m, n, k), lanes, word = shape, adapter.subgroup_size, 8
    if not width or not depth or n % word or k % word or any(s % n or s % k for s in (width, depth, tile.other)):
        return False
    parts = tile.other // word  # threads that share a row of scores
    threads = tile.subgroups * lanes
    if tile.height % m or lanes % parts or tile.height * parts % lanes or threads > adapter.max_workgroup:
        return False
    patches = 1 if mode == FORWARD else 2
    shared = 16 * (tile.other * ((width + depth) // word + 2) + patches * tile.own * (tile.other // 4 + 1))
    shared += 16 * max(tile.own, tile.other)  # what belongs to rows
    # Roughly, of a thread: the own side's operands and the sums throughout, and what a product's step or a row takes.
    operands = width if mode == FORWARD else width + depth
    sums = {FORWARD: depth, QUERIES: width, KEYS: width + depth}[mode]
    spread = adapter.operand_lanes
    # Where drivers keep copies of operands they were seen to load several steps ahead, too.
    step = tile.height * n // lanes + (tile.height + n) * k // 2 // spread * (lanes // spread)
    rows = 2 * tile.height * parts // lanes if mode == FORWARD else 0
    registers = tile.height * operands // 2 // spread + tile.height * sums // lanes
    registers += max(step, 16 * patches) + rows + 28
    return shared <= adapter.max_shared_memory and (registers <= adapter.matrix_registers or adapter.is_software)


def subgroup_turns(defines: dict[str, Any]) -> int:
    """Of a thread through its loops, for one tile of the other side."""
    other, threads = defines["OTHER"], defines["SUBGROUPS"] * defines["SUBGROUP"]
    staged = sum(-(-other * defines[size] // (8 * threads)) for size in ("W", "D"))
    units = defines["WM"] * other // (8 * defines["SUBGROUP"])
    return staged + 2 * (other // defines["FN"] + other // defines["FK"]) + units + 1


def turns_of(tile: dict[str, int], products: Sequence[int], weighed: int) -> int:
    """Of a thread through its loops, for one tile of the other side."""
    inner = 16 // tile["UNROLL"]
    return sum(-(-p // 16) * (1 + inner) for p in products) + weighed * tile["CN"] * (3 + inner) + 17


def like(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """An empty tensor like (batch, heads, rows, …) `tensor`, as a forward kernel may write it: of its layout where the
    width is innermost."""
    result = _of_layout(tensor, width)
    if result.stride(3) == 1 or result.numel() == 0:
        return result
    return tensor.new_empty((*tensor.shape[:3], width))


def gradient_like(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """As a backward kernel may write it: heads or rows outside."""
    batch, heads, rows, _ = tensor.shape
    if rows_are_outside(tensor):
        return tensor.new_empty((batch, rows, heads, width)).transpose(1, 2)
    return tensor.new_empty((batch, heads, rows, width))


def laid_like(tensor: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """`result` in the layout that torch's function has for tensors without memory, which compiled graphs rely on."""
    width = result.shape[3]
    sizes = zip(result.shape, _of_layout(tensor, width, "meta").stride(), result.stride(), strict=True)
    if all(size <= 1 or theirs == ours for size, theirs, ours in sizes):
        return result
    return _of_layout(tensor, width).copy_(result)


def _of_layout(tensor: torch.Tensor, width: int, device: str = "mps") -> torch.Tensor:
    if tensor.shape[3] == width:
        return torch.empty_like(tensor, device=device)
    strides, stride = [0] * 4, 1
    for dim in reversed(sorted(range(4), key=tensor.stride, reverse=True)):  # torch keeps the order of equals
        strides[dim] = stride
        stride *= width if dim == 3 else tensor.shape[dim]
    return torch.empty_strided((*tensor.shape[:3], width), strides, dtype=tensor.dtype, device=device)
