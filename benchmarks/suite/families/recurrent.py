"""Recurrent layers over padded sequences. Sizes are batch, steps, width, layers."""

from __future__ import annotations

import torch
from torch import nn

from suite.case import Case, Inputs, Work, both_passes, with_backward

TITLE = "Recurrent layers"
NOTE = "As wide as their input. FLOPs are those of the products with the weights."


def layers(
    inputs: Inputs,
    batch: int,
    steps: int,
    width: int,
    count: int,
    kind: type[nn.RNNBase],
    gates: int,
    backward: bool = False,
) -> Work:
    module = kind(width, width, count).to(device=inputs.device, dtype=inputs.dtype)
    x = inputs.leaf(steps, batch, width)
    leaves = (x, *module.parameters())
    flops = 4.0 * gates * batch * steps * width * width * count * (3 if backward else 1)

    def forward() -> torch.Tensor:
        return module(x)[0]

    if backward:
        return Work(with_backward(forward, leaves), leaves, flops=flops)
    return Work(torch.no_grad()(forward), leaves, flops=flops)


CASES: tuple[Case, ...] = (
    *both_passes("f32 LSTM, 2 of 512, 32x64", layers, (32, 64, 512, 2), options={"kind": nn.LSTM, "gates": 4}),
    *both_passes("bf16 LSTM, 2 of 512, 32x64", layers, (32, 64, 512, 2), "bf16", {"kind": nn.LSTM, "gates": 4}),
    *both_passes("f32 GRU, 2 of 512, 32x64", layers, (32, 64, 512, 2), options={"kind": nn.GRU, "gates": 3}),
)
