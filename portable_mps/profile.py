"""`portable-mps profile SCRIPT`: device time by kernel, the idle time between kernels, and a trace of both.

The script runs as `__main__` in this process, unchanged. runtime/profiler.py says what the times are: those of kernels
that run alone, with idle times between them that are longer than without a profiler.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from portable_mps.runtime import profiler
from portable_mps.runtime.profiler import Dispatch

_DEVICE, _HOST = 1, 2  # processes of the trace
_MARK = "portable_mps: begin"
_TRIES = 5


def run(script: Path, arguments: Sequence[str], trace: Path | None, with_operators: bool, rows: int) -> int:
    """Profile `script`, print the report with `rows` kernels and gaps, write `trace`; the script's exit status.

    with_operators: have torch's operators in the trace, on a track of the host.
    """
    clock = _Clock()
    profiler.when_opened(lambda: _begin(clock))
    with _operators(with_operators) as host:
        status = run_script(script, arguments)
        # A script without torch has loaded nothing that could be asked.
        finished = profiler.stop() if "portable_mps.runtime.device" in sys.modules else None
    dispatches = finished.dispatches if finished is not None else []
    sys.stdout.flush()
    print(report(dispatches, rows))
    if trace is not None:
        trace.write_text(json.dumps(trace_events(dispatches, clock, host)))
        print(f"\nThe trace is in {trace}: open it in https://ui.perfetto.dev or chrome://tracing.")
    return status


def run_compiling(script: Path, arguments: Sequence[str], rows: int) -> int:
    """Run `script`, print what compiling its kernels took, the `rows` slowest by name; the script's exit status."""
    status = run_script(script, arguments)
    device = wait_for_kernels()
    pool = None if device is None else device.current().pool
    sys.stdout.flush()
    if device is not None and pool is None:
        print("slangpy compiled the kernels: it tells no times.")
    else:
        print(compile_report([] if pool is None else pool.times(), rows))
    return status


def wait_for_kernels() -> Any:
    """Compile those, too, whose results nobody has asked for; runtime.device, or None where it is not open."""
    device = sys.modules.get("portable_mps.runtime.device")
    if device is None or not device.is_open():
        return None
    device.current().stream.wait()
    return device


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a file as python would: the exit status, its error printed. The caller has seen that there is one."""
    with io.open_code(str(script)) as file:
        source = file.read()
    main = types.ModuleType("__main__")
    main.__file__ = str(script)
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.resolve().parent)
    # It stays there afterwards: what the script has registered to run at exit looks its names up.
    sys.modules["__main__"] = main
    try:
        exec(compile(source, str(script), "exec"), main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        # Without the lines above, which are not the script's.
        traceback.print_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


class _Clock:
    """Where the device's clock stands beside the host's (time.perf_counter_ns), in nanoseconds."""

    def __init__(self) -> None:
        self.offset_ns = 0.0

    def set(self, stream: Any) -> None:
        """Take times on the idle device; the one with the least time around it counts."""
        best = float("inf")
        for _ in range(_TRIES):
            with stream.lock:
                before = time.perf_counter_ns()
                mark = stream.clock.mark(stream, is_end=True)
                stream.wait()
                after = time.perf_counter_ns()
            if after - before < best:
                best = after - before
                self.offset_ns = (before + after) / 2 - mark()


def _begin(clock: _Clock) -> None:
    from portable_mps.runtime import device

    clock.set(device.current().stream)
    profiler.start("interval", False, keep=True)


@contextlib.contextmanager
def _operators(wanted: bool) -> Iterator[list[dict[str, Any]]]:
    """Fills the list with trace events of torch's operators, in microseconds of time.perf_counter_ns."""
    events: list[dict[str, Any]] = []
    if not wanted:
        yield events
        return
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as host:
        begin = time.perf_counter_ns() / 1e3
        with torch.profiler.record_function(_MARK):
            pass
        yield events
    found = host.events() or []
    # torch's times count from a moment of its own: the mark tells which.
    shift = next((begin - event.time_range.start for event in found if event.name == _MARK), 0.0)
    for event in found:
        if event.name != _MARK:
            start, duration = event.time_range.start + shift, event.time_range.elapsed_us()
            events.append(_slice(event.name, _HOST, event.thread, start, duration))


def _slice(name: str, process: int, thread: int, start: float, duration: float, **arguments: Any) -> dict[str, Any]:
    """A complete event of the trace; microseconds."""
    event = {"ph": "X", "name": name, "pid": process, "tid": thread, "ts": start, "dur": duration}
    return event | ({"args": arguments} if arguments else {})


