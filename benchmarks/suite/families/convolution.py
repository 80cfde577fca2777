"""Convolutions. Sizes are batch, channels, height, width, channels of the output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from suite.case import Inputs, Work, both_passes, with_backward

TITLE = "Convolution"
NOTE = (
    'Batch x channels x height x width, k the side of the kernel. In the rows "TF32" CUDA rounds float32 inputs to '
    "TF32, as torch lets it by default, and mps does not; in the others neither does."
)


def convolution(
    inputs: Inputs,
    batch: int,
    channels: int,
    height: int,
    width: int,
    outputs: int,
    k: int = 3,
    stride: int = 1,
    depthwise: bool = False,
    transposed: bool = False,
    backward: bool = False,
) -> Work:
    """A padding of k / 2 keeps the size; a depthwise one has `channels` outputs. `backward`: of input and weight."""
    outputs, groups = (channels, channels) if depthwise else (outputs, 1)
    x = inputs.leaf(batch, channels, height, width)
    shape = (channels, outputs) if transposed else (outputs, channels // groups)
    weight = inputs.leaf(*shape, k, k)
    if not backward:
        x, weight = x.detach(), weight.detach()

    def forward() -> torch.Tensor:
        if transposed:
            return F.conv_transpose2d(x, weight, stride=stride, padding=k // 2 - (stride > 1 and k % 2 == 0))
        return F.conv2d(x, weight, stride=stride, padding=k // 2, groups=groups)

    # A kernel's position a pixel: of the input where transposed, otherwise of the output.
    pixels = height * width if transposed else -(-height // stride) * -(-width // stride)
    flops = 2.0 * batch * pixels * outputs * (channels // groups) * k * k
    if not backward:
        return Work(forward, (x, weight), flops=flops)
    return Work(with_backward(forward, (x, weight)), (x, weight), flops=3 * flops)


_LAYERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "64x256x14x14 k3": ((64, 256, 14, 14, 256), {}),
    "64x64x56x56 k3": ((64, 64, 56, 56, 64), {}),
    "64x64x56x56 k1 to 256": ((64, 64, 56, 56, 256), {"k": 1}),
    "64x128x56x56 k3, stride 2": ((64, 128, 56, 56, 128), {"stride": 2}),
    "64x3x224x224 k7, stride 2": ((64, 3, 224, 224, 64), {"k": 7, "stride": 2}),
    "64x256x56x56 k3, depthwise": ((64, 256, 56, 56, 256), {"depthwise": True}),
    "32x256x28x28 k4, stride 2, transposed": ((32, 256, 28, 28, 128), {"k": 4, "stride": 2, "transposed": True}),
}

CASES = (
    *(
        case
        for name, (sizes, more) in _LAYERS.items()
        for dtype in ("f32", "bf16")
        for case in both_passes(f"{dtype} {name}", convolution, sizes, dtype, more)
    ),
    *(
        replace(case, tf32=True)
        for name in ("64x256x14x14 k3", "64x64x56x56 k3")
        for case in both_passes(f"TF32 {name}", convolution, _LAYERS[name][0])
    ),
)
