"""Comparison of the device against torch on the CPU, shared by every test of operators."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map

import portable_mps
from portable_mps import _C, settings
from portable_mps.runtime import adapter, kernel

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# torch.testing's own defaults; half types are compared with a float32 reference rounded once.
TOLERANCES = {
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-3},
    torch.float32: {"rtol": 1.3e-6, "atol": 1e-5},
    torch.float64: {"rtol": 1e-7, "atol": 1e-7},
}


_OPERATORS = str(Path(portable_mps.__file__).parent / "ops")
_REFUSALS = {
    "float64": ("Cannot convert a MPS Tensor to float64 dtype", "Trying to convert ComplexDouble to the MPS backend"),
    "int64_atomics": ("needs 64-bit atomics",),
    "float16": ("Trying to use torch.float16 on the MPS device", "Trying to use torch.complex32 on the MPS device"),
}


# Operators of ours whose result, or what torch keeps beside it, is float64 by torch's rules or the caller's wish.
_RESULTS_IN_FLOAT64 = {
    "_kaiser_window",
    "bincount",
    "empty_by_channel",
    "nansum",
    "prod",
    "quantize_per_channel",
    "scaled_mm",
}


def hidden_in(text: str) -> str | None:
    """The feature that PORTABLE_MPS_HIDE hides, if the device refuses it in this text."""
    hidden = (feature for feature in settings.hidden() if any(t in text for t in _REFUSALS.get(feature, ())))
    return next(hidden, None)


def hidden_need(problem: BaseException) -> str | None:
    """`hidden_in` what a test ended with; not where one of our operators made float64 for itself, which is a fault."""
    feature = hidden_in(str(problem))
    ours = [f.name for f in traceback.extract_tb(problem.__traceback__) if f.filename.startswith(_OPERATORS)]
    is_fault = feature == "float64" and bool(ours) and not _RESULTS_IN_FLOAT64 & set(ours)
    return None if is_fault else feature


def skip_without_float64(why: str) -> None:
    """For a test of digits that kernels have by computing in float64, where the adapter has it."""
    if not adapter.choose().features["float64"]:
        pytest.skip(f"the adapter has no float64: {why}")


def denormal() -> float:
    """A float32 denormal number where the driver keeps them; Vulkan lets it flush them to zero (docs/numerics.md), and
    then the smallest normal one."""
    return 1e-40 if (torch.tensor(1e-40, device="mps") * 2).item() != 0 else 1.2e-38


def to_mps(value: Any) -> Any:
    """The same nest of arguments on the device; tensors that require grad stay leaves."""
    return tree_map(lambda v: _move(v) if isinstance(v, torch.Tensor) else v, value)


def _move(tensor: torch.Tensor) -> torch.Tensor:
    moved = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="mps")
    moved = moved.copy_(tensor.detach()) if not _overlapping(tensor) else tensor.detach().to("mps")
    return moved.requires_grad_(tensor.requires_grad)


def _overlapping(tensor: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(tensor.size(), tensor.stride(), strict=True))


def assert_same(actual: Any, expected: Any, **tolerance: Any) -> None:
    """Same nest, shapes, dtypes and (to `tolerance`, torch's default for the dtype) values; actual is on the device."""
    actual_leaves, expected_leaves = tree_flatten(actual)[0], tree_flatten(expected)[0]
    assert len(actual_leaves) == len(expected_leaves)
    for mine, reference in zip(actual_leaves, expected_leaves, strict=True):
        if isinstance(reference, torch.Tensor):
            assert mine.device.type == "mps", f"the result is on {mine.device}"
            limits = {**TOLERANCES.get(reference.dtype, {}), **tolerance}
            torch.testing.assert_close(mine.detach().cpu(), reference.detach(), equal_nan=True, **limits)
        else:
            assert mine == reference


def compare(function: Callable[..., Any], *arguments: Any, grad: bool = False, **tolerance: Any) -> None:
    """function(*arguments) on the device must equal it on the CPU; with `grad`, the gradients too.

    Arguments are CPU values. With `grad`, every floating-point tensor among them gets a gradient, for a fixed
    pseudo-random cotangent of each floating-point output.
    """
    if grad:
        arguments = tree_map(
            lambda v: (
                v.detach().clone().requires_grad_() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
            ),
            arguments,
        )
    on_device = to_mps(arguments)
    expected, actual = function(*arguments), function(*on_device)
    assert_same(actual, expected, **tolerance)
    if grad:
        outputs = [o for o in tree_flatten(expected)[0] if isinstance(o, torch.Tensor) and o.requires_grad]
        mine = [o for o in tree_flatten(actual)[0] if isinstance(o, torch.Tensor) and o.requires_grad]
        generator = torch.Generator().manual_seed(0)
        cotangents = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
        leaves = [a for a in tree_flatten(arguments)[0] if isinstance(a, torch.Tensor) and a.requires_grad]
        device_leaves = [a for a in tree_flatten(on_device)[0] if isinstance(a, torch.Tensor) and a.requires_grad]
        expected_grads = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
        actual_grads = torch.autograd.grad(mine, device_leaves, [c.to("mps") for c in cotangents], allow_unused=True)
        for have, want in zip(actual_grads, expected_grads, strict=True):
            assert (have is None) == (want is None)
            if want is not None:
                assert_same(have, want, **tolerance)


@functools.cache
def _front_end() -> _C.FrontEnd:
    return _C.FrontEnd(kernel.front_end_options("sm_6_4"))


def spirv_of(source: str, entry: str) -> bytes:
    """A kernel's SPIR-V for a GPU, parameters pushed; RuntimeError with Slang's words."""
    return _front_end().compile(f"#define PARAMS uniform Params\n{source}", entry)


def compare_with_float64(function: Callable[..., torch.Tensor], *arguments: torch.Tensor, units: float) -> None:
    """function(*arguments) and its gradients on the device against the CPU's in float64: within so many units in the
    last place of each result's largest value."""
    results = []
    for inputs in (to_mps(arguments), [a.double() for a in arguments]):
        leaves = [a.requires_grad_() for a in inputs]
        out = function(*leaves)
        cotangent = torch.linspace(-1, 1.5, out.numel(), dtype=torch.float64).view(out.shape)
        cotangent = cotangent.to(arguments[0].dtype).to(out.dtype).to(out.device)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, cotangent)))
    for have, want in zip(*results, strict=True):
        close = units * torch.finfo(have.dtype).eps * want.abs().max().item()
        torch.testing.assert_close(have.cpu().double(), want, rtol=0.0, atol=close)
