"""The buffer where kernels read parameters that are more than push constants can be (csrc/recorder.h writes it).

A uniform buffer behind one descriptor set with a dynamic offset: all of it is in Vulkan 1.0.
"""

from __future__ import annotations

from typing import Any

MOST_BYTES = 16384  # of a kernel's parameters: what every driver lets a uniform buffer be
_UPLOADED = 65536  # csrc/recorder.cpp writes so many bytes at a time


class ParameterBuffer:
    """Lives as long as the device. The handles are those that `_C.Recorder.use_parameter_buffer` takes."""

    def __init__(self, device: Any, native: Any, physical: Any) -> None:
        """device: slangpy's. native, physical: the VkDevice and VkPhysicalDevice beneath it, of the bindings."""
        import slangpy as spy
        import vulkan as vk

        usage = spy.BufferUsage.constant_buffer | spy.BufferUsage.copy_destination
        size = _UPLOADED + MOST_BYTES  # the last kernel's may begin at the end of what is written
        self._buffer = device.create_buffer(size=size, usage=usage)
        kind = vk.VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC
        binding = vk.VkDescriptorSetLayoutBinding(
            binding=0, descriptorType=kind, descriptorCount=1, stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT
        )
        of_layout = vk.VkDescriptorSetLayoutCreateInfo(bindingCount=1, pBindings=[binding])
        layout = vk.vkCreateDescriptorSetLayout(native, of_layout, None)
        sizes = [vk.VkDescriptorPoolSize(type=kind, descriptorCount=1)]
        pool = vk.vkCreateDescriptorPool(
            native, vk.VkDescriptorPoolCreateInfo(maxSets=1, poolSizeCount=1, pPoolSizes=sizes), None
        )
        of_set = vk.VkDescriptorSetAllocateInfo(descriptorPool=pool, descriptorSetCount=1, pSetLayouts=[layout])
        (descriptors,) = vk.vkAllocateDescriptorSets(native, of_set)
        handle = self._buffer.native_handle.value
        whole = vk.VkDescriptorBufferInfo(buffer=vk.ffi.cast("VkBuffer", handle), offset=0, range=MOST_BYTES)
        write = vk.VkWriteDescriptorSet(
            dstSet=descriptors, dstBinding=0, descriptorCount=1, descriptorType=kind, pBufferInfo=[whole]
        )
        vk.vkUpdateDescriptorSets(native, 1, [write], 0, None)
        limits = vk.vkGetPhysicalDeviceProperties(physical).limits
        self.handles: tuple[int, int, int, int] = (
            handle,
            int(vk.ffi.cast("uintptr_t", layout)),
            int(vk.ffi.cast("uintptr_t", descriptors)),
            max(int(limits.minUniformBufferOffsetAlignment), 4),
        )
