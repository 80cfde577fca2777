"""Docstrings are plain text with `code` in Markdown's way: before autodoc reads them they become reStructuredText."""

from __future__ import annotations

import re
import textwrap
from typing import Any

_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_SPECIAL = re.compile(r"([\\*|_<>\[\]])")


def inline(text: str) -> str:
    """One paragraph: `code` as reStructuredText has it, and nothing else that it would take for markup."""
    parts = []
    end = 0
    for match in _CODE.finditer(text):
        parts.append(_SPECIAL.sub(r"\\\1", text[end : match.start()]).replace("`", r"\`"))
        parts.append("``" + " ".join(match[2].split()) + "``\\ ")
        end = match.end()
    parts.append(_SPECIAL.sub(r"\\\1", text[end:]).replace("`", r"\`"))
    return " ".join("".join(parts).split())


def to_rst(text: str) -> list[str]:
    """Lines of reStructuredText for a docstring: paragraphs, and indented ones as they stand."""
    result: list[str] = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        lines = paragraph.splitlines()
        if lines and all(line.startswith("    ") for line in lines):
            result += ["::", "", *("    " + line for line in textwrap.dedent(paragraph).splitlines()), ""]
        elif any(line.startswith((" ", "* ", "- ", "|")) for line in lines[1:]):
            result += [*("| " + inline(line) for line in lines), ""]
        elif lines:
            result += [inline(paragraph), ""]
    return result


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst("\n".join(lines))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
