"""docs/operators.md from a sweep's verdicts."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

Verdicts = dict[tuple[str, str, str], dict[str, Any]]

NO_DTYPE = "-"
_CLASSES = {
    "bool, integers, float16, bfloat16, float32": {
        *("bool", "uint8", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32"),
    },
    "float64 and complex": {"float64", "complex32", "complex64", "complex128"},
    "unsigned 16 to 64 bits, float8": {
        *("uint16", "uint32", "uint64"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    },
}
_SHORT = {
    "bool": "b8",
    **{
        f"{kind}int{bits}": f"{kind[:1] or ''}i{bits}".replace("ui", "u")
        for kind in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex32": "c32",
    "complex64": "c64",
    "complex128": "c128",
    "float8_e4m3fn": "e4m3fn",
    "float8_e5m2": "e5m2",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
}
_EACH_PAIR = ("forward", "noncontiguous", "out", "inplace")

_HEAD = """\
# Operators

Every entry of torch's own operator database, on `mps` against the CPU: written by `make operators`, not by hand.
A pair is an operator and a dtype that the CPU has for it. It passes when every sample input of torch gives the CPU's
result, within the tolerance that torch allows its GPUs (or, where the CPU itself is rough, as near to the result in
double precision). Nothing here ran on the CPU in the device's place.

Upstream's `mps` device expects 1,449 of 6,121 pairs to fail.
"""


def render(verdicts: Verdicts) -> str:
    pages = [_HEAD, _totals(verdicts), _operators(verdicts)]
    return "\n".join(pages)


def _totals(verdicts: Verdicts) -> str:
    lines = ["| check | dtypes | pass | of | |", "| --- | --- | ---: | ---: | ---: |"]
    for check in (*_EACH_PAIR, "grad"):
        for title, dtypes in _CLASSES.items():
            lines += _total(
                check, title, (v for v in verdicts.values() if v["check"] == check and v["dtype"] in dtypes)
            )
        if check == "forward":
            lines += _total(check, "all", (v for v in verdicts.values() if v["check"] == check))
    for check, title in (("errors", "type of the error"), ("messages", "words of the error")):
        lines += _total(check, title, (v for v in verdicts.values() if v["check"] == check))
    return "\n".join(lines) + "\n"


def _total(check: str, title: str, verdicts: Iterable[dict[str, Any]]) -> list[str]:
    count = Counter(v["status"] for v in verdicts)
    judged = count["pass"] + count["fail"]
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
    legend = ", ".join(f"{short} {name}" for name, short in _SHORT.items())
    return "\n".join([*textwrap.wrap(f"Short names: {legend}.", 118), "", *lines]) + "\n"


def _passing(rows: list[dict[str, Any]], check: str) -> str:
    return _dtypes(v for v in rows if v["check"] == check and v["status"] == "pass")


def _dtypes(rows: Iterable[dict[str, Any]]) -> str:
    names = {v["dtype"] for v in rows}
    return " ".join(short for name, short in _SHORT.items() if name in names)
