"""What `make models` and `make ecosystem` share: their options, and filling a table row by row."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")


def options(command: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("names", nargs="*", help="rows of the table; without any, all")
    parser.add_argument("--write", type=Path, help="where the table goes")
    return parser


def fill(
    chosen: argparse.Namespace,
    names: Iterable[str],
    run: Callable[[str], Row],
    right: Callable[[Row], bool],
    table: Callable[[dict[str, Row]], str],
) -> int:
    """The exit status: 0 where every row is right. Each row is printed with its time when it is there."""
    rows, begin = {}, time.perf_counter()
    for name in chosen.names or names:
        start = time.perf_counter()
        rows[name] = run(name)
        print(f"{name:<32} {rows[name]} ({time.perf_counter() - start:.0f} s)", flush=True)
    if chosen.write:
        chosen.write.write_text(table(rows))
    wrong = [name for name, row in rows.items() if not right(row)]
    minutes = (time.perf_counter() - begin) / 60
    print(f"{len(rows)} rows in {minutes:.0f} min; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0
