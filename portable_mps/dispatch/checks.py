"""Checks of values on the device: what is wrong raises at the next synchronisation, so that the host need not wait."""

from __future__ import annotations

import torch

from portable_mps.dispatch.strided import Linear
from portable_mps.runtime import device

_report = Linear("checks", "report", "QQxI")


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
