"""Device buffers: the slabs that the C++ allocator carves up, and the way from an address to its buffer."""

from __future__ import annotations

import bisect
import logging
from typing import Any

from portable_mps import settings

log = logging.getLogger(__name__)


class Slabs:
    """Buffers by address. Kernels use raw addresses; only copies need the buffer an address lies in."""

    def __init__(self, device: Any) -> None:
        import slangpy as spy

        self._device = device
        self._usage = (
            spy.BufferUsage.unordered_access
            | spy.BufferUsage.shader_resource
            | spy.BufferUsage.copy_source
            | spy.BufferUsage.copy_destination
        )
        self._addresses: list[int] = []
        self._buffers: list[Any] = []

    def create(self, size: int) -> int:
        """The address of a new buffer of `size` bytes, or 0 when the driver refuses."""
        try:
            buffer = self._device.create_buffer(size=size, usage=self._usage)
            address = buffer.device_address
        except Exception as error:  # slangpy raises a plain RuntimeError for every failed allocation
            log.debug("the driver refused %d bytes: %s", size, error)
            return 0
        if settings.debug_allocator():
            log.warning("allocated a slab of %d bytes at %#x", size, address)
        position = bisect.bisect(self._addresses, address)
        self._addresses.insert(position, address)
        self._buffers.insert(position, buffer)
        return int(address)

    def destroy(self, address: int) -> None:
        """Return the buffer at `address` to the driver; the caller has waited for its last use."""
        position = bisect.bisect_left(self._addresses, address)
        if settings.debug_allocator():
            log.warning("released the slab at %#x", address)
        del self._addresses[position], self._buffers[position]

    def locate(self, address: int) -> tuple[Any, int]:
        """The buffer that `address` lies in, and the byte offset there."""
        position = bisect.bisect(self._addresses, address) - 1
        return self._buffers[position], address - self._addresses[position]
