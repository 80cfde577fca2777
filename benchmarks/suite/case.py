"""A case of the suite: which operator, on what shapes, and how much work a call is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i64": torch.int64}
_SMALLEST = 4  # sizes are not scaled below it


class Inputs:
    """Makes the tensors of a case on a device, floating-point ones in the case's dtype unless told otherwise."""

    def __init__(self, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = DTYPES[dtype]

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype)

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def leaf(self, *shape: int) -> torch.Tensor:
        """As `normal`, with a gradient asked for."""
        return self.normal(*shape).requires_grad_()

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """From low to high - 1."""
        return torch.randint(low, high, shape, device=self.device, dtype=dtype)


@dataclass
class Work:
    """What one call does.

    operands: the tensors that it reads, whose size decides how many sets of them are rotated.
    flops, bytes: of a call, at least one of them 0; bytes count what must be read and written at least.
    is_host: measure the time until the call returns, not the device's.
    """

    call: Callable[[], object]
    operands: tuple[torch.Tensor, ...] = ()
    flops: float = 0.0
    bytes: float = 0.0
    is_host: bool = False

    @property
    def operand_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.operands)


@dataclass(frozen=True)
class Case:
    """A row: `build(inputs, *sizes, **options)` makes the Work of one set of operands.

    precision: what torch.set_float32_matmul_precision is set to on mps; the reference keeps "highest".
    tf32: whether CUDA's float32 convolutions may round to TF32; nothing on mps.
    """

    name: str
    build: Callable[..., Work]
    sizes: tuple[int, ...] = ()
    dtype: str = "f32"
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "highest"
    tf32: bool = False

    def work(self, device: str, scale: float) -> Work:
        """One set of operands, and the call on them, with sizes for `scale` times the work."""
        return self.build(Inputs(device, self.dtype), *scaled(self.sizes, scale), **self.options)


def scaled(sizes: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """Sizes whose product is about `scale` times as large: the largest is halved as often as that takes."""
    result, wanted = list(sizes), math.prod(sizes) * scale
    while math.prod(result) > wanted and max(result) > _SMALLEST:
        k = result.index(max(result))
        result[k] //= 2
    return tuple(result)


def both_passes(
    name: str,
    build: Callable[..., Work],
    sizes: tuple[int, ...],
    dtype: str = "f32",
    options: dict[str, Any] | None = None,
) -> tuple[Case, Case]:
    """The forward pass alone, and with its backward pass, as `build` takes it by the option `backward`."""
    forward, both = (
        Case(name + words, build, sizes, dtype, {**(options or {}), "backward": backward})
        for words, backward in (("", False), (" with backward", True))
    )
    return forward, both


def with_backward(forward: Callable[[], torch.Tensor], leaves: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    """A call of `forward` and of its backward pass for `leaves`, under a gradient made once."""
    gradients: list[torch.Tensor] = []

    def call() -> object:
        output = forward()
        if not gradients:
            gradients.append(torch.ones_like(output))
        return torch.autograd.grad(output, leaves, gradients[0])

    return call
