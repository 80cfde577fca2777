"""`portable-mps tune`: measure the tiles of matrix products on this adapter, and remember the fastest.

For each class of shapes (powers of two of the sizes, element type, which way operands lie) the tiles that the model of
dispatch/tiles.py expects to be among the best are timed, and the fastest is kept for this adapter and driver. With
PORTABLE_MPS_TUNE=1 that happens when a large product of a class is first planned.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from portable_mps.dispatch.tiles import Choice, Shape

_SIZES = ((1024, 1024, 1024), (4096, 4096, 4096), (8192, 2304, 768), (8192, 768, 3072), (768, 3072, 8192))
_SOFTWARE_SIZES = ((128, 128, 128), (256, 256, 256))
_TRIED = 6  # of the choices, by the model
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def run(shapes: Sequence[str], dtypes: Sequence[str], warmup: float, seconds: float) -> int:
    """Tune for `shapes` ("MxNxK"; none: a few common ones) and dtypes, and print what was found; the exit status.

    warmup, seconds: of each measurement.
    """
    from portable_mps.runtime import device

    sizes = [_parsed(shape) for shape in shapes]
    if None in sizes or any(name not in _DTYPES for name in dtypes):
        print("portable-mps tune: a shape is MxNxK, such as 4096x4096x1024; a dtype " + ", ".join(_DTYPES))
        return 2
    adapter = device.current().adapter
    print(f"{adapter.name}, {adapter.driver}")
    default = _SOFTWARE_SIZES if adapter.is_software else _SIZES
    for name, size in itertools.product(dtypes or _DTYPES, [s for s in sizes if s] or default):
        for a_turned, b_turned in itertools.product((False, True), repeat=2):
            _tune(size, _DTYPES[name], a_turned, b_turned, warmup, seconds)
    if device.current().cache_folder is None:
        print("There is no cache folder: this was for nothing. See PORTABLE_MPS_CACHE.")
        return 1
    return 0


def _parsed(shape: str) -> tuple[int, int, int] | None:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", shape)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _tune(
    size: tuple[int, int, int], dtype: torch.dtype, a_turned: bool, b_turned: bool, warmup: float, seconds: float
) -> None:
    from portable_mps.dispatch import tiles

    m, n, k = size
    found = search(tiles.Shape(1, m, n, k, not a_turned, b_turned, dtype), warmup, seconds)
    if not found:
        return
    best, choice = min(found, key=lambda entry: entry[0])
    rate, model = 2 * m * n * k / best / 1e12, found[0][0] / best
    way = f"{'T' if a_turned else 'N'}{'T' if b_turned else 'N'}"
    tile = f"{choice.tile.m}x{choice.tile.n}x{choice.tile.k}, {choice.splits} parts of K"
    print(f"{dtype!s:<15} {m}x{n}x{k} {way}  {choice.tile.engine:<9} {tile:<28} {rate:8.3f} TFLOP/s, "
          f"{model:.2f} times the model's choice")  # fmt: skip


def search(shape: Shape, warmup: float = 0.05, seconds: float = 0.05) -> list[tuple[float, Choice]]:
    """Time the tiles that the model expects most of, the best first, and remember the fastest for the class of `shape`.

    (seconds, choice) of each; warmup, seconds: of each measurement.
    """
    from portable_mps.dispatch import engines, products, tiles, tuning

    rows = (shape.m, shape.k) if shape.a_along_k else (shape.k, shape.m)
    columns = (shape.n, shape.k) if shape.b_along_k else (shape.k, shape.n)
    generator = torch.Generator("mps").manual_seed(0)  # not the user's
    a, b = (torch.randn((shape.batch, *s), device="mps", generator=generator).to(shape.dtype) for s in (rows, columns))
    a, b = (a if shape.a_along_k else a.mT), (b.mT if shape.b_along_k else b)
    tuning.forget(shape)
    offers = sorted(tiles.choices(shape, engines.engine_for(shape.dtype)), key=lambda offer: offer[0])
    found = []
    for _, choice in offers[:_TRIED]:
        tuning.remember(shape, choice, on_disk=False)
        products.forget_plans()
        try:
            found.append((_measured(a, b, warmup, seconds), choice))
        finally:
            products.forget_plans()
    if found:
        tuning.remember(shape, min(found, key=lambda entry: entry[0])[1])
    return found


def _measured(a: torch.Tensor, b: torch.Tensor, warmup: float, seconds: float) -> float:
    """Median seconds of a @ b."""
    end = time.perf_counter() + warmup
    for _ in _until(end):
        torch.bmm(a, b)
        torch.mps.synchronize()
    rounds = []
    for _ in _until(time.perf_counter() + seconds):
        start = time.perf_counter()
        for _ in range(4):
            torch.bmm(a, b)
        torch.mps.synchronize()
        rounds.append((time.perf_counter() - start) / 4)
    return statistics.median(rounds)


def _until(end: float) -> Iterator[None]:
    """At least once, until the clock passes `end`."""
    yield
    while time.perf_counter() < end:
        yield
