"""Elementwise operators, which memory bounds. The size is the number of elements."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from suite.case import DTYPES, Case, Inputs, Work

TITLE = "Elementwise"
NOTE = "Contiguous tensors. Bytes are those of each operand and of the result, once."


def unary(inputs: Inputs, count: int, call: Callable[[torch.Tensor], torch.Tensor]) -> Work:
    x = inputs.normal(count)
    return Work(lambda: call(x), (x,), bytes=2.0 * count * x.element_size())


def binary(inputs: Inputs, count: int, call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Work:
    x, y = inputs.normal(count), inputs.normal(count)
    return Work(lambda: call(x, y), (x, y), bytes=3.0 * count * x.element_size())


def cast(inputs: Inputs, count: int, to: str) -> Work:
    x, dtype = inputs.normal(count), DTYPES[to]
    return Work(lambda: x.to(dtype), (x,), bytes=float(count * (x.element_size() + dtype.itemsize)))


def addcmul(inputs: Inputs, count: int) -> Work:
    x, y, z = (inputs.normal(count) for _ in range(3))
    return Work(lambda: torch.addcmul(x, y, z), (x, y, z), bytes=4.0 * count * x.element_size())


def where(inputs: Inputs, count: int) -> Work:
    x, y = inputs.normal(count), inputs.normal(count)
    mask = x > y
    return Work(lambda: torch.where(mask, x, y), (x, y), bytes=count * (3.0 * x.element_size() + 1))


def gelu_backward(inputs: Inputs, count: int) -> Work:
    x, gradient = inputs.normal(count), inputs.normal(count)
    return Work(lambda: torch.ops.aten.gelu_backward(gradient, x), (x, gradient), bytes=3.0 * count * x.element_size())


_MANY = (1 << 28,)

CASES = (
    *(Case(f"{d} add 2^28", binary, _MANY, d, {"call": torch.add}) for d in ("f32", "f16", "bf16")),
    Case("f32 mul 2^28", binary, _MANY, options={"call": torch.mul}),
    Case("f32 addcmul 2^27", addcmul, (1 << 27,)),
    Case("f32 where 2^27", where, (1 << 27,)),
    *(
        Case(f"{a} cast to {b} 2^28", cast, _MANY, a, {"to": b})
        for a, b in (("f32", "bf16"), ("bf16", "f32"), ("f32", "f16"))
    ),
    *(Case(f"{d} gelu 2^28", unary, _MANY, d, {"call": F.gelu}) for d in ("f32", "f16", "bf16")),
    Case("bf16 gelu, tanh 2^28", unary, _MANY, "bf16", {"call": lambda x: F.gelu(x, approximate="tanh")}),
    Case("bf16 gelu, its backward 2^27", gelu_backward, (1 << 27,), "bf16"),
    Case("bf16 silu 2^28", unary, _MANY, "bf16", {"call": F.silu}),
    *(Case(f"f32 {f.__name__} 2^28", unary, _MANY, options={"call": f}) for f in (torch.exp, torch.tanh, torch.sin)),
)
