"""torch.mps.compile_shader off the Mac: a user's own kernels, in Slang.

library = torch.mps.compile_shader('''
    [shader("compute")] [numthreads(64, 1, 1)]
    void full(uint3 id : SV_DispatchThreadID, uniform float* out, uniform uint n, uniform float value)
    { if (id.x < n) out[id.x] = value; }''')
library.full(x, x.numel(), 3.14)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.runtime import device
from portable_mps.runtime.kernel import Pipeline


class ShaderLibrary:
    """The compute entry points of a Slang source, as attributes. SyntaxError for a source that does not compile."""

    def __init__(self, source: str) -> None:
        import slangpy as spy

        raw = device.current().raw
        name = "shader_" + hashlib.sha256(source.encode()).hexdigest()[:16]
        try:
            module = raw.load_module_from_source(name, source)
        except spy.SlangCompileError as error:
            raise SyntaxError(f"failed to compile the shader: {error}") from None
        self._kernels = {entry.name: ShaderKernel(module, entry) for entry in module.entry_points}

    def __getattr__(self, name: str) -> ShaderKernel:
        try:
            return self.__dict__["_kernels"][name]
        except KeyError:
            raise AttributeError(f"the shader library has no kernel '{name}'") from None

    def __dir__(self) -> list[str]:
        return list(self._kernels)


class ShaderKernel:
    """One entry point. Call it with its uniform parameters in order: tensors for pointers, numbers for scalars."""

    def __init__(self, module: Any, entry: Any) -> None:
        raw = device.current().raw
        program = raw.link_program([module], [entry])
        self._pipeline = Pipeline(entry.name, raw.create_compute_pipeline(program), in_buffer=False)
        layout = program.layout.entry_points[0]
        self._parameters = [p for p in layout.parameters if p.type_layout.size > 0]
        self.group_size = tuple(layout.compute_thread_group_size)

    def __call__(self, *arguments: Any, threads: int | Sequence[int] | None = None) -> None:
        """Run `threads` threads (one number, or up to three), by default as many as the first tensor has elements.

        They come in whole workgroups, so the kernel must check its index. Tensors may be read and written in any way.
        """
        if len(arguments) != len(self._parameters):
            raise RuntimeError(f"{self._pipeline.name} takes {len(self._parameters)} arguments, got {len(arguments)}")
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        if threads is None:
            if not tensors:
                raise RuntimeError(f"{self._pipeline.name}: pass threads=, there is no tensor to take the number from")
            threads = tensors[0].numel()
        sizes = [threads] if isinstance(threads, int) else list(threads)
        sizes += [1] * (3 - len(sizes))
        x, y, z = (-(-size // own) for size, own in zip(sizes, self.group_size, strict=True))
        groups = (x, y, z)
        if 0 in groups:
            return
        values = {
            p.name: a.data_ptr() if isinstance(a, torch.Tensor) else a
            for p, a in zip(self._parameters, arguments, strict=True)
        }
        stream = device.current().stream
        with stream.lock:
            stream.record(self._pipeline, values, groups, stream.recorder.access_tensors([], tensors))
