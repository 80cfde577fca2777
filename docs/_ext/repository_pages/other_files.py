"""Facts of the rest: Markdown's headings, functions of shell scripts, targets of a Makefile, tables of TOML."""

from __future__ import annotations

import re

from repository_pages.facts import Definition, Facts, shortened

_SHELL = re.compile(r"^(\w+)\s*\(\)\s*\{?")
_TARGET = re.compile(r"^([\w.-]+):(?!=)(.*)")
_TABLE = re.compile(r"^\[+([^\]]+)\]+")


def _hash_comment(lines: list[str]) -> str:
    """The comment with # that a file starts with, behind its first line where that names an interpreter."""
    found = []
    for line in lines[1:] if lines and lines[0].startswith("#!") else lines:
        if not line.startswith("#"):
            break
        found.append(line.lstrip("# "))
    return "\n".join(found)


def read_markdown(text: str) -> Facts:
    """Headings, and the first paragraph."""
    facts = Facts()
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and (match := re.match(r"(#+) (.+)", line)):
            facts.definitions.append(Definition("heading", match[2], match[2], number))
    paragraphs = re.split(r"\n\s*\n", text.strip())
    facts.purpose = next((p for p in paragraphs if not p.startswith(("#", "|", "```", "<!--"))), "")
    facts.purpose = shortened(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", facts.purpose), 500)
    return facts


def read_lines(text: str, name: str) -> Facts:
    """Of a shell script, a Makefile, or a file of settings, by its name."""
    lines = text.splitlines()
    facts = Facts(purpose=_hash_comment(lines))
    pattern, kind = (_TARGET, "target") if name == "Makefile" else (_SHELL, "function")
    if name.endswith(".toml"):
        pattern, kind = _TABLE, "table"
    for number, line in enumerate(lines, 1):
        facts.comment_lines += line.lstrip().startswith("#")
        match = pattern.match(line)
        if match is not None and not match[1].startswith("."):
            facts.definitions.append(Definition(kind, match[1], shortened(match[0]), number))
    return facts
