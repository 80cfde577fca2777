"""torch.mps.compile_shader off the Mac: a user's own kernels, in Slang.

library = torch.mps.compile_shader('''
    [shader("compute")] [numthreads(64, 1, 1)]
    void full(uint3 id : SV_DispatchThreadID, uniform float* out, uniform uint n, uniform float value)
    { if (id.x < n) out[id.x] = value; }''')
library.full(x, x.numel(), 3.14)

Attributes, keywords and errors are those of torch's own binding (torch/csrc/mps/Module.cpp).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from portable_mps.runtime import device
from portable_mps.runtime.kernel import Pipeline
from portable_mps.runtime.shader_arguments import Parameter, casts_of

_METAL = re.compile(r"metal_stdlib|using\s+namespace\s+metal|\bkernel\s+void\b|\[\[\s*\w+_position_in_\w+\s*\]\]")


class ShaderLibrary:
    """The compute entry points of a Slang source, as attributes. SyntaxError for a source that does not compile,
    NotImplementedError for one in Metal's language."""

    def __init__(self, source: str) -> None:
        import slangpy as spy

        if _METAL.search(source):
            raise NotImplementedError(
                "torch.mps.compile_shader takes Slang here, and this source is in Metal's shading language, which only "
                "a Mac can compile"
            )
        name = "shader_" + hashlib.sha256(source.encode()).hexdigest()[:16]
        try:
            self._module = device.current().raw.load_module_from_source(name, source)
        except spy.SlangCompileError as error:
            raise SyntaxError(f"failed to compile the shader: {error}") from None
        self._entries = {entry.name: entry for entry in self._module.entry_points}
        self._kernels: dict[str, ShaderKernel] = {}
        self._shared_bytes = _shared_bytes(self._module, source)

    def __getattr__(self, name: str) -> ShaderKernel:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._entries:
            raise RuntimeError(f"the shader library has no kernel '{name}': it has {', '.join(self._entries)}")
        if name not in self._kernels:
            self._kernels[name] = ShaderKernel(self._module, self._entries[name], self._shared_bytes)
        return self._kernels[name]

    def __dir__(self) -> list[str]:
        return list(self._entries)


