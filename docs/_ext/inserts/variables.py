"""Environment variables, from the functions of settings.py: each begins its docstring with the names it reads."""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path
from unittest import mock

_NAMES = re.compile(r"^((?:[A-Z][A-Z0-9_]+(?:, | or )?)+)(.*)", re.DOTALL)


def rows(root: Path) -> list[tuple[list[str], str, str, str]]:
    """(names, type, value where none is set, what the docstring says) of each function that reads variables."""
    tree = ast.parse((root / "portable_mps" / "settings.py").read_text())
    module = importlib.import_module("portable_mps.settings")
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        text = " ".join((ast.get_docstring(node) or "").split())
        match = _NAMES.match(text)
        if match is None:
            raise ValueError(f"settings.{node.name}: the docstring does not begin with a variable")
        names = re.findall(r"[A-Z][A-Z0-9_]+", match[1])
        with mock.patch.dict(os.environ):
            for name in names:
                os.environ.pop(name, None)
            value = getattr(module, node.name)()
        default, words = "not set" if value in (None, []) else f"`{value}`", match[2].strip(" ,:")
        if isinstance(value, Path):  # of this machine: the docstring says which, "NAME, or …: …"
            default, _, words = words.removeprefix("or ").partition(": ")
        found.append((names, ast.unparse(node.returns) if node.returns else "", default, words))
    return found


def page(root: Path, argument: str, page: str) -> str:
    """A table of all of them."""
    lines = ["| variable | read as | where it is not set | meaning |", "| --- | --- | --- | --- |"]
    for names, kind, default, words in rows(root):
        variables = "<br>".join(f"`{name}`" for name in names)
        lines.append(f"| {variables} | `{kind}` | {default} | {words} |".replace(" | None`", " or None`"))
    return "\n".join(lines)
