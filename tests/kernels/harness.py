"""Run one Slang expression over arrays: a one-line kernel, numpy in and out.

For tests of the shader library only. Operators are tested through torch.
"""

import functools
import itertools

import numpy as np
import slangpy as spy

from portable_mps.runtime import device as runtime

SLANG_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "half",
    "bool": "uint8_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int",
    "uint32": "uint",
    "int64": "int64_t",
    "uint64": "uint64_t",
}
USAGE = (
    spy.BufferUsage.unordered_access
    | spy.BufferUsage.shader_resource
    | spy.BufferUsage.copy_source
    | spy.BufferUsage.copy_destination
)
WORKGROUP = 64

_names = (f"harness_{index}" for index in itertools.count())


def device() -> spy.Device:
    """The device that operators use, with its compiler options."""
    return runtime.current().raw


def upload(array: np.ndarray) -> spy.Buffer:
    """A buffer that holds `array`, padded to whole 32-bit words."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    padded = np.zeros(max(raw.size + 3, 4) // 4 * 4, np.uint8)
    padded[: raw.size] = raw
    buffer = device().create_buffer(size=padded.size, usage=USAGE)
    buffer.copy_from_numpy(padded)
    return buffer


def download(buffer: spy.Buffer, dtype: np.dtype, count: int) -> np.ndarray:
    return buffer.to_numpy().view(np.uint8)[: count * np.dtype(dtype).itemsize].view(dtype).copy()


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
    count, letters = inputs[0].size, "abcdef"[: len(inputs)]
    fields = [f"{SLANG_TYPES[array.dtype.name]}* {letter};" for letter, array in zip(letters, inputs, strict=True)]
    values = [f"let {letter} = p.{letter}[id.x];" for letter in letters]
    source = "\n".join(
        [
            *(f"import {module};" for module in modules),
            f"struct Params {{ {' '.join(fields)} {SLANG_TYPES[dtype]}* result; uint count; }};",
            f'[shader("compute")] [numthreads({WORKGROUP}, 1, 1)]',
            "void main(uint3 id : SV_DispatchThreadID, uniform Params p)",
            f"{{ if (id.x < p.count) {{ {' '.join(values)} p.result[id.x] = {SLANG_TYPES[dtype]}({expression}); }} }}",
        ]
    )
    buffers = [upload(array) for array in inputs]
    result = upload(np.zeros(count, dtype))
    arguments = {letter: buffer.device_address for letter, buffer in zip(letters, buffers, strict=True)}
    launch(source, arguments | {"result": result.device_address, "count": count}, count)
    return download(result, np.dtype(dtype), count)
