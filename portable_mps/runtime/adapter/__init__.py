"""Adapters: what they can do, which one is ours, and the device that slangpy opens on it.

PORTABLE_MPS_BACKEND says how they are reached; each way is a module of this package with the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from portable_mps import settings
from portable_mps.runtime.adapter.description import KINDS, Adapter, NoAdapterError, hidden, processors
from portable_mps.runtime.clock import Clock

__all__ = [
    "Adapter",
    "NoAdapterError",
    "adapters",
    "best",
    "choose",
    "clock",
    "forget",
    "free_memory",
    "hidden",
    "native",
    "open_device",
    "processors",
    "sharing",
]


class _Backend(Protocol):
    INSTALL: str  # what to do where there is no adapter

    def adapters(self) -> tuple[Adapter, ...]: ...

    def free_memory(self, adapter: Adapter, taken: int) -> int: ...

    def open_device(self, adapter: Adapter, **options: Any) -> Any: ...

    def clock(self, adapter: Adapter, device: Any) -> Clock: ...

    def forget(self) -> None: ...


def _backend() -> _Backend:
    """The module of this process's backend. RuntimeError where PORTABLE_MPS_BACKEND names none."""
    name = settings.backend()
    if name in ("vulkan", "slangpy"):
        from portable_mps.runtime.adapter import vulkan

        return vulkan
    if name == "metal":
        from portable_mps.runtime.adapter import metal

        return metal
    if name == "cpu":
        from portable_mps.runtime.adapter import cpu

        return cpu
    raise RuntimeError(f"invalid PORTABLE_MPS_BACKEND {name!r}: expected vulkan, metal, slangpy or cpu")


def adapters() -> tuple[Adapter, ...]:
    """Every adapter that there is, in the order of the driver's list. Opens none. NoAdapterError without a driver."""
    return _backend().adapters()


def choose() -> Adapter:
    """The adapter of this process: PORTABLE_MPS_ADAPTER, else by LOCAL_RANK, else the most capable kind.

    Raises NoAdapterError where none fits.
    """
    found = adapters()
    install = _backend().INSTALL
    if not found:
        raise NoAdapterError(f"the driver lists no adapter. {install}")
    wanted = settings.adapter()
    if wanted is not None:
        matches = [a for a in found if wanted == str(a.index) or wanted.lower() in a.name.lower()]
        if not matches:
            names = ", ".join(f"{a.index}: {a.name}" for a in found)
            raise NoAdapterError(f"PORTABLE_MPS_ADAPTER={wanted!r} names none of the adapters ({names})")
        return matches[0]
    alike = best(found)
    if not alike:
        lacks = "; ".join(f"{a.name} lacks {', '.join(a.missing)}" for a in found)
        raise NoAdapterError(
            f"no adapter can run the kernels: {lacks}. Update the driver, or install another. {install}"
        )
    return alike[(settings.local_rank() or 0) % len(alike)]


def best(found: Sequence[Adapter]) -> list[Adapter]:
    """Those of the most capable kind among `found` that can run the kernels."""
    usable = [a for a in found if not a.missing]
    return [a for a in usable if KINDS.index(a.kind) == min(KINDS.index(b.kind) for b in usable)]


def sharing() -> tuple[int, int] | None:
    """How many processes of this machine share how many adapters, where these are fewer; by what `torchrun` sets."""
    processes, adapter_count = settings.local_world_size(), len(best(adapters()))
    return (processes, adapter_count) if settings.adapter() is None and processes > adapter_count else None


def free_memory(adapter: Adapter, taken: int) -> int:
    """Bytes of `adapter.memory` that nobody uses; where the driver does not tell, that this process has not `taken`."""
    return _backend().free_memory(adapter, taken)


def open_device(adapter: Adapter, **options: Any) -> Any:
    """A slangpy.Device on `adapter`; options are those of its constructor. NoAdapterError where it cannot do."""
    return _backend().open_device(adapter, **options)


def native() -> Any:
    """The opened VkDevice, as the bindings have it, for which C++ makes and records kernels; None where slangpy does
    both."""
    if settings.backend() != "vulkan":
        return None
    from portable_mps.runtime.adapter import vulkan

    return vulkan.opened()


def clock(adapter: Adapter, device: Any) -> Clock:
    """How times are taken on the device that `open_device` gave."""
    return _backend().clock(adapter, device)


def forget() -> None:
    """Drop what was read from the drivers: a forked child must ask again."""
    _backend().forget()
