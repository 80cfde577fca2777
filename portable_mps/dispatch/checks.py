"""Checks of values on the device: what is wrong raises at the next synchronisation, so that the host need not wait."""

from __future__ import annotations

import cmath

import torch

from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.strided import Linear
from portable_mps.runtime import device

FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))
COMPLEX = frozenset((torch.complex32, torch.complex64, torch.complex128))

_report = Linear("checks", "report", "QQxI")


def require_dtype(name: str, tensor: torch.Tensor, dtypes: frozenset[torch.dtype]) -> None:
    """NotImplementedError for other dtypes than these, in the words of torch's CPU kernel `name`."""
    if tensor.dtype not in dtypes:
        raise NotImplementedError(f"\"{name}\" not implemented for '{scalar_type(tensor.dtype)}'")


def number_of(value: complex, dtype: torch.dtype) -> torch.Tensor:
    """A number as a CPU tensor without dimensions. RuntimeError where it does not fit the dtype, as torch's kernels.

    torch's own conversion of one element refuses integers only.
    """
    is_checked = dtype.is_floating_point or dtype in (torch.complex64, torch.complex128)
    if is_checked and cmath.isfinite(value):
        number = complex(value)
        if max(abs(number.real), abs(number.imag)) > torch.finfo(dtype).max:
            raise RuntimeError(f"value cannot be converted to type {dtype} without overflow")
    return torch.full((), value, dtype=dtype, device="cpu")


def raise_where(flags: torch.Tensor, message: str, kind: type[Exception] = RuntimeError) -> None:
    """Raise kind(message) at the next synchronisation if any element of the boolean tensor is true.

    message may use {index}, the place of such an element.
    """
    if flags.numel():
        flags = flags.contiguous()
        errors = device.current().errors
        arguments = (flags, errors.address, flags.numel(), errors.arm(message, kind))
        _report(flags.numel(), arguments, (flags,), ())


def refuse_zeros(divisor: torch.Tensor) -> None:
    """The error of the CPU's integer divisions."""
    raise_where(divisor == 0, "ZeroDivisionError")
