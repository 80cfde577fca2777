"""The pages as Markdown files, for readers in an editor: PATH_docs.md and PATH_kw.md for each file, and in each folder
index.md (what is in it) and doc.md (what is to be said of it)."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from repository_pages import folders, keywords
from repository_pages.pages import Page, plain
from repository_pages.relations import read
from repository_pages.repository import File, Options


def options_of(config: dict[str, Any]) -> Options:
    """From the names of conf.py: what begins with `repository_`."""
    names = Options.__dataclass_fields__
    return Options(**{name: config[f"repository_{name}"] for name in names if f"repository_{name}" in config})


class _Links:
    """Relative ones, between the files that are written, and to the sources."""

    def __init__(self, root: Path, target: Path) -> None:
        self._root, self._target = root, target

    def _to_source(self, path: str) -> str:
        """From a file's page to the file."""
        return os.path.relpath(self._root / path, (self._target / path).parent)

    def file(self, here: str, path: str) -> str:
        return f"[{plain(path)}]({os.path.relpath(f'{path}_docs.md', PurePosixPath(here).parent)})"

    def folder(self, here: str, path: str) -> str:
        # An index leads to indices, what is said of a folder to what is said of others.
        name = PurePosixPath(here).name
        target = f"{path}/{name}".lstrip("/")
        return f"[{plain(path + '/' if path else 'the top')}]({os.path.relpath(target, PurePosixPath(here).parent)})"

    def line(self, here: str, line: int) -> str:
        return f"[{line}]({self._to_source(here)}#L{line})"

    def keyword(self, here: str, word: str) -> str:
        return f"[{plain(word)}]({os.path.relpath('keywords.md', PurePosixPath(here).parent)}#{word})"

    def source(self, file: File) -> list[str]:
        return ["## Source", "", f"[{plain(file.path)}]({self._to_source(file.path)})"]


def write(root: Path, options: Options, target: Path) -> int:
    """Write all of them into `target`; how many."""
    repository, relations = read(root, options)
    words = keywords.of_files(repository)
    links = _Links(root, target)
    page = Page(repository, relations, words, links)
    written: dict[str, str] = {}
    found = keywords.index(words)
    for path in repository.files:
        written[f"{path}_docs.md"] = page.write(path)
        lines = [f"# Keywords of {plain(path)}", ""]
        for word in words[path]:
            others = [other for other in found[word] if other != path]
            shared = ": " + ", ".join(links.file(path, other) for other in others) if others else ""
            lines.append(f"* {links.keyword(path, word)}{shared}")
        written[f"{path}_kw.md"] = "\n".join(lines) + "\n"
    for folder in repository.folders:
        about, listing = (f"{folder}/{name}".lstrip("/") for name in ("doc.md", "index.md"))
        head = [f"# {folders.title(folder)}", ""]
        written[about] = "\n".join([*head, *folders.about(repository, relations, words, folder, links, about)])
        written[listing] = "\n".join([*head, *folders.index(repository, folder, links, listing)])
    written["keywords.md"] = folders.keyword_page(found, lambda path: links.file("keywords.md", path))
    for name, text in written.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return len(written)
