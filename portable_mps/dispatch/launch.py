"""Launching hand-written kernels: pack the parameters, track the hazards, record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from portable_mps import _C
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_REMEMBERED = 8192  # plans of a table
GROUP_ROW = 32768  # workgroups in x before y counts up; kernels use y * 32768 + x


def grid(groups: int) -> tuple[int, int, int]:
    """A dispatch size for a linear number of workgroups: Vulkan grants 65535 in each dimension."""
    return (min(groups, GROUP_ROW), -(-groups // GROUP_ROW), 1)


def check_turns(name: str, turns: int) -> None:
    """RuntimeError where a thread would take more turns through its loops than the adapter's driver lets it."""
    limit = device.current().adapter.loop_limit
    if turns > limit:
        raise RuntimeError(
            f"{name}: a thread would take {turns:,} turns through its loops, and this software driver ends them after "
            f"{limit:,}: the result would be wrong. Take smaller sizes, or a GPU"
        )


class Seed(int):
    """A seed among a launch's arguments; its counter is the one behind it. A replay draws both anew."""


def draw(generator: torch.Generator | None, counters: int) -> tuple[Seed, int]:
    """Seed and first counter for an operator that takes `counters` Philox blocks of each of its threads."""
    seed, offset = _C.reserve_philox(generator, counters)
    return Seed(seed), offset


def launch(
    template: Template,
    groups: tuple[int, int, int],
    arguments: Sequence[Any],
    reads: Sequence[torch.Tensor],
    writes: Sequence[torch.Tensor],
    **defines: Any,
) -> None:
    """Record one dispatch of a kernel.

    arguments fill the template's layout in order; a tensor stands for its address, None for no tensor. reads and writes
    are the tensors whose memory the kernel touches. defines choose the variant. A dispatch of zero workgroups is not
    recorded.
    """
    if 0 in groups:
        return
    kernel = template.variant(**defines)
    values = [a.data_ptr() if isinstance(a, torch.Tensor) else a or 0 for a in arguments]
    placed = list(zip(arguments, template.offsets, strict=True))
    places = [at for a, at in placed if isinstance(a, torch.Tensor)]
    draws = [at for a, at in placed if isinstance(a, Seed)]
    device.current().stream.launch(kernel, template.layout.pack(*values), groups, reads, writes, places, draws)


def remember(plans: dict[Any, Any], key: Any, plan: Any) -> Any:
    """Keep what was planned for `key`, and return it. Varying shapes do not fill memory: a full table starts anew."""
    if len(plans) >= _REMEMBERED:
        plans.clear()
    plans[key] = plan
    return plan


class Prepared:
    """A dispatch of which only the addresses change: made once for a shape, recorded many times.

    template's layout starts with the addresses; `numbers` are the arguments behind them. A tensor among these is a
    table that stays for all dispatches, and is kept.
    """

    __slots__ = ("_groups", "_kernel", "_numbers", "_offsets", "_pack", "_table_places", "_tables")

    def __init__(
        self, template: Template, groups: tuple[int, int, int], numbers: tuple[Any, ...], **defines: Any
    ) -> None:
        self._kernel = template.variant(**defines)
        self._pack = template.layout.pack
        self._offsets = template.offsets
        self._groups = groups
        self._tables = tuple(n for n in numbers if isinstance(n, torch.Tensor))
        self._numbers = tuple(n.data_ptr() if isinstance(n, torch.Tensor) else n for n in numbers)
        behind = self._offsets[len(self._offsets) - len(numbers) :]
        self._table_places = tuple(at for n, at in zip(numbers, behind, strict=True) if isinstance(n, torch.Tensor))

    def record(
        self,
        tensors: Sequence[torch.Tensor | None],
        reads: Sequence[torch.Tensor],
        writes: Sequence[torch.Tensor],
    ) -> None:
        """`launch` with these tensors' addresses; None stands for one that the variant does not touch."""
        addresses = [0 if t is None else t.data_ptr() for t in tensors]
        parameters = self._pack(*addresses, *self._numbers)
        places = self._offsets[: len(addresses)] + self._table_places
        device.current().stream.launch(self._kernel, parameters, self._groups, (*reads, *self._tables), writes, places)
