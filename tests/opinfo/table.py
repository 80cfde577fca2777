"""docs/operators.md from a sweep's verdicts."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from opinfo import judge
from opinfo.dtypes import CLASSES, SHORT, TITLES

Verdicts = dict[tuple[str, str, str], dict[str, Any]]

_EACH_PAIR = ("forward", "noncontiguous", "out", "inplace")

_FURTHER = {
    "special": "NaN, infinities, zeros, denormals and the ends of the range in every floating-point input",
    "strides": "outputs lie in memory as the CPU's, for contiguous, channels-last and transposed inputs",
    "dtypes": "dtypes that the CPU lacks raise its exception type (or work where torch's GPUs have them)",
    "results": "every `dtype=`, and every dtype of `out=`",
    "overlap": "outputs and in-place targets that overlap themselves or an input",
    "mixed": "tensors of the CPU beside the device's, as torch takes them beside CUDA's",
    "vmap": "`torch.func.vmap` over a new first dimension",
    "vjp": "`torch.func.vjp`",
    "jvp": "`torch.func.jvp`",
}

_HEAD = """\
# Operators

Every entry of torch's own operator database, on `mps` against the CPU: written by `make operators`, not by hand.
A pair is an operator and a dtype that the CPU has for it. It passes when every sample input of torch gives the CPU's
result, within the tolerance that torch allows its GPUs (or, where the CPU itself is rough, as near to the result in
double precision), and none of it ran on the CPU in the device's place: what does, by a list with reasons in
portable_mps/dispatch/fallback.py, says so in its row and is not counted.

Upstream's `mps` device expects 1,449 of 6,121 pairs to fail.
"""


def render(verdicts: Verdicts) -> str:
    return "\n".join([_HEAD, _extent(verdicts), _totals(verdicts), _further(verdicts), _operators(verdicts)])


def _extent(verdicts: Verdicts) -> str:
    """How much of the database the verdicts are about."""
    pairs = [v for v in verdicts.values() if v["check"] == "forward"]
    everything = sum(len(judge.dtypes_of(op)) for op in judge.OPERATORS.values())
    few = sum(v["quick"] for v in pairs)
    text = f"This run judged {len(pairs):,} of {everything:,} pairs"
    return f"{text}, {few:,} of them on few of their samples.\n" if few else f"{text}, on all their samples.\n"


def _totals(verdicts: Verdicts) -> str:
    lines = ["| check | dtypes | pass | of | |", "| --- | --- | ---: | ---: | ---: |"]
    for check in (*_EACH_PAIR, "grad"):
        of_check = [v for v in verdicts.values() if v["check"] == check]
        for key, names in CLASSES.items():
            lines += _total(check, TITLES[key], (v for v in of_check if v["dtype"] in names))
        if check == "forward":
            lines += _total(check, "all", of_check)
    for check, title in (("errors", "inputs that raise the CPU's type"), ("messages", "and with torch's words")):
        inputs = [v for v in verdicts.values() if v["check"] == check]
        judged = sum(v["judged"] for v in inputs)
        if judged:
            right = judged - sum(v["failed"] for v in inputs)
            lines.append(f"| {check} | {title} | {right:,} | {judged:,} | {right / judged:.1%} |")
    return "\n".join(lines) + "\n"


def _further(verdicts: Verdicts) -> str:
    lines = ["| check | what agrees with the CPU | pairs that pass | of | inputs that pass | of |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    for check, what in _FURTHER.items():
        of_check = [v for v in verdicts.values() if v["check"] == check and v["judged"]]
        if of_check:
            passed = sum(v["status"] == "pass" for v in of_check)
            inputs, failed = (sum(v[key] for v in of_check) for key in ("judged", "failed"))
            counts = f"{passed:,} | {len(of_check):,} | {inputs - failed:,} | {inputs:,}"
            lines.append(f"| {check} | {what} | {counts} |")
    return "\n".join(lines) + "\n"


def _total(check: str, title: str, verdicts: Iterable[dict[str, Any]]) -> list[str]:
    count = Counter("on the CPU" if v["fell_back"] else v["status"] for v in verdicts)
    judged = count.total() - count["none"]
    if not judged:
        return []
    return [f"| {check} | {title} | {count['pass']:,} | {judged:,} | {count['pass'] / judged:.1%} |"]


def _operators(verdicts: Verdicts) -> str:
    by_operator: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for verdict in verdicts.values():
        by_operator[verdict["op"]].append(verdict)
    lines = ["| operator | forward | gradients | fails | |", "| --- | --- | --- | --- | --- |"]
    for name in sorted(by_operator):
        rows = by_operator[name]
        failing = _dtypes(v for v in rows if v["check"] == "forward" and v["status"] == "fail")
        where = sorted({n for v in rows for n in v["fell_back"]})
        lines.append(
            f"| {name} | {_passing(rows, 'forward')} | {_passing(rows, 'grad')} | {failing} "
            f"| {'on the CPU: ' + ', '.join(where) if where else 'native' if _passing(rows, 'forward') else ''} |"
        )
    legend = ", ".join(f"{short} {name}" for name, short in SHORT.items())
    return "\n".join([*textwrap.wrap(f"Short names: {legend}.", 118), "", *lines]) + "\n"


def _passing(rows: list[dict[str, Any]], check: str) -> str:
    return _dtypes(v for v in rows if v["check"] == check and v["status"] == "pass")


def _dtypes(rows: Iterable[dict[str, Any]]) -> str:
    names = {v["dtype"] for v in rows}
    return " ".join(short for name, short in SHORT.items() if name in names)
