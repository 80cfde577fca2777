"""Collectives of mps or CUDA tensors against those of CPU tensors, all by gloo, side by side in one run.

torchrun --nproc-per-node=2 benchmarks/collectives.py [--device mps] [--megabytes 25 500]: medians of the slowest
process's time, after 0.35 s of warm-up; the ratio is the CPU's time over ours. Then a training step of a stack of
linear layers under DistributedDataParallel, with its collectives and without (no_sync): what they add.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

WARMUP, ROUNDS = 0.35, 7


def slowest(seconds: float) -> float:
    """Over the processes."""
    longest = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return longest.item()


def median(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Seconds; the number of calls is the same in all processes."""
    begun = time.perf_counter()
    while slowest(time.perf_counter() - begun) < WARMUP:
        call()
        synchronize()
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(slowest(time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["mps", "cuda"], default="mps")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[25.0, 500.0])
    parser.add_argument("--width", type=int, default=2048, help="of the layers that are trained")
    options = parser.parse_args()
    device = options.device
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo")
    synchronize = getattr(torch, device).synchronize
    for megabytes in options.megabytes:
        count = int(megabytes * 1e6) // 4
        on_cpu, ours = torch.ones(count), torch.ones(count, device=device)
        theirs = median(lambda x=on_cpu: dist.all_reduce(x.fill_(1)), lambda: None)
        mine = median(lambda x=ours: dist.all_reduce(x.fill_(1)), synchronize)
        if dist.get_rank() == 0:
            times = f"cpu {theirs * 1e3:8.1f} ms, {device} {mine * 1e3:8.1f} ms: {theirs / mine:.2f}"
            print(f"all_reduce of {megabytes:g} MB by {dist.get_world_size()} processes: {times}", flush=True)
    layers = [layer for _ in range(6) for layer in (nn.Linear(options.width, options.width), nn.ReLU())]
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers).to(device))
    x = torch.ones(options.width, options.width, device=device)

    def alone() -> None:
        with model.no_sync():
            model(x).sum().backward()

    without = median(alone, synchronize)
    together = median(lambda: model(x).sum().backward(), synchronize)
    if dist.get_rank() == 0:
        size = sum(parameter.nbytes for parameter in model.parameters()) / 1e6
        times = f"{without * 1e3:.1f} ms without, {together * 1e3:.1f} ms with {size:.0f} MB of gradients"
        print(f"training step on {device}: {times}", flush=True)
    dist.barrier()
    os._exit(0)  # as tests/distributed says


if __name__ == "__main__":
    main()
