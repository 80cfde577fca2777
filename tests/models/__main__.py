"""`make models`: all architectures, each against the CPU, and the table of docs/models.md."""

from __future__ import annotations

import os
import sys
import traceback
import warnings

import torch
from rows import fill, options

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


def _run(name: str) -> Report | str:
    try:
        return run(name)
    except Exception as error:  # which is the architecture's row: the others are still to come
        traceback.print_exception(error, limit=-2)
        return f"{type(error).__name__} | | | |"


def main() -> int:
    chosen = options("make models", __doc__).parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    return fill(chosen, ARCHITECTURES, _run, lambda row: isinstance(row, Report) and row.right, table)


if __name__ == "__main__":
    sys.exit(main())