def trace_events(dispatches: Sequence[Dispatch], clock: _Clock, host: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trace in Chrome's JSON format: a track of the device, and one of each thread that called an operator."""
    events = [
        _slice(
            dispatch.name,
            _DEVICE,
            1,
            (dispatch.start_ns + clock.offset_ns) / 1e3,
            (dispatch.end_ns - dispatch.start_ns) / 1e3,
            dispatch=number,
            workgroups=list(dispatch.groups),
        )
        for number, dispatch in enumerate(dispatches)
    ]
    events += host
    origin = min((event["ts"] for event in events), default=0.0)
    for event in events:
        event["ts"] = round(event["ts"] - origin, 3)
    names = [{"ph": "M", "name": "process_name", "pid": _DEVICE, "args": {"name": "mps: dispatches"}}]
    if host:
        names.append({"ph": "M", "name": "process_name", "pid": _HOST, "args": {"name": "host: torch operators"}})
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ns"}


# The report -------------------------------------------------------------------------------------------


def gaps(dispatches: Sequence[Dispatch]) -> list[tuple[float, int]]:
    """Idle nanoseconds between dispatches that follow each other, and the number of the second; the largest first."""
    found = []
    for k in range(1, len(dispatches)):
        idle = dispatches[k].start_ns - dispatches[k - 1].end_ns
        if idle > 0:
            found.append((idle, k))
    return sorted(found, reverse=True)


def report(dispatches: Sequence[Dispatch], rows: int) -> str:
    """Totals, then the `rows` most expensive kernels and the `rows` largest gaps, as text."""
    if not dispatches:
        return "No kernel ran on mps."
    busy = sum(dispatch.end_ns - dispatch.start_ns for dispatch in dispatches)
    span = dispatches[-1].end_ns - dispatches[0].start_ns
    idle = gaps(dispatches)
    idle_ms = sum(gap for gap, _ in idle) / 1e6
    lines = [
        f"{_count(len(dispatches), 'dispatch', 'es')}: busy {busy / 1e6:.3f} ms of {span / 1e6:.3f} ms "
        f"({busy / span if span else 1:.1%}), idle {idle_ms:.3f} ms in {_count(len(idle), 'gap')}",
        "",
        *_kernels(dispatches, busy, rows),
        "",
        "Gaps are longer than without a profiler, which keeps kernels apart and slows the host down.",
        f"{'idle us':>10}  {'dispatch':>8}  between",
    ]
    for gap, k in idle[:rows]:
        lines.append(f"{gap / 1e3:>10.1f}  {k:>8}  {dispatches[k - 1].name} -> {dispatches[k].name}")
    return "\n".join(lines)


def compile_report(times: Sequence[tuple[str, float, float]], rows: int) -> str:
    """Totals, then the `rows` kernels that took longest: seconds in Slang and in the driver."""
    if not times:
        return "No kernel ran on mps."
    slang, driver = sum(row[1] for row in times), sum(row[2] for row in times)
    made = sum(1 for row in times if row[1] > 0)
    lines = [
        f"{_count(len(times), 'kernel')}, {made} of them compiled from source here: "
        f"{slang:.2f} s in Slang, {driver:.2f} s in the driver, in several threads",
        "",
    ]
    slowest = sorted(times, key=lambda row: -row[1] - row[2])[:rows]
    width = max(len(row[0]) for row in slowest)
    lines.append(f"{'kernel':<{width}} {'Slang ms':>10} {'driver ms':>10}")
    lines += [f"{name:<{width}} {a * 1e3:>10.1f} {b * 1e3:>10.1f}" for name, a, b in slowest]
    return "\n".join(lines)


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number != 1 else ''}"


def _kernels(dispatches: Sequence[Dispatch], busy: float, rows: int) -> list[str]:
    """The table of kernels; those beyond `rows` are one line."""
    times: dict[str, list[float]] = {}
    for dispatch in dispatches:
        times.setdefault(dispatch.name, []).append(dispatch.end_ns - dispatch.start_ns)
    ordered = sorted(times.items(), key=lambda item: -sum(item[1]))
    shown = ordered[:rows]
    if rest := ordered[rows:]:
        shown.append((_count(len(rest), "other kernel"), [each for _, durations in rest for each in durations]))
    width = max(len(name) for name, _ in [("kernel", []), *shown])
    lines = [f"{'kernel':<{width}} {'dispatches':>10} {'total ms':>10} {'mean us':>10} {'share':>6}"]
    for name, durations in shown:
        total = sum(durations)
        share = total / busy if busy else 0.0
        mean = total / len(durations) / 1e3
        lines.append(f"{name:<{width}} {len(durations):>10} {total / 1e6:>10.3f} {mean:>10.1f} {share:>6.1%}")
    return lines
