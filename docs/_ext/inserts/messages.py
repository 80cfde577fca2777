"""Whether the words of errors that a page explains are still in the code that raises them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_QUOTED = re.compile(r'^### "(.+)"$', re.MULTILINE)
# Where a literal goes on in another one, or a value stands in it.
_SEAM = re.compile(r'"\s*\n?\s*(?:rf|fr|f|r|u8)?"')


def _sources(root: Path) -> str:
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "portable_mps", "csrc", "setup.py", "scripts"],
        capture_output=True,
        text=True,
        check=True,
    )
    suffixes = (".py", ".cpp", ".h", ".sh")
    texts = ((root / name).read_text() for name in listed.stdout.split() if name.endswith(suffixes))
    return _SEAM.sub("", "\n".join(texts))


def check(root: Path, argument: str, page: str) -> str:
    """Nothing; ValueError if a heading of the page in quotes has words that no source has. "…" stands for values."""
    sources = _sources(root)
    for quoted in _QUOTED.findall((root / "docs" / f"{page}.md").read_text()):
        for part in quoted.split("…"):
            if part.strip() not in sources:
                raise ValueError(f"{page}: no source has the words {part.strip()!r}")
    return ""
