"""Functions of others with other answers to what they ask of the modules around them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any


class Answering:
    """A module or class with other answers to some questions."""

    def __init__(self, asked: Any, **answers: Any) -> None:
        self.__dict__.update(answers, _asked=asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asked, name)


def rescoped(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """The same code with other values for some of its global names."""
    scope = function.__globals__ | names
    made = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(made, function)
