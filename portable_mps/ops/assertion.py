"""Assertions on values that the device holds: they raise at the next synchronisation, so that nothing waits."""

from __future__ import annotations

import torch

from portable_mps.dispatch.checks import raise_where
from portable_mps.dispatch.registry import implements


@implements("_assert_async", "_assert_async.msg")
def assert_async(
    self: torch.Tensor, assert_msg: str = "Expected Tensor with single nonzero value, but got zero"
) -> None:
    """RuntimeError with the message at the next synchronisation where the only element of self is zero, or now for
    more."""
    if self.numel() != 1:
        kind = "no values is" if self.numel() == 0 else "more than one value is"
        raise RuntimeError(f"Boolean value of Tensor with {kind} ambiguous")
    raise_where((self == 0).view(1), assert_msg.replace("{", "{{").replace("}", "}}"))


@implements("_functional_assert_async.msg")
def functional_assert_async(self: torch.Tensor, assert_msg: str, dep_token: torch.Tensor) -> torch.Tensor:
    """`assert_async`; a copy of `dep_token`, which keeps the order in a graph."""
    assert_async(self, assert_msg)
    return dep_token.clone()
