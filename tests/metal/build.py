"""Kernels' texts to libraries for the CPU, kept on disk: Slang makes Metal of each, g++ what runs here of that."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metal import translate
from portable_mps import _C
from portable_mps.runtime import kernel

Ranges = Sequence[tuple[int, int]]  # of addresses

INCLUDE = Path(__file__).parent / "include"
ORDERS = ("forward", "reversed", "random")
# Metal's compiler without fast-math: literals are single precision, nothing is contracted, halves are rounded at every
# step. What a thread does not initialise has a pattern in it, as nothing promises zeros.
FLAGS = (
    "-std=c++17", "-O1", "-w", "-march=native", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti",
    "-ffp-contract=off", "-fexcess-precision=16", "-fsingle-precision-constant", "-fno-math-errno",
    "-fno-strict-aliasing", "-fwrapv", "-ftrivial-auto-var-init=pattern",
)  # fmt: skip
# g++ has accesses of memory told to functions, which are the runner's (include/stand_in/watch.h).
_WATCHED = ("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0")
RUNNER = ("runner.cpp", "watch.h", "division.h")
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
    digest = hashlib.sha256(" ".join((*FLAGS, *_WATCHED)).encode())
    for path in sorted(path for path in INCLUDE.rglob("*") if path.is_file() and path.name not in RUNNER):
        digest.update(path.read_bytes())
    flags = re.search(r"^flags.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    digest.update((flags.group() if flags else "").encode())
    digest.update(subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout)
    return digest.hexdigest()


def _write(path: Path, data: str | bytes) -> None:
    """At once: other processes may write the same."""
    part = path.with_suffix(f".{os.getpid()}{path.suffix}")
    part.write_bytes(data.encode() if isinstance(data, str) else data)
    part.replace(path)


def compile_library(source: str, stem: str, watched: bool = False) -> Path:
    """The library of a C++ text; watched: it tells of its accesses. RuntimeError with g++'s first error."""
    library = folder() / f"{stem}.so"
    if library.exists():
        return library
    file, part = library.with_suffix(".cpp"), library.with_suffix(f".{os.getpid()}.so")
    _write(file, source)
    command = ["g++", *FLAGS, f"-I{INCLUDE}", str(file), "-o", str(part)]
    if watched:  # in two steps, as the linker would bring the sanitizer's own functions
        command = ["g++", *FLAGS[:-1], *_WATCHED, f"-I{INCLUDE}", "-c", str(file), "-o", f"{part}.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    if watched and done.returncode == 0:
        done = subprocess.run(["g++", "-shared", f"{part}.o", "-o", str(part)], capture_output=True, text=True)
        Path(f"{part}.o").unlink()
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[:400]]
        raise RuntimeError(f"g++: {errors[0]}")
    part.replace(library)
    return library


@functools.cache
def runner() -> ctypes.CDLL:
    """What runs kernels (include/stand_in/runner.cpp): their libraries find its functions."""
    source = (INCLUDE / "stand_in/runner.cpp").read_text()
    digest = hashlib.sha256(_digest().encode())
    for name in RUNNER:
        digest.update((INCLUDE / "stand_in" / name).read_bytes())
    built = compile_library(source, f"runner-{digest.hexdigest()[:16]}")
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
            if translate.kernel_of(code) != entry:  # by which a Mac's driver would look for it
                emitted = Emitted("", (1, 1, 1), f"Slang gives the entry point {entry!r} another name")
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

    def __init__(self, name: str, emitted: Emitted, watched: bool = False) -> None:
        self.name = name
        self._watched = watched
        self._threads = (ctypes.c_uint * 3)(*emitted.threads)
        self._invoke: Any = None
        self._built = _threads.submit(self._build, emitted.metal)

    def _build(self, metal: str) -> Path:
        runner()
        translated = translate.to_cpp(metal)
        self._waits = int(translated.waits)
        stem = hashlib.sha256((_digest() + translated.code).encode()).hexdigest()[:32]
        return compile_library(translated.code, stem + "-watched" * self._watched, self._watched)

    def wait(self) -> None:
        """Until it is built; ValueError or RuntimeError where it cannot be."""
        self._built.result()

    def run(
        self,
        parameters: bytes,
        groups: tuple[int, int, int],
        order: int = 0,
        seed: int = 0,
        reads: Ranges = (),
        writes: Ranges = (),
    ) -> None:
        """RuntimeError for what the stand-in finds wrong. reads, writes: what a watched kernel may."""
        if self._invoke is None:
            library = ctypes.CDLL(str(self._built.result()))
            self._invoke = library.invoke
        padded = ctypes.create_string_buffer(parameters, len(parameters) + 64)  # aligned to 16 bytes, as malloc does
        sizes = (ctypes.c_uint * 3)(*groups)
        if self._watched:
            begin = ctypes.addressof(padded)
            reads = [*reads, (begin, begin + len(parameters))]
            sides = [(ctypes.c_uint64 * (2 * len(side)))(*itertools.chain(*side)) for side in (reads, writes)]
            runner().metal_watch(sides[0], ctypes.c_size_t(len(reads)), sides[1], ctypes.c_size_t(len(writes)))
        said = runner().metal_run(self._invoke, padded, sizes, self._threads, self._waits, order, seed)
        if said is not None:
            raise RuntimeError(f"{self.name}, as Metal: {said.decode()}")
