"""Reductions, softmax, norms and cross entropy. Sizes are rows and columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from suite.case import Case, Inputs, Work, both_passes, with_backward

TITLE = "Reductions, softmax, norms, losses"
NOTE = "Bytes are those of the input, and of the result where it is as large; a backward pass has twice as many again."


def reduce(inputs: Inputs, rows: int, columns: int, call: Callable[[torch.Tensor], object]) -> Work:
    x = inputs.normal(rows, columns)
    return Work(lambda: call(x), (x,), bytes=float(x.numel() * x.element_size()))


def softmax(inputs: Inputs, rows: int, columns: int, backward: bool = False) -> Work:
    x = inputs.leaf(rows, columns)
    return _rows(x, lambda x: x.softmax(1), (x,), backward)


def layer_norm(inputs: Inputs, rows: int, columns: int, backward: bool = False) -> Work:
    x, weight, bias = inputs.leaf(rows, columns), inputs.leaf(columns), inputs.leaf(columns)
    return _rows(x, lambda x: F.layer_norm(x, (columns,), weight, bias), (x, weight, bias), backward)


def rms_norm(inputs: Inputs, rows: int, columns: int, backward: bool = False) -> Work:
    x, weight = inputs.leaf(rows, columns), inputs.leaf(columns)
    return _rows(x, lambda x: F.rms_norm(x, (columns,), weight), (x, weight), backward)


def _rows(
    x: torch.Tensor,
    call: Callable[[torch.Tensor], torch.Tensor],
    leaves: tuple[torch.Tensor, ...],
    backward: bool,
) -> Work:
    size = x.numel() * x.element_size()
    if backward:
        return Work(with_backward(lambda: call(x), leaves), (x,), bytes=5.0 * size)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return call(x)

    return Work(forward, (x,), bytes=2.0 * size)


def cross_entropy(inputs: Inputs, rows: int, columns: int, backward: bool = False) -> Work:
    x, labels = inputs.leaf(rows, columns), inputs.integers(0, columns, rows)
    size = x.numel() * x.element_size()
    if backward:
        return Work(with_backward(lambda: F.cross_entropy(x, labels), (x,)), (x,), bytes=3.0 * size)
    x = x.detach()
    return Work(lambda: F.cross_entropy(x, labels), (x,), bytes=float(size))


_SQUARE, _ROWS, _HEAD = (16384, 16384), (32768, 4096), (8192, 50257)
_SUMS = {"all": lambda x: x.sum(), "rows": lambda x: x.sum(1), "columns": lambda x: x.sum(0)}
_NORMS = {"softmax": softmax, "layer norm": layer_norm, "rms norm": rms_norm}

CASES = (
    *(Case(f"f32 sum of 16384^2, {name}", reduce, _SQUARE, options={"call": f}) for name, f in _SUMS.items()),
    Case("bf16 sum of 16384^2, all", reduce, _SQUARE, "bf16", {"call": torch.sum}),
    Case("f32 max of rows with index, 16384^2", reduce, _SQUARE, options={"call": lambda x: x.max(1)}),
    Case("f32 argmax of 2^28", reduce, _SQUARE, options={"call": torch.argmax}),
    Case("f32 variance of rows, 16384^2", reduce, _SQUARE, options={"call": lambda x: x.var(1)}),
    *(
        case
        for name, build in _NORMS.items()
        for dtype in ("f32", "bf16")
        for case in both_passes(f"{dtype} {name} 32768x4096", build, _ROWS, dtype)
    ),
    *(
        case
        for dtype in ("f32", "bf16")
        for case in both_passes(f"{dtype} cross entropy 8192x50257", cross_entropy, _HEAD, dtype)
    ),
)
