"""What pages ask for in a comment: `<!-- insert: settings -->` becomes text that is made from the code.

A page stays readable where nobody builds it, and what it says of the code cannot be older than the code.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from inserts import command_line, diagrams, execution, messages, repository_text, torch_mps, variables

_ASKED = re.compile(r"^<!-- insert: (\S+)(?: (.*?))? -->$", re.MULTILINE)
_MAKERS = {
    "variables": variables.page,
    "command-line": command_line.page,
    "torch-mps": torch_mps.page,
    "diagram": diagrams.figure,
    "file": repository_text.file,
    "messages": messages.check,
    "modules": repository_text.modules,
}


@functools.cache
def _made(name: str, argument: str, root: Path, page: str) -> str:
    return _MAKERS[name](root, argument, page)


def expand(text: str, root: Path, page: str) -> str:
    """`text` with its inserts. page: the name of the page that it is on, without a suffix."""
    text = _ASKED.sub(lambda match: _made(match[1], match[2] or "", root, page), text)
    text = execution.expand(text, root)
    return repository_text.link_to_repository(text, root, page)


def _read(app: Any, name: str, source: list[str]) -> None:
    if not name.startswith("repository/"):
        source[0] = expand(source[0], app.config.repository_root, name)


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages with inserts, whose text may change while theirs does not."""
    pages = [name for name in env.found_docs if not name.startswith("repository/")]
    return [name for name in pages if "<!-- insert: " in env.doc2path(name).read_text()]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
