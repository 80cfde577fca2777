"""`make models`: all architectures, each against the CPU, and the table of docs/models.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch

from models.architectures import ARCHITECTURES
from models.compare import LIMIT, Report, run


def _cell(value: float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "same" if value else "**other**"
    return f"{value:.0e}" if value <= LIMIT else f"**{value:.0e}**"


def table(results: dict[str, Report | str]) -> str:
    """docs/models.md, as text."""
    import transformers

    right = sum(isinstance(r, Report) and r.right for r in results.values())
    rows = [
        f"| {name} | {r if isinstance(r, str) else ' | '.join(map(_cell, r))} |" for name, r in sorted(results.items())
    ]
    return "\n".join(
        [
            "# Architectures of transformers",
            "",
            f"`make models` wrote this: {len(results)} architectures of transformers {transformers.__version__}, small "
            "and with random weights, on the device (Mesa's software driver) and on the CPU with torch "
            f"{torch.__version__.split('+')[0]}: **{right} agree**.",
            "",
            "Numbers are the largest difference over the largest value, in float32; above "
            f"{LIMIT:.0e} counts as wrong (**bold**). Batches are of three sequences, two of them padded: on the "
            "right, and on the left where text is generated.",
            "",
            "| column | compared |",
            "| --- | --- |",
            "| evaluation | every output at words that are not padding |",
            "| loss, gradients | in training mode, dropout active with a probability of 1e-9 (its path is taken, while"
            " no element falls out); every parameter's gradient; where that is "
            "above the limit, what it is beyond three times the CPU's own difference from float64 |",
            "| chunks | logits of a padded prompt in three pieces over a cache |",
            "| tokens | six words generated greedily from the padded batch |",
            "",
            "| architecture | evaluation | loss | gradients | chunks | tokens |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make models", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; without any, all")
    parser.add_argument("--write", type=Path, help="where the table goes")
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    results: dict[str, Report | str] = {}
    for name in chosen.names or ARCHITECTURES:
        start = time.perf_counter()
        try:
            results[name] = run(name)
            verdict = "right" if results[name].right else "WRONG"
        except Exception as error:
            results[name] = f"{type(error).__name__} | | | |"
            verdict = "".join(traceback.format_exception(error)[-2:]) + "\n"
        print(f"{name:<32} {verdict} {results[name]} {time.perf_counter() - start:.1f} s", flush=True)
    if chosen.write:
        chosen.write.write_text(table(results))
    wrong = [name for name, r in results.items() if isinstance(r, str) or not r.right]
    print(f"{len(results) - len(wrong)} of {len(results)} agree" + (f"; not: {', '.join(wrong)}" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
