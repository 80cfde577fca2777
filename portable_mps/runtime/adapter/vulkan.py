"""Vulkan's adapters: what they can do, and the VkDevice that slangpy runs on.

The VkDevice is always made here and handed over: slangpy's own creation refuses older drivers and crashes
in NVIDIA's when CUDA's devices are hidden, and with our own we know exactly which features are enabled.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from portable_mps.runtime.adapter.description import (
    SOFTWARE,
    Adapter,
    NoAdapterError,
    free_host_memory,
    hidden,
    host_memory,
    processors,
)
from portable_mps.runtime.clock import Queries

# Feature structs newer than the bindings, by extension: their sType. Each is {sType, pNext, up to eight bools}.
# slangpy's shader cache calls pipeline_binary's functions wherever the driver has them, so it must be enabled.
_NEWER_FEATURES = {
    "VK_KHR_shader_bfloat16": 1000141000,
    "VK_KHR_maintenance5": 1000470000,
    "VK_KHR_pipeline_binary": 1000483000,
    "VK_NV_cooperative_matrix2": 1000593000,
}
_FLEXIBLE_DIMENSIONS = 1000593001  # sType of VkCooperativeMatrixFlexibleDimensionsPropertiesNV
EXTENSIONS = (
    "VK_KHR_cooperative_matrix",
    *_NEWER_FEATURES,
    "VK_EXT_shader_atomic_float",
    "VK_EXT_shader_atomic_float2",
    "VK_EXT_memory_budget",
    "VK_KHR_portability_subset",
)
# Features by the name that `Adapter.features` and PORTABLE_MPS_HIDE have for them: the struct of the feature chain, and
# its fields. The kernels use the first; the others would let them do the same elsewhere in memory.
_FIELDS = {
    "float16": ("core12", "shaderFloat16"),
    "float64": ("core", "shaderFloat64"),
    "shaderInt64": ("core", "shaderInt64"),
    "shaderInt16": ("core", "shaderInt16"),
    "shaderInt8": ("core12", "shaderInt8"),
    "storage8": ("core12", "storageBuffer8BitAccess", "uniformAndStorageBuffer8BitAccess"),
    "storage16": ("core11", "storageBuffer16BitAccess", "uniformAndStorageBuffer16BitAccess"),
    "bufferDeviceAddress": ("core12", "bufferDeviceAddress"),
    "int64_atomics": ("core12", "shaderBufferInt64Atomics", "shaderSharedInt64Atomics"),
}
# Those that are extensions: what to leave out.
_OF_EXTENSIONS = {
    "float32_atomics": ("VK_EXT_shader_atomic_float", "VK_EXT_shader_atomic_float2"),
    "cooperative_matrix": ("VK_KHR_cooperative_matrix", "VK_NV_cooperative_matrix2"),
    "bfloat16": ("VK_KHR_shader_bfloat16",),
    "workgroup_matrix": ("VK_NV_cooperative_matrix2",),
}
# 32-bit registers that a thread can fill before the compiler spills, by VkDriverId: AMD's have 256, of which compilers
# leave some, Intel's threads share 4 KiB of them among 16 lanes. No driver tells; others have about 255.
_REGISTERS = {1: 224, 2: 224, 3: 224, 5: 64, 6: 64}
_SHARED_REGISTERS = {5: 1024, 6: 1024}
_MESA, _EARLY_RDNA3 = 3, 120  # RADV's VkDriverId; what its first compiler for RDNA 3 leaves of the 128 that it gives
# RDNA 3 keeps a copy of a product's operands in every 16 threads of a subgroup ("How to accelerate AI applications on
# RDNA 3 using WMMA", GPUOpen).
_SPREAD = {1: 16, 2: 16, 3: 16}
_KINDS = {0: "other", 1: "integrated GPU", 2: "discrete GPU", 3: "virtual GPU", 4: SOFTWARE}
INSTALL = (
    "Install one: on Debian or Ubuntu `apt-get install libvulkan1 mesa-vulkan-drivers` (AMD, Intel and a software "
    "driver), or your GPU vendor's driver; then run `portable-mps doctor`."
)


def _vulkan() -> Any:
    try:
        import vulkan
    except (ImportError, OSError) as error:
        raise NoAdapterError(f"no Vulkan loader was found ({error}). {INSTALL}") from error
    return vulkan


@functools.cache
def _instance() -> Any:
    vk = _vulkan()
    application = vk.VkApplicationInfo(pApplicationName="portable-mps", apiVersion=vk.VK_MAKE_VERSION(1, 3, 0))
    try:
        return vk.vkCreateInstance(vk.VkInstanceCreateInfo(pApplicationInfo=application), None)
    except Exception as error:
        raise NoAdapterError(f"the Vulkan loader found no driver ({type(error).__name__}). {INSTALL}") from error


@functools.cache
def adapters() -> tuple[Adapter, ...]:
    """Every adapter that the Vulkan loader lists, in its order. Opens none."""
    vk = _vulkan()
    try:
        handles = vk.vkEnumeratePhysicalDevices(_instance())
    except vk.VkError as error:
        raise NoAdapterError(f"the Vulkan loader found no adapter ({type(error).__name__}). {INSTALL}") from error
    return tuple(_describe(index, handle) for index, handle in enumerate(handles))


def _text(value: Any) -> str:
    """A fixed array of char in a Vulkan struct; the bindings' structs from a `pNext` chain leave it undecoded."""
    return value if isinstance(value, str) else _vulkan().ffi.string(value).decode(errors="replace")


