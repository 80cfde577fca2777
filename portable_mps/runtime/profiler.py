"""torch.mps.profiler off the Mac: device time and number of dispatches of each kernel, logged when profiling stops.

A Mac writes signposts for Instruments; here the table goes to the logger `portable_mps.profiler` and stays in `last`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from portable_mps import settings

log = logging.getLogger("portable_mps.profiler")
MODES = ("interval", "event", "interval,event", "event,interval")
_MOST_HELD = 32768  # dispatches whose times are held before the device is waited for


@dataclass
class KernelTime:
    """Dispatches of one kernel, and their device time in milliseconds."""

    count: int = 0
    milliseconds: float = 0.0


class Dispatch(NamedTuple):
    """One dispatch: its kernel, start and end in nanoseconds of the device's clock, and its workgroups."""

    name: str
    start_ns: float
    end_ns: float
    groups: tuple[int, int, int]


last: dict[str, KernelTime] = {}
"""What the most recent profile found, by kernel."""


class Profiler:
    """Times every dispatch of a stream from its start to `stop`.

    A barrier around each keeps dispatches apart, which otherwise may overlap, and slangpy records each, which takes the
    host longer than usual: the times are those of kernels that run alone, and the idle times between them are upper
    bounds. When the times of _MOST_HELD dispatches are held, the device is waited for to read them.

    keep: whether `dispatches` has each of them, in order; otherwise a long profile takes no more memory than a short
    one.
    """

    def __init__(self, stream: Any, wait_until_completed: bool, keep: bool = False) -> None:
        self._stream = stream
        self._wait = wait_until_completed
        self._keep = keep
        self._begun: Callable[[], float] = float
        self._recorded: list[tuple[str, tuple[int, int, int], Callable[[], float], Callable[[], float]]] = []
        self.times: dict[str, KernelTime] = {}
        self.dispatches: list[Dispatch] = []

    def before(self) -> None:
        """Called by the stream ahead of a dispatch."""
        self._begun = self._stream.clock.mark(self._stream, is_end=False)

    def after(self, name: str, groups: tuple[int, int, int]) -> None:
        """Called by the stream behind a dispatch of the kernel `name`."""
        self._recorded.append((name, groups, self._begun, self._stream.clock.mark(self._stream, is_end=True)))
        if self._wait or len(self._recorded) == _MOST_HELD:
            self._collect()

    def _collect(self) -> None:
        self._stream.wait()
        for name, groups, begun, ended in self._recorded:
            self._add(Dispatch(name, begun(), ended(), groups))
        self._recorded.clear()

    def _add(self, dispatch: Dispatch) -> None:
        entry = self.times.setdefault(dispatch.name, KernelTime())
        entry.count += 1
        entry.milliseconds += (dispatch.end_ns - dispatch.start_ns) / 1e6
        if self._keep:
            self.dispatches.append(dispatch)

    def stop(self) -> None:
        """Read what is left."""
        self._collect()


def start(mode: str, wait_until_completed: bool, keep: bool = False) -> None:
    """Begin; `mode` is one of torch.mps.profiler's and changes nothing here. RuntimeError while one is running."""
    from portable_mps.runtime import device

    if mode not in MODES:
        raise RuntimeError(f"Invalid Signpost trace mode '{mode}': expected one of {', '.join(MODES)}")
    current = device.current()
    with current.stream.lock:
        if current.stream.profiler is not None:
            raise RuntimeError("The profiler is running already")
        current.stream.profiler = Profiler(current.stream, wait_until_completed, keep)


def stop() -> Profiler | None:
    """End, keep the result in `last` and log it as a table; None, and nothing is done, where no profile is running."""
    from portable_mps.runtime import device

    if not device.is_open():
        return None
    stream = device.current().stream
    with stream.lock:
        profiler, stream.profiler = stream.profiler, None
        if profiler is None:
            return None
        profiler.stop()
    last.clear()
    last.update(sorted(profiler.times.items(), key=lambda item: -item[1].milliseconds))
    log.info("%s", table())
    return profiler


def table() -> str:
    """`last` as text, the most expensive kernel first."""
    total = sum(entry.milliseconds for entry in last.values())
    lines = [f"{'kernel':<32} {'dispatches':>10} {'ms':>10} {'share':>6}"]
    for name, entry in last.items():
        share = entry.milliseconds / total if total else 0.0
        lines.append(f"{name:<32} {entry.count:>10} {entry.milliseconds:>10.3f} {share:>6.1%}")
    return "\n".join([*lines, f"{'total':<32} {'':>10} {total:>10.3f}"])


_begin: Callable[[], None] | None = None


def when_opened(begin: Callable[[], None]) -> None:
    """Have `begin` called by the thread that opens the device, before its first dispatch."""
    global _begin
    _begin = begin


def opened() -> None:
    """Called by runtime/device.py when the device is open."""
    if _begin is not None:
        _begin()
    elif settings.log_profile():
        profile_whole_process()


def profile_whole_process() -> None:
    """PYTORCH_MPS_LOG_PROFILE_INFO, PYTORCH_MPS_TRACE_SIGNPOSTS: profile from now on, print the table at exit."""
    import atexit

    start("interval", False)

    def finish() -> None:
        stop()
        print(table(), file=sys.stderr)

    atexit.register(finish)
