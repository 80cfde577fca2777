"""Memory of training with changing shapes: it must stop growing after the first pass over the shapes.

Trains a small transformer block on batches of varying size and length, and prints what tensors hold and what the driver
gave after each pass; exits with status 1 where a later pass took more from the driver than the first.
"""

import argparse
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 32


def shapes(count: int) -> list[tuple[int, int]]:
    """(batch, length) pairs, all different, in no order."""
    generator = torch.Generator().manual_seed(0)
    pairs = [(1 + k % 7, 4 + 3 * (k // 7)) for k in range(count)]
    return [pairs[k] for k in torch.randperm(count, generator=generator)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--shapes", type=int, default=50, help="different shapes, one a step in turn")
    options = parser.parse_args()

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=2 * WIDTH, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(WIDTH, WIDTH)).to("mps")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    passes: list[int] = []
    start = time.perf_counter()
    for step in range(options.steps):
        batch, length = shapes(options.shapes)[step % options.shapes]
        x = torch.randn(batch, length, WIDTH, device="mps")
        loss = F.mse_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % options.shapes == 0:
            torch.mps.synchronize()
            passes.append(torch.mps.driver_allocated_memory())
            if len(passes) in (1, 2) or step + 1 == options.steps:
                live = torch.mps.current_allocated_memory()
                print(f"step {step + 1}: tensors {live / 2**20:.2f} MiB, driver {passes[-1] / 2**20:.1f} MiB")
    print(f"{options.steps} steps in {time.perf_counter() - start:.0f} s on {torch.backends.mps.get_name()}")
    return 0 if passes and max(passes) == passes[0] else 1


if __name__ == "__main__":
    sys.exit(main())
