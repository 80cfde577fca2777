"""Training under DistributedDataParallel against one process, and what its communication adds, in one run by gloo.

torchrun --nproc-per-node=2 benchmarks/data_parallel.py [--device mps] [--models gpt2 resnet50] [--trace FILE]: each
process has its own adapter and a whole batch. Medians of the slowest process, after three steps of warm-up:

  alone      process 0 trains, the others wait
  apart      all train, none tells another (no_sync): what they cost each other on one host
  together   all train with their gradients' means
  reduced    the gradients' means by themselves, as one tensor

The speedup is the throughput of all processes over that of one: processes times alone over together.
"""

import argparse
import dataclasses
import os
import statistics
from datetime import timedelta
from pathlib import Path

import collectives
import torch
import torch.distributed as dist
import training
from torch import nn

PATIENCE = timedelta(minutes=30)  # for process 0, whose first step compiles


def median(workload: training.Workload, device: str, dtype: torch.dtype, steps: int) -> float:
    """Seconds of a step in this process."""
    _, seconds = training.train(workload, device, dtype, training.WARMUP + steps)
    return statistics.median(seconds[training.WARMUP :])


def trace(workload: training.Workload, device: str, dtype: torch.dtype, path: Path) -> None:
    """Operators, autograd and collectives of one step on the host, as a file that opens in Perfetto."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        training.train(workload, device, dtype, 1)
    profile.export_chrome_trace(str(path))


def measure(name: str, dtype: str, options: argparse.Namespace) -> None:
    device, rank, world = options.device, dist.get_rank(), dist.get_world_size()
    torch.manual_seed(training.SEED)
    build, batch, length = training.WORKLOADS[name]
    workload = build(device, options.batch or batch, options.length or length)
    kind = getattr(torch, dtype)
    alone = median(workload, device, kind, options.steps) if rank == 0 else 0.0
    dist.barrier()
    parallel = nn.parallel.DistributedDataParallel(workload.model)
    wrapped = dataclasses.replace(workload, model=parallel)
    with parallel.no_sync():
        apart = collectives.slowest(median(wrapped, device, kind, options.steps))
    together = collectives.slowest(median(wrapped, device, kind, options.steps))
    gradients = torch.zeros(sum(p.numel() for p in workload.model.parameters()), device=device)
    synchronize = getattr(torch, device).synchronize
    reduced = collectives.median(lambda: dist.all_reduce(gradients), synchronize)
    if options.trace and rank == 0:
        trace(wrapped, device, kind, options.trace)
    elif options.trace:
        training.train(wrapped, device, kind, 1)
    if rank == 0:
        times = {"alone": alone, "apart": apart, "together": together, "reduced": reduced}
        print(
            f"{name} {dtype} on {world} x {training.adapter(device)}: speedup {world * alone / together:.2f}; "
            + ", ".join(f"{key} {seconds * 1e3:.1f} ms" for key, seconds in times.items())
            + f" ({gradients.nbytes / 1e6:.0f} MB)",
            flush=True,
        )
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["mps", "cuda"], default="mps")
    parser.add_argument("--models", nargs="+", choices=sorted(training.WORKLOADS), default=["gpt2", "resnet50"])
    parser.add_argument("--dtypes", nargs="+", choices=training.DTYPES, default=["float32"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, help="of each process; default: the model's usual one")
    parser.add_argument("--length", type=int, help="of the text, or side of the images; default: the usual one")
    parser.add_argument("--trace", type=Path, help="file to write, of the last model's last step in process 0")
    options = parser.parse_args()
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=PATIENCE)
    for name in options.models:
        for dtype in options.dtypes:
            measure(name, dtype, options)
            training.free_memory(options.device)
    dist.barrier()
    os._exit(0)  # as tests/distributed says


if __name__ == "__main__":
    main()