def _cores(handle: Any) -> int:
    """What the extensions of the makers tell; Intel's driver has none."""
    vk = _vulkan()
    available = {e.extensionName for e in vk.vkEnumerateDeviceExtensionProperties(handle, None)}

    def ask(extension: str, struct: str) -> Any:
        if extension not in available:
            return None
        answer = getattr(vk, struct)()
        vk.vkGetPhysicalDeviceProperties2(handle, vk.VkPhysicalDeviceProperties2(pNext=answer))
        return answer

    if nvidia := ask("VK_NV_shader_sm_builtins", "VkPhysicalDeviceShaderSMBuiltinsPropertiesNV"):
        return int(nvidia.shaderSMCount)
    if amd := ask("VK_AMD_shader_core_properties2", "VkPhysicalDeviceShaderCoreProperties2AMD"):
        return int(amd.activeComputeUnitCount)
    if amd := ask("VK_AMD_shader_core_properties", "VkPhysicalDeviceShaderCorePropertiesAMD"):
        return int(amd.shaderEngineCount * amd.shaderArraysPerEngineCount * amd.computeUnitsPerShaderArray)
    if arm := ask("VK_ARM_shader_core_builtins", "VkPhysicalDeviceShaderCoreBuiltinsPropertiesARM"):
        return int(arm.shaderCoreCount)
    return 0


def free_memory(adapter: Adapter, taken: int) -> int:
    """Bytes of `adapter.memory` that nobody uses; without VK_EXT_memory_budget, that this process has not `taken`."""
    if adapter.is_software:
        return free_host_memory()
    vk = _vulkan()
    extensions = {e.extensionName for e in vk.vkEnumerateDeviceExtensionProperties(adapter.handle, None)}
    if "VK_EXT_memory_budget" not in extensions:
        return max(adapter.memory - taken, 0)
    budget = vk.VkPhysicalDeviceMemoryBudgetPropertiesEXT()
    properties = vk.VkPhysicalDeviceMemoryProperties2(pNext=budget)
    vk.vkGetPhysicalDeviceMemoryProperties2(adapter.handle, properties)
    heap = _main_heap(properties.memoryProperties)
    return max(budget.heapBudget[heap] - budget.heapUsage[heap], 0)


def _main_heap(properties: Any) -> int:
    """The largest device-local heap."""
    local = _vulkan().VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    heaps = range(properties.memoryHeapCount)
    return max(heaps, key=lambda i: (properties.memoryHeaps[i].flags & local, properties.memoryHeaps[i].size))


