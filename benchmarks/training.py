"""Times training steps of known models on one device, and records the loss of each step.

Weights and data are made on the CPU from one seed and there is no dropout, so that the loss curves of two devices
can be compared. compare.py does that. Needs transformers (bert, gpt2) or torchvision (resnet50); nothing is downloaded.
"""

import argparse
import gc
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

SEED = 0
DTYPES = ["float32", "bfloat16"]
WARMUP = 3  # first steps compile kernels and fill the allocator: their losses count, their times do not


@dataclass
class Workload:
    """A model, its optimiser, the data of one step, and the loss of the model, or one that wraps it, on that data."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: tuple[torch.Tensor, ...]
    loss: Callable[..., torch.Tensor]


def gpt2(device: str, batch: int, length: int) -> Workload:
    """GPT-2 124M as transformers builds it; (batch, length) random tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_positions=max(1024, length), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config.use_cache = False
    tokens = torch.randint(config.vocab_size, (batch, length))
    model = GPT2LMHeadModel(config).to(device)
    model.loss_type = "ForCausalLM"  # what it takes anyway, with a warning
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    return Workload(model, optimizer, (tokens.to(device),), lambda model, tokens: model(tokens, labels=tokens).loss)


def resnet50(device: str, batch: int, length: int) -> Workload:
    """ResNet-50 as torchvision builds it; (batch, 3, length, length) random images, 1,000 classes."""
    from torchvision.models import resnet50

    images, labels = torch.randn(batch, 3, length, length), torch.randint(1000, (batch,))
    model = resnet50(weights=None).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    data = images.to(device), labels.to(device)
    return Workload(model, optimizer, data, lambda model, images, labels: F.cross_entropy(model(images), labels))


def bert(device: str, batch: int, length: int) -> Workload:
    """BERT-base as transformers builds it; (batch, length) random tokens, each a label."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tokens = torch.randint(config.vocab_size, (batch, length))
    model = BertForMaskedLM(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    return Workload(model, optimizer, (tokens.to(device),), lambda model, tokens: model(tokens, labels=tokens).loss)


# name: builder, batch, length of the text or side of the images
WORKLOADS: dict[str, tuple[Callable[[str, int, int], Workload], int, int]] = {
    "bert": (bert, 32, 128),
    "gpt2": (gpt2, 8, 1024),
    "resnet50": (resnet50, 64, 224),
}


def synchronize(device: str) -> None:
    if device != "cpu":
        getattr(torch, device).synchronize()


def adapter(device: str) -> str:
    return {"mps": torch.backends.mps.get_name, "cuda": torch.cuda.get_device_name}.get(device, lambda: "CPU")()


def peak_memory(device: str) -> int | None:
    """Bytes the driver gave this process, where the device can tell."""
    match device:
        case "cuda":
            return torch.cuda.max_memory_reserved()
        case "mps":
            return torch.mps.driver_allocated_memory()
    return None


def train(workload: Workload, device: str, dtype: torch.dtype, steps: int) -> tuple[list[float], list[float]]:
    """Losses and seconds of each step, the device idle before and after."""
    losses, seconds = [], []
    workload.model.train()
    for _ in range(steps):
        synchronize(device)
        start = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = workload.loss(workload.model, *workload.data)
        workload.optimizer.zero_grad()
        loss.backward()
        workload.optimizer.step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return losses, seconds


def fell_back(caught: list[warnings.WarningMessage]) -> list[str]:
    """What these warnings say of operators that ran on the CPU."""
    return sorted({str(w.message) for w in caught if re.search("runs? on the CPU", str(w.message))})


def free_memory(device: str) -> None:
    gc.collect()
    if device != "cpu":
        getattr(torch, device).empty_cache()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def measure(
    device: str, model: str, dtype: str, steps: int, batch: int | None, length: int | None, compiles: bool
) -> dict[str, Any]:
    """Train for some steps: losses, seconds of each step, and what fell back to the CPU."""
    torch.manual_seed(SEED)
    build, usual_batch, usual_length = WORKLOADS[model]
    batch, length = batch or usual_batch, length or usual_length
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        workload = build(device, batch, length)
        if compiles:
            workload.model.compile()
        losses, seconds = train(workload, device, getattr(torch, dtype), steps)
    return {
        "model": model,
        "dtype": dtype,
        "compiled": compiles,
        "device": device,
        "adapter": adapter(device),
        "torch": torch.__version__,
        "batch": batch,
        "length": length,
        "median_step_s": statistics.median(seconds[WARMUP:] or seconds),
        "peak_memory_bytes": peak_memory(device),
        "fallbacks": fell_back(caught),
        "losses": losses,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["mps", "cuda", "cpu"], default="mps")
    parser.add_argument("--models", nargs="+", choices=sorted(WORKLOADS), default=sorted(WORKLOADS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="bfloat16: under autocast")
    parser.add_argument("--compile", action="store_true", help="the model, with torch.compile")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, help="default: the model's usual one")
    parser.add_argument("--length", type=int, help="of the text, or side of the images; default: the usual one")
    parser.add_argument("--out", type=Path, help="JSON file to write: a list, one entry a model and dtype")
    options = parser.parse_args()

    results = []
    for model in options.models:
        for dtype in options.dtypes:
            settings = (options.steps, options.batch, options.length, options.compile)
            result = measure(options.device, model, dtype, *settings)
            free_memory(options.device)
            results.append(result)
            print(
                f"{model} {dtype} on {result['adapter']}: {result['median_step_s'] * 1e3:.1f} ms a step, "
                f"the first {result['seconds'][0]:.1f} s, loss {result['losses'][0]:.4f} to "
                f"{result['losses'][-1]:.4f}, {len(result['fallbacks'])} fallbacks"
            )
            if options.out:  # after each: a run cut short keeps what it has
                options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
