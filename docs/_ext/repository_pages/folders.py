"""Pages of folders, and the keyword index."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import PurePosixPath

from repository_pages import keywords
from repository_pages.pages import Links, first_sentence, plain
from repository_pages.relations import Relations
from repository_pages.repository import Repository


def subfolders(repository: Repository, folder: str) -> list[str]:
    """The folders right inside `folder`."""
    return [f for f in repository.folders if f and str(PurePosixPath(f).parent).removeprefix(".") == folder]


def title(folder: str) -> str:
    """What the page of a folder is called."""
    return plain(folder + "/") if folder else "Repository"


def index(repository: Repository, folder: str, links: Links, here: str) -> list[str]:
    """What is in a folder, for the page `here`."""
    lines = []
    below = subfolders(repository, folder)
    if below:
        lines += ["| folder | files | |", "| --- | ---: | --- |"]
        for name in below:
            count = sum(path.startswith(name + "/") for path in repository.files)
            lines.append(f"| {links.folder(here, name)} | {count} | {plain(repository.options.layers.get(name, ''))} |")
        lines.append("")
    paths = repository.folders[folder]
    if paths:
        lines += ["| file | lines | |", "| --- | ---: | --- |"]
        for path in paths:
            found = repository.files[path]
            lines.append(f"| {links.file(here, path)} | {found.lines or ''} | {plain(first_sentence(found.facts))} |")
        lines.append("")
    return lines


def about(
    repository: Repository, relations: Relations, words: dict[str, list[str]], folder: str, links: Links, here: str
) -> list[str]:
    """What is to be said of a folder as a whole: its layer, languages, what it uses, who uses it, its keywords."""
    inside = [path for path in repository.files if not folder or path.startswith(folder + "/")]
    languages: dict[str, list[int]] = {}
    for path in inside:
        languages.setdefault(repository.files[path].language, []).append(repository.files[path].lines)
    lines = []
    layer = repository.layer(folder)
    if layer:
        lines += [f"Layer: {plain(layer)}", ""]
    lines += ["| language | files | lines |", "| --- | ---: | ---: |"]
    for language, sizes in sorted(languages.items()):
        lines.append(f"| {language} | {len(sizes)} | {sum(sizes):,} |")
    lines.append("")
    within = set(inside)
    uses = {repository.files[t].folder for path in inside for t in relations.of[path].imports if t not in within}
    users = {repository.files[u].folder for path in inside for u in relations.of[path].importers if u not in within}
    if uses:
        lines += [f"Imports from {', '.join(links.folder(here, name) for name in sorted(uses))}", ""]
    if users:
        lines += [f"Imported from {', '.join(links.folder(here, name) for name in sorted(users))}", ""]
    counted = keywords.index({path: words[path] for path in inside})
    most = sorted(counted, key=lambda word: (-len(counted[word]), word))[:20]
    if folder and most:
        lines += [f"Keywords: {', '.join(plain(word) for word in most)}", ""]
    return lines


def page(
    repository: Repository, relations: Relations, words: dict[str, list[str]], folder: str, links: Links, here: str
) -> str:
    """A folder's page."""
    lines = [f"# {title(folder)}", "", *about(repository, relations, words, folder, links, here)]
    return "\n".join([*lines, "## Files", "", *index(repository, folder, links, here)])


def keyword_page(found: dict[str, list[str]], link: Callable[[str], str]) -> str:
    """Files by their keywords."""
    lines = ["# Keywords", ""]
    for letter, group in itertools.groupby(found, key=lambda word: word.strip("_")[:1].upper()):
        lines += [f"## {letter}", ""]
        for word in group:
            lines += [f'* <span id="{word}"></span>{plain(word)}: {", ".join(link(path) for path in found[word])}']
        lines.append("")
    return "\n".join(lines)
