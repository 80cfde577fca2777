"""Text of the repository on pages of the site, with links that lead to the pages of files."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?\)")


_RENDERED = {"ARCHITECTURE.md": "made/architecture.md"}  # files that are a page of the site as a whole


def _page_of(path: str, root: Path) -> str | None:
    """The page of a tracked path, from the top of the site; None where there is no such file or folder."""
    if path in _RENDERED:
        return _RENDERED[path]
    if path.startswith("docs/") and path.endswith(".md"):
        return path.removeprefix("docs/")
    if (root / path).is_dir():
        return "repository/index.md" if path in ("", ".") else f"repository/{path}/index.md"
    return f"repository/{path}.md" if (root / path).is_file() else None


def _relinked(text: str, root: Path, folder: str, page: str) -> str:
    """Links of `text`, which lies in `folder` of the repository, as `page` must have them."""

    def replaced(match: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(folder, match[1]))
        target = _page_of(path, root)
        if target is None or path.startswith("..") or path.endswith(".png"):
            return match[0]
        there = os.path.relpath(target, PurePosixPath(page).parent)
        return f"]({there}{match[2] or ''})"

    return _LINK.sub(replaced, text)


def link_to_repository(text: str, root: Path, page: str) -> str:
    """A page of docs/ names files by their place in the repository: those links lead to the files' pages."""

    def outside(match: re.Match[str]) -> str:
        folder = f"docs/{PurePosixPath(page).parent}"
        path = os.path.normpath(os.path.join(folder, match[1]))
        return match[0] if path.startswith("docs/") else _relinked(match[0], root, folder, page)

    return _LINK.sub(outside, text)


def file(root: Path, argument: str, page: str) -> str:
    """`<!-- insert: file README.md Speed -->`: a Markdown file of the repository, or one of its sections, untitled."""
    name, _, section = argument.partition(" ")
    text = (root / name).read_text()
    if section:
        parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
        text = parts[parts.index(section) + 1].strip()
    else:
        text = text.partition("\n")[2].strip()
    return _relinked(text, root, str(PurePosixPath(name).parent), page)


def modules(root: Path, argument: str, page: str) -> str:
    """`<!-- insert: modules portable_mps/runtime -->`: what autodoc says of each module of a folder, and beneath it.

    `... modules portable_mps alone` leaves out what is beneath.
    """
    folder, _, alone = argument.partition(" ")
    lines = []
    for path in sorted((root / folder).glob("*.py" if alone else "**/*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if path.name == "__main__.py":
            continue
        lines += [f"## `{name}`", "", "```{eval-rst}", f".. automodule:: {name}", "```", ""]
    return "\n".join(lines)
