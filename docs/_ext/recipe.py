"""The steps of a page that tells how to change the package: blocks of code with the file that they belong to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_STEP = re.compile(r"^<!-- (file|append|change): (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    """action: `file` has `text` as a whole, `append` at its end; `change` replaces lines as a diff says."""

    action: str
    path: str
    text: str


def steps(page: str) -> list[Step]:
    """In the order of the page."""
    return [Step(*found) for found in _STEP.findall(page)]


def apply(step: Step, root: Path) -> None:
    """Take a step in the tree at `root`. ValueError where lines to replace are not there exactly once."""
    place = root / step.path
    place.parent.mkdir(parents=True, exist_ok=True)
    if step.action == "file":
        place.write_text(step.text)
    elif step.action == "append":
        place.write_text(place.read_text().rstrip("\n") + "\n\n\n" + step.text)
    else:
        lines = step.text.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line.startswith("-"))
        new = "".join(line[1:] for line in lines if line.startswith("+"))
        text = place.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{step.path} has these lines {text.count(old)} times:\n{old}")
        place.write_text(text.replace(old, new))
