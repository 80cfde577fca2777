"""`make compiled`: torch's operator database and models, transformers' and others, compiled against eager, and the page
docs/compile.md."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

from compiled.corpus import CASES
from compiled.operators import EXPECTED, judge_part
from compiled.step import step

_RUNS = ((torch.float32, False), (torch.int64, False), (torch.bfloat16, False), (torch.float32, True))
_PART = 80  # operators of one process
_MODELS = (
    "BERT, GPT-2, Llama, T5, ViT, ResNet, Whisper, Mamba, ConvNeXt, Swin, CLIP, Mistral, Qwen3, "
    "Gemma 3, Mixtral, Phi-3, GPT-NeoX, BLOOM, OPT, DeBERTa v2, ELECTRA, ModernBERT, BART, "
    "MobileNet v2, SegFormer, DETR, XLNet, Falcon, DeepSeek V3, ALBERT, FNet, RWKV, "
    "diffusion U-Net, LSTM"
)


def _row(dtype: torch.dtype, dynamic: bool, parts: list[tuple[int, dict[str, str]]]) -> str:
    """Of the table; says what is not expected."""
    count = sum(part[0] for part in parts)
    failed = {name: words for part in parts for name, words in part[1].items()}
    kind = f"{str(dtype).removeprefix('torch.')}, {'any shape' if dynamic else 'its shape'}"
    for name, words in failed.items():
        print(f"{kind}: {name}: {EXPECTED.get(name, '**unexpected**')}: {words}", flush=True)
    share = f"{count - len(failed)} of {count} ({100 * (1 - len(failed) / count):.1f}%)"
    return f"| {kind} | {share} | {', '.join(sorted(failed)) or 'none'} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make compiled", description=__doc__)
    parser.add_argument("--write", type=Path, help="where the page goes")
    parser.add_argument("--samples", type=int, default=2, help="of an operator")
    chosen = parser.parse_args()
    # A compiled graph stays in memory for as long as its process: each task has one of its own.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), max_tasks_per_child=1) as pool:
        parts = [slice(start, start + _PART) for start in range(0, len(op_db), _PART)]
        runs = [[pool.submit(judge_part, *run, chosen.samples, part) for part in parts] for run in _RUNS]
        tasks = [
            (name, dynamic, pool.submit(step, name, dynamic))
            for name in _MODELS.split(", ")
            for dynamic in (False, True)
        ]
        operators = [_row(*run, [part.result() for part in of_run]) for run, of_run in zip(_RUNS, runs, strict=True)]
        rows, wrong = [], 0
        for name, dynamic, task in tasks:
            try:
                loss, gradients, breaks, seconds = task.result()
                wrong += max(loss, gradients) > 1e-3
                row = f"{loss:.0e} | {gradients:.0e} | {breaks} | {seconds:.0f}"
            except Exception as error:  # the row of this model
                wrong += 1
                row = f"{type(error).__name__} | | |"
            rows.append(f"| {name} | {'any' if dynamic else 'its own'} | {row} |")
            print(rows[-1], flush=True)
    if chosen.write:
        chosen.write.write_text(_page(operators, rows, chosen.samples))
    return 1 if wrong else 0


def _page(operators: list[str], models: list[str], samples: int) -> str:
    import transformers

    reasons: dict[str, list[str]] = {}
    for name, reason in EXPECTED.items():
        reasons.setdefault(reason, []).append(name)
    lines: list[Any] = [
        "# torch.compile",
        "",
        f"`make compiled` wrote this, with torch {torch.__version__.split('+')[0]} and Mesa's software driver. "
        f"Compiled code is compared with eager on the device. The tests compile {len(CASES)} functions, for their "
        "shapes and for any, and a sample of every third operator.",
        "",
        "## Torch's operator database",
        "",
        f"Up to {samples} samples of each operator that takes the dtype.",
        "",
        "| dtype, compiled for | right | not right |",
        "| --- | --- | --- |",
        *operators,
        "",
        "Why:",
        "",
        *(f"* {', '.join(names)}: {reason}." for reason, names in reasons.items()),
        "",
        "## Architectures",
        "",
        f"Small, with random weights, of transformers {transformers.__version__} but for the last two. A training "
        "step: the loss's relative difference to eager, the gradients' largest difference over the largest gradient, "
        "graph breaks, and seconds of the first step, two at a time on two cores, with empty caches. GPT-2's graph "
        "breaks are a logger's, DETR's its matching of boxes on the host, on every device. SegFormer for any shape: "
        "Inductor finds no common ranges for the squares of its sizes.",
        "",
        "| architecture | compiled for shapes | loss | gradients | graph breaks | first step, s |",
        "| --- | --- | --- | --- | --- | --- |",
        *models,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
