"""docs/vendors.md, from what the compilers said."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vendors import tuned
from vendors.driver_statistics import of
from vendors.sources import Source
from vendors.sweep import Report, Translation


@dataclass
class Result:
    """All of it. invalid: what spirv-val says, by text, None without one; tests: which of the tests' texts were chosen,
    among how many."""

    reports: list[Report]
    translations: dict[str, Translation]
    invalid: dict[str, str] | None
    validator: str
    sources: dict[str, Source]
    tests: set[str]
    among: int

    def failures(self, report: Report) -> dict[str, str]:
        return {stem: answer["failed"] for stem, answer in report.answers.items() if "failed" in answer}

    def spilling(self, report: Report) -> dict[str, Any]:
        """Figures of the kernels that spill, by text."""
        figures = {stem: of(answer) for stem, answer in report.answers.items() if "statistics" in answer}
        return {stem: each for stem, each in figures.items() if each.spills}

    @property
    def wrong(self) -> bool:
        """Whether a kernel fails, or a tuned one spills, anywhere."""
        spills = any(stem in report.cases and tuned.is_tuned(self.sources[stem])
                     for report in self.reports for stem in self.spilling(report))  # fmt: skip
        return spills or bool(self.invalid) or any(map(self.failures, self.reports))


def summary(result: Result) -> str:
    lines = []
    for report in result.reports:
        spilling = [s for s in result.spilling(report) if s in report.cases and tuned.is_tuned(result.sources[s])]
        failed = len(result.failures(report))
        lines.append(f"{report.card.name}: {len(report.answers)} kernels, {failed} failed, {len(spilling)} tuned spill")
    return "\n".join(lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return [*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows), ""]


def text(result: Result) -> str:
    chosen = len(result.tests)
    part = "All of the former" if chosen == result.among else f"{chosen} of the former (chosen by their hashes)"
    lines = [
        "# Kernels through AMD's and Intel's compilers",
        "",
        f"`make vendors` wrote this. The tests launch {result.among} kernels (variants count: one for each dtype, "
        "layout and tile), and products, convolutions and attention of the sizes that benchmarks have some more, "
        f"with the tiles that each card's limits give. {part}, and all of the latter, go through Slang as for a "
        "device, and then through the compilers of Mesa's drivers for cards that are not there. **Nothing ran on "
        "AMD's or Intel's hardware**: that a kernel compiles, and in how many registers, is all that is known; not "
        "that it is right there, nor how fast it is.",
        "",
        *_cards(result),
        *_failures(result),
        *_spills(result),
        *_tuned(result),
        *_metal(result),
        *_valid(result),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _cards(result: Result) -> list[str]:
    rows = []
    for report in result.reports:
        figures = {stem: of(answer) for stem, answer in report.answers.items() if "statistics" in answer}
        lacking = collections.Counter(" ".join(a["lacking"]) for a in report.answers.values() if "lacking" in a)
        spilling = result.spilling(report)
        slow = max((a["seconds"], s) for s, a in report.answers.items() if "seconds" in a)
        rows.append(
            (
                report.card.gpu,
                report.card.mesa,
                len(report.answers),
                len(figures),
                f"**{len(failed)}**" if (failed := result.failures(report)) else 0,
                ", ".join(f"{count} ({name})" for name, count in lacking.most_common()) or 0,
                len(spilling),
                max((each.scratch for each in figures.values()), default=0),
                max((each.registers for each in figures.values()), default=0),
                max((each.instructions for each in figures.values()), default=0),
                f"{slow[0]:.1f} s ({result.sources[slow[1]].name})",
            )
        )
    head = ("card", "Mesa", "kernels", "compiled", "failed", "not for this card", "spill")
    most = ("most scratch", "most registers", "most instructions", "slowest")
    return [
        *_table((*head, *most), rows),
        '"Not for this card" are kernels of a feature that the driver does not have there, so that no device would '
        "launch them: they are not given to it. Registers are a thread's, of 32 bits, on AMD; on Intel those of all "
        "threads of a subgroup that are live at once, in units of 32 bytes, of which there are 128 (22.3 does not "
        "tell). Scratch is in bytes.",
        "",
    ]


def _families(result: Result, stems: Iterable[str]) -> str:
    counts = collections.Counter(result.sources[stem].name for stem in stems)
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(8))
    rest = sum(count for _, count in counts.most_common()[8:])
    return named + (f", {rest} of others" if rest else "")


def _grouped(items: dict[str, str], short: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for stem, words in items.items():
        groups.setdefault(short(words), []).append(stem)
    return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))


def _first_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    chosen = next((line for line in lines if "error" in line or "unexpected" in line), lines[0] if lines else "")
    if "unexpected:" in words:
        chosen = "unexpected: " + words.split("unexpected:")[1].splitlines()[0].strip()
    return chosen[:160].replace("|", "\\|")


def _failures(result: Result) -> list[str]:
    rows = [
        (report.card.name, len(stems), reason, _families(result, stems))
        for report in result.reports
        for reason, stems in _grouped(result.failures(report), _first_line).items()
    ]
    if not rows:
        return ["## What fails", "", "No kernel fails to compile on any of these.", ""]
    return ["## What fails", "", *_table(("card", "kernels", "the compiler's words", "which"), rows)]


def _spills(result: Result) -> list[str]:
    """Kernels of the tests that spill, by name; the tuned ones have tables of their own."""
    rows = []
    for report in result.reports:
        spilling = {s: each for s, each in result.spilling(report).items() if s not in report.cases}
        for name in sorted({result.sources[stem].name for stem in spilling}):
            figures = [each for stem, each in spilling.items() if result.sources[stem].name == name]
            most = max(figures, key=lambda each: each.spills)
            rows.append((report.card.name, name, len(figures), most.spills, most.scratch))
    return [
        "## What spills beside the tuned kernels",
        "",
        "Of the kernels that the tests launch, whose products and attention have the software driver's tiles.",
        "",
        *(_table(("card", "kernel", "variants", "most spills", "its scratch"), rows) if rows else ["None.", ""]),
    ]


def _tuned(result: Result) -> list[str]:
    lines = [
        "## The tuned kernels",
        "",
        "Matrix products, convolutions and attention with the tiles that the card's limits give, each with the first "
        "case that launches it; of the older driver those that spill. Subgroups are how many of them a SIMD of AMD has "
        "at once, and on Intel how many threads are in one.",
        "",
    ]
    for report in result.reports:
        rows = tuned.rows(report)
        head = f"### {report.card.name}"
        if not report.card.is_current:  # of the older driver, what is worth a look
            count, rows = len(rows), [row for row in rows if row[tuned.SPILLS] != 0]
            head += f": {len(rows)} of {count} spill"
        if rows or not report.card.is_current:
            lines += [head, "", *(_table((*tuned.WORDS, *tuned.FIGURES), rows) if rows else [])]
    return lines


def _metal(result: Result) -> list[str]:
    refused = {stem: each.refused["metal"] for stem, each in result.translations.items() if "metal" in each.refused}
    count = len(result.tests & result.translations.keys())
    rows = [(len(stems), reason, _families(result, stems)) for reason, stems in _grouped(refused, _first_line).items()]
    return [
        "## Metal",
        "",
        f"Slang writes {count - len(refused)} of the tests' {count} kernels in Metal's language, too (no Mac has "
        f"compiled that text), and refuses {len(refused)}:",
        "",
        *_table(("kernels", "Slang's words", "which"), rows),
    ]


def _valid(result: Result) -> list[str]:
    lines = ["## SPIR-V", ""]
    if result.invalid is None:
        return [*lines, "There was no `spirv-val` to ask.", ""]
    count = sum(len(each.code) for each in result.translations.values())
    lines += [f"`spirv-val` of {result.validator} takes {count - len(result.invalid)} of {count} modules "
              "(Vulkan 1.3, scalar layout).", ""]  # fmt: skip
    rows = [
        (len(stems), reason, _families(result, stems))
        for reason, stems in _grouped(result.invalid, lambda words: words.splitlines()[0][:160]).items()
    ]
    return lines + (_table(("modules", "its words", "which"), rows) if rows else [])
