"""What happens with an operator that has no kernel of its own.

In this order: the CPU with a warning for those in ON_CPU, torch's decomposition of it (torch._decomp), its functional
form for a form that writes, the CPU with a warning when the user asked for that, and a clear error. Only the schemas of
aten are trusted to tell what an operator writes: those of other namespaces never go to the CPU.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from portable_mps import settings
from portable_mps.dispatch import registry
from portable_mps.dispatch.strided import on_device

fallen_back: dict[str, int] = {}
"""How often each operator ran on the CPU in this process."""

_SERIAL = "the eigenvalues of a general matrix come of one long chain of small steps, which LAPACK does best"
ON_CPU = {
    "aten::linalg_eig": _SERIAL,
    "aten::linalg_eig.out": _SERIAL,
    "aten::_linalg_eigvals": _SERIAL,
    "aten::linalg_eigvals.out": _SERIAL,
}
"""Operators that run on the CPU without being asked to, and why."""

_OF_FINITE = {"aten::_linalg_eigvals", "aten::linalg_eigvals.out"}
"""What may end the process in LAPACK for other numbers; torch asks so for linalg.eig alone."""

_ERROR = (
    "The operator '{name}' is not currently implemented for the MPS device. If you want this op to be considered for "
    "addition please open an issue of portable-mps. As a temporary fix, you can set the environment variable "
    "`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this will be slower than "
    "running natively on MPS."
)
_ERROR_OF_OTHERS = (
    "The operator '{name}' has no kernel for the MPS device. PYTORCH_ENABLE_MPS_FALLBACK does not run operators from "
    "outside aten on the CPU, as their schemas need not say what they write. Call it with CPU tensors, or register a "
    "kernel for 'mps' (torch.library.register_kernel)."
)
_WARNING = (
    "The operator '{name}' is not currently supported on the MPS backend and will fall back to run on the CPU. This "
    "may have performance implications."
)
_WARNING_WITH_REASON = "The operator '{name}' runs on the CPU, and its tensors are copied there and back: {reason}."


class _Running(threading.local):
    """Operators whose decomposition this thread is in: some of torch's lead back to the operator itself."""

    def __init__(self) -> None:
        self.ops: set[torch._ops.OpOverload] = set()


_running = _Running()


def without_kernel(op: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run op in another way, as above; NotImplementedError where there is none."""
    if op.name().removeprefix("aten::") in registry.registered:  # it was the call that had the operators registered
        return op(*args, **kwargs)
    for argument in op._schema.arguments:
        output = kwargs.get(argument.name) if argument.is_out else None
        if isinstance(output, torch.Tensor):
            on_device(output)
    run = None if op in _running.ops or op.name() in ON_CPU else _decomposed(op)
    if run is None:
        return _on_cpu(op, args, kwargs)
    _running.ops.add(op)
    try:
        return run(*args, **kwargs)
    finally:
        _running.ops.discard(op)


@functools.cache
def _decomposed(op: torch._ops.OpOverload) -> Callable[..., Any] | None:
    """A function of op's arguments that runs other operators in its place; None where torch has none."""
    from torch._decomp import decomposition_table  # 0.5 s: only when needed

    outputs = [a.name for a in op._schema.arguments if a.is_out]
    if op in decomposition_table:
        function = decomposition_table[op]
        # Registered for all overloads of the name, also where the function takes no out=.
        if all(name in inspect.signature(function).parameters for name in outputs):
            return function
    functional = _functional(op)
    if functional is None or not _is_available(functional):
        return None
    return (
        functools.partial(_into_outputs, functional, outputs) if outputs else functools.partial(_into_self, functional)
    )


def _functional(op: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The overload with the arguments of an out= or in-place operator that returns new tensors."""
    packet = op._schema.name.removeprefix("aten::")
    written = [a for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if not written or not op.name().startswith("aten::"):
        return None
    if not written[0].is_out:
        packet = packet.removesuffix("_")
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments if not a.is_out]
    candidates = getattr(torch.ops.aten, packet, None)
    for name in candidates.overloads() if candidates is not None else ():
        candidate = getattr(candidates, name)
        arguments = [(a.name, str(a.type)) for a in candidate._schema.arguments]
        if not candidate._schema.is_mutable and arguments == wanted:
            return candidate
    return None


def _is_available(op: torch._ops.OpOverload) -> bool:
    from torch._decomp import decomposition_table

    return op.name().removeprefix("aten::") in registry.registered or op in decomposition_table


def _into_outputs(functional: torch._ops.OpOverload, names: list[str], *args: Any, **kwargs: Any) -> Any:
    outputs = [kwargs.pop(name) for name in names]
    results = functional(*args, **kwargs)
    for output, result in zip(outputs, results if isinstance(results, tuple) else (results,), strict=True):
        if not torch.can_cast(result.dtype, output.dtype):
            raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {output.dtype}")
        torch._prims_common.wrappers._maybe_resize_out(output, result.shape)
        output.copy_(result)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _into_self(functional: torch._ops.OpOverload, self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self.copy_(functional(self, *args, **kwargs))


def _layout(tensor: torch.Tensor) -> tuple[torch.Size, tuple[int, ...]] | None:
    """Shape and strides, where a tensor has them."""
    return (tensor.shape, tensor.stride()) if tensor.layout == torch.strided and not tensor.is_nested else None


def _on_cpu(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Copy the tensors over, run, copy what was written back and the results to the device."""
    name = op.name()
    if not name.startswith("aten::"):
        raise NotImplementedError(_ERROR_OF_OTHERS.format(name=name))
    reason = ON_CPU.get(name)
    if reason is None and not settings.fallback_enabled():
        raise NotImplementedError(_ERROR.format(name=name))
    if name not in fallen_back:
        text = _WARNING if reason is None else _WARNING_WITH_REASON
        warnings.warn(text.format(name=name, reason=reason), UserWarning, stacklevel=2)
    fallen_back[name] = fallen_back.get(name, 0) + 1

    schema = op._schema
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        raise NotImplementedError(f"'{name}' returns a view, which the CPU cannot make of an MPS tensor")
    moved: dict[int, torch.Tensor] = {}

    def to_cpu(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.device.type == "mps":
            if id(value) not in moved:
                moved[id(value)] = value.cpu()
            return moved[id(value)]
        if isinstance(value, torch.device) and value.type == "mps":
            return torch.device("cpu")
        return value

    cpu_args, cpu_kwargs = pytree.tree_map(to_cpu, (args, kwargs))
    if name in _OF_FINITE and not cpu_args[0].isfinite().all():
        raise RuntimeError("torch.linalg.eigvals: input tensor should not contain infs or NaNs.")
    layouts = {key: _layout(tensor) for key, tensor in moved.items()}
    results = op(*cpu_args, **cpu_kwargs)

    originals = {id(moved[id(v)]): v for v in pytree.tree_leaves((args, kwargs)) if id(v) in moved}
    named = {**dict(zip((a.name for a in schema.arguments), args, strict=False)), **kwargs}
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name in named:
            for original in pytree.tree_leaves(named[argument.name]):
                if isinstance(original, torch.Tensor) and id(original) in moved:
                    updated = moved[id(original)]
                    if layouts[id(original)] != _layout(updated):
                        original.resize_(updated.shape).as_strided_(updated.shape, updated.stride())
                    original.copy_(updated)

    def to_mps(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return originals[id(value)] if id(value) in originals else value.to("mps")
        return value

    return pytree.tree_map(to_mps, results)
