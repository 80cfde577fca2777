"""A worker: SPIR-V to a card's machine code, in a process that has this card alone (`python -m vendors.driver`).

Answers first with what the card is, then each line of JSON, {"code"}, with what its compiler says of that kernel.
`python -m vendors.driver describe FILE` only pickles the runtime's Adapter of the card.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import vulkan as vk

from portable_mps.runtime.adapter import Adapter, vulkan
from vendors import spirv
from vendors.driver_statistics import spills_of

_STATISTICS = "VK_KHR_pipeline_executable_properties"
_CAPTURE = 0x40  # VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR


def describe() -> Adapter:
    """The card as the runtime sees it. AMD's null hardware has no memory, hence no heap to choose."""
    vulkan._main_heap = lambda properties: 0
    return vulkan.adapters()[0]


class Driver:
    """The opened card, with every feature that the runtime enables, and statistics."""

    def __init__(self) -> None:
        self.adapter = describe()
        handle = self.adapter.handle
        head, self._structs, extensions = vulkan._feature_chain(handle)
        available = {each.extensionName for each in vk.vkEnumerateDeviceExtensionProperties(handle, None)}
        chain = head
        self._tells = _STATISTICS in available
        if self._tells:
            chain = vk.VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR(pNext=head, pipelineExecutableInfo=1)
            extensions = [*extensions, _STATISTICS]
        queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, queueCount=1, pQueuePriorities=[1.0])
        create = vk.VkDeviceCreateInfo(
            pNext=chain,
            queueCreateInfoCount=1,
            pQueueCreateInfos=[queue],
            enabledExtensionCount=len(extensions),
            ppEnabledExtensionNames=extensions,
        )
        self._device = vk.vkCreateDevice(handle, create, None)
        self._kept = (chain, queue, create)
        binding = vk.VkDescriptorSetLayoutBinding(
            binding=0,
            descriptorType=vk.VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER,
            descriptorCount=1,
            stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT,
        )
        of_set = vk.VkDescriptorSetLayoutCreateInfo(bindingCount=1, pBindings=[binding])
        self._set = vk.vkCreateDescriptorSetLayout(self._device, of_set, None)
        self._layouts = {buffer: self._layout(buffer) for buffer in (False, True)}

    def _layout(self, buffer: bool) -> Any:
        size = self.adapter.max_push_constants
        push = vk.VkPushConstantRange(stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT, offset=0, size=size)
        sets = [self._set] if buffer else []
        info = vk.VkPipelineLayoutCreateInfo(
            setLayoutCount=len(sets),
            pSetLayouts=sets,
            pushConstantRangeCount=0 if buffer else 1,
            pPushConstantRanges=[] if buffer else [push],
        )
        return vk.vkCreatePipelineLayout(self._device, info, None)

    def compile(self, code: bytes) -> dict[str, Any]:
        """What the compiler says: seconds, and its statistics of the executable that would run."""
        asked = spirv.read(code)
        if lacking := asked.lacking(self.adapter.features):
            return {"lacking": lacking}
        info = vk.VkShaderModuleCreateInfo(codeSize=len(code), pCode=code)
        module = vk.vkCreateShaderModule(self._device, info, None)
        stage = vk.VkPipelineShaderStageCreateInfo(stage=vk.VK_SHADER_STAGE_COMPUTE_BIT, module=module, pName="main")
        flags = _CAPTURE if self._tells else 0
        create = vk.VkComputePipelineCreateInfo(flags=flags, stage=stage, layout=self._layouts[asked.buffer])
        start = time.perf_counter()
        try:
            pipeline = vk.vkCreateComputePipelines(self._device, None, 1, [create], None)[0]
        except vk.VkError as error:
            return {"failed": type(error).__name__}
        finally:
            vk.vkDestroyShaderModule(self._device, module, None)
        result: dict[str, Any] = {"seconds": time.perf_counter() - start}
        if self._tells:
            result["statistics"] = _that_runs(self._executables(pipeline))
        vk.vkDestroyPipeline(self._device, pipeline, None)
        return result

    def _executables(self, pipeline: Any) -> list[dict[str, int]]:
        lib, ffi = vk._vulkan.lib, vk._vulkan.ffi

        def function(name: str) -> Any:
            address = lib.vkGetDeviceProcAddr(self._device, ffi.new("char[]", name.encode()))
            return ffi.cast(f"PFN_{name}", address)

        about = ffi.new("VkPipelineInfoKHR*")
        about.sType, about.pipeline = vk.VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, pipeline
        count = ffi.new("uint32_t*")
        function("vkGetPipelineExecutablePropertiesKHR")(self._device, about, count, ffi.NULL)
        properties = ffi.new("VkPipelineExecutablePropertiesKHR[]", count[0])
        for each in properties:
            each.sType = vk.VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR
        function("vkGetPipelineExecutablePropertiesKHR")(self._device, about, count, properties)
        ask, found = function("vkGetPipelineExecutableStatisticsKHR"), []
        for index in range(count[0]):
            of = ffi.new("VkPipelineExecutableInfoKHR*")
            of.sType = vk.VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR
            of.pipeline, of.executableIndex = pipeline, index
            many = ffi.new("uint32_t*")
            ask(self._device, of, many, ffi.NULL)
            rows = ffi.new("VkPipelineExecutableStatisticKHR[]", many[0])
            for row in rows:
                row.sType = vk.VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR
            ask(self._device, of, many, rows)
            statistics = {ffi.string(row.name).decode(): int(row.value.u64) for row in rows}
            found.append({**statistics, "Subgroup size": properties[index].subgroupSize})
        return found


def _that_runs(executables: list[dict[str, int]]) -> dict[str, int]:
    """Intel's compiler makes one for each width, and its driver takes the widest that does not spill."""
    best = min(range(len(executables)), key=lambda i: (spills_of(executables[i]) > 0, -i))
    return executables[best]


def main() -> None:
    if sys.argv[1:2] == ["describe"]:
        found = dataclasses.replace(describe(), handle=None)
        Path(sys.argv[2]).write_bytes(pickle.dumps(found))
        os._exit(0)
    driver = Driver()
    print(json.dumps([driver.adapter.name, driver.adapter.driver]), flush=True)
    for line in sys.stdin:
        try:
            answer = driver.compile(Path(json.loads(line)["code"]).read_bytes())
        except Exception as error:  # which is this kernel's: the others are still to come
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # null hardware cannot be closed


if __name__ == "__main__":
    main()
