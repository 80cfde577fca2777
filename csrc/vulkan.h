// The part of Vulkan's C interface that csrc/recorder.cpp and csrc/compiler.cpp call, so that
// building needs no Vulkan SDK. Names, values and layouts are those of the Vulkan 1.3
// specification; the functions' addresses come from vkGetDeviceProcAddr
// (portable_mps/runtime/adapter.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#ifdef _WIN32
#define VKAPI_PTR __stdcall
#else
#define VKAPI_PTR
#endif

namespace portable_mps::vk {

using VkDevice = struct VkDevice_T*;
using VkCommandBuffer = struct VkCommandBuffer_T*;
using VkBuffer = uint64_t;
using VkDescriptorSet = uint64_t;
using VkDescriptorSetLayout = uint64_t;
using VkPipeline = uint64_t;
using VkPipelineLayout = uint64_t;
using VkPipelineCache = uint64_t;
using VkShaderModule = uint64_t;

constexpr int32_t VK_SUCCESS = 0;
constexpr uint32_t VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO = 16;
constexpr uint32_t VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO = 17;
constexpr uint32_t VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO = 18;
constexpr uint32_t VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO = 29;
constexpr uint32_t VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO = 30;
constexpr uint32_t VK_STRUCTURE_TYPE_MEMORY_BARRIER = 46;
constexpr uint32_t VK_PIPELINE_BIND_POINT_COMPUTE = 1;
constexpr uint32_t VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT = 0x800;
constexpr uint32_t VK_PIPELINE_STAGE_TRANSFER_BIT = 0x1000;
constexpr uint32_t VK_PIPELINE_STAGE_ALL_COMMANDS_BIT = 0x10000;
constexpr uint32_t VK_SHADER_STAGE_COMPUTE_BIT = 0x20;
constexpr uint32_t VK_SHADER_STAGE_ALL = 0x7FFFFFFF;
constexpr uint32_t VK_ACCESS_UNIFORM_READ_BIT = 0x8;
constexpr uint32_t VK_ACCESS_SHADER_READ_BIT = 0x20;
constexpr uint32_t VK_ACCESS_SHADER_WRITE_BIT = 0x40;
constexpr uint32_t VK_ACCESS_TRANSFER_WRITE_BIT = 0x1000;
constexpr uint32_t VK_ACCESS_MEMORY_READ_BIT = 0x8000;
constexpr uint32_t VK_ACCESS_MEMORY_WRITE_BIT = 0x10000;

struct VkPushConstantRange {
  uint32_t stageFlags;
  uint32_t offset;
  uint32_t size;
};

struct VkPipelineLayoutCreateInfo {
  uint32_t sType;
  const void* pNext;
  uint32_t flags;
  uint32_t setLayoutCount;
  const VkDescriptorSetLayout* pSetLayouts;
  uint32_t pushConstantRangeCount;
  const VkPushConstantRange* pPushConstantRanges;
};

struct VkShaderModuleCreateInfo {
  uint32_t sType;
  const void* pNext;
  uint32_t flags;
  size_t codeSize;
  const uint32_t* pCode;
};

struct VkPipelineCacheCreateInfo {
  uint32_t sType;
  const void* pNext;
  uint32_t flags;
  size_t initialDataSize;
  const void* pInitialData;
};

struct VkPipelineShaderStageCreateInfo {
  uint32_t sType;
  const void* pNext;
  uint32_t flags;
  uint32_t stage;
  VkShaderModule module;
  const char* pName;
  const void* pSpecializationInfo;
};

struct VkComputePipelineCreateInfo {
  uint32_t sType;
  const void* pNext;
  uint32_t flags;
  VkPipelineShaderStageCreateInfo stage;
  VkPipelineLayout layout;
  VkPipeline basePipelineHandle;
  int32_t basePipelineIndex;
};

struct VkMemoryBarrier {
  uint32_t sType;
  const void* pNext;
  uint32_t srcAccessMask;
  uint32_t dstAccessMask;
};

using PFN_vkCreateShaderModule = int32_t(VKAPI_PTR*)(VkDevice, const VkShaderModuleCreateInfo*,
                                                     const void* allocator, VkShaderModule*);
using PFN_vkDestroyShaderModule = void(VKAPI_PTR*)(VkDevice, VkShaderModule, const void* allocator);
using PFN_vkCreatePipelineCache = int32_t(VKAPI_PTR*)(VkDevice, const VkPipelineCacheCreateInfo*,
                                                      const void* allocator, VkPipelineCache*);
using PFN_vkGetPipelineCacheData = int32_t(VKAPI_PTR*)(VkDevice, VkPipelineCache, size_t* size,
                                                       void* data);
using PFN_vkDestroyPipelineCache = void(VKAPI_PTR*)(VkDevice, VkPipelineCache,
                                                    const void* allocator);
using PFN_vkCreateComputePipelines = int32_t(VKAPI_PTR*)(VkDevice, VkPipelineCache, uint32_t count,
                                                         const VkComputePipelineCreateInfo*,
                                                         const void* allocator, VkPipeline*);
using PFN_vkCreatePipelineLayout = int32_t(VKAPI_PTR*)(VkDevice, const VkPipelineLayoutCreateInfo*,
                                                       const void* allocator, VkPipelineLayout*);
using PFN_vkCmdBindPipeline = void(VKAPI_PTR*)(VkCommandBuffer, uint32_t bindPoint, VkPipeline);
using PFN_vkCmdPushConstants = void(VKAPI_PTR*)(VkCommandBuffer, VkPipelineLayout, uint32_t stages,
                                                uint32_t offset, uint32_t size, const void*);
using PFN_vkCmdUpdateBuffer = void(VKAPI_PTR*)(VkCommandBuffer, VkBuffer, uint64_t offset,
                                               uint64_t size, const void*);
using PFN_vkCmdBindDescriptorSets = void(VKAPI_PTR*)(VkCommandBuffer, uint32_t bindPoint,
                                                     VkPipelineLayout, uint32_t first,
                                                     uint32_t count, const VkDescriptorSet*,
                                                     uint32_t offsetCount, const uint32_t* offsets);
using PFN_vkCmdDispatch = void(VKAPI_PTR*)(VkCommandBuffer, uint32_t x, uint32_t y, uint32_t z);
using PFN_vkCmdPipelineBarrier = void(VKAPI_PTR*)(VkCommandBuffer, uint32_t sourceStages,
                                                  uint32_t destinationStages, uint32_t flags,
                                                  uint32_t memoryCount, const VkMemoryBarrier*,
                                                  uint32_t bufferCount, const void* buffers,
                                                  uint32_t imageCount, const void* images);

// `function` becomes the one of that name.
template <typename Function>
void load(Function& function, const std::map<std::string, uintptr_t>& functions, const char* name) {
  function = reinterpret_cast<Function>(functions.at(name));
}

}  // namespace portable_mps::vk
