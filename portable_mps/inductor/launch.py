"""The kernels of a compiled graph, as its wrapper calls them."""

from __future__ import annotations

import builtins
import struct
from typing import Any

import torch

from portable_mps.dispatch.launch import check_turns, grid
from portable_mps.runtime import device


class GraphKernel:
    """A fused kernel, compiled when the graph is loaded.

    layout: of its parameters, as `struct` has it: tensors' addresses, sizes, then the error record and codes. access:
    "r" or "w" for each tensor. messages: (exception's name, text) of each error that the kernel may report.
    """

    __slots__ = ("_access", "_errors", "_kernel", "_layout", "_messages", "_name", "_places", "_reads", "_writes")

    def __init__(self, name: str, layout: str, access: str, messages: tuple[tuple[str, str], ...], source: str) -> None:
        self._name = name
        self._layout = struct.Struct(f"@{layout}0Q")
        self._access = len(access)
        self._reads = tuple(i for i, kind in enumerate(access) if kind == "r")
        self._writes = tuple(i for i, kind in enumerate(access) if kind == "w")
        self._places = range(0, 8 * len(access), 8)
        self._messages = tuple((getattr(builtins, kind), text) for kind, text in messages)
        self._kernel = device.current().compiler.compile(name, source, self._layout.size)

    def __call__(self, *arguments: Any) -> None:
        """Record it. arguments: tensors, sizes, then the workgroups and the turns of a thread's loop."""
        *given, groups, turns = arguments
        if groups == 0:
            return
        if turns:
            check_turns(self._name, turns)
        tensors: list[torch.Tensor] = given[: self._access]
        now = device.current()
        numbers = [t.data_ptr() for t in tensors] + given[self._access :]
        if self._messages:
            numbers.append(now.errors.address)
            numbers += [now.errors.arm(text, kind) for kind, text in self._messages]
        reads, writes = [tensors[i] for i in self._reads], [tensors[i] for i in self._writes]
        now.stream.launch(self._kernel, self._layout.pack(*numbers), grid(groups), reads, writes, self._places)
