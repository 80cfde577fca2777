"""`make ecosystem`: each script in a process of its own, and the table of docs/ecosystem.md."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import warnings

from rows import fill, options

from ecosystem import science, training, vision  # noqa: F401  (they fill the table)
from ecosystem.check import CHECKS

LIMIT = 900  # seconds for one of them
RIGHT = "runs unchanged"


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _try(library: str) -> str:
    """The verdict on one library."""
    check = CHECKS[library]
    absent = [name for name in (library, *check.needs) if _version(name) is None]
    if absent:
        return f"not tried: {', '.join(absent)} not installed"
    command = [sys.executable, "-m", "ecosystem", "--in-process", library]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | {"MPLBACKEND": "Agg"}
        )
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    if done.returncode == 0:
        return RIGHT
    sys.stderr.write(done.stderr[-4000:])
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(" ")]
    return f"fails: {lines[-1][:160] if lines else done.returncode}"


def table(verdicts: dict[str, str]) -> str:
    """docs/ecosystem.md, as text."""
    tried = {name: verdict for name, verdict in verdicts.items() if not verdict.startswith("not tried")}
    right = sum(verdict == RIGHT for verdict in tried.values())
    torch = (_version("torch") or "").split("+")[0]
    rows = [f"| {n} | {_version(n) or ''} | {CHECKS[n].tried} | {v} |" for n, v in sorted(verdicts.items())]
    return "\n".join(
        [
            "# Libraries",
            "",
            f"`make ecosystem` wrote this with torch {torch} on Mesa's software driver: each library in a small "
            f"script ([tests/ecosystem](../tests/ecosystem)) that mentions only `mps`, against the CPU where there is "
            f"something to compare. **{right} of {len(tried)} run unchanged.**",
            "",
            "| library | version | tried | verdict |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = options("make ecosystem", __doc__)
    parser.add_argument("--in-process", action="store_true", help="run the script here, and raise what it raises")
    chosen = parser.parse_args()
    if chosen.in_process:
        warnings.simplefilter("ignore")
        for name in chosen.names:
            CHECKS[name].function()
        return 0
    return fill(chosen, CHECKS, _try, lambda verdict: verdict.startswith((RIGHT, "not tried")), table)


if __name__ == "__main__":
    sys.exit(main())
