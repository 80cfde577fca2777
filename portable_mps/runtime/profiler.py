"""torch.mps.profiler off the Mac: device time and number of dispatches of each kernel, logged when profiling stops.

A Mac writes signposts for Instruments; here the table goes to the logger `portable_mps.profiler` and stays in `last`.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("portable_mps.profiler")
MODES = ("interval", "event", "interval,event", "event,interval")
_CAPACITY = 4096  # timestamps held before the device is waited for


@dataclass
class KernelTime:
    """Dispatches of one kernel, and their device time in milliseconds."""

    count: int = 0
    milliseconds: float = 0.0


last: dict[str, KernelTime] = {}
"""What the most recent profile found, by kernel."""


class Profiler:
    """Times every dispatch of a stream from its start to `stop`. A barrier around each keeps them apart."""

    def __init__(self, stream: Any, raw: Any, wait_until_completed: bool) -> None:
        import slangpy as spy

        self._stream = stream
        self._wait = wait_until_completed
        self._pool = raw.create_query_pool(type=spy.QueryType.timestamp, count=_CAPACITY)
        self._names: list[str] = []
        self.times: dict[str, KernelTime] = {}

    def before(self, encoder: Any) -> None:
        """Called by the stream ahead of a dispatch."""
        encoder.global_barrier()
        encoder.write_timestamp(self._pool, 2 * len(self._names))

    def after(self, encoder: Any, name: str) -> None:
        """Called by the stream behind a dispatch of the kernel `name`."""
        encoder.global_barrier()
        encoder.write_timestamp(self._pool, 2 * len(self._names) + 1)
        self._names.append(name)
        if self._wait or 2 * len(self._names) == _CAPACITY:
            self._collect()

    def _collect(self) -> None:
        self._stream.wait()
        if self._names:
            stamps = self._pool.get_results(0, 2 * len(self._names))
            for k, name in enumerate(self._names):
                entry = self.times.setdefault(name, KernelTime())
                entry.count += 1
                entry.milliseconds += (stamps[2 * k + 1] - stamps[2 * k]) * self._stream.timestamp_period_ns / 1e6
        self._names.clear()
        self._pool.reset()

    def stop(self) -> None:
        """Read what is left."""
        self._collect()


def start(mode: str, wait_until_completed: bool) -> None:
    """Begin; `mode` is one of torch.mps.profiler's and changes nothing here. RuntimeError while one is running."""
    from portable_mps.runtime import device

    if mode not in MODES:
        raise RuntimeError(f"Invalid Signpost trace mode '{mode}': expected one of {', '.join(MODES)}")
    current = device.current()
    with current.stream.lock:
        if current.stream.profiler is not None:
            raise RuntimeError("The profiler is running already")
        current.stream.profiler = Profiler(current.stream, current.raw, wait_until_completed)


def stop() -> None:
    """End, keep the result in `last` and log it as a table; nothing where no profile is running."""
    from portable_mps.runtime import device

    if not device.is_open():
        return
    stream = device.current().stream
    with stream.lock:
        profiler, stream.profiler = stream.profiler, None
        if profiler is None:
            return
        profiler.stop()
    last.clear()
    last.update(sorted(profiler.times.items(), key=lambda item: -item[1].milliseconds))
    log.info("%s", table())


def table() -> str:
    """`last` as text, the most expensive kernel first."""
    total = sum(entry.milliseconds for entry in last.values())
    lines = [f"{'kernel':<32} {'dispatches':>10} {'ms':>10} {'share':>6}"]
    for name, entry in last.items():
        share = entry.milliseconds / total if total else 0.0
        lines.append(f"{name:<32} {entry.count:>10} {entry.milliseconds:>10.3f} {share:>6.1%}")
    return "\n".join([*lines, f"{'total':<32} {'':>10} {total:>10.3f}"])


def profile_whole_process() -> None:
    """PYTORCH_MPS_LOG_PROFILE_INFO, PYTORCH_MPS_TRACE_SIGNPOSTS: profile from now on, print the table at exit."""
    import atexit

    start("interval", False)

    def finish() -> None:
        stop()
        print(table(), file=sys.stderr)

    atexit.register(finish)
