"""`portable-mps doctor --page FILE`: what was found, and what only the person at the machine can add, in Markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portable_mps import info

if TYPE_CHECKING:
    from portable_mps.doctor import Outcome

_FILL = "…"
# What to try, and what to write down of it.
_TRIALS = (
    ("`portable-mps test`", "its last line; how long it took"),
    ("`portable-mps demo`", "accuracy, images a second"),
    ("`make test` in a checkout", "passed, failed, skipped; how long it took; the names of what failed"),
    ("`portable-mps tune`", "the speeds of products"),
    ("a script of your own", "what it does; whether it ran unchanged; its speed beside the CPU's"),
)


def text(outcomes: Sequence[Outcome]) -> str:
    """The page. outcomes: of the checks that ran, in order."""
    ran = [
        f"| {each.name} | {'ok' if each.passed else 'FAIL'} | {_cell(each)} | {each.seconds:.2f} |" for each in outcomes
    ]
    tried = [f"| {what} | {wanted} | {_FILL} |" for what, wanted in _TRIALS]
    return "\n".join(
        [
            "# portable-mps on a machine that nobody has tried",
            "",
            f"Where you see {_FILL}, please fill in what you know, leave the rest, and open an issue with this page.",
            "",
            "## The machine",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in _machine()),
            "",
            "```text",
            info.report(),
            "```",
            "",
            "## What doctor found",
            "",
            "| check | | | seconds |",
            "| --- | --- | --- | --- |",
            *ran,
            "",
            "## What you tried",
            "",
            "| command | to write down | |",
            "| --- | --- | --- |",
            *tried,
            "",
            "## What went wrong, or was odd",
            "",
            _FILL,
            "",
        ]
    )


def _cell(outcome: Outcome) -> str:
    words = outcome.detail if outcome.passed else f"{outcome.detail} {outcome.remedy}"
    return " ".join(words.split()).replace("|", "\\|")


def _machine() -> list[tuple[str, str]]:
    rows = [("model (of a Mac: About This Mac)", _FILL), ("processor", platform.processor() or platform.machine())]
    if platform.system() == "Darwin":
        rows += [("macOS", platform.mac_ver()[0])]
    else:
        rows += [("system", platform.platform())]
    return [*rows, ("memory", _FILL), ("graphics card, and its memory", _FILL)]
