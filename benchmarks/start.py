"""What portable-mps adds to `import torch`, and what the first tensor and the first kernel of a process take.

python benchmarks/start.py [--runs 7]: medians, in milliseconds, of processes with and without us in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

IMPORT = """
import time
start = time.perf_counter()
import torch
print((time.perf_counter() - start) * 1e3)
"""
FIRST = """
import time, torch
start = time.perf_counter()
x = torch.ones(4, device="mps")
made = time.perf_counter()
(x + 1).cpu()
print((made - start) * 1e3, (time.perf_counter() - made) * 1e3)
"""


def run(source: str, active: str) -> list[float]:
    """The numbers that the script prints, in a process where we are active ("1") or not ("0")."""
    environment = os.environ | {"PORTABLE_MPS": active}
    printed = subprocess.check_output([sys.executable, "-c", source], env=environment, text=True)
    return [float(number) for number in printed.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    run(IMPORT, "1"), run(FIRST, "1")  # files and kernels are cached from here on
    without, within = zip(*((run(IMPORT, "0")[0], run(IMPORT, "1")[0]) for _ in range(runs)), strict=True)
    print(f"import torch without us   {statistics.median(without):7.0f} ms")
    print(f"import torch with us      {statistics.median(within):7.0f} ms")
    print(f"difference                {statistics.median(within) - statistics.median(without):7.0f} ms")
    first, kernel = zip(*(run(FIRST, "1") for _ in range(runs)), strict=True)
    print(f"first tensor              {statistics.median(first):7.0f} ms")
    print(f"first kernel and its copy {statistics.median(kernel):7.0f} ms")


if __name__ == "__main__":
    main()
