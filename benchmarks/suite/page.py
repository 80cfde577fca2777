"""What a run found, as a table on the terminal and as docs/performance.md.

A run is the JSON that `--out` writes: the two devices, the date, and an entry a case with the result of each side,
which is a Timing or an error.
"""

from __future__ import annotations

import statistics
from typing import Any

from suite.families import FAMILIES

Entry = dict[str, Any]
LIST = "benchmarks/suite/families"


def speed(entry: Entry) -> float | None:
    """The reference's time over ours: 1 is as fast, 0.5 takes twice as long. None where a side has no time."""
    ours, theirs = entry["ours"], entry["reference"]
    return theirs["seconds"] / ours["seconds"] if "seconds" in ours and "seconds" in theirs else None


def duration(seconds: float) -> str:
    """With three digits, in us, ms or s."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} s"


def rate(result: dict[str, Any]) -> str:
    """TB/s or TFLOP/s, where the case counts bytes or operations."""
    for amount, unit in (("flops", "TFLOP/s"), ("bytes", "TB/s")):
        if result.get(amount):
            return f"{_digits(result[amount] / result['seconds'] / 1e12)} {unit}"
    return ""


def _digits(value: float) -> str:
    """Three significant ones, never as a power of ten; more in front of the point."""
    if value >= 99.95:
        return f"{value:.0f}"
    places = 1 if value >= 9.995 else 2 if value >= 0.1 else 3 if value >= 0.01 else 5
    return f"{value:.{places}f}"


def _cells(result: dict[str, Any], is_reference: bool) -> tuple[str, str]:
    """Time and rate. A reference that lacks the operator has neither; other errors are the time's cell."""
    if "seconds" in result:
        return duration(result["seconds"]), rate(result)
    if is_reference and result.get("is_missing"):
        return "", ""
    return "failed: " + result["error"].replace("|", "\\|"), ""


def row(entry: Entry) -> list[str]:
    """Name, our time and rate, the reference's, and the speed."""
    value = speed(entry)
    cells = [*_cells(entry["ours"], False), *_cells(entry["reference"], True)]
    return [entry["name"], *cells, "" if value is None else _digits(value)]


def heads(run: dict[str, Any]) -> list[str]:
    other = run["reference"]["device"]
    return ["work", "mps", "", other, "", "speed"]


def terminal(run: dict[str, Any]) -> str:
    """The table with aligned columns, a family after the other."""
    lines = []
    for family, entries in _by_family(run):
        lines += ["", FAMILIES[family].TITLE]
        cells = [heads(run), *(row(entry) for entry in entries)]
        widths = [max(len(line[k]) for line in cells) for k in range(6)]
        lines += [
            f"  {line[0]:<{widths[0]}}  " + "  ".join(f"{line[k]:>{widths[k]}}" for k in range(1, 6)) for line in cells
        ]
    return "\n".join([*lines, "", summary(run)])


def summary(run: dict[str, Any]) -> str:
    """How many rows, how fast in the middle, how many failed."""
    speeds = [value for entry in run["cases"] if (value := speed(entry)) is not None]
    text = f"{len(run['cases'])} rows"
    if speeds:
        text += (
            f"; speed {_digits(statistics.median(speeds))} in the median, at least 0.9 in "
            f"{sum(value >= 0.9 for value in speeds)}, below 0.5 in {sum(value < 0.5 for value in speeds)}"
        )
    return f"{text}; {sum('error' in entry['ours'] for entry in run['cases'])} failed on mps"


def page(run: dict[str, Any]) -> str:
    """docs/performance.md, as text."""
    ours, other = run["ours"], run["reference"]
    sizes = "" if run["scale"] == 1 else f" **Sizes are for {run['scale']:.2g} of the work that the rows name.**"
    lines = [
        "# Performance",
        "",
        f"`make bench` wrote this on {run['date']} from one run: mps against {other['device']}, each in a process of "
        f"its own.{sizes} Speed is the reference's time over ours: 1 is as fast, 0.5 takes twice as long. "
        f"{summary(run)}.",
        "",
        "| side | adapter | driver | torch |",
        "| --- | --- | --- | --- |",
        *(f"| {side['device']} | {side['adapter']} | {side['driver']} | {side['torch']} |" for side in (ours, other)),
        "",
        f"Each case warms up for {run['warmup_s']:g} s (an idle GPU's clock is low); the time is the median of five "
        f"rounds, together about {run['time_s']:g} s, each with one synchronisation at its end. A call that takes "
        "longer than both is timed twice. Inputs below 128 MiB are rotated among sets which are larger together, so "
        "that no cache holds them; results lie where the allocator puts them. Rates count what the operator must do, "
        "not what a kernel does: TFLOP/s of floating-point or integer operations, TB/s of memory. The first call, "
        "which compiles, is not counted. An empty cell: the reference lacks the operator.",
        "",
        f"The shapes are in [{LIST}](../{LIST}), the method in [clock.py](../benchmarks/suite/clock.py).",
    ]
    for family, entries in _by_family(run):
        module = FAMILIES[family]
        lines += ["", f"## {module.TITLE}", "", *([module.NOTE, ""] if module.NOTE else [])]
        lines += [f"| {' | '.join(heads(run))} |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(row(entry))} |" for entry in entries]
    return "\n".join([*lines, ""])


def _by_family(run: dict[str, Any]) -> list[tuple[str, list[Entry]]]:
    """In the order of FAMILIES."""
    return [
        (family, entries)
        for family in FAMILIES
        if (entries := [entry for entry in run["cases"] if entry["family"] == family])
    ]
