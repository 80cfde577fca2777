"""The threads that hand tensors to torch.distributed's backend, and the tensors' way there: csrc/collectives.cpp."""

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


class Passage:
    """An `mps` tensor's way to the host and back. `host` is a contiguous CPU tensor of its shape and dtype."""

    def __init__(self, tensor: torch.Tensor, is_read: bool) -> None:
        """is_read: whether the values are copied to the host, behind all that is recorded; `arrive` waits for them."""
        self._stream = device.current().stream
        self._tensor = tensor
        self._submission = 0
        if is_read:
            self._rows = tensor.resolve_conj().resolve_neg().contiguous()
        else:
            lies = tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
            self._rows = tensor if lies else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        size = self._rows.nbytes
        self._buffer = device.current().host_buffers.take(size)
        self.host = torch.from_numpy(self._buffer.memory[:size]).view(tensor.dtype).view(tensor.shape)
        if is_read and size:
            self._submission = self._stream.to_host(self._buffer, self._rows.data_ptr(), size)

    def arrive(self) -> None:
        """Wait until the values are in `host`."""
        self._stream.wait_for(self._submission)

    def abandon(self) -> None:
        """Nothing arrived, or not all: the backend may still write to `host`, which nobody uses again."""

    def end(self, is_written: bool) -> None:
        """Have `host` copied back if it has been written to, and used again by others."""
        if is_written and self._rows.nbytes:
            self._submission = self._stream.from_host(self._rows.data_ptr(), self._buffer, self._rows.nbytes)
            if self._rows is not self._tensor:
                self._tensor.copy_(self._rows)
        device.current().host_buffers.release(self._buffer, self._submission)


class SparsePassage:
    """That of a tensor in coordinate form, whose number of elements may be another when it comes back."""

    def __init__(self, tensor: torch.Tensor, is_read: bool) -> None:
        """Waits for the values: how many there are is known on the device alone."""
        self._tensor = tensor
        self.host = tensor.cpu()

    def arrive(self) -> None:
        """The values are in `host`."""

    def abandon(self) -> None:
        """Nobody looks at `host` again."""

    def end(self, is_written: bool) -> None:
        """Have `host` copied back if it has been written to."""
        if is_written:
            self._tensor.copy_(self.host)
