"""The thread that hands tensors to torch.distributed's backend: csrc/collectives.cpp says how."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from portable_mps.runtime import device

_MOST_AWAITED = 64


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="portable_mps_collectives")


@functools.cache
def _waiting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_AWAITED, thread_name_prefix="portable_mps_awaited")


def hand_over(call: Callable[[], None]) -> None:
    """Have the thread make this call, behind all before it."""
    _thread().submit(call)


def await_apart(call: Callable[[], None]) -> None:
    """Make this call, which waits for another process, in a thread of its own."""
    _waiting().submit(call)


def depart(tensor: torch.Tensor, host: torch.Tensor) -> Callable[[], None]:
    """Record the copy of an `mps` tensor into a contiguous CPU tensor of its shape and dtype.

    What is returned waits until the values are there.
    """
    source = tensor.resolve_conj().resolve_neg().contiguous()
    finish = device.current().stream.start_download(source.data_ptr(), source.nbytes)

    def arrive() -> None:
        # Not view(-1), which keeps the stride of a single element.
        finish(host.as_strided((host.numel(),), (1,)).view(torch.uint8).numpy())

    return arrive
