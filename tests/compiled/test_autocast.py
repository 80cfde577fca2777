"""torch.compile within torch.autocast, against eager."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

Function = Callable[..., torch.Tensor]

# What Inductor calls by name, with images, weights and square matrices.
CALLS: dict[str, Function] = {
    "conv2d": lambda x, w: F.conv2d(x, w),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w),
    "mm": lambda x, w: x[0, 0] @ x[1, 1],
    "bmm": lambda x, w: x @ x.mT,
    "linear": lambda x, w: F.linear(x, x[0, 0], x[0, 0, 0]),
    "attention": lambda x, w: F.scaled_dot_product_attention(x, x, x),
    "einsum": lambda x, w: torch.einsum("bchw,bchv->bcwv", x, x),
    "chain": lambda x, w: F.conv2d(x, w).relu().flatten(2) @ x[0, 0, :7, :4].repeat(7, 1),
}


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 8, 9, 9, device="mps"), torch.randn(8, 8, 3, 3, device="mps")


def _same(function: Function, *arguments: torch.Tensor) -> None:
    expected, result = function(*arguments), torch.compile(function)(*arguments)
    assert result.dtype == expected.dtype
    assert_close(result, expected, rtol=1e-2 if result.dtype == torch.bfloat16 else 1e-4, atol=1e-3)


@pytest.mark.parametrize("name", CALLS)
def test_a_region_without_autocast_stays_in_float32(name: str) -> None:
    call = CALLS[name]

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.autocast("mps", enabled=False):
            return call(x, w)

    with torch.autocast("mps", dtype=torch.bfloat16):
        _same(function, *_inputs())


@pytest.mark.parametrize("name", CALLS)
def test_autocast_within_and_around(name: str) -> None:
    call = CALLS[name]

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.autocast("mps", dtype=torch.bfloat16):
            return call(x, w)

    _same(function, *_inputs())
    with torch.autocast("mps", dtype=torch.bfloat16):
        _same(call, *_inputs())
    _same(call, *_inputs())  # the same code without it


def test_a_backward_pass_within_autocast_is_in_float32() -> None:
    x, _ = _inputs()
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 49, 4)).to("mps")
    gradients = []
    for compiles in (False, True):
        twin = copy.deepcopy(model)
        out = (torch.compile(twin) if compiles else twin)(x)
        with torch.autocast("mps", dtype=torch.bfloat16, enabled=compiles):  # eager's products would be cast
            out.sum().backward()
        gradients.append([p.grad for p in twin.parameters()])
    for expected, result in zip(*gradients, strict=True):
        assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_dtypes_of_autocast_have_graphs_of_their_own() -> None:
    @torch.compile
    def product(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    x = torch.randn(8, 8, device="mps")
    settings = [(False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float16), (False, torch.float16)]
    for enabled, dtype in settings:
        with torch.autocast("mps", dtype=dtype, enabled=enabled):
            assert product(x).dtype == (dtype if enabled else torch.float32)
