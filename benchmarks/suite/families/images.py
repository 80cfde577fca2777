"""Batch norm, pooling and interpolation. Sizes are batch, channels, height, width."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from suite.case import Case, Inputs, Work, both_passes, with_backward

TITLE = "Batch norm, pooling, interpolation"
NOTE = "Batch norm and group norm: bytes read and written at least, the statistics being a pass of their own."


def batch_norm(
    inputs: Inputs, batch: int, channels: int, height: int, width: int, training: bool = True, backward: bool = False
) -> Work:
    x = inputs.leaf(batch, channels, height, width)
    weight, bias = (inputs.normal(channels, dtype=torch.float32).requires_grad_() for _ in range(2))
    mean, variance = torch.zeros_like(bias), torch.ones_like(bias)
    return _normalised(
        x,
        lambda x: F.batch_norm(x, mean, variance, weight, bias, training=training),
        (x, weight, bias),
        3 if training else 2,
        backward,
    )


def group_norm(inputs: Inputs, batch: int, channels: int, height: int, width: int, backward: bool = False) -> Work:
    x, weight, bias = inputs.leaf(batch, channels, height, width), inputs.leaf(channels), inputs.leaf(channels)
    groups = max(1, channels // 8)
    return _normalised(x, lambda x: F.group_norm(x, groups, weight, bias), (x, weight, bias), 3, backward)


def _normalised(
    x: torch.Tensor,
    call: Callable[[torch.Tensor], torch.Tensor],
    leaves: tuple[torch.Tensor, ...],
    passes: int,
    backward: bool,
) -> Work:
    """passes: of the forward pass over x. The backward one has five: two operands twice, and the gradient."""
    size = x.numel() * x.element_size()
    if backward:
        return Work(with_backward(lambda: call(x), leaves), (x,), bytes=(passes + 5.0) * size)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return call(x)

    return Work(forward, (x,), bytes=float(passes * size))


def max_pool(inputs: Inputs, batch: int, channels: int, height: int, width: int, backward: bool = False) -> Work:
    x = inputs.leaf(batch, channels, height, width)
    if backward:
        return Work(with_backward(lambda: F.max_pool2d(x, 3, 2, 1), (x,)), (x,))
    x = x.detach()
    return Work(lambda: F.max_pool2d(x, 3, 2, 1), (x,))


def bilinear(inputs: Inputs, batch: int, channels: int, height: int, width: int) -> Work:
    """To twice the height and width."""
    x = inputs.normal(batch, channels, height, width)
    size = x.numel() * x.element_size()
    return Work(lambda: F.interpolate(x, scale_factor=2, mode="bilinear"), (x,), bytes=5.0 * size)


_SHAPE, _EARLY = (64, 256, 56, 56), (64, 64, 112, 112)

CASES = (
    *(
        case
        for dtype in ("f32", "bf16")
        for case in both_passes(f"{dtype} batch norm 64x256x56x56", batch_norm, _SHAPE, dtype)
    ),
    Case("f32 batch norm 64x256x56x56, evaluation", batch_norm, _SHAPE, options={"training": False}),
    Case("f32 group norm 64x256x56x56 with backward", group_norm, _SHAPE, options={"backward": True}),
    *both_passes("f32 max pool 64x64x112x112 k3, stride 2", max_pool, _EARLY),
    Case("f32 bilinear 64x64x112x112, doubled", bilinear, _EARLY),
)
