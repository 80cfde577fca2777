"""`make metal`: the tests, with every dispatch executed as the Metal text of its kernel, and docs/metal.md.

The exit status is 1 where a test fails, or a kernel does not become Metal for a reason that `page.KNOWN` does not have.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch  # noqa: F401  (whose libraries the extension is linked to)

from metal import build, page, results
from portable_mps.runtime import adapter

TESTS = Path(__file__).resolve().parent.parent
# What Metal's devices do not have: kernels know no double and no 64-bit compare-and-exchange; 32 KiB a workgroup.
HIDDEN = "float64,int64_atomics,shared=32768"


def options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="make metal", description=__doc__)
    parser.add_argument("--order", choices=build.ORDERS, default="forward", help="in which order threads have turns")
    parser.add_argument("--workers", type=int, default=adapter.processors(), help="processes that run tests")
    parser.add_argument("--write", type=Path, help="where the page of a whole run goes")
    return parser.parse_known_args()


def run(name: str, chosen: argparse.Namespace, arguments: list[str]) -> page.Run:
    """Of the tests that are named, or all."""
    environment = os.environ | {"PORTABLE_MPS_HIDE": HIDDEN}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-p", "metal.plugin", "-n", str(chosen.workers)]
        command += [f"--metal-order={chosen.order}", f"--metal-results={folder}"]
        for path in page.ELSEWHERE:
            command += ["--ignore", str(TESTS / path)]
        for test in page.DESELECTED:
            command += ["--deselect", f"tests/{test}"]
        status = subprocess.run([*command, *arguments], env=environment, cwd=TESTS.parent).returncode
        done = results.read(sorted(Path(folder).glob("*.json")))
    given = (each.partition("=")[2] for each in arguments if each.startswith("--metal-order="))
    order = next(given, chosen.order)
    return page.Run(name, done, order, chosen.workers, time.perf_counter() - begun, status)


def main() -> int:
    chosen, selected = options()
    if selected:
        runs = [run("selected", chosen, selected)]
    else:
        runs = [run("all", chosen, [str(TESTS)])]
        for name, (arguments, files) in page.FURTHER.items():
            runs.append(run(name, chosen, [*arguments, *(str(TESTS / "ops" / f"test_{file}.py") for file in files)]))
    if chosen.write and not selected:
        chosen.write.write_text(page.text(*runs))
    print("\n".join(map(page.summary, runs)))
    return int(any(each.status or each.unknown for each in runs))


if __name__ == "__main__":
    sys.exit(main())
