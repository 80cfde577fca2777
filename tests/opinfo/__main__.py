"""Sweep torch's operator database over `mps`: `make operators`, or `PYTHONPATH=tests python -m opinfo`.

Verdicts go to --out as JSON lines, one a check, as they come: run again with the same file, and only what is missing
is judged (with --again, only what failed; with --fresh, everything). --table writes docs/operators.md from that file,
--failures the list of expected failures.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import time
from collections.abc import Iterator
from pathlib import Path

from opinfo import failures, judge, sweep, table
from opinfo.dtypes import CLASSES


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="opinfo", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/operators.jsonl"), help="verdicts, JSON lines")
    parser.add_argument("--operators", nargs="+", default=["*"], metavar="GLOB", help="names as in op_db: linalg.*")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=list(CLASSES),
        metavar="DTYPE",
        help=f"or {', '.join(CLASSES)}; quick: the two of each operator that CI takes",
    )
    parser.add_argument("--checks", nargs="+", default=list(judge.CHECKS), choices=judge.CHECKS)
    parser.add_argument("--quick", action="store_true", help="few samples a check, not all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one check")
    parser.add_argument("--fresh", action="store_true", help="forget what --out has")
    parser.add_argument("--again", action="store_true", help="judge once more what failed before, and only that")
    parser.add_argument("--list", type=Path, help="write the failing checks here, one a line")
    parser.add_argument("--failures", type=Path, help="write the list of expected failures here")
    parser.add_argument("--table", type=Path, help="write the table of operators here")
    return parser.parse_args()


def _dtypes(names: list[str]) -> list[str]:
    return [dtype for name in names for dtype in CLASSES.get(name, (name,))]


def _tasks(options: argparse.Namespace) -> Iterator[sweep.Task]:
    """dtype by dtype, so that a sweep cut short has finished some; errors, which have none, behind the first."""
    ops = [op for n, op in judge.OPERATORS.items() if any(fnmatch.fnmatch(n, g) for g in options.operators)]
    is_quick = options.dtypes == ["quick"]
    for index, dtype in enumerate(_dtypes(list(CLASSES) if is_quick else options.dtypes)):
        for op in ops:
            of_op = judge.quick_dtypes(op) if is_quick else [*judge.dtypes_of(op), *judge.lacking(op)]
            supported = {judge.name_of(d): d for d in of_op}
            if dtype in supported:
                checks = judge.quick_checks_of if is_quick else judge.checks_of
                for check in checks(op, supported[dtype]):
                    yield sweep.Task(op.full_name, dtype, check, options.quick)
        if index == 0:
            for op in ops:
                if op.error_inputs_func is not None:
                    for check in ("errors", "messages"):
                        yield sweep.Task(op.full_name, judge.NO_DTYPE, check, options.quick)


def main() -> None:
    options = _arguments()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        options.out.unlink(missing_ok=True)
    known = sweep.load(options.out)
    tasks = []
    for task in _tasks(options):
        before = known.get((task.op, task.dtype, task.check))
        if task.check not in options.checks:
            continue
        if not options.again and before is None:
            tasks.append(task)
        elif options.again and before is not None and before["status"] == "fail":
            # On all samples if it was before: one that the quick part does not take may have failed.
            tasks.append(dataclasses.replace(task, quick=before["quick"]))
    begin, failed = time.monotonic(), 0
    with options.out.open("a") as out:
        for count, verdict in enumerate(sweep.sweep(tasks, options.workers, options.timeout), 1):
            print(json.dumps(verdict), file=out, flush=True)
            failed += verdict["status"] == "fail"
            if count % 100 == 0 or count == len(tasks):
                print(f"{count} of {len(tasks)} checks, {failed} failed, {time.monotonic() - begin:.0f} s", flush=True)
    verdicts = sweep.load(options.out)
    if options.list:
        lines = [
            f"{op} {dtype} {check}: {v['failed']} of {v['judged']}: {v['error']}"
            for (op, dtype, check), v in verdicts.items()
            if v["status"] == "fail"
        ]
        options.list.write_text("\n".join(sorted(lines)) + "\n")
    if options.failures:
        failures.write(verdicts.values(), options.failures)
    if options.table:
        options.table.write_text(table.render(verdicts))


if __name__ == "__main__":
    main()
