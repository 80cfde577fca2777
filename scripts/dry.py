"""The device as one of an adapter that need not be there: kernels that do nothing stand for its own.

So what a program asks for on it can be known, with the software driver. Nothing that is computed means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from portable_mps.runtime import adapter, device
from portable_mps.runtime.adapter import Adapter

_NOTHING = '[shader("compute")] [numthreads(1, 1, 1)] void main() {}'
_SOFTWARE_PUSH_CONSTANTS = 128  # bytes


class _Recorder:
    """A `_C.Recorder` whose kernels do nothing."""

    def __init__(self, recorder: Any, asked: Callable[[str], None]) -> None:
        self._recorder = recorder
        self._asked = asked
        self._kernels: dict[tuple[int, bool], Any] = {}

    def compile(
        self, python: Any, pool: Any, name: str, text: str, entry: str, key: str, parameter_bytes: int, in_buffer: bool
    ) -> Any:
        self._asked(key)
        kind = min(parameter_bytes, _SOFTWARE_PUSH_CONSTANTS), in_buffer
        if kind not in self._kernels:
            self._kernels[kind] = self._recorder.compile(python, pool, "nothing", _NOTHING, "main", "nothing", *kind)
        return self._kernels[kind]


def pretend(described: Callable[[Adapter], Adapter], asked: Callable[[str], None] = lambda key: None) -> None:
    """Open the device. described: what it shall be taken for, of the one that there is; asked: gets each kernel's key.

    RuntimeError where slangpy compiles, whose kernels are not recorded by us.
    """
    real = adapter.choose()
    adapter.choose = lambda: described(real)
    opened = device.current()
    if opened.pool is None:
        raise RuntimeError("without threads that compile there is no dry run")
    opened.compiler._recorder = _Recorder(opened.compiler._recorder, asked)
