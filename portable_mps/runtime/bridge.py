"""What the C++ side calls: see csrc/runtime.h for each function's contract."""

from __future__ import annotations

from portable_mps import _C
from portable_mps.runtime import adapter, device


def adapter_count() -> int:
    try:
        return len([a for a in adapter.adapters() if not a.missing])
    except adapter.NoAdapterError:
        return 0


def open_device() -> None:
    device.current()


def create_slab(size: int) -> int:
    return device.current().slabs.create(size)


def destroy_slab(address: int) -> None:
    device.current().slabs.destroy(address)


def device_memory() -> int:
    return device.current().adapter.memory


def free_memory() -> int:
    return adapter.free_memory(device.current().adapter, _C.driver_memory())


def allocation_limits() -> tuple[int, int]:
    chosen = device.current().adapter
    return chosen.sure_allocation, chosen.max_buffer


def has_float64() -> bool:
    return device.current().adapter.features["float64"]


def copy(destination: int, source: int, size: int) -> None:
    device.current().stream.copy(destination, source, size)


def synchronize() -> None:
    if device.is_open():
        device.current().stream.synchronize()


def commit() -> None:
    if device.is_open():
        device.current().stream.submit()


def record_event(timed: bool) -> int:
    return device.current().stream.record_event(timed)


def query_event(event: int) -> bool:
    return device.current().stream.query_event(event)


def synchronize_event(event: int) -> None:
    device.current().stream.synchronize_event(event)


def elapsed_milliseconds(start: int, end: int) -> float:
    return device.current().stream.elapsed_milliseconds(start, end)
