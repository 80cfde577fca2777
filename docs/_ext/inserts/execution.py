"""Python on a page that is run when the page is built: a block after `<!-- run -->`, whose output follows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_BLOCK = re.compile(r"^<!-- run -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def output_of(code: str, root: Path) -> str:
    """What `code` prints in a process of its own, with our device. RuntimeError with its error if it fails."""
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PORTABLE_MPS": "1", "PORTABLE_MPS_QUIET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"a block of the page failed:\n{code}\n{done.stdout}{done.stderr}")
    return done.stdout


def expand(text: str, root: Path) -> str:
    """`text` with the output of each such block behind it."""

    def run(match: re.Match[str]) -> str:
        said = output_of(match[1], root)
        shown = f"\n\nIt printed, when this page was built:\n\n```text\n{said.rstrip()}\n```" if said else ""
        return f"```python\n{match[1]}```{shown}"

    return _BLOCK.sub(run, text)
