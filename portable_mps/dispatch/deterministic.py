"""torch.use_deterministic_algorithms: what atomics do in any order, in the order of the elements.

Also the error of the operators that have no other way, and the way of adapters that lack the atomics.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

from portable_mps.dispatch import atomics

COMBINED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "prod": torch.mul,
    "amin": torch.minimum,
    "amax": torch.maximum,
}


def alert(name: str) -> None:
    """torch's error or warning, where determinism is wanted, of an operator whose last bits may vary."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        f"{name} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'. "
        "You can turn off determinism just for this operation, or you can use the 'warn_only=True' option, if that's "
        "acceptable for your application."
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)


def is_wanted(action: str, dtype: torch.dtype) -> bool:
    """Whether threads must not race for an element: several writes to it, or sums and products that round.

    Always for want of an atomic: products of complex numbers, and 64 bits on some adapters.
    """
    if action == "prod" and dtype.is_complex:
        return True
    if action in COMBINED and not atomics.has_for(dtype):
        return True
    if not torch.are_deterministic_algorithms_enabled():
        return False
    return action == "put" or (action in ("sum", "prod") and dtype.is_floating_point)


def places(
    shape: torch.Size, base_strides: Sequence[int], indices: Sequence[torch.Tensor], strides: Sequence[int]
) -> torch.Tensor:
    """Where in base's memory each element goes, in elements: a contiguous int64 tensor of `shape`.

    base_strides are over shape, 0 where an index decides; strides are those of the dimensions the indices go through.
    """
    at = torch.zeros(shape, dtype=torch.int64, device="mps")
    for d, (size, stride) in enumerate(zip(shape, base_strides, strict=True)):
        if stride:
            steps = torch.arange(size, device="mps") * stride
            at += steps.view(-1, *(1,) * (len(shape) - d - 1))
    for index, stride in zip(indices, strides, strict=True):
        at += index.to(torch.int64) * stride
    return at


def grouped(action: str, at: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each place once, and what the values for it come to: the last one, or what they combine to in order."""
    ordered, order = at.reshape(-1).sort(stable=True)
    unique, counts = torch.unique_consecutive(ordered, return_counts=True)
    values = values.reshape(-1)[order]
    if action == "put":
        return unique, values[counts.cumsum(0) - 1]
    if values.is_floating_point() and action in ("sum", "prod"):
        return unique, torch.segment_reduce(values, action, lengths=counts)
    return unique, _folded(action, values, counts)


def _folded(action: str, values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """What each segment combines to, neighbours at a time; counts, at least one each: the lengths of the segments."""
    while values.numel() > counts.numel():
        ends = counts.cumsum(0)
        within = torch.arange(values.numel(), device="mps") - torch.repeat_interleave(ends - counts, counts)
        last = torch.repeat_interleave(counts, counts) - 1
        pairs = COMBINED[action](values, values.roll(-1))
        values = torch.where(within < last, pairs, values)[within % 2 == 0]
        counts = (counts + 1).div(2, rounding_mode="floor")
    return values
