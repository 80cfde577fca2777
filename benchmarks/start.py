"""What portable-mps adds to `import torch`, and what the first tensor and the first kernel of a process take.

python benchmarks/start.py [--runs 7]: medians, in milliseconds, of processes with and without us in turn. Time on the
clock is for a machine with nothing else to do; processor time holds on a busy one too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

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
    imports = [(run(IMPORT, "0"), run(IMPORT, "1")) for _ in range(runs)]
    for column, what in enumerate(("on the clock", "processor time")):
        without, within = (statistics.median(pair[active][column] for pair in imports) for active in (0, 1))
        print(f"import torch, {what:<14} {without:6.0f} ms without us, {within:6.0f} with us: {within - without:+.0f}")
    first, kernel = zip(*(run(FIRST, "1") for _ in range(runs)), strict=True)
    print(f"first tensor {statistics.median(first):.0f} ms")
    print(f"first kernel and its copy {statistics.median(kernel):.0f} ms")


if __name__ == "__main__":
    main()
