"""Operators on tensors of the sparse layouts: torch's own kernels where they touch no memory, ours for the rest.

Most of torch's kernels for sparse tensors only rearrange the tensors of indices and values by other operators.
Registered for the CPU's sparse tensors, they hold for any device's. Which do is told by name, since a kernel that
reads memory would read the device's as the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from portable_mps.dispatch.registry import register, register_sparse, register_sparse_fallback

_NUMBERS = (bool, int, float, complex)
_COMPOSITIONS = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")


def _run(op: torch._ops.OpOverload, keys: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
    """The kernel that torch has for another backend."""
    # Numbers that stand for tensors come as such to Python.
    given = zip(args, op._schema.arguments, strict=False)
    args = tuple(torch.tensor(a) if isinstance(a, _NUMBERS) and str(s.type) == "Tensor" else a for a, s in given)
    return op.redispatch(keys, *args, **kwargs)


def _overload(name: str) -> torch._ops.OpOverload:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def taken(functionality: str, name: str) -> Callable[..., Any]:
    """The CPU's kernel of one operator for tensors of this functionality, or for dense ones (""), to be called."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, functionality + "CPU"))
    return lambda *args, **kwargs: _run(_overload(name), keys, *args, **kwargs)


def take_for_dense(names: Iterable[str]) -> None:
    """Make the CPU's kernels of these operators, which make sparse tensors of dense ones, those of `mps`."""
    for name in names:
        register(name, taken("", name))


def take(functionality: str, names: Iterable[str]) -> None:
    """Make the CPU's kernels of these operators those of `mps` for one `functionality`: "Sparse" or "SparseCsr".

    Operators that are neither among them nor registered raise NotImplementedError.
    """
    kernels = {name: taken(functionality, name) for name in names}

    def without_kernel(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
        name = op.name()
        kernel = kernels.get(name.removeprefix("aten::"))
        if kernel is not None:
            return kernel(*args, **kwargs)
        layout = "sparse" if functionality == "Sparse" else "sparse compressed"
        raise NotImplementedError(f"The operator '{name}' is not implemented for {layout} tensors on the MPS device.")

    register_sparse_fallback(functionality, without_kernel)
    for name, kernel in kernels.items():  # a fallback comes after torch's compositions of dense operators
        if any(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key) for key in _COMPOSITIONS):
            register_sparse(functionality, name, kernel)


def sparse(functionality: str, *names: str) -> Callable[[Any], Any]:
    """Decorator: the kernel of these operators for tensors of one functionality, as in `take`."""

    def decorate(function: Any) -> Any:
        for name in names:
            register_sparse(functionality, name, function)
        return function

    return decorate
