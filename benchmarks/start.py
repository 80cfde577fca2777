"""What portable-mps adds to `import torch`, and what the first tensor, kernel and training step of a process take.

python benchmarks/start.py [--runs 7]: medians, in milliseconds, of processes with and without us in turn. Time on the
clock is for a machine with nothing else to do; processor time holds on a busy one too. The training step is that of a
small convolutional network, with nothing in our cache and then with all in it (the driver's own is left as it is), its
kernels compiled by slangpy one after another and by our threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

IMPORT = """
import time
start, worked = time.perf_counter(), time.process_time()
import torch
print((time.perf_counter() - start) * 1e3, (time.process_time() - worked) * 1e3)
"""
FIRST = """
import time, torch
start = time.perf_counter()
x = torch.ones(4, device="mps")
made = time.perf_counter()
(x + 1).cpu()
print((made - start) * 1e3, (time.perf_counter() - made) * 1e3)
"""
STEP = """
import time, torch
from torch import nn
layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 13 * 13, 10)
model = nn.Sequential(*layers).to("mps")
optimizer = torch.optim.Adam(model.parameters())
images, labels = torch.randn(16, 1, 28, 28).to("mps"), torch.arange(16).remainder(10).to("mps")
start = time.perf_counter()
nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
torch.mps.synchronize()
print((time.perf_counter() - start) * 1e3)
"""


def run(source: str, active: str, **settings: str) -> list[float]:
    """The numbers that the script prints, in a process where we are active ("1") or not ("0")."""
    environment = os.environ | {"PORTABLE_MPS": active} | settings
    printed = subprocess.check_output([sys.executable, "-c", source], env=environment, text=True)
    return [float(number) for number in printed.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    run(IMPORT, "1"), run(FIRST, "1")  # files and kernels are cached from here on
    imports = [(run(IMPORT, "0"), run(IMPORT, "1")) for _ in range(runs)]
    for column, what in enumerate(("on the clock", "processor time")):
        without, within = (statistics.median(pair[active][column] for pair in imports) for active in (0, 1))
        print(f"import torch, {what:<14} {without:6.0f} ms without us, {within:6.0f} with us: {within - without:+.0f}")
    first, kernel = zip(*(run(FIRST, "1") for _ in range(runs)), strict=True)
    print(f"first tensor {statistics.median(first):.0f} ms")
    print(f"first kernel and its copy {statistics.median(kernel):.0f} ms")
    ways = {"slangpy": {"PORTABLE_MPS_COMPILERS": "0"}, "our threads": {}}
    steps: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for way, settings in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                for cache in ("empty", "full"):
                    steps.setdefault((cache, way), []).extend(run(STEP, "1", PORTABLE_MPS_CACHE=folder, **settings))
    for cache in ("empty", "full"):
        theirs, ours = (statistics.median(steps[cache, way]) for way in ways)
        times = f"slangpy {theirs:5.0f} ms, our threads {ours:5.0f} ms, {theirs / ours:.1f} times as fast"
        print(f"first step, {cache:<5} cache: {times}")


if __name__ == "__main__":
    main()
