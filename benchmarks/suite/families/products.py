"""Matrix products. Sizes are m, n, k: A is (m, k), B (k, n)."""

from __future__ import annotations

import torch

from suite.case import Case, Inputs, Work, both_passes

TITLE = "Matrix products"
NOTE = (
    'A is (m, k), B (k, n), stored by rows; "A @ B^T" multiplies by the transposed view of a (n, k) matrix. "high" and '
    '"medium" are the settings of `torch.set_float32_matmul_precision` on mps; the reference is float32 throughout.'
)


def product(inputs: Inputs, m: int, n: int, k: int, left: str = "", right: str = "") -> Work:
    """left, right: "T" where that operand is a transposed view."""
    a = inputs.normal(k, m).t() if left else inputs.normal(m, k)
    b = inputs.normal(n, k).t() if right else inputs.normal(k, n)
    return Work(lambda: a @ b, (a, b), flops=2.0 * m * n * k)


def batched(inputs: Inputs, batch: int, m: int, n: int, k: int) -> Work:
    a, b = inputs.normal(batch, m, k), inputs.normal(batch, k, n)
    return Work(lambda: torch.bmm(a, b), (a, b), flops=2.0 * batch * m * n * k)


def linear(inputs: Inputs, m: int, n: int, k: int, backward: bool = False) -> Work:
    """x (m, k) through a layer of n outputs, with a bias; `backward` also makes the three gradients."""
    x, weight, bias = inputs.leaf(m, k), inputs.leaf(n, k), inputs.leaf(n)
    flops = 2.0 * m * n * k
    if not backward:
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
        return Work(lambda: torch.nn.functional.linear(x, weight, bias), (x, weight, bias), flops=flops)
    gradient = inputs.normal(m, n)

    def call() -> object:
        output = torch.nn.functional.linear(x, weight, bias)
        return torch.autograd.grad(output, (x, weight, bias), gradient)

    return Work(call, (x, weight, bias, gradient), flops=3 * flops)


def vector(inputs: Inputs, n: int, k: int, transposed: bool = True) -> Work:
    """(1, k) times k x n, whose n rows of k lie in memory where `transposed` (a layer's weights): bound by memory."""
    x = inputs.normal(1, k)
    weights = inputs.normal(n, k).t() if transposed else inputs.normal(k, n)
    return Work(lambda: x @ weights, (x, weights), bytes=weights.numel() * weights.element_size())


def vector_int8(inputs: Inputs, n: int, k: int) -> Work:
    """A layer on one row with its weights (n, k) in int8, a scale a row."""
    x, scales = inputs.normal(1, k), inputs.normal(n)
    weights = inputs.integers(-128, 128, n, k, dtype=torch.int8)
    return Work(
        lambda: torch.ops.aten._weight_int8pack_mm(x, weights, scales), (x, weights), bytes=float(weights.numel())
    )


def int8(inputs: Inputs, m: int, n: int, k: int) -> Work:
    """To int32; B transposed, the form that CUDA takes fastest."""
    a = inputs.integers(-128, 128, m, k, dtype=torch.int8)
    b = inputs.integers(-128, 128, n, k, dtype=torch.int8).t()
    return Work(lambda: torch._int_mm(a, b), (a, b), flops=2.0 * m * n * k)


_HEAD = (8192, 50257, 768)
_TRANSPOSED = {
    "A @ B^T": {"right": "T"},
    "A^T @ B": {"left": "T"},
    "A^T @ B^T": {"left": "T", "right": "T"},
}

CASES = (
    *(Case(f"f32 {n}", product, (n, n, n)) for n in (1024, 4096, 8192)),
    *(Case(f'f32 4096, "{p}"', product, (4096,) * 3, precision=p) for p in ("high", "medium")),
    *(Case(f"{dtype} {n}", product, (n, n, n), dtype) for dtype in ("f16", "bf16") for n in (1024, 4096, 8192)),
    *(
        Case(f"{dtype} 4096, {name}", product, (4096,) * 3, dtype, options)
        for dtype in ("f32", "bf16")
        for name, options in _TRANSPOSED.items()
    ),
    *(Case(f"{dtype} 8192x50257x768, A @ B^T", product, _HEAD, dtype, {"right": "T"}) for dtype in ("f32", "bf16")),
    *(
        case
        for dtype in ("f32", "bf16")
        for case in both_passes(f"{dtype} linear 8192x3072x768", linear, (8192, 3072, 768), dtype)
    ),
    *(Case(f"{dtype} batched 96x1024x64x1024", batched, (96, 1024, 64, 1024), dtype) for dtype in ("f32", "f16")),
    Case("f16 batched 96x1024x1024x64", batched, (96, 1024, 1024, 64), "f16"),
    *(Case(f"{dtype} 16x4096x4096", product, (16, 4096, 4096), dtype) for dtype in ("f32", "f16", "bf16")),
    *(Case(f"{dtype} vector, weights 4096x16384", vector, (4096, 16384), dtype) for dtype in ("f32", "bf16")),
    Case("bf16 vector times matrix 4096x16384", vector, (16384, 4096), "bf16", {"transposed": False}),
    Case("bf16 vector, int8 weights 4096x16384", vector_int8, (4096, 16384), "bf16"),
    Case("int8 4096", int8, (4096,) * 3),
)
