"""Which matrix instructions products, convolution and attention run on: a property of the adapter.

An engine is one implementation of the tiles in kernels/lib/tiles.slangh.
"""

from __future__ import annotations

import functools

import torch

from portable_mps import settings
from portable_mps.runtime import device
from portable_mps.runtime.adapter import Adapter

WORKGROUP, SUBGROUP, PLAIN = "workgroup", "subgroup", "plain"
ENGINES = (WORKGROUP, SUBGROUP, PLAIN)
"""Best first: VK_NV_cooperative_matrix2; VK_KHR_cooperative_matrix; arithmetic of single threads, which all have."""

# What elements are called in the adapter's lists, and the sums of their products.
COMPONENTS = {
    torch.float16: ("f16", "f32"),
    torch.bfloat16: ("bf16", "f32"),
    torch.float32: ("f32", "f32"),  # Metal's alone
    torch.int8: ("i8", "i32"),
}


def has(adapter: Adapter, engine: str, dtype: torch.dtype) -> bool:
    """Whether `engine` multiplies matrices of `dtype` on `adapter`."""
    if engine == PLAIN:
        return True
    if dtype not in COMPONENTS:
        return False
    element, total = COMPONENTS[dtype]
    if engine == WORKGROUP:
        return any(key[:2] == (element, total) for key in adapter.workgroup_matrices)
    return bool(fragments(adapter, dtype))


def fragments(adapter: Adapter, dtype: torch.dtype) -> list[tuple[int, int, int]]:
    """The (M, N, K) that a subgroup multiplies at once, of matrices of `dtype`; none where it does not."""
    components = COMPONENTS.get(dtype)
    return [shape[:3] for shape in adapter.coop_matrices if shape[3:] == components]


def fragment_defines(adapter: Adapter, dtype: torch.dtype, shape: tuple[int, int, int]) -> dict[str, int]:
    """What kernels/lib/fragments.slangh needs to know of fragments of one shape, one of `fragments`."""
    by_hand = adapter.backend == "Metal" and dtype == torch.bfloat16
    return {**dict(zip(("FM", "FN", "FK"), shape, strict=True)), "BY_HAND": int(by_hand)}


def engine_for(dtype: torch.dtype) -> str:
    """The engine for products of `dtype` on the open device: what PORTABLE_MPS_MATRIX says, else the best.

    A type that the named engine does not multiply takes the plain one. ValueError for a name that is no engine's,
    RuntimeError for one that the adapter does not have at all.
    """
    return _engine_for(dtype, settings.matrix_engine())


@functools.cache
def _engine_for(dtype: torch.dtype, wanted: str | None) -> str:
    adapter = device.current().adapter
    if wanted is None:
        return next(engine for engine in ENGINES if has(adapter, engine, dtype))
    if wanted not in ENGINES:
        raise ValueError(f"PORTABLE_MPS_MATRIX={wanted!r}: expected one of {', '.join(ENGINES)}")
    if not any(has(adapter, wanted, each) for each in COMPONENTS):
        raise RuntimeError(f"PORTABLE_MPS_MATRIX={wanted}: {adapter.name} has no matrices of that kind")
    return wanted if has(adapter, wanted, dtype) else PLAIN
