"""A file's page in Markdown, of which a site and readers in an editor have the same, but for links and the source."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable
from typing import Protocol

from repository_pages.facts import Definition, Facts
from repository_pages.relations import Relations
from repository_pages.repository import File, Repository

# An underscore within a word is none.
_MARKUP = re.compile(r"([\\*\[\]<>|$#{}~`]|\b_|_\b|(?<!\w)_|_(?!\w))")
_MOST = 40  # places that a section lists; the rest is counted


class Links(Protocol):
    """How a page at `here` links: to another file's page, to a line of its own file, to a keyword."""

    def file(self, here: str, path: str) -> str:
        """A link to the page of `path`."""

    def folder(self, here: str, path: str) -> str:
        """A link to the page of a folder; "" is the top."""

    def line(self, here: str, line: int) -> str:
        """A link to a line of this page's file, whose text is its number."""

    def keyword(self, here: str, word: str) -> str:
        """A link to a keyword in the index."""

    def source(self, file: File) -> list[str]:
        """The section with the file's source; empty where there is none."""


def plain(text: str) -> str:
    """Text in which nothing but `code` is markup."""
    parts = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    return "".join(p if n % 2 else _MARKUP.sub(r"\\\1", p) for n, p in enumerate(parts))


def code(text: str) -> str:
    """Text as code, on one line."""
    text = " ".join(text.split())
    marks = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{marks}{space}{text}{space}{marks}"


