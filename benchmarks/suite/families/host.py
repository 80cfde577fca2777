"""Host time of small operators: what a call costs before the device does any work. The size is a matrix's side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from suite.case import Case, Inputs, Work

TITLE = "Host time of small operators"
NOTE = "Time until the call returns, on 16x16 float32 tensors; 200 calls on an idle device, without waiting for it."


def host(inputs: Inputs, n: int, call: Callable[..., object]) -> Work:
    """call: of x, y, an output, all (n, n), and a vector (n)."""
    x, y, out, row = inputs.normal(n, n), inputs.normal(n, n), inputs.empty(n, n), inputs.normal(n)
    return Work(lambda: call(x, y, out, row), is_host=True)


def backward(inputs: Inputs, n: int) -> Work:
    """Forward and backward of a layer."""
    x, weight, bias = inputs.normal(n, n), inputs.leaf(n, n), inputs.leaf(n)
    return Work(lambda: torch.autograd.grad(F.linear(x, weight, bias).sum(), (weight, bias)), is_host=True)


_CALLS: dict[str, Any] = {
    "view": lambda x, y, out, row: x.view(-1),
    "empty": lambda x, y, out, row: torch.empty_like(x),
    "add, out=": lambda x, y, out, row: torch.add(x, y, out=out),
    "add": lambda x, y, out, row: x + y,
    "add a number": lambda x, y, out, row: x + 1.5,
    "mul": lambda x, y, out, row: x * y,
    "exp": lambda x, y, out, row: x.exp(),
    "relu": lambda x, y, out, row: x.relu(),
    "mm": lambda x, y, out, row: x @ y,
    "linear + gelu": lambda x, y, out, row: F.gelu(F.linear(x, y, row)),
    "sum": lambda x, y, out, row: x.sum(),
    "softmax": lambda x, y, out, row: x.softmax(1),
    "layer norm": lambda x, y, out, row: F.layer_norm(x, row.shape, row, row),
    "cat": lambda x, y, out, row: torch.cat((x, y)),
    "clone": lambda x, y, out, row: x.clone(),
    "cast to bf16": lambda x, y, out, row: x.bfloat16(),
    "index": lambda x, y, out, row: x[1:9, 2],
    "transposed copy": lambda x, y, out, row: x.t().contiguous(),
    "copy_": lambda x, y, out, row: out.copy_(x),
}

CASES = (
    *(Case(name, host, (16,), options={"call": call}) for name, call in _CALLS.items()),
    Case("linear with backward", backward, (16,)),
)
