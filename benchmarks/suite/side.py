"""The process of one side: `python -m suite.side`, started by processes.py with its Order on the standard input.

Writes a line of JSON for each event: what the device is, the case it begins, the case's result. What else is printed
goes to the standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from suite.case import Case
from suite.clock import ROTATED_BYTES, measure
from suite.families import FAMILIES

SEED = 0
STOPPED = 3  # exit status of a process whose device answers no more


@dataclass(frozen=True)
class Order:
    """What a side shall run. cases: by "family/name". scale: of the work of a case, 1 for the shapes as they are."""

    device: str
    cases: list[str]
    scale: float
    warmup_s: float
    time_s: float


def describe(device: str) -> dict[str, str]:
    """The device, its driver and torch, as text."""
    name, driver = "CPU", ""
    if device == "mps":
        from portable_mps.runtime import adapter

        chosen = adapter.choose()
        name, driver = chosen.name, f"{chosen.driver}, Vulkan {chosen.api_version}"
    elif device == "cuda":
        name, driver = torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}"
    return {"device": device, "adapter": name, "driver": driver, "torch": torch.__version__}


def synchronizer(device: str) -> Callable[[], None]:
    return (lambda: None) if device == "cpu" else getattr(torch, device).synchronize


def run(case: Case, order: Order) -> dict[str, Any]:
    """A Timing as JSON; or, where the case raises, its error's kind and first line."""
    device, synchronize = order.device, synchronizer(order.device)
    torch.set_float32_matmul_precision(case.precision if device == "mps" else "highest")
    torch.manual_seed(SEED)
    rotated = ROTATED_BYTES * order.scale
    try:
        make = lambda: case.work(device, order.scale)  # noqa: E731  (as a function it would be longer)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=case.tf32):
            result: dict[str, Any] = measure(make, synchronize, order.warmup_s, order.time_s, rotated).as_json()
    except Exception as error:  # which is the case's row: the others are still to come
        first = next(iter(str(error).splitlines()), "")
        result = {"error": f"{type(error).__name__}: {first}", "is_missing": isinstance(error, NotImplementedError)}
    gc.collect()
    if device != "cpu":
        getattr(torch, device).empty_cache()
    return result


def is_alive(device: str) -> bool:
    """Whether the device still computes: after some errors it does nothing more in this process."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2
    except Exception:
        return False


def main() -> int:
    order = Order(**json.load(sys.stdin))
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**event: Any) -> None:
        print(json.dumps(event), file=events, flush=True)

    tell(about=describe(order.device))
    for key in order.cases:
        family, _, name = key.partition("/")
        case = next(case for case in FAMILIES[family].CASES if case.name == name)
        tell(begin=key)
        result = run(case, order)
        tell(case=key, result=result)
        if "error" in result and not is_alive(order.device):
            return STOPPED
    return 0


def as_json(order: Order) -> str:
    return json.dumps(asdict(order))


if __name__ == "__main__":
    sys.exit(main())
