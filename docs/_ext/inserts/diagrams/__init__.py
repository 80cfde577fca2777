"""Diagrams drawn from the code as SVG, which needs no program to render and follows the page's colours."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from repository_pages.relations import last_read

from inserts.diagrams import imports, ways


def figure(root: Path, argument: str, page: str) -> str:
    """`<!-- insert: diagram imports -->`: "imports", or the name of one of ways.WAYS."""

    def link(path: str) -> str:
        """From the page to that of a file or, without a suffix, of a folder."""
        target = f"repository/{path}.html" if (root / path).is_file() else f"repository/{path}/index.html"
        return os.path.relpath(target, PurePosixPath(page).parent)

    repository, relations = last_read(root)
    if argument == "imports":
        drawn = imports.draw(repository, relations, link)
    else:
        drawn = ways.draw(repository, relations, ways.WAYS[argument], link)
    return f'```{{raw}} html\n<div class="diagram">\n{drawn}\n</div>\n```'
