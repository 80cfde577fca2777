"""Operators on tensors that are more than one array: sparse, quantised. torch's own kernels where they touch no
memory, ours for the rest.

A functionality is torch's name for what a tensor is made of: "Sparse" for the coordinate form, "SparseCsr" for all
compressed forms, "Quantized". Most of torch's kernels for them only rearrange the dense tensors underneath, by other
operators: those of the CPU hold for any device. Which do is told by name, since a kernel that reads memory would read
the device's as the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch import registry


def take(functionality: str, names: Iterable[str]) -> None:
    """Make the CPU's kernels of these operators those of `mps` for one functionality."""
    for name in names:
        _C.take_kernel(functionality, name)


def take_for_dense(names: Iterable[str]) -> None:
    """Make the CPU's kernels of these operators, which make such tensors of dense ones, those of `mps`."""
    for name in names:
        registry.reserve(name, "the kernel of torch's CPU")
        _C.take_kernel("", name)


def taken(functionality: str, op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The CPU's kernel of one operator for tensors of this functionality, to be called."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, functionality + "CPU"))
    return lambda *args, **kwargs: op.redispatch(keys, *args, **kwargs)


def implements_for(functionality: str, *names: str) -> Callable[[Any], Any]:
    """Decorator: the kernel of these operators for tensors of one functionality; it takes their schema's arguments."""

    def decorate(function: Any) -> Any:
        for name in names:
            _C.implement_kernel(functionality, name, function)
        return function

    return decorate
