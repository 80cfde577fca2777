"""Which dtypes the CPU has for an operator: asked of the CPU itself, with two elements, before a kernel is compiled.

So the device takes the dtypes that the CPU takes, and refuses others in the CPU's words, without a list of ours.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

from portable_mps.dispatch import registry


def refuse_as_cpu(name: str, *dtypes: torch.dtype, out: tuple[torch.dtype, ...] = (), empty: bool = False) -> None:
    """Raise the CPU's exception where it does not take tensors of these dtypes for ATen operator `name`.

    dtypes are those of the schema's tensors in order, the last one also of all that follow; out those of its outputs.
    empty: of tensors without elements, which some operators do not look at.
    """
    refusal = _refusal(name, dtypes, out, empty)
    if refusal is not None:
        kind, message = refusal
        raise kind(message)


@functools.cache
def _refusal(
    name: str, dtypes: tuple[torch.dtype, ...], outputs: tuple[torch.dtype, ...], empty: bool
) -> tuple[type[Exception], str] | None:
    """The type and words of what the CPU raises for the dtypes, None for what it raises whatever they are."""
    error = _attempt(name, dtypes, outputs, empty)
    if isinstance(error, NotImplementedError):
        return NotImplementedError, str(error).replace("_cpu", "_mps").replace("CPU", "MPS")
    if error is None or len({*dtypes, *outputs}) > 1:  # how dtypes go together is said elsewhere
        return None
    usual = _attempt(name, (torch.float32,) * len(dtypes), (torch.float32,) * len(outputs), empty)
    return (type(error), str(error)) if usual is None else None


def _attempt(
    name: str, dtypes: tuple[torch.dtype, ...], outputs: tuple[torch.dtype, ...], empty: bool
) -> Exception | None:
    """What the CPU raises, called with ones."""
    base, _, overload = name.partition(".")
    schema = registry.schema(name)
    waiting, results = list(dtypes), list(outputs)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in schema.arguments:
        kind = str(argument.type)
        value: Any
        if argument.is_out:
            value = torch.empty(0, dtype=results.pop(0) if results else dtypes[0])
        elif kind == "Tensor":
            # Two ones: a matrix's row, numbers, and indices that lie inside.
            value = torch.ones(0 if empty else 2, dtype=waiting.pop(0) if len(waiting) > 1 else waiting[0])
        elif kind in ("Optional[number]", "number"):
            value = 1
        elif argument.has_default_value():
            value = argument.default_value
        else:
            value = None if kind.startswith("Optional") else {"int": 0, "bool": False, "List[int]": [0]}.get(kind, 1)
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    operator = getattr(getattr(torch.ops.aten, base), overload or "default")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            operator(*positional, **keywords)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        return error
    return None
