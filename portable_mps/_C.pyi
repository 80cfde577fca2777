"""The C++ side as Python sees it; csrc/module.cpp defines it."""

from collections.abc import Sequence

import numpy as np
import torch

class HazardTracker:
    """See csrc/hazards.h."""

    def access(self, reads: Sequence[torch.Tensor], writes: Sequence[torch.Tensor]) -> bool: ...
    def access_ranges(self, reads: Sequence[tuple[int, int]], writes: Sequence[tuple[int, int]]) -> bool: ...
    def reset(self) -> None: ...

def plan_pointwise(
    hazards: HazardTracker,
    outputs: tuple[torch.Tensor | None, ...],
    inputs: tuple[torch.Tensor | float, ...],
    scalars: tuple[float, ...],
    formats: str,
    promotion: int,
) -> tuple[tuple[torch.Tensor, ...], tuple[int, int, int], np.ndarray, int, int, bool]:
    """See csrc/iterator.h."""

def memory_stats() -> dict[str, int]:
    """allocated, peak_allocated, driver (bytes); allocations, slabs (counts)."""

def allocator_address() -> int: ...
def empty_cache() -> None: ...
def set_memory_ratio(ratio: float) -> None: ...
def default_generator() -> torch.Generator: ...
def reserve_philox(generator: torch.Generator | None, counters: int) -> tuple[int, int]: ...
