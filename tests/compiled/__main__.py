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
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

from compiled.corpus import CASES
from compiled.operators import EXPECTED, judge, name_of

_RUNS = ((torch.float32, False), (torch.int64, False), (torch.bfloat16, False), (torch.float32, True))
_SECONDS = 120  # for one operator
_MODELS = ["BERT", "GPT-2", "Llama", "T5", "ViT", "ResNet", "Whisper", "Mamba", "ConvNeXt", "Swin", "CLIP", "Mistral", "Qwen3", "Gemma 3", "Mixtral", "Phi-3", "GPT-NeoX", "BLOOM", "OPT", "DeBERTa v2", "ELECTRA", "ModernBERT", "BART", "MobileNet v2", "SegFormer", "DETR", "XLNet", "Falcon", "DeepSeek V3", "ALBERT", "FNet", "RWKV"]


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


def _operators(dtype: torch.dtype, dynamic: bool, samples: int) -> list[str]:
    """Rows of the table: the share, then each that fails."""
    infos = [info for info in op_db if dtype in info.dtypes]
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
    kind = f"{str(dtype).removeprefix('torch.')}, {'any shape' if dynamic else 'its shape'}"
    share = f"{len(infos) - len(failed)} of {len(infos)} ({100 * (1 - len(failed) / len(infos)):.1f}%)"
    rows = [f"| {kind} | {share} | {judged} | {', '.join(sorted(failed)) or 'none'} |"]
    for name, words in failed.items():
        known = EXPECTED.get(name, "**unexpected**")
        print(f"{kind}: {name}: {known}: {words}", flush=True)
    return rows


def _model(name: str, dynamic: bool) -> tuple[float, float, int, float]:
    """(Difference of the loss, of the gradients, graph breaks, seconds of the first step)."""
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
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    operators = [row for dtype, dynamic in _RUNS for row in _operators(dtype, dynamic, chosen.samples)]
    rows, wrong = [], 0
    for name in _MODELS:
        for dynamic in (False, True):
            try:
                with _limited(10 * _SECONDS):
                    loss, gradients, breaks, seconds = _model(name, dynamic)
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
        f"`make compiled` wrote this, with torch {torch.__version__.split('+')[0]} and Mesa's software driver. Compiled "
        f"code is compared with eager on the device. The tests compile {len(CASES)} functions, for their shapes and for "
        "any, and a sample of every operator.",
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
        f"Of transformers {transformers.__version__}, small, with random weights, a training step: the loss's relative "
        "difference to eager, the gradients' largest difference over the largest gradient, graph breaks, and seconds of "
        "the first step, on two cores, with empty caches. GPT-2's graph breaks are a logger's, on every device.",
        "",
        "| architecture | compiled for shapes | loss | gradients | graph breaks | first step, s |",
        "| --- | --- | --- | --- | --- | --- |",
        *models,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