def _version(number: int) -> str:
    return f"{number >> 22}.{number >> 12 & 0x3FF}.{number & 0xFFF}"


def _feature_chain(handle: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """All feature structs that the driver knows, filled: (head of the chain, structs by name, extensions).

    What PORTABLE_MPS_HIDE names is left out, so that the opened device does not have it either.
    """
    vk = _vulkan()
    hides = hidden()
    available = {e.extensionName for e in vk.vkEnumerateDeviceExtensionProperties(handle, None)}
    available -= {extension for name in hides for extension in _OF_EXTENSIONS.get(name, ())}
    extensions = [name for name in EXTENSIONS if name in available]
    structs: dict[str, Any] = {}
    chain = None
    if "VK_KHR_cooperative_matrix" in available:
        chain = structs["cooperative"] = vk.VkPhysicalDeviceCooperativeMatrixFeaturesKHR(pNext=chain)
    if "VK_EXT_shader_atomic_float" in available:
        chain = structs["atomics"] = vk.VkPhysicalDeviceShaderAtomicFloatFeaturesEXT(pNext=chain)
    for name, structure_type in _NEWER_FEATURES.items():
        if name in available:
            # The bindings' nearest struct has the same prefix; two of them leave room to spare.
            raw = structs[name] = vk.ffi.new("VkPhysicalDeviceCooperativeMatrixFeaturesKHR[2]")
            vk.ffi.cast("uint32_t*", raw)[0] = structure_type
            if chain is not None:
                vk.ffi.cast("uintptr_t*", raw)[1] = int(vk.ffi.cast("uintptr_t", _pointer(chain)))
            chain = vk.ffi.cast("void*", raw)
    structs["core13"] = chain = vk.VkPhysicalDeviceVulkan13Features(pNext=chain)
    structs["core12"] = chain = vk.VkPhysicalDeviceVulkan12Features(pNext=chain)
    structs["core11"] = chain = vk.VkPhysicalDeviceVulkan11Features(pNext=chain)
    structs["head"] = head = vk.VkPhysicalDeviceFeatures2(pNext=chain)
    vk.vkGetPhysicalDeviceFeatures2(handle, head)
    structs["core"] = head.features
    for name in hides.keys() & _FIELDS.keys():
        struct, *fields = _FIELDS[name]
        for field_name in fields:
            setattr(structs[struct], field_name, 0)
    return head, structs, extensions


def _pointer(struct: Any) -> Any:
    """The address of a struct of the bindings; of a pointer, itself."""
    ffi = _vulkan().ffi
    return struct if ffi.typeof(struct).kind == "pointer" else ffi.addressof(struct)


_SHUFFLES = 0x8 | 0x10  # VK_SUBGROUP_FEATURE_BALLOT_BIT, VK_SUBGROUP_FEATURE_SHUFFLE_BIT


def _describe(index: int, handle: Any) -> Adapter:
    vk = _vulkan()
    hides = hidden()
    subgroup = vk.VkPhysicalDeviceSubgroupProperties()
    buffers = vk.VkPhysicalDeviceMaintenance4Properties(pNext=subgroup)
    allocations = vk.VkPhysicalDeviceMaintenance3Properties(pNext=buffers)
    driver = vk.VkPhysicalDeviceDriverProperties(pNext=allocations)
    properties2 = vk.VkPhysicalDeviceProperties2(pNext=driver)
    vk.vkGetPhysicalDeviceProperties2(handle, properties2)
    properties = properties2.properties
    _, structs, extensions = _feature_chain(handle)
    features = {name: bool(getattr(structs[of], fields[0])) for name, (of, *fields) in _FIELDS.items()}
    features |= {
        "float32_atomics": "atomics" in structs and bool(structs["atomics"].shaderBufferFloat32AtomicAdd),
        "subgroup_shuffle": "subgroup_shuffle" not in hides
        and bool(subgroup.supportedStages & vk.VK_SHADER_STAGE_COMPUTE_BIT)
        and subgroup.supportedOperations & _SHUFFLES == _SHUFFLES,
        "cooperative_matrix": "cooperative" in structs and bool(structs["cooperative"].cooperativeMatrix),
        "bfloat16": "VK_KHR_shader_bfloat16" in extensions,
        # Conversions, tensor addressing and the rest of it: the kernels use all but the reductions in 2 x 2 blocks.
        "workgroup_matrix": all(_flags(structs.get("VK_NV_cooperative_matrix2"), 7)),
    }
    heaps = vk.vkGetPhysicalDeviceMemoryProperties(handle)
    limits = properties.limits
    count = limits.maxComputeWorkGroupCount
    kind = _KINDS.get(properties.deviceType, "other")
    # A software driver names a heap of some size; what it can take is the machine's memory.
    memory = host_memory() if kind == SOFTWARE else heaps.memoryHeaps[_main_heap(heaps)].size
    return Adapter(
        index=index,
        name=_text(properties.deviceName),
        driver=f"{_text(driver.driverName)} {_text(driver.driverInfo)}".strip(),
        kind=kind,
        backend="Vulkan",
        api_version=_version(properties.apiVersion),
        cores=processors() if kind == SOFTWARE else _cores(handle),
        memory=memory,
        max_buffer=buffers.maxBufferSize,
        sure_allocation=allocations.maxMemoryAllocationSize,
        subgroup_size=subgroup.subgroupSize,
        max_push_constants=min(limits.maxPushConstantsSize, hides.get("push_constants", sys.maxsize)),
        max_shared_memory=min(limits.maxComputeSharedMemorySize, hides.get("shared", sys.maxsize)),
        registers=_registers(driver.driverID, properties),
        max_workgroup=limits.maxComputeWorkGroupInvocations,
        max_groups=(count[0], count[1], count[2]),
        timestamp_period_ns=limits.timestampPeriod,
        features=features,
        coop_matrices=_cooperative_shapes(handle) if features["cooperative_matrix"] else (),
        spread=_SPREAD.get(driver.driverID, 0),
        shared_registers=_SHARED_REGISTERS.get(driver.driverID, 0),
        workgroup_matrices=_workgroup_granularity(handle) if features["workgroup_matrix"] else {},
        handle=handle,
    )


def _registers(driver: int, properties: Any) -> int:
    """`Adapter.registers`; Mesa 22 calls RDNA 3 by its number, and gives a thread half of the registers there."""
    if driver == _MESA and "GFX11" in _text(properties.deviceName) and properties.driverVersion >> 22 < 23:
        return _EARLY_RDNA3
    return _REGISTERS.get(driver, 255)


def _flags(struct: Any, count: int) -> list[bool]:
    """The bools of a feature struct that the bindings do not know; one False where the driver lacks it."""
    if struct is None:
        return [False]
    words = _vulkan().ffi.cast("uint32_t*", struct)
    return [bool(words[4 + i]) for i in range(count)]  # behind sType, padding and pNext


_COMPONENTS = dict(enumerate(("f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")))
_COMPONENTS |= {1000141000: "bf16", 1000491002: "e4m3", 1000491003: "e5m2"}
_SUBGROUP_SCOPE, _WORKGROUP_SCOPE = 3, 2


def _component(number: int) -> str:
    return _COMPONENTS.get(number, str(number))


def _cooperative_shapes(handle: Any) -> tuple[tuple[int, int, int, str, str], ...]:
    vk = _vulkan()
    try:
        query = vk.vkGetInstanceProcAddr(_instance(), "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR")
        rows = query(handle)
    except Exception:  # the bindings of some versions lack the entry point; products then take the plain engine
        return ()
    return tuple(
        (r.MSize, r.NSize, r.KSize, _component(r.AType), _component(r.ResultType))
        for r in rows
        if r.scope == _SUBGROUP_SCOPE
    )


def _workgroup_granularity(handle: Any) -> dict[tuple[str, str, int], tuple[int, int, int]]:
    """`Adapter.workgroup_matrices`, asked of a function that the bindings do not know."""
    from vulkan._vulkan import ffi, lib

    name = b"vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV"
    address = lib.vkGetInstanceProcAddr(_instance(), ffi.new("char[]", name))
    if address == ffi.NULL:
        return {}
    query = ffi.cast("int32_t (*)(void*, uint32_t*, void*)", address)
    count = ffi.new("uint32_t*")
    query(handle, count, ffi.NULL)
    words = 14  # of the struct: sType, padding, pNext (2), granularities (3), types (4), saturating, scope, invocations
    rows = ffi.new("uint32_t[]", words * count[0])
    for i in range(count[0]):
        rows[words * i] = _FLEXIBLE_DIMENSIONS
    query(handle, count, rows)
    result = {}
    for i in range(count[0]):
        m, n, k, a, _, _, sum_type, saturating, scope, threads = rows[words * i + 4 : words * (i + 1)]
        if scope == _WORKGROUP_SCOPE and not saturating:
            result[_component(a), _component(sum_type), threads] = (m, n, k)
    return result


# What csrc/recorder.cpp and csrc/compiler.cpp call.
_FUNCTIONS = (
    "vkCreatePipelineLayout",
    "vkCmdBindPipeline",
    "vkCmdPushConstants",
    "vkCmdUpdateBuffer",
    "vkCmdBindDescriptorSets",
    "vkCmdDispatch",
    "vkCmdPipelineBarrier",
    "vkCreateShaderModule",
    "vkDestroyShaderModule",
    "vkCreatePipelineCache",
    "vkGetPipelineCacheData",
    "vkDestroyPipelineCache",
    "vkCreateComputePipelines",
)
_kept_alive: list[Any] = []  # native handles and feature structs that the opened device borrows


def forget() -> None:
    """Drop the instance and what was read from it: a forked child must make its own."""
    adapters.cache_clear()
    _instance.cache_clear()


def open_device(adapter: Adapter, **options: Any) -> Any:
    """A slangpy.Device over a VkDevice of `adapter` with every feature and extension enabled that we use."""
    import slangpy as spy

    vk = _vulkan()
    head, structs, extensions = _feature_chain(adapter.handle)
    queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, queueCount=1, pQueuePriorities=[1.0])
    create = vk.VkDeviceCreateInfo(
        pNext=head,
        queueCreateInfoCount=1,
        pQueueCreateInfos=[queue],
        enabledExtensionCount=len(extensions),
        ppEnabledExtensionNames=extensions,
    )
    device = vk.vkCreateDevice(adapter.handle, create, None)
    _kept_alive[:] = (device, queue, create, structs)

    def native(kind: Any, handle: Any) -> Any:
        return spy.NativeHandle(kind, int(vk.ffi.cast("uintptr_t", handle)))

    kinds = spy.NativeHandleType
    handles = [
        native(kinds.VkInstance, _instance()),
        native(kinds.VkPhysicalDevice, adapter.handle),
        native(kinds.VkDevice, device),
    ]
    return spy.Device(
        type=spy.DeviceType.vulkan,
        existing_device_handles=handles,
        enable_rhi_validation=False,
        enable_hot_reload=False,
        **options,
    )


def clock(adapter: Adapter, device: Any) -> Queries:
    """That of an opened device."""
    return Queries(device, adapter.timestamp_period_ns)


def opened() -> Any:
    """The opened VkDevice, as the bindings have it."""
    return _kept_alive[0]


def device_functions() -> tuple[int, dict[str, int]]:
    """The opened VkDevice, and the addresses of the functions that C++ makes and records dispatches with, by name."""
    from vulkan._vulkan import ffi, lib

    device = opened()
    functions = {name: lib.vkGetDeviceProcAddr(device, ffi.new("char[]", name.encode())) for name in _FUNCTIONS}
    return int(ffi.cast("uintptr_t", device)), {n: int(ffi.cast("uintptr_t", f)) for n, f in functions.items()}
