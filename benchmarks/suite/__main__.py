"""`make bench`: the command line of the suite."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from suite import page, processes
from suite.case import Case
from suite.families import FAMILIES
from suite.selection import select
from suite.side import Order

QUICK_SCALE = 2.0**-16


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="make bench", description=__doc__)
    result.add_argument("--families", nargs="+", choices=list(FAMILIES), default=[], help="default: all")
    result.add_argument("--cases", nargs="+", default=[], metavar="GLOB", help="of names or family/name; default: all")
    result.add_argument("--list", action="store_true", help="print the cases and run none")
    result.add_argument(
        "--reference", choices=["cuda", "cpu", "none"], help="default: cuda, or cpu where there is none"
    )
    result.add_argument("--scale", type=float, default=1.0, help="of the work of each case, at most 1")
    result.add_argument("--warmup", type=float, default=0.35, help="seconds a case")
    result.add_argument("--time", type=float, default=0.15, help="seconds a case is measured for")
    result.add_argument("--limit", type=float, default=120, help="seconds after which a case has failed")
    quick = "small sizes and no warm-up: whether the suite works, for a software driver"
    result.add_argument("--quick", action="store_true", help=quick)
    result.add_argument("--out", type=Path, help="JSON file to write")
    result.add_argument("--from", dest="source", type=Path, help="such a file to show or write a page of, running none")
    result.add_argument("--write", type=Path, help="the page to write")
    return result


def _side(device: str, cases: list[str], options: argparse.Namespace) -> processes.Outcome:
    def report(key: str, result: dict[str, Any]) -> None:
        text = page.duration(result["seconds"]) if "seconds" in result else "failed: " + result["error"]
        print(f"{device:<5} {key:<64} {text}", flush=True)

    order = Order(device, cases, options.scale, options.warmup, options.time)
    return processes.run_side(order, options.limit, report)


def measure(options: argparse.Namespace, cases: dict[str, Case]) -> dict[str, Any]:
    """Both sides, one after the other; each case is printed as its time comes.

    Our side is in `--out` before the reference starts: a run that is cut short keeps it.
    """
    other = options.reference or processes.reference()
    about, ours = _side("mps", list(cases), options)
    other_about = {"device": other, "adapter": "", "driver": "", "torch": ""}
    theirs: dict[str, dict[str, Any]] = {}

    def run() -> dict[str, Any]:
        missing = {"error": "not run", "is_missing": True}
        return {
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "ours": about,
            "reference": other_about,
            "scale": options.scale,
            "warmup_s": options.warmup,
            "time_s": options.time,
            "cases": [
                {
                    "family": key.partition("/")[0],
                    "name": case.name,
                    "ours": ours[key],
                    "reference": theirs.get(key, missing),
                }
                for key, case in cases.items()
            ],
        }

    if options.out:
        options.out.write_text(json.dumps(run(), indent=1))
    if other != "none":
        try:
            other_about, theirs = _side(other, list(cases), options)
        except RuntimeError as error:  # ours are there, and worth keeping
            print(error, file=sys.stderr)
    return run()


def main() -> int:
    """The exit status: 1 where a case failed on mps."""
    commands = parser()
    options = commands.parse_args()
    if options.quick:
        options.scale, options.warmup, options.time = min(options.scale, QUICK_SCALE), 0.0, 0.0
    if not 0 < options.scale <= 1:
        commands.error("--scale: more than 0, at most 1")
    if options.source:
        if not options.source.is_file():
            commands.error(f"--from: there is no file {options.source}")
        run = json.loads(options.source.read_text())
    else:
        chosen = select(options.families, options.cases)
        if not chosen:
            commands.error("--cases: no case matches")
        if options.list:
            print("\n".join(chosen))
            return 0
        start = time.perf_counter()
        try:
            run = measure(options, chosen)
        except RuntimeError as error:
            commands.exit(2, f"{error}\n")
        print(f"{len(chosen)} cases in {(time.perf_counter() - start) / 60:.1f} min")
    if options.out:
        options.out.write_text(json.dumps(run, indent=1))
    if options.write:
        options.write.write_text(page.page(run))
    print(page.terminal(run))
    return 1 if any("error" in entry["ours"] for entry in run["cases"]) else 0


if __name__ == "__main__":
    sys.exit(main())
