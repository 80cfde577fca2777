"""Operators on tensors that are more than one array: sparse, quantised. torch's own kernels where they touch no
memory, ours for the rest.

A functionality is torch's name for what a tensor is made of: "Sparse" for the coordinate form, "SparseCsr" for all
compressed forms, "Quantized". Most of torch's kernels for them only rearrange the dense tensors underneath, by other
operators: those of the CPU hold for any device. Which do is told by name, since a kernel that reads memory would read
the device's as the host's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch import registry

FACTORIES = {
    # name, and whether the CPU's kernel holds
    "Sparse": {"_sparse_coo_tensor_with_dims": True, "empty.memory_format": True},
    "SparseCsr": {"_sparse_compressed_tensor_with_dims": False, "empty.memory_format": True},
    "Quantized": {"_empty_affine_quantized": False},
}
"""Operators that make such a tensor of none: they can be a process's first call (dispatch/first.py)."""
_functions: dict[tuple[str, str], Callable[..., Any]] = {}  # of the FACTORIES that are ours


def register_first(functionality: str) -> None:
    """Register the factories of one functionality."""
    for name, is_taken in FACTORIES[functionality].items():
        if is_taken:
            _C.take_kernel(functionality, name)
        else:
            find = functools.partial(_functions.__getitem__, (functionality, name))
            _C.implement_kernel(functionality, name, registry.once_loaded(find))


def take(functionality: str, names: Iterable[str]) -> None:
    """Make the CPU's kernels of these operators those of `mps` for one functionality."""
    for name in names:
        if name not in FACTORIES[functionality]:
            _C.take_kernel(functionality, name)


def take_for_dense(names: Iterable[str]) -> None:
    """Make the CPU's kernels of these operators, which make such tensors of dense ones, those of `mps`."""
    for name in names:
        if registry.reserve(name, "the kernel of torch's CPU"):
            _C.take_kernel("", name)


def taken(functionality: str, op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The CPU's kernel of one operator for tensors of this functionality, to be called."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, functionality + "CPU"))
    return lambda *args, **kwargs: op.redispatch(keys, *args, **kwargs)


def implements_for(functionality: str, *names: str) -> Callable[[Any], Any]:
    """Decorator: the kernel of these operators for tensors of one functionality; it takes their schema's arguments."""

    def decorate(function: Any) -> Any:
        for name in names:
            if name in FACTORIES[functionality]:
                _functions[functionality, name] = function
            else:
                _C.implement_kernel(functionality, name, function)
        return function

    return decorate
