"""The kernels that are chosen by a card's limits: products, convolutions, attention; a line for each."""

from __future__ import annotations

from vendors.driver_statistics import of
from vendors.sources import Source
from vendors.sweep import Report

WORDS = ("kernel", "variant", "first case", "cases")
FIGURES = ("registers", "spills", "scratch", "subgroups", "instructions")
SPILLS = len(WORDS) + FIGURES.index("spills")  # in a row
_NAMES = ("matmul", "matvec", "attention", "convolution")
_ENGINES = {"0": "plain", "1": "subgroup", "2": "workgroup"}
_SHORT = {"float": "f32", "half": "f16", "BFloat16": "bf16", "uint16_t": "bf16", "double": "f64"}


def is_tuned(source: Source) -> bool:
    return source.name.startswith(_NAMES)


def variant(source: Source) -> str:
    """Type, engine and tile, as far as the kernel has them."""
    defines = source.defines
    words = []
    kind = next((defines[name] for name in ("A_T", "E", "T", "Q_T") if name in defines), None)
    if kind is not None:
        words.append(_SHORT.get(kind, kind))
    if "ENGINE" in defines:
        words.append(_ENGINES[defines["ENGINE"]])
        words.append("x".join(defines[name] for name in ("BM", "BN", "BK")))
    if "WM" in defines and "WN" in defines:
        words.append(f"{defines['WM']}x{defines['WN']} a subgroup")
    for name in ("TM", "TN", "W", "D", "WM", "OTHER", "SUBGROUPS", "RM", "CN", "VEC", "WIDE", "UNROLL", "MODE"):
        if name in defines and not (name == "WM" and "WN" in defines):
            words.append(f"{name}={defines[name]}")
    if "TAPS" in defines:
        words.append("taps")
    return " ".join(words)


def rows(report: Report) -> list[tuple[object, ...]]:
    """What the page's table has, the worst first."""
    found = []
    for stem, cases in report.cases.items():
        source = report.sources[stem]
        answer = report.answers.get(stem, {})
        if not is_tuned(source) or "lacking" in answer:
            continue
        words = (f"`{source.name}`", variant(source), cases[0], len(cases))
        if "statistics" not in answer:
            found.append((1 << 30, (*words, *("failed" for _ in FIGURES))))
            continue
        figures = of(answer)
        spills = f"**{figures.spills}**" if figures.spills else 0
        numbers = (figures.registers, spills, figures.scratch, figures.subgroups, figures.instructions)
        found.append((figures.spills, (*words, *numbers)))
    return [row for _, row in sorted(found, key=lambda pair: (-pair[0], str(pair[1])))]
