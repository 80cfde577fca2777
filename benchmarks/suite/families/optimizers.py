"""A step of an optimiser over GPT-2's 124M parameters. Sizes are words, positions, width, layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from suite.case import Case, Inputs, Work

TITLE = "Optimisers"
NOTE = "Over the 148 parameters of GPT-2, 124M elements, in float32. Bytes are those read and written once."


def parameters(inputs: Inputs, words: int, positions: int, width: int, layers: int) -> list[torch.Tensor]:
    """GPT-2's, with gradients."""
    block = [
        *((width,) for _ in range(4)),
        (width, 3 * width),
        (3 * width,),
        (width, width),
        (width,),
        (width, 4 * width),
        (4 * width,),
        (4 * width, width),
        (width,),
    ]
    shapes = [(words, width), (positions, width), *(block * layers), (width,), (width,)]
    found = [inputs.leaf(*shape) for shape in shapes]
    for each in found:
        each.grad = torch.randn_like(each) * 0.01
    return found


def step(
    inputs: Inputs,
    words: int,
    positions: int,
    width: int,
    layers: int,
    kind: Callable[..., torch.optim.Optimizer],
    passes: int,
    **options: Any,
) -> Work:
    """passes: over the parameters' memory, read or written."""
    tensors = parameters(inputs, words, positions, width, layers)
    optimizer = kind(tensors, lr=1e-4, **options)
    size = sum(x.numel() * x.element_size() for x in tensors)
    return Work(optimizer.step, tuple(tensors), bytes=float(passes * size))


def clip(inputs: Inputs, words: int, positions: int, width: int, layers: int) -> Work:
    tensors = parameters(inputs, words, positions, width, layers)
    size = sum(x.numel() * x.element_size() for x in tensors)
    return Work(lambda: torch.nn.utils.clip_grad_norm_(tensors, 1.0), tuple(tensors), bytes=3.0 * size)


_GPT2 = (50257, 1024, 768, 12)
_KINDS: dict[str, dict[str, Any]] = {
    "AdamW": {"kind": torch.optim.AdamW, "passes": 7},
    "SGD with momentum": {"kind": torch.optim.SGD, "passes": 5, "momentum": 0.9},
}

CASES = (
    *(
        Case(f"{name}, {form}", step, _GPT2, options={**options, form: True})
        for name, options in _KINDS.items()
        for form in ("fused", "foreach")
    ),
    Case("clip of the gradients' norm", clip, _GPT2),
)
