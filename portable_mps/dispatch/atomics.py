"""Adapters without 64-bit atomics: what adds up elements of 64 bits there goes in order, or says what it lacks."""

from __future__ import annotations

import torch

from portable_mps.runtime import device


def has_for(dtype: torch.dtype) -> bool:
    """Whether threads can combine elements of `dtype` that lie in memory; complex numbers are combined by parts."""
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return width < 8 or device.current().adapter.features["int64_atomics"]


def require(name: str, dtype: torch.dtype) -> None:
    """NotImplementedError for the operator `name`, which has no other way, where the adapter cannot."""
    if not has_for(dtype):
        adapter = device.current().adapter.name
        raise NotImplementedError(
            f"{name} of {dtype} needs 64-bit atomics (shaderBufferInt64Atomics), which {adapter} lacks"
        )
