"""What torch asks of any accelerator's module and torch.mps lacks: FSDP, checkpointing and torch.utils need it.

A process has one device with one stream. The names and their behaviour are those of torch.cuda and torch.xpu.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def is_initialized() -> bool:
    """True: the first tensor opens the device, and a DeviceMesh has none to choose, as it does where this is False."""
    return True


def current_device() -> int:
    """0: a process has one device."""
    return 0


def set_device(device: torch.device | str | int) -> None:
    """RuntimeError for another device than `mps` or `mps:0`."""
    _check(device)


class device(contextlib.nullcontext[None]):
    """A context in which the device is current: there is no other. RuntimeError for one that does not exist."""

    def __init__(self, device: torch.device | str | int | None) -> None:
        if device is not None:
            _check(device)
        super().__init__()


def _check(device: torch.device | str | int) -> None:
    made = torch.device("mps", device) if isinstance(device, int) else torch.device(device)
    if made.type != "mps":
        raise ValueError(f"Expected an mps device, but got: {made}")
    if made.index not in (None, 0, -1):
        raise RuntimeError(f"MPS device index {made.index} is out of range: a process has one MPS device, with index 0")


class Stream(torch.Stream):
    """The device's only stream, whatever is asked for."""

    def __new__(cls, device: Any = None, priority: int = 0) -> Stream:
        """The device's stream. RuntimeError or ValueError for a device that does not exist."""
        if device is not None:
            _check(device)
        return super().__new__(cls, device="mps", priority=priority)


class Event(torch.Event):
    """As torch.mps.Event on a Mac; torch.Stream takes it too."""

    def __new__(cls, enable_timing: bool = False) -> Event:
        """enable_timing: whether `elapsed_time` may be asked of it."""
        return super().__new__(cls, device="mps", enable_timing=enable_timing)

    def elapsed_time(self, end_event: torch.Event) -> float:
        """Milliseconds; torch's own takes no subclass.

        RuntimeError before both are recorded, ValueError for events without times.
        """
        from portable_mps.runtime import bridge

        if not self.event_id or not end_event.event_id:
            raise RuntimeError("both events must be recorded before elapsed_time is asked for")
        return bridge.elapsed_milliseconds(self.event_id, end_event.event_id)


def current_stream(device: Any = None) -> torch.Stream:
    """The device's only stream."""
    if device is not None:
        _check(device)
    return torch.accelerator.current_stream()


def set_stream(stream: torch.Stream) -> None:
    """Nothing happens: there is no other."""


class stream(contextlib.nullcontext[None]):
    """A context in which the stream is current: there is no other."""

    def __init__(self, stream: torch.Stream | None) -> None:
        super().__init__()


def install() -> None:
    """Give torch.mps these functions and classes."""
    for member in (is_initialized, current_device, set_device, device, Stream, current_stream, set_stream, stream):
        setattr(torch.mps, member.__name__, member)
    torch.mps.default_stream = current_stream  # type: ignore[attr-defined]
    torch.mps.Event = torch.mps.event.Event = Event  # type: ignore[misc, assignment]
    # What torch.utils.checkpoint asks for, or it does not restore the random numbers of the forward pass.
    torch.mps._initialized = True  # type: ignore[attr-defined]
