"""A page for each file and folder that git tracks, and an index of their keywords.

Works on any repository with Python, C++ and Slang: conf.py names its root, its layers, the functions that register
operators, and the folders of tests and benchmarks. Pages are written as Markdown, beside the site's own, in a folder.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from repository_pages import folders, keywords
from repository_pages.markdown import options_of
from repository_pages.pages import Page, anchor, html_link, plain
from repository_pages.relations import read
from repository_pages.repository import LANGUAGES, File, Options

FOLDER = "repository"


class _Links:
    """Between pages of the site. Folders' pages are named index."""

    def file(self, here: str, path: str) -> str:
        return f"[{plain(path)}]({os.path.relpath(f'{path}.md', PurePosixPath(here).parent)})"

    def folder(self, here: str, path: str) -> str:
        target = os.path.relpath(f"{path}/index.md".lstrip("/"), PurePosixPath(here).parent)
        return f"[{plain(path + '/' if path else 'the top')}]({target})"

    def line(self, here: str, line: int) -> str:
        return html_link(f"#{anchor(line)}", str(line))

    def keyword(self, here: str, word: str) -> str:
        return html_link(os.path.relpath("keywords.html", PurePosixPath(here).parent) + f"#{word}", word)

    def source(self, file: File) -> list[str]:
        if file.text is None:
            return []
        return ["## Source", "", f"```{{repository-source}} {file.path}", "```", ""]


class RepositorySource(Directive):
    """A tracked file, highlighted, each line with an anchor."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """One literal block."""
        env = self.state.document.settings.env
        path = Path(env.config.repository_root) / self.arguments[0]
        name = PurePosixPath(self.arguments[0])
        text = path.read_text()
        env.note_dependency(str(path))
        block = nodes.literal_block(text, text)
        block["language"] = LANGUAGES.get(name.suffix, LANGUAGES.get(name.name, ("", "text")))[1]
        block["force"] = True  # what Slang has beyond HLSL is no error
        block["linenos"] = True
        block["highlight_args"] = {"lineanchors": anchor(0).partition("-")[0], "anchorlinenos": True}
        return [nodes.container("", block, classes=["source"])]


def _write_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _write_pages(app: Any) -> None:
    config = app.config
    repository, relations = read(Path(config.repository_root), Options(**_options(config)))
    words = keywords.of_files(repository)
    links = _Links()
    page = Page(repository, relations, words, links)
    target = Path(app.srcdir) / FOLDER
    written = {"keywords.md": folders.keyword_page(keywords.index(words), lambda path: links.file("keywords.md", path))}
    for path in repository.files:
        written[f"{path}.md"] = "---\norphan: true\n---\n\n" + _way(path) + page.write(path)
    for folder in repository.folders:
        here = f"{folder}/index.md" if folder else "index.md"
        text = folders.page(repository, relations, words, folder, links, here)
        written[here] = f"---\norphan: true\n---\n\n{_way(here)}{text}" if folder else text
    for name, text in written.items():
        _write_changed(target / name, text)
    for old in target.rglob("*.md"):
        if str(PurePosixPath(old.relative_to(target))) not in written:
            old.unlink()


def _way(path: str) -> str:
    """Links to the folders above a page."""
    parents = [str(parent).removeprefix(".") for parent in reversed(PurePosixPath(path).parents)]
    if path.endswith("/index.md"):
        parents = parents[:-1]
    here = PurePosixPath(path).parent
    steps = []
    for parent in parents:
        name = PurePosixPath(parent).name or "repository"
        target = os.path.relpath(f"{parent}/index.md" if parent else "index.md", here)
        steps.append(f"[{plain(name)}]({target})")
    return " / ".join(steps) + "\n\n"


def _options(config: Any) -> dict[str, Any]:
    names = Options.__dataclass_fields__
    return {name: getattr(config, f"repository_{name}") for name in names}


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    defaults = Options()
    app.add_config_value("repository_root", None, "env")
    for name in Options.__dataclass_fields__:
        app.add_config_value(f"repository_{name}", getattr(defaults, name), "env")
    app.add_directive("repository-source", RepositorySource)
    app.connect("builder-inited", _write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


__all__ = ["options_of", "setup"]
