"""A function compiled on the device against the same in eager mode there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiled.corpus import CASES


def _moved(value: Any) -> Any:
    """A host's scalar stays there."""
    return value.to("mps") if isinstance(value, torch.Tensor) and value.dim() else value


def _results(function: Callable[..., Any], inputs: tuple[Any, ...], gradients: bool) -> list[Any]:
    arguments = [
        t.detach().clone().requires_grad_(gradients and t.is_floating_point()) if isinstance(t, torch.Tensor) else t
        for t in inputs
    ]
    torch.manual_seed(0)
    outputs = pytree.tree_leaves(function(*arguments))
    if not gradients:
        return outputs
    leaves = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]
    sums = [t.float().square().sum() for t in outputs if isinstance(t, torch.Tensor) and t.requires_grad]
    return outputs + list(torch.autograd.grad(sum(sums), leaves, allow_unused=True))


def assert_as_eager(name: str, dynamic: bool) -> None:
    """Raise AssertionError where a result or a gradient of the corpus's function differs."""
    function, inputs, gradients, tolerance = CASES[name]
    arguments = tuple(map(_moved, inputs(torch.Generator().manual_seed(1))))
    torch._dynamo.reset()
    expected = _results(function, arguments, gradients)
    actual = _results(torch.compile(function, dynamic=dynamic), arguments, gradients)
    torch.mps.synchronize()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    for mine, theirs in zip(actual, expected, strict=True):
        if isinstance(mine, torch.Tensor):
            assert mine.stride() == theirs.stride() or mine.numel() < 2, (mine.stride(), theirs.stride())
