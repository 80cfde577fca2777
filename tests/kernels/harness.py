"""Run one Slang expression over arrays, standing alone: a device, a one-line kernel, numpy in and out.

For tests of the shader library only. Operators are tested through torch.
"""
import functools
import itertools
from pathlib import Path

import numpy as np
import slangpy as spy
import vulkan as vk

KERNELS = Path(__file__).resolve().parents[2] / "portable_mps" / "kernels"
EXTENSIONS = ("VK_EXT_shader_atomic_float", "VK_EXT_shader_atomic_float2")
SLANG_TYPES = {"float32": "float", "float64": "double", "float16": "half", "bool": "uint8_t", "int8": "int8_t",
               "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int", "uint32": "uint",
               "int64": "int64_t", "uint64": "uint64_t"}
USAGE = (spy.BufferUsage.unordered_access | spy.BufferUsage.shader_resource
         | spy.BufferUsage.copy_source | spy.BufferUsage.copy_destination)
WORKGROUP = 64

_kept_alive: list[object] = []  # native handles and feature structs that the device borrows
_names = (f"harness_{index}" for index in itertools.count())


def compiler_options() -> spy.SlangCompilerOptions:
    """What kernels/lib relies on: its own folder on the search path and IEEE arithmetic, nothing contracted."""
    options = spy.SlangCompilerOptions()
    options.include_paths = [str(KERNELS)]
    options.floating_point_mode = spy.SlangFloatingPointMode.precise
    return options


@functools.cache
def device() -> spy.Device:
    """The first adapter, its VkDevice created here with every feature that the driver has."""
    application = vk.VkApplicationInfo(apiVersion=vk.VK_MAKE_VERSION(1, 3, 0))
    instance = vk.vkCreateInstance(vk.VkInstanceCreateInfo(pApplicationInfo=application), None)
    physical = vk.vkEnumeratePhysicalDevices(instance)[0]
    available = {e.extensionName for e in vk.vkEnumerateDeviceExtensionProperties(physical, None)}
    extensions = [name for name in EXTENSIONS if name in available]

    atomics = vk.VkPhysicalDeviceShaderAtomicFloatFeaturesEXT()
    features13 = vk.VkPhysicalDeviceVulkan13Features(pNext=atomics)
    features12 = vk.VkPhysicalDeviceVulkan12Features(pNext=features13)
    features11 = vk.VkPhysicalDeviceVulkan11Features(pNext=features12)
    features = vk.VkPhysicalDeviceFeatures2(pNext=features11)
    vk.vkGetPhysicalDeviceFeatures2(physical, features)

    queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, queueCount=1, pQueuePriorities=[1.0])
    handle = vk.vkCreateDevice(
        physical,
        vk.VkDeviceCreateInfo(pNext=features, queueCreateInfoCount=1, pQueueCreateInfos=[queue],
                              enabledExtensionCount=len(extensions), ppEnabledExtensionNames=extensions), None)
    _kept_alive.extend((instance, physical, handle, queue, features, features11, features12, features13, atomics))
    handles = [spy.NativeHandle(kind, int(vk.ffi.cast("uintptr_t", native))) for kind, native in (
        (spy.NativeHandleType.VkInstance, instance), (spy.NativeHandleType.VkPhysicalDevice, physical),
        (spy.NativeHandleType.VkDevice, handle))]
    return spy.Device(type=spy.DeviceType.vulkan, existing_device_handles=handles, enable_rhi_validation=False,
                      compiler_options=compiler_options())


def upload(array: np.ndarray) -> spy.Buffer:
    """A buffer that holds `array`, padded to whole 32-bit words."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    padded = np.zeros(max(raw.size + 3, 4) // 4 * 4, np.uint8)
    padded[:raw.size] = raw
    buffer = device().create_buffer(size=padded.size, usage=USAGE)
    buffer.copy_from_numpy(padded)
    return buffer


def download(buffer: spy.Buffer, dtype: np.dtype, count: int) -> np.ndarray:
    return buffer.to_numpy().view(np.uint8)[:count * np.dtype(dtype).itemsize].view(dtype).copy()


@functools.cache
def pipeline(source: str) -> spy.ComputePipeline:
    module = device().load_module_from_source(next(_names), source)
    return device().create_compute_pipeline(device().link_program([module], [module.entry_point("main")]))


def launch(source: str, arguments: dict[str, object], count: int) -> None:
    """Run `source`'s entry point `main` once for each of `count` items; `arguments` are the fields of its `p`."""
    encoder = device().create_command_encoder()
    compute = encoder.begin_compute_pass()
    cursor = spy.ShaderCursor(compute.bind_pipeline(pipeline(source))).find_entry_point(0)["p"]
    for name, value in arguments.items():
        cursor[name] = value
    compute.dispatch_compute([(count + WORKGROUP - 1) // WORKGROUP, 1, 1])
    compute.end()
    device().submit_command_buffer(encoder.finish())
    device().wait_for_idle()


def evaluate(modules: list[str], expression: str, inputs: list[np.ndarray], dtype: str) -> np.ndarray:
    """`expression` over the elements a, b, c … of `inputs`, stored as `dtype`; `modules` are imported first."""
    inputs = np.broadcast_arrays(*inputs)
    count, letters = inputs[0].size, "abcdef"[:len(inputs)]
    fields = [f"{SLANG_TYPES[array.dtype.name]}* {letter};" for letter, array in zip(letters, inputs, strict=True)]
    values = [f"let {letter} = p.{letter}[id.x];" for letter in letters]
    source = "\n".join([
        *(f"import {module};" for module in modules),
        f"struct Params {{ {' '.join(fields)} {SLANG_TYPES[dtype]}* result; uint count; }};",
        f'[shader("compute")] [numthreads({WORKGROUP}, 1, 1)]',
        "void main(uint3 id : SV_DispatchThreadID, uniform Params p)",
        f"{{ if (id.x < p.count) {{ {' '.join(values)} p.result[id.x] = {SLANG_TYPES[dtype]}({expression}); }} }}"])
    buffers = [upload(array) for array in inputs]
    result = upload(np.zeros(count, dtype))
    arguments = {letter: buffer.device_address for letter, buffer in zip(letters, buffers, strict=True)}
    launch(source, arguments | {"result": result.device_address, "count": count}, count)
    return download(result, np.dtype(dtype), count)
