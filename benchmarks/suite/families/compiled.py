"""What torch.compile fuses, and the same in eager mode. Sizes are rows and columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from suite.case import Case, Inputs, Work, with_backward

TITLE = "Compiled functions"
NOTE = "Each in eager mode, then compiled. Bytes are those of what must be read and written at least, once fused."


def _chain(x: torch.Tensor) -> torch.Tensor:
    for _ in range(5):
        x = (x * 1.5).relu() - 0.25
    return x


def _norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(F.dropout(x, 0.1) + residual, weight.shape, weight, weight)


def _masked_softmax(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return x.masked_fill(mask, -torch.inf).softmax(-1)


def _pick(function: Callable[..., torch.Tensor], compiles: bool) -> Callable[..., torch.Tensor]:
    return torch.compile(function, dynamic=False) if compiles else function


def chain(inputs: Inputs, rows: int, columns: int, compiles: bool) -> Work:
    x, function = inputs.normal(rows, columns), _pick(_chain, compiles)
    return Work(lambda: function(x), (x,), bytes=2.0 * x.nbytes)


def norm(inputs: Inputs, rows: int, columns: int, compiles: bool) -> Work:
    x, residual, weight = inputs.leaf(rows, columns), inputs.leaf(rows, columns), inputs.leaf(columns)
    function = _pick(_norm, compiles)
    # Forward: two reads, a write, the mask. Backward: the gradient, the normalised, the mask, two gradients.
    moved = 8.0 * x.nbytes + 2.0 * x.numel()
    return Work(with_backward(lambda: function(x, residual, weight), (x, residual, weight)), (x, residual), bytes=moved)


def masked_softmax(inputs: Inputs, rows: int, columns: int, compiles: bool) -> Work:
    x, mask = inputs.normal(rows, columns), inputs.integers(0, 2, rows, columns, dtype=torch.bool)
    function = _pick(_masked_softmax, compiles)
    return Work(lambda: function(x, mask), (x, mask), bytes=2.0 * x.nbytes + mask.nbytes)


def loss(inputs: Inputs, rows: int, columns: int, compiles: bool) -> Work:
    x, target = inputs.leaf(rows, columns), inputs.integers(0, columns, rows)
    function = _pick(F.cross_entropy, compiles)
    return Work(with_backward(lambda: function(x, target), (x,)), (x,), bytes=3.0 * x.nbytes)


_FUNCTIONS = (
    ("15 elementwise operators", chain, (8192, 8192)),
    ("dropout, residual, layer norm with backward", norm, (8192, 4096)),
    ("softmax with a mask", masked_softmax, (8192, 4096)),
    ("cross entropy with backward", loss, (8192, 32000)),
)
CASES: tuple[Case, ...] = tuple(
    Case(f"{dtype} {name}, {'compiled' if compiles else 'eager'}", build, sizes, dtype, {"compiles": compiles})
    for dtype in ("f32", "bf16")
    for name, build, sizes in _FUNCTIONS
    for compiles in (False, True)
)