class ShaderKernel:
    """One entry point. Call it with its uniform parameters in order.

    A pointer takes a tensor of its element's dtype (an unsigned integer stands for any dtype of its size, bfloat16
    among them), or a list of numbers; a pointer to pointers a list of tensors. A scalar takes a number or a tensor of
    one element, a vector or an array a list of numbers, a struct a dict.
    """

    def __init__(self, module: Any, entry: Any, shared_bytes: int) -> None:
        opened = device.current()
        self.name = str(entry.name)
        try:
            program = opened.raw.link_program([module], [entry])
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.name} cannot be made. Its parameters may take {opened.adapter.max_push_constants} bytes in "
                f"all: pass larger ones in a tensor. ({error})"
            ) from error
        self._pipeline = Pipeline(self.name, opened.raw.create_compute_pipeline(program), in_buffer=False)
        layout = program.layout.entry_points[0]
        self._parameters = [Parameter(self.name, p) for p in layout.parameters if p.type_layout.size > 0]
        self.group_size: tuple[int, ...] = tuple(layout.compute_thread_group_size)
        self.max_threads_per_threadgroup = opened.adapter.max_workgroup
        self.thread_execution_width = opened.adapter.subgroup_size
        self.static_thread_group_memory_length = shared_bytes

    def __call__(
        self,
        *arguments: Any,
        threads: int | Sequence[int] | None = None,
        group_size: int | Sequence[int] | None = None,
        arg_casts: str | dict[int, str] | None = None,
        error_buf_idx: int | None = None,
    ) -> None:
        """Run `threads` threads (one number, or up to three), by default as many as the first tensor has elements.

        They come in whole workgroups, so the kernel must check its index. Tensors may be read and written in any way.
        group_size can only repeat what the source's numthreads says. arg_casts is "fp16", "bf16", "int32", "int16",
        "int8" or "uint8" for all numbers, or a dict of these by position. error_buf_idx is the position of a parameter
        `ErrorWord*`, for which no argument is passed: what the kernel reports with lib.indexing's `report_user_error`
        is raised at the next synchronisation. RuntimeError for arguments that do not fit the signature.
        """
        values: list[Any] = list(arguments)
        if error_buf_idx is not None:
            self._check_error_parameter(error_buf_idx, len(values))
            values[error_buf_idx : error_buf_idx + 1] = [None]
        if len(values) != len(self._parameters):
            raise RuntimeError(f"{self.name} takes {len(self._parameters)} arguments, got {len(values)}")
        groups = self._groups(arguments, threads, group_size)
        opened = device.current()
        packed: dict[str, bytes] = {}
        tensors: list[torch.Tensor] = []
        casts = casts_of(arg_casts, len(values))
        for i, (parameter, value, cast) in enumerate(zip(self._parameters, values, casts, strict=True)):
            if i == error_buf_idx:
                opened.errors.arm_user_errors()
                packed[parameter.name] = opened.errors.address.to_bytes(8, "little")
                continue
            packed[parameter.name], used = parameter.pack(value, cast)
            tensors += used
        if 0 in groups:
            return
        stream = opened.stream
        with stream.lock:
            stream.record(self._pipeline, packed, groups, stream.recorder.access_tensors([], tensors))

    def _check_error_parameter(self, position: int, count: int) -> None:
        if not 0 <= position <= count or position >= len(self._parameters):
            raise RuntimeError(f"{self.name}: error_buf_idx={position} is not the position of a parameter")
        if not self._parameters[position].is_error_record:
            raise RuntimeError(
                f"{self.name}: error_buf_idx={position} is '{self._parameters[position].name}', which is no ErrorWord* "
                "(import lib.indexing)"
            )

    def _groups(self, arguments: Sequence[Any], threads: Any, group_size: Any) -> tuple[int, int, int]:
        """The numbers of workgroups."""
        if threads is None:
            first = next((a for a in arguments if isinstance(a, torch.Tensor)), None)
            if first is None:
                raise RuntimeError(f"{self.name}: Number of threads is undefined: pass threads=, as there is no tensor")
            threads = first.numel()
        sizes = _dimensions(self.name, "threads", threads)
        if group_size is not None:
            wanted = _dimensions(self.name, "group_size", group_size)
            if len(wanted) != len(sizes):
                raise RuntimeError(f"{self.name}: threads and group_size must have the same number of dimensions")
            if (*wanted, 1, 1)[:3] != self.group_size:
                raise RuntimeError(
                    f"{self.name}: group_size={wanted}, but its source has [numthreads{self.group_size}], which a call "
                    "cannot change"
                )
        padded = (*sizes, 1, 1)[:3]
        x, y, z = (-(-size // own) for size, own in zip(padded, self.group_size, strict=True))
        most = device.current().adapter.max_groups
        if x > most[0] or y > most[1] or z > most[2]:
            raise RuntimeError(
                f"{self.name}: threads={sizes} are {(x, y, z)} workgroups, and the adapter runs at most {most} at a "
                "time: make the workgroups larger, use more dimensions, or call several times"
            )
        return x, y, z


def _dimensions(kernel: str, what: str, value: Any) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(sizes) <= 3 or any(not isinstance(size, Integral) or size < 0 for size in sizes):
        raise RuntimeError(f"{kernel}: {what} must be one to three numbers of at least 0, got {value!r}")
    return tuple(map(int, sizes))


def _shared_bytes(module: Any, source: str) -> int:
    """What the library's groupshared variables take; the reflection tells their types, but not who is groupshared."""
    total = 0
    for child in module.module_decl.children:
        if child.kind.name == "variable" and re.search(rf"\bgroupshared\b[^;]*\b{child.name}\b", source):
            total += module.layout.get_type_layout(child.as_variable().type).size
    return total
