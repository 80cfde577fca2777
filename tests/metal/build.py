"""Kernels' texts to libraries for the CPU, kept on disk: Slang makes Metal of each, g++ what runs here of that."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metal import translate
from portable_mps import _C
from portable_mps.runtime import adapter, kernel

INCLUDE = Path(__file__).parent / "include"
ORDERS = ("forward", "reversed", "random")
# Metal's compiler without fast-math: literals are single precision, nothing is contracted, halves are rounded at every
# step. What a thread does not initialise has a pattern in it, as nothing promises zeros.
FLAGS = (
    "-std=c++17", "-O1", "-w", "-march=native", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti",
    "-ffp-contract=off", "-fexcess-precision=16", "-fsingle-precision-constant", "-fno-math-errno",
    "-fno-strict-aliasing", "-fwrapv", "-ftrivial-auto-var-init=pattern",
)  # fmt: skip
_PROFILE = "sm_6_0"
_COMPILERS = 2  # at a time, in each process


def folder() -> Path:
    """Where libraries are kept: they are for this machine's processor."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    made = Path(root) / "portable-mps-metal"
    made.mkdir(parents=True, exist_ok=True)
    return made


@functools.cache
def _digest() -> str:
    """Of all that a library follows from, beside its text."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(path for path in INCLUDE.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    digest.update(Path(translate.__file__).read_bytes())
    flags = re.search(r"^flags.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    digest.update((flags.group() if flags else "").encode())
    digest.update(subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout)
    return digest.hexdigest()


def _write(path: Path, data: str | bytes) -> None:
    """At once: other processes may write the same."""
    part = path.with_suffix(f".{os.getpid()}{path.suffix}")
    part.write_bytes(data.encode() if isinstance(data, str) else data)
    part.replace(path)


def compile_library(source: str, stem: str) -> Path:
    """The library of a C++ text. RuntimeError with g++'s first error."""
    library = folder() / f"{stem}.so"
    if library.exists():
        return library
    file, part = library.with_suffix(".cpp"), library.with_suffix(f".{os.getpid()}.so")
    _write(file, source)
    command = ["g++", *FLAGS, f"-I{INCLUDE}", str(file), "-o", str(part)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[:400]]
        raise RuntimeError(f"g++: {errors[0]}")
    part.replace(library)
    return library


@functools.cache
def runner() -> ctypes.CDLL:
    """What runs kernels (include/stand_in/runner.cpp): their libraries find its functions."""
    source = (INCLUDE / "stand_in/runner.cpp").read_text()
    built = compile_library(source, f"runner-{_digest()[:16]}")
    library = ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)
    library.metal_run.restype = ctypes.c_char_p
    return library


@dataclass
class Emitted:
    """What Slang makes of a kernel: the text, or why there is none. threads: of a workgroup."""

    metal: str
    threads: tuple[int, int, int]
    refused: str = ""


class Emitter:
    """Slang's part; for one thread. Results are kept by `key`, which stands for text, entry point and library."""

    def __init__(self) -> None:
        options = kernel.front_end_options(_PROFILE, format=kernel.METAL)
        if options is None:
            raise RuntimeError("Slang's library was not found beside slangpy")
        self._end = _C.FrontEnd(options)

    def emit(self, text: str, entry: str, key: str) -> Emitted:
        file = folder() / f"{key}.json"
        if file.exists():
            return Emitted(**json.loads(file.read_text()))
        try:
            code = self._end.compile(text, entry).decode()
            emitted = Emitted(code, tuple(self._end.workgroup))
        except RuntimeError as error:
            emitted = Emitted("", (1, 1, 1), _reason(str(error)))
        _write(file, json.dumps(vars(emitted)))
        return emitted


def _reason(words: str) -> str:
    """The line of Slang's words that says why."""
    if "unexpected:" in words:
        return "unexpected: " + words.split("unexpected:")[1].splitlines()[0].strip()
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no reason")


_threads = concurrent.futures.ThreadPoolExecutor(_COMPILERS)


class Library:
    """A kernel that runs here; g++ works in another thread until somebody runs it."""

    def __init__(self, name: str, emitted: Emitted) -> None:
        self.name = name
        self._threads = (ctypes.c_uint * 3)(*emitted.threads)
        self._invoke: Any = None
        self._built = _threads.submit(self._build, emitted.metal)

    def _build(self, metal: str) -> Path:
        runner()
        translated = translate.to_cpp(metal)
        self._waits = int(translated.waits)
        stem = hashlib.sha256((_digest() + translated.code).encode()).hexdigest()[:32]
        return compile_library(translated.code, stem)

    def wait(self) -> None:
        """Until it is built; ValueError or RuntimeError where it cannot be."""
        self._built.result()

    def run(self, parameters: bytes, groups: tuple[int, int, int], order: int = 0, seed: int = 0) -> None:
        """RuntimeError for what the stand-in finds wrong."""
        if self._invoke is None:
            library = ctypes.CDLL(str(self._built.result()))
            self._invoke = library.invoke
        padded = ctypes.create_string_buffer(parameters, len(parameters) + 64)  # aligned to 16 bytes, as malloc does
        sizes = (ctypes.c_uint * 3)(*groups)
        said = runner().metal_run(self._invoke, padded, sizes, self._threads, self._waits, order, seed)
        if said is not None:
            raise RuntimeError(f"{self.name}, as Metal: {said.decode()}")


def processors() -> int:
    return adapter.processors()
