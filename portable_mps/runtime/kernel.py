"""Kernels: Slang source to a pipeline, compiled once a process and kept on disk.

Most are compiled in other threads (csrc/compiler.h) while dispatches of them are recorded already.

A kernel's source names its parameter struct `Params` and takes it as `PARAMS p`; whether that is a push
constant or a constant buffer is decided here, by the struct's size and the adapter.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import struct
import threading
from pathlib import Path
from typing import Any

from portable_mps import _C, settings
from portable_mps.runtime import adapter
from portable_mps.runtime.cache import SHIPPED
from portable_mps.runtime.notices import Compiling
from portable_mps.runtime.parameters import MOST_BYTES

SPIRV, METAL = 6, 24  # values of Slang's SlangCompileTarget
_MOST_COMPILERS = 16  # each that meets a kernel that is not kept takes 60 MB
KERNELS = Path(__file__).resolve().parent.parent / "kernels"


class Pipeline:
    """A kernel as Python knows it: its name; where slangpy records it, its pipeline and how parameters are passed."""

    __slots__ = ("in_buffer", "name", "pipeline")

    def __init__(self, name: str, pipeline: Any, in_buffer: bool) -> None:
        self.name = name
        self.pipeline = pipeline
        self.in_buffer = in_buffer


class Compiler:
    """Compiles Slang for one device, whose `recorder` the kernels are for.

    described: what the device is. pool: compiles side by side; None has slangpy compile.
    """

    def __init__(
        self,
        device: Any,
        recorder: _C.Recorder,
        described: adapter.Adapter,
        waiting: Compiling,
        pool: _C.Compiler | None,
    ) -> None:
        self._device = device
        self._recorder = recorder
        self._max_push_constants = described.max_push_constants
        self._profile = described.profile
        self._lock = threading.Lock()
        self._waiting = waiting
        self._pool = pool
        self._collection = settings.collection()
        self._kernels: dict[str, _C.Kernel] = {}

    def compile(self, name: str, source: str, parameter_bytes: int, entry: str = "run") -> _C.Kernel:
        """The kernel for entry point `entry` of `source`, which may still be compiled when this returns.

        RuntimeError with the compiler's words when it fails: here, or where somebody waits for the kernel.
        """
        if parameter_bytes > MOST_BYTES:
            raise RuntimeError(f"{name}: its parameters take {parameter_bytes} bytes, of at most {MOST_BYTES}")
        in_buffer = parameter_bytes > self._max_push_constants
        binding = "uniform ConstantBuffer<Params>" if in_buffer else "uniform Params"
        text = f"#define PARAMS {binding}\n{source}"
        key = kernel_key(text, entry, self._profile)
        with self._lock:
            known = self._kernels.get(key)
            if known is None:
                if self._collection is not None:
                    first = f"// {name} {entry} {parameter_bytes} {self._profile}\n"
                    _collect(self._collection / f"{key}.slang", first + text)
                if self._pool is None:
                    with self._waiting:
                        # The key makes the module's name unique, as slangpy keeps modules by name.
                        known = self._make(name, f"{name}_{key}", text, entry, in_buffer)
                else:
                    python = Pipeline(name, None, in_buffer)
                    known = self._recorder.compile(
                        python, self._pool, name, text, entry, key, parameter_bytes, in_buffer
                    )
                self._kernels[key] = known
        return known

    def _make(self, name: str, module_name: str, text: str, entry: str, in_buffer: bool) -> _C.Kernel:
        import slangpy as spy

        try:
            module = self._device.load_module_from_source(module_name, text)
            program = self._device.link_program([module], [module.entry_point(entry)])
            pipeline = self._device.create_compute_pipeline(program)
        except spy.SlangCompileError as error:  # which is no RuntimeError
            raise RuntimeError(str(error)) from None
        handle = 0 if in_buffer else pipeline.native_handle.value
        parameters = program.layout.entry_points[0].parameters
        push_bytes = max((p.type_layout.size for p in parameters if p.name == "p"), default=0)
        return self._recorder.kernel(Pipeline(name, pipeline, in_buffer), handle, push_bytes)


def _collect(path: Path, text: str) -> None:
    """Write what a compiler needs to know, unless it is there: the first line has all but the kernel's text."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(f".{os.getpid()}")  # other processes may write the same
        written.write_text(text)
        written.replace(path)


@functools.cache
def library_digest() -> str:
    """Of all that kernels may import or include."""
    digest = hashlib.sha256()
    for path in sorted(path for path in KERNELS.rglob("*") if path.suffix in (".slang", ".slangh")):
        digest.update(str(path.relative_to(KERNELS)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def kernel_key(text: str, entry: str, profile: str) -> str:
    """Stands for all that a kernel's SPIR-V follows from, beside the floating-point mode."""
    return hashlib.sha256("\n".join((library_digest(), profile, entry, text)).encode()).hexdigest()[:32]


def front_end_options(profile: str, mode: Any = None, format: int = SPIRV) -> _C.FrontEndOptions | None:
    """For Slang's own interface; None where its library is not found.

    profile: Adapter.profile. mode: slangpy's SlangFloatingPointMode, `precise` unless given.
    """
    import slangpy as spy

    libraries = sorted(Path(spy.__file__).parent.glob("*slang-compiler*"))
    if not libraries:
        return None
    library = ctypes.CDLL(str(libraries[0]))
    names = ("slang_createGlobalSession2", "spReflection_getEntryPointByIndex",
             "spReflectionEntryPoint_getComputeThreadGroupSize")  # fmt: skip
    create, entry_point, size = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names)
    mode = spy.SlangFloatingPointMode.precise if mode is None else mode
    return _C.FrontEndOptions(create, str(KERNELS), profile, mode.value, format, entry_point, size)


def open_pool(handle: int, functions: dict[str, int], profile: str, mode: Any, kept: Path | None) -> _C.Compiler | None:
    """Compilers beside slangpy's, one a processor; None where there shall be none, or Slang's library is not found.

    handle and functions: vulkan.device_functions(). profile: Adapter.profile. mode: slangpy's SlangFloatingPointMode.
    kept: the folder of what was made here before.
    """
    threads = settings.compilers()
    if threads is None:
        threads = min(adapter.processors(), _MOST_COMPILERS)
    options = front_end_options(profile, mode)
    if threads == 0 or not functions or options is None:
        return None
    shipped = str(SHIPPED) if mode.name == "precise" and settings.uses_shipped() else ""
    return _C.Compiler(handle, functions, options, "" if kept is None else str(kept), shipped, threads)


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
        self._fields = layout
        self._variants: dict[tuple[tuple[str, Any], ...], _C.Kernel] = {}

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """Of the fields, in bytes."""
        fields = re.sub(r"(\d+)(\w)", lambda many: many[2] * int(many[1]), self._fields)
        return tuple(struct.calcsize(f"@{fields[:i]}0{field}") for i, field in enumerate(fields))

    def variant(self, **defines: Any) -> _C.Kernel:
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
