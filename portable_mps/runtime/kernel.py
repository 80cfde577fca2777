"""Kernels: Slang source to a pipeline, compiled once a process and cached on disk.

A kernel's source names its parameter struct `Params` and takes it as `PARAMS p`; whether that is a push
constant or a constant buffer is decided here, by the struct's size and the adapter.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import threading
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).resolve().parent.parent / "kernels"


class Kernel:
    """A compute pipeline and how its parameters are passed. Made by `Compiler.compile`."""

    __slots__ = ("in_buffer", "name", "pipeline")

    def __init__(self, name: str, pipeline: Any, in_buffer: bool) -> None:
        self.name = name
        self.pipeline = pipeline
        self.in_buffer = in_buffer


class Compiler:
    """Compiles Slang for one device."""

    def __init__(self, device: Any, max_push_constants: int) -> None:
        self._device = device
        self._max_push_constants = max_push_constants
        self._lock = threading.Lock()
        self._kernels: dict[tuple[str, str], Kernel] = {}

    def compile(self, name: str, source: str, parameter_bytes: int, entry: str = "main") -> Kernel:
        """The kernel for entry point `entry` of `source`; RuntimeError with the compiler's words when it fails."""
        in_buffer = parameter_bytes > self._max_push_constants
        binding = "uniform ConstantBuffer<Params>" if in_buffer else "uniform Params"
        text = f"#define PARAMS {binding}\n{source}"
        # The hash makes the module's name unique, as slangpy keeps modules by name.
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        with self._lock:
            known = self._kernels.get((digest, entry))
            if known is None:
                module = self._device.load_module_from_source(f"{name}_{digest}", text)
                program = self._device.link_program([module], [module.entry_point(entry)])
                pipeline = self._device.create_compute_pipeline(program)
                known = self._kernels[digest, entry] = Kernel(name, pipeline, in_buffer)
        return known


@functools.cache
def _source(stem: str) -> str:
    return (KERNELS / f"{stem}.slang").read_text()


class Template:
    """A hand-written kernel file with an entry point and the layout of its `Params`.

    layout has one character a field, as in `struct`: "Q" an address (pass a tensor) or uint64, "I" uint32, "i" int32,
    "q" int64, "f" float32, "d" float64. The struct in Slang must list plain scalars and pointers in that order, since
    arrays and vectors are padded differently in a constant buffer.
    """

    def __init__(self, stem: str, entry: str, layout: str) -> None:
        self.stem = stem
        self.entry = entry
        self.layout = struct.Struct(f"@{layout}0Q")
        self._variants: dict[tuple[tuple[str, Any], ...], Kernel] = {}

    def variant(self, **defines: Any) -> Kernel:
        """The kernel with these preprocessor definitions: they are the compile key."""
        key = tuple(defines.items())
        kernel = self._variants.get(key)
        if kernel is None:
            from portable_mps.runtime import device

            header = "".join(f"#define {name} {value}\n" for name, value in key)
            name = f"{self.stem}_{self.entry}".replace("/", "_")
            kernel = device.current().compiler.compile(name, header + _source(self.stem), self.layout.size, self.entry)
            self._variants[key] = kernel
        return kernel
