"""Host memory that tensors pass through: buffers of Vulkan that stay mapped, which the device copies from and to by
itself, and are used again; ordinary memory where slangpy copies."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

_LEAST_BYTES = 1 << 16
_STEP = 1 << 20  # bytes to which the size of larger ones is rounded
_MOST_FREE = 1 << 30  # bytes that are kept for later


class HostBuffer:
    """Ordinary memory. memory: its bytes; handle: of what the device copies from and to, here nothing."""

    handle: Any = None

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size, np.uint8)

    def free(self) -> None:
        """Give the memory back, of which nobody may hold a view any more."""


class _MappedBuffer(HostBuffer):
    """memory: its bytes, mapped; handle: the VkBuffer."""

    def __init__(self, native: Any, physical: Any, size: int) -> None:
        """native, physical: the VkDevice and VkPhysicalDevice, of the bindings."""
        import vulkan as vk

        usage = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
        self.handle = vk.vkCreateBuffer(native, vk.VkBufferCreateInfo(size=size, usage=usage), None)
        needs = vk.vkGetBufferMemoryRequirements(native, self.handle)
        properties = vk.vkGetPhysicalDeviceMemoryProperties(physical)
        visible = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
        kinds = [
            kind
            for kind in range(properties.memoryTypeCount)
            if needs.memoryTypeBits >> kind & 1 and properties.memoryTypes[kind].propertyFlags & visible == visible
        ]
        # Reading what is not cached by the processor takes ten times as long.
        cached = vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
        kinds.sort(key=lambda kind: not properties.memoryTypes[kind].propertyFlags & cached)
        of_memory = vk.VkMemoryAllocateInfo(allocationSize=needs.size, memoryTypeIndex=kinds[0])
        self._native = native
        self._allocation = vk.vkAllocateMemory(native, of_memory, None)
        vk.vkBindBufferMemory(native, self.handle, self._allocation, 0)
        self.memory = np.frombuffer(vk.vkMapMemory(native, self._allocation, 0, size, 0), np.uint8, size)

    def free(self) -> None:
        """See HostBuffer."""
        import vulkan as vk

        vk.vkDestroyBuffer(self._native, self.handle, None)
        vk.vkFreeMemory(self._native, self._allocation, None)


class HostBuffers:
    """Those of a device, by what is free. Any thread may take one."""

    def __init__(self, device: Any, native: Any, physical: Any) -> None:
        """device: slangpy's. native: adapter.native(). physical: the VkPhysicalDevice, where there is one."""
        self._device = device
        self._native = native
        self._physical = physical
        self._free: list[tuple[HostBuffer, int]] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> HostBuffer:
        """One of at least `size` bytes, for the caller alone until it is released."""
        step = _STEP if size > _STEP else _LEAST_BYTES
        rounded = max(-(-size // step), 1) * step
        with self._lock:
            for place, (buffer, last_use) in enumerate(self._free):
                if buffer.memory.size == rounded and self._device.is_submit_finished(last_use):
                    del self._free[place]
                    return buffer
        if self._native is None:
            return HostBuffer(rounded)
        return _MappedBuffer(self._native, self._physical, rounded)

    def release(self, buffer: HostBuffer, last_use: int) -> None:
        """last_use: the submission after which the device is done with it."""
        with self._lock:
            self._free.append((buffer, last_use))
        self.trim(_MOST_FREE)

    def trim(self, most: int) -> None:
        """Free those that have been unused for longest, until no more than `most` bytes are kept for later."""
        with self._lock:
            excess = sum(buffer.memory.size for buffer, _ in self._free) - most
            kept = []
            for buffer, last_use in self._free:
                if excess > 0 and self._device.is_submit_finished(last_use):
                    excess -= buffer.memory.size
                    buffer.free()
                else:
                    kept.append((buffer, last_use))
            self._free = kept


def copy(commands: int, source: Any, source_offset: int, target: Any, target_offset: int, size: int) -> None:
    """Record a copy between VkBuffers; commands: the VkCommandBuffer. What it writes may be read by the host, too."""
    import vulkan as vk

    into = vk.ffi.cast("VkCommandBuffer", commands)
    region = vk.VkBufferCopy(srcOffset=source_offset, dstOffset=target_offset, size=size)
    vk.vkCmdCopyBuffer(into, source, target, 1, [region])
    for_host = vk.VkMemoryBarrier(
        srcAccessMask=vk.VK_ACCESS_TRANSFER_WRITE_BIT, dstAccessMask=vk.VK_ACCESS_HOST_READ_BIT
    )
    stages = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
    vk.vkCmdPipelineBarrier(into, *stages, 0, 1, [for_host], 0, None, 0, None)
