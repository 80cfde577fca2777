"""What the C++ side calls: see csrc/runtime.h for each function's contract."""

from __future__ import annotations

from portable_mps import _C
from portable_mps.runtime import adapter, device


def adapter_count() -> int:
    """How many adapters can be used; 0 without Vulkan."""
    try:
        return len([a for a in adapter.adapters() if not a.missing])
    except adapter.NoAdapterError:
        return 0


def open_device() -> None:
    """Open the device, unless it is. NoAdapterError where there is none."""
    device.current()


def create_slab(size: int) -> int:
    """A buffer of `size` bytes: its address, or 0 where the driver has no more."""
    return device.current().slabs.create(size)


def destroy_slab(address: int) -> None:
    """Return the buffer at `address` to the driver."""
    device.current().slabs.destroy(address)


def free_host_buffers() -> None:
    """Return the host memory that collectives keep for later."""
    if device.is_open():
        device.current().host_buffers.trim(0)


def device_memory() -> int:
    """Bytes that the adapter has."""
    return device.current().adapter.memory


def free_memory() -> int:
    """Bytes that are free, as the driver says."""
    return adapter.free_memory(device.current().adapter, _C.driver_memory())


def allocation_limits() -> tuple[int, int]:
    """(bytes that the driver promises for an allocation, bytes that it allows)."""
    chosen = device.current().adapter
    return chosen.sure_allocation, chosen.max_buffer


def has_float64() -> bool:
    """Whether tensors of float64 can be made."""
    return device.current().adapter.features["float64"]


def copy(destination: int, source: int, size: int) -> None:
    """Record a copy of `size` bytes between two addresses."""
    device.current().stream.copy(destination, source, size)


def synchronize() -> None:
    """Wait for all that is recorded. Raises what kernels have reported."""
    if device.is_open():
        device.current().stream.synchronize()


def commit() -> None:
    """Hand over what is recorded, without waiting."""
    if device.is_open():
        device.current().stream.submit()


def record_event(timed: bool) -> int:
    """Mark this point of the stream: the event's number."""
    return device.current().stream.record_event(timed)


def query_event(event: int) -> bool:
    """Whether the device has passed an event."""
    return device.current().stream.query_event(event)


def synchronize_event(event: int) -> None:
    """Wait until the device has passed an event."""
    device.current().stream.synchronize_event(event)


def elapsed_milliseconds(start: int, end: int) -> float:
    """Between two events that take times. ValueError for others."""
    return device.current().stream.elapsed_milliseconds(start, end)
