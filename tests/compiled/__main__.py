"""`make compiled`: torch's operator database and architectures of transformers, compiled against eager, and the page
docs/compile.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

from compiled.corpus import CASES
from compiled.operators import EXPECTED, judge, name_of

_RUNS = ((torch.float32, False), (torch.int64, False), (torch.bfloat16, False), (torch.float32, True))
_SECONDS = 120  # for one operator
_PART = 80  # operators of one process
_MODELS = (
    "BERT, GPT-2, Llama, T5, ViT, ResNet, Whisper, Mamba, ConvNeXt, Swin, CLIP, Mistral, Qwen3, "
    "Gemma 3, Mixtral, Phi-3, GPT-NeoX, BLOOM, OPT, DeBERTa v2, ELECTRA, ModernBERT, BART, "
    "MobileNet v2, SegFormer, DETR, XLNet, Falcon, DeepSeek V3, ALBERT, FNet, RWKV"
)


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _operators(dtype: torch.dtype, dynamic: bool, samples: int, part: slice) -> tuple[int, int, dict[str, str]]:
    """(Operators that take the dtype, samples, what went wrong by operator) of a part of the database."""
    warnings.simplefilter("ignore")
    infos = [info for info in op_db[part] if dtype in info.dtypes]
    failed, judged = {}, 0
    for info in infos:
        try:
            with _limited(_SECONDS):
                verdict = judge(info, dtype, dynamic, samples)
        except Exception as error:  # of the database, or a TimeoutError
            failed[name_of(info)] = f"{type(error).__name__}: {error}"
            continue
        judged += verdict.samples
        if verdict.failure:
            failed[name_of(info)] = verdict.failure
    return len(infos), judged, failed


def _row(dtype: torch.dtype, dynamic: bool, parts: list[tuple[int, int, dict[str, str]]]) -> str:
    """Of the table; says what is not expected."""
    count, judged = sum(part[0] for part in parts), sum(part[1] for part in parts)
    failed = {name: words for part in parts for name, words in part[2].items()}
    kind = f"{str(dtype).removeprefix('torch.')}, {'any shape' if dynamic else 'its shape'}"
    for name, words in failed.items():
        print(f"{kind}: {name}: {EXPECTED.get(name, '**unexpected**')}: {words}", flush=True)
    share = f"{count - len(failed)} of {count} ({100 * (1 - len(failed) / count):.1f}%)"
    return f"| {kind} | {share} | {judged} | {', '.join(sorted(failed)) or 'none'} |"


def _model(name: str, dynamic: bool) -> tuple[float, float, int, float]:
    """(Difference of the loss, of the gradients, graph breaks, seconds of the first step)."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from models import compare, inputs
    from models.architectures import ARCHITECTURES
    from torch._dynamo.utils import counters

    model, config = compare.build(name)
    batch = compare._moved(getattr(inputs, ARCHITECTURES[name].kind)(config))
    compare._with_dropout(model)
    model.to("mps")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    loss, gradients = compare._gradients(model, batch)
    model.load_state_dict(state)
    torch._dynamo.reset()
    counters.clear()
    begin = time.perf_counter()
    compiled_loss, compiled = compare._gradients(torch.compile(model, dynamic=dynamic), batch)
    torch.mps.synchronize()
    seconds = time.perf_counter() - begin
    pairs = [(mine.cpu(), theirs.cpu()) for mine, theirs in zip(compiled, gradients, strict=True)]
    scale = max(float(theirs.abs().max()) for _, theirs in pairs)
    worst = max(float((mine - theirs).abs().max()) for mine, theirs in pairs) / scale
    difference = float((compiled_loss - loss).abs() / loss.abs())
    return difference, worst, sum(counters["graph_break"].values()), seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="make compiled", description=__doc__)
    parser.add_argument("--write", type=Path, help="where the page goes")
    parser.add_argument("--samples", type=int, default=2, help="of an operator")
    chosen = parser.parse_args()
    # A compiled graph stays in memory for as long as its process: each task has one of its own.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), max_tasks_per_child=1) as pool:
        parts = [slice(start, start + _PART) for start in range(0, len(op_db), _PART)]
        runs = [[pool.submit(_operators, *run, chosen.samples, part) for part in parts] for run in _RUNS]
        tasks = [
            (name, dynamic, pool.submit(_model, name, dynamic))
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
        "| dtype, compiled for | right | samples | not right |",
        "| --- | --- | --- | --- |",
        *operators,
        "",
        "Why:",
        "",
        *(f"* {', '.join(names)}: {reason}." for reason, names in reasons.items()),
        "",
        "## Architectures",
        "",
        f"Of transformers {transformers.__version__}, small, with random weights, a training step: the loss's "
        "relative difference to eager, the gradients' largest difference over the largest gradient, graph breaks, and "
        "seconds of the first step, two at a time on two cores, with empty caches. GPT-2's graph breaks are a logger's, on "
        "every device.",
        "",
        "| architecture | compiled for shapes | loss | gradients | graph breaks | first step, s |",
        "| --- | --- | --- | --- | --- | --- |",
        *models,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
