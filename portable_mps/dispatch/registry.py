"""Registration of operators with torch's dispatcher: the only caller of torch.library.

Elementwise rows are registered by C++ (csrc/pointwise.cpp) and noted here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_library = torch.library.Library("aten", "IMPL", "MPS")
_autograd_library = torch.library.Library("aten", "IMPL", "AutogradMPS")
_others: dict[tuple[str, str], torch.library.Library] = {}
registered: dict[str, Any] = {}
"""What implements each operator, a function or a row, by its ATen name with overload."""


def reserve(name: str, implementation: Any) -> None:
    """Note that ATen operator `name` ("add.out") has this implementation. Raises for a second one."""
    if name in registered:
        raise RuntimeError(f"aten::{name} is registered twice")
    registered[name] = implementation


def register(name: str, function: Callable[..., Any]) -> None:
    """Make `function` the `mps` kernel of ATen operator `name`. Raises for a second registration."""
    reserve(name, function)
    _library.impl(name, _untraced(function) if name in _RECORDED_BY_HAND else function)


# torch.jit.trace leaves its recording on inside these: sizes would be tensors there, and our steps part of the graph.
_RECORDED_BY_HAND = {"_local_scalar_dense", "equal"}


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        state: Any = torch._C._get_tracing_state()
        if state is None:
            return function(*args, **kwargs)
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return function(*args, **kwargs)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]

    return call


def register_composite(name: str, function: Callable[..., Any]) -> None:
    """Replace a composite operator: `function` calls differentiable operators, so it serves above autograd too."""
    register(name, function)
    _autograd_library.impl(name, function)


def implements(*names: str) -> Callable[[Function], Function]:
    """Decorator: the function is the `mps` kernel of these operators; it takes their schema's arguments."""

    def decorate(function: Function) -> Function:
        for name in names:
            register(name, function)
        return function

    return decorate


def register_for(library: str, name: str, function: Callable[..., Any], key: str = "MPS") -> None:
    """Make `function` the kernel of an operator that another library defines ("torchvision", "nms") for a dispatch key.

    The library must have been imported. RuntimeError for an operator it does not define.
    """
    torch._C._get_schema(f"{library}::{name}", "")
    if (library, key) not in _others:
        _others[library, key] = torch.library.Library(library, "IMPL", key)
    _others[library, key].impl(name, function)


def schema(name: str) -> torch._C.FunctionSchema:
    """The schema of ATen operator `name`, without loading torch.ops' wrappers."""
    base, _, overload = name.partition(".")
    return torch._C._get_schema(f"aten::{base}", overload)