def prose(text: str) -> list[str]:
    """A docstring or comment: its paragraphs, and as they stand where they are laid out in columns."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        body = paragraph.splitlines()
        laid_out = any(re.search(r"\S {2,}\S", line) for line in body) or any(line[:1].isspace() for line in body[1:])
        if (laid_out and len(body) > 1) or (body and body[0][:1].isspace()):
            lines += ["```text", *(line.replace("```", "'''") for line in body), "```", ""]
        elif any(re.match(r"[*-] ", line) for line in body):
            lines += [*(("* " if re.match(r"[*-] ", line) else "  ") + plain(line.lstrip("*- ")) for line in body), ""]
        else:
            lines += [plain(paragraph), ""]
    return lines


class Page:
    """Writes the page of one file."""

    def __init__(self, repository: Repository, relations: Relations, words: dict[str, list[str]], links: Links) -> None:
        self._repository = repository
        self._relations = relations
        self._keywords = words
        self._links = links

    def write(self, path: str) -> str:
        """The page of `path`."""
        file = self._repository.files[path]
        sections: list[tuple[str, list[str]]] = [
            ("Metadata", self._metadata(file)),
            ("Purpose", prose(file.facts.purpose) if file.facts.purpose else []),
            ("Overview", self._overview(file)),
            ("Structure", self._structure(file)),
            ("Role", self._role(file)),
            ("Dependencies", self._dependencies(file)),
            ("Patterns", self._patterns(file)),
            ("Performance", self._performance(file)),
            ("Security and safety", self._safety(file)),
            ("Tests that cover it", self._tests(file)),
            ("Related files", self._related(file)),
            ("Keywords", self._words(file)),
        ]
        lines = [f"# {plain(path)}", ""]
        for title, content in sections:
            if content:
                lines += [f"## {title}", "", *content, ""]
        return "\n".join(lines + self._links.source(file)).rstrip() + "\n"

    def _file(self, here: File, path: str) -> str:
        return self._links.file(here.path, path)

    def _files(self, here: File, paths: Iterable[str]) -> str:
        return ", ".join(self._file(here, path) for path in sorted(paths))

    def _metadata(self, file: File) -> list[str]:
        rows = [("path", code(file.path)), ("language", file.language), ("size", f"{file.size:,} bytes")]
        if file.text is not None:
            rows.append(("lines", f"{file.lines:,}"))
        if file.history.commits:
            dates = file.history.first, file.history.last
            rows.append(("commits", f"{file.history.commits}, {' to '.join(dict.fromkeys(dates))}"))
        return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]

    def _overview(self, file: File) -> list[str]:
        everything = file.facts.walk()
        kinds: dict[str, list[Definition]] = {}
        for definition in everything:
            kinds.setdefault(definition.kind, []).append(definition)
        rows = [("comment lines", str(file.facts.comment_lines))] if file.facts.comment_lines else []
        for kind, group in kinds.items():
            documented = sum(bool(definition.words) for definition in group)
            says = f", {documented} documented" if documented else ""
            rows.append((kind, f"{len(group)}{says}"))
        if file.facts.registered:
            rows.append(("operators registered", str(len({found.text for found in file.facts.registered}))))
        longest = max(everything, key=lambda definition: definition.end - definition.line, default=None)
        if longest is not None and longest.end > longest.line:
            lines = f"{code(longest.name)}, {longest.end - longest.line + 1} lines"
            rows.append((f"longest {longest.kind}" if len(everything) > 1 else longest.kind + " of", lines))
        return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)] if rows else []

    def _structure(self, file: File) -> list[str]:
        lines: list[str] = []

        def add(definitions: list[Definition], indent: str) -> None:
            for definition in definitions:
                words = f": {plain(definition.words)}" if definition.words else ""
                text = plain(definition.name) if definition.kind == "heading" else code(definition.signature)
                lines.append(f"{indent}* {self._links.line(file.path, definition.line)} {text}{words}")
                add(definition.members, indent + "  ")

        add(file.facts.definitions, "")
        return lines

    def _role(self, file: File) -> list[str]:
        relation = self._relations.of[file.path]
        layer = self._repository.layer(file.path)
        lines = [f"* Layer: {plain(layer)}"] if layer else []
        if relation.importers:
            lines.append(f"* Imported by {self._files(file, relation.importers)}")
        if relation.launched_by:
            lines.append(f"* Launched by {self._files(file, relation.launched_by)}")
        if relation.imports:
            lines.append(f"* Imports {self._files(file, relation.imports)}")
        return lines

    def _dependencies(self, file: File) -> list[str]:
        relation = self._relations.of[file.path]
        lines = []
        for target, imports in sorted(relation.imports.items()):
            names = sorted({name for imported in imports for name in imported.names})
            named = ": " + ", ".join(code(name) for name in names) if names else ""
            lines.append(f"* inside: {self._file(file, target)}{named}")
        for target, outside in sorted(relation.outside.items()):
            named = ": " + ", ".join(code(name) for name in sorted(outside)) if outside else ""
            lines.append(f"* outside: {code(target)}{named}")
        return lines

    def _patterns(self, file: File) -> list[str]:
        groups = {"Operators registered": file.facts.registered, **file.facts.patterns}
        lines: list[str] = []
        for kind, found in groups.items():
            if not found:
                continue
            first: dict[str, int] = {}
            for place in found:
                first.setdefault(place.text, place.line)
            shown = [f"{code(text)} ({self._links.line(file.path, line)})" for text, line in first.items()]
            lines.append(f"* {kind}: {', '.join(self._cut(shown))}")
        return lines

    def _performance(self, file: File) -> list[str]:
        relation = self._relations.of[file.path]
        lines = [
            f"* Launches {', '.join(code(entry) for entry in sorted(entries))} of {self._file(file, target)}"
            for target, entries in sorted(relation.launches.items())
        ]
        for benchmark, names in sorted(relation.benchmarks.items()):
            what = f"times {', '.join(code(name) for name in sorted(names))}" if names else "imports it"
            lines.append(f"* {self._file(file, benchmark)} {what}")
        return lines

    def _safety(self, file: File) -> list[str]:
        lines: list[str] = []
        for title, found in (("Checks", file.facts.checks), ("Raw memory and processes", file.facts.memory)):
            shown = [f"  * {self._links.line(file.path, place.line)} {code(place.text)}" for place in found]
            if shown:
                lines += [f"* {title}:", "", *self._cut(shown, "  * "), ""]
        return lines

    def _cut(self, items: list[str], mark: str = "") -> list[str]:
        return items if len(items) <= _MOST else [*items[:_MOST], f"{mark}and {len(items) - _MOST} more"]

    def _tests(self, file: File) -> list[str]:
        covering = self._relations.of[file.path].tests
        return [f"* {self._file(file, test)}: {', '.join(why)}" for test, why in sorted(covering.items())]

    def _related(self, file: File) -> list[str]:
        related = self._relations.of[file.path].related
        lines = [f"* {self._file(file, o)}: {', '.join(dict.fromkeys(why))}" for o, why in sorted(related.items())]
        return self._cut(lines, "* ")

    def _words(self, file: File) -> list[str]:
        return [", ".join(self._links.keyword(file.path, word) for word in self._keywords[file.path])]


def first_sentence(facts: Facts) -> str:
    """Of a file's purpose, for an index."""
    text = " ".join(facts.purpose.split())
    return re.split(r"(?<=[.:;]) ", text)[0].rstrip(":;")


def anchor(line: int) -> str:
    """The name of a line in a page's source."""
    return f"L-{line}"


def html_link(target: str, text: str) -> str:
    """A link that is written as HTML, since Markdown's would be looked up before the source has its anchors."""
    return f'<a href="{html.escape(target)}">{html.escape(text)}</a>'
