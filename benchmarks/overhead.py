"""Host time of one small eager operator, in microseconds: what a call costs before the device does any work.

The tensors are so small that the device keeps up; what is measured is Python and C++ on the host. The first rows
are parts that the others contain: a view is torch's dispatcher alone, `empty` adds an allocation, `add out=` is an
operator without an allocation. --profile OPERATOR shows the Python functions that a call spends its time in.

--graphs: a dispatch of a chain of products and sines, eager, compiled, replayed (mode="reduce-overhead") and captured
(torch.accelerator.Graph). A software driver does not keep up with these: there they say what it takes, not the host.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

CALLS, REPEATS = 200, 15  # few enough calls a round that nothing waits for the device's queue to drain


def operators(device: str) -> dict[str, Callable[[], object]]:
    x, y, out = (torch.rand(16, 16, device=device) + 0.5 for _ in range(3))
    return {
        "view": lambda: x.view(256),
        "empty": lambda: torch.empty((16, 16), device=device),
        "add out=": lambda: torch.add(x, y, out=out),
        "add": lambda: x + y,
        "add scalar": lambda: x + 1.5,
        "mul": lambda: x * y,
        "mul_": lambda: out.mul_(1.0),
        "relu": lambda: torch.relu(x),
        "exp": lambda: torch.exp(x),
        "mm": lambda: torch.mm(x, y),
        "sum": lambda: x.sum(),
        "sum dim": lambda: x.sum(dim=1),
        "softmax": lambda: x.softmax(dim=1),
    }


CHAIN = 50  # products, each with a sine behind it


def graphs(device: str) -> dict[str, Callable[[], object]]:
    x, weight = (torch.rand(16, 16, device=device) for _ in range(2))

    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(CHAIN):
            x = torch.sin(x @ weight)
        return x

    def with_mode(mode: str | None) -> Callable[[], object]:
        compiled = torch.compile(lambda x: chain(x), mode=mode)
        return lambda: compiled(x)

    calls = {"eager": lambda: chain(x), "compiled": with_mode(None), "reduce-overhead": with_mode("reduce-overhead")}
    if device != "cpu":
        chain(x)
        captured = torch.accelerator.Graph()
        with torch.Stream(device), captured:
            chain(x)
        calls["Graph"] = captured.replay
    return calls


def synchronize(device: str) -> None:
    if device != "cpu":
        getattr(torch, device).synchronize()


def time_calls(call: Callable[[], object], device: str, calls: int = CALLS) -> float:
    """Median seconds of a call, over rounds of `calls` that start with an idle device."""
    for _ in range(3):
        call()
    rounds = []
    for _ in range(REPEATS):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - start) / calls)
    synchronize(device)
    return statistics.median(rounds)


def profile(call: Callable[[], object], device: str) -> None:
    time_calls(call, device)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(10 * CALLS):
        call()
    profiler.disable()
    synchronize(device)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["mps", "cuda", "cpu"], default="mps")
    parser.add_argument("--profile", metavar="OPERATOR", help="where the time of this operator goes")
    parser.add_argument("--graphs", action="store_true", help="a dispatch of a graph, in place of operators")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    table = operators(options.device)
    if options.profile:
        if options.profile not in table:
            parser.error(f"--profile: choose one of {', '.join(table)}")
        profile(table[options.profile], options.device)
        return

    print(f"host time of one call on {options.device}, torch {torch.__version__}")
    result = {}
    with torch.no_grad():
        if options.graphs:
            for name, call in graphs(options.device).items():
                result[name] = time_calls(call, options.device, calls=2) * 1e6 / (2 * CHAIN)
                print(f"{name:16} {result[name]:7.2f} us a dispatch")
        else:
            for name, call in table.items():
                result[name] = time_calls(call, options.device) * 1e6
                print(f"{name:12} {result[name]:7.2f} us")
    if options.out:
        options.out.write_text(json.dumps({"device": options.device, "microseconds": result}, indent=1))


if __name__ == "__main__":
    main()
