"""Random numbers and dropout. The size is the number of elements."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from suite.case import Case, Inputs, Work, both_passes, with_backward

TITLE = "Random numbers, dropout"
NOTE = "Bytes are those of the numbers; for dropout those read and written once, without its mask."


def filled(inputs: Inputs, count: int, name: str) -> Work:
    """name: of the method that fills a tensor with numbers."""
    x = inputs.empty(count)
    return Work(getattr(x, name), (x,), bytes=float(count * x.element_size()))


def dropout(inputs: Inputs, count: int, backward: bool = False) -> Work:
    x = inputs.leaf(count)
    if backward:
        return Work(with_backward(lambda: F.dropout(x, 0.1), (x,)), (x,), bytes=4.0 * count * x.element_size())
    # Training makes the mask that a backward pass needs, so the input keeps its gradient.
    return Work(lambda: F.dropout(x, 0.1), (x,), bytes=2.0 * count * x.element_size())


def randperm(inputs: Inputs, count: int) -> Work:
    return Work(lambda: torch.randperm(count, device=inputs.device))


def multinomial(inputs: Inputs, rows: int, columns: int) -> Work:
    x = inputs.normal(rows, columns).softmax(1)
    return Work(lambda: torch.multinomial(x, 1), (x,))


_MANY = (1 << 27,)

CASES = (
    *(Case(f"{d} randn 2^27", filled, _MANY, d, {"name": "normal_"}) for d in ("f32", "bf16")),
    Case("f32 rand 2^27", filled, _MANY, options={"name": "uniform_"}),
    Case("f32 exponential 2^27", filled, _MANY, options={"name": "exponential_"}),
    Case("f32 bernoulli 2^27", filled, _MANY, options={"name": "bernoulli_"}),
    *(case for dtype in ("f32", "bf16") for case in both_passes(f"{dtype} dropout 2^27", dropout, _MANY, dtype)),
    Case("f32 multinomial, 1 of 50257, 64 rows", multinomial, (64, 50257)),
    Case("randperm 2^22", randperm, (1 << 22,)),
)
