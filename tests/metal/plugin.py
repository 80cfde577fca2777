"""A pytest plugin: every dispatch runs as the Metal text of its kernel (`-p metal.plugin`).

The software driver's device addresses are the host's own, so a kernel that is compiled for the CPU finds the tensors.
For the driver itself such a kernel does nothing. What Slang gives no Metal for runs on the driver as ever, and is told.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch  # noqa: F401  (whose libraries the extension is linked to)
from opinfo import sweep

from metal import build
from metal.results import Family, Results, Variant
from portable_mps.runtime import adapter, device, kernel, stream
from portable_mps.runtime.adapter import metal as metal_adapter

_NOTHING = '[shader("compute")] [numthreads(1, 1, 1)] void main() {}'
_SOFTWARE_PUSH_CONSTANTS = 128  # bytes
_ERROR_BYTES = 16  # of lib/indexing.slang's ErrorWord
_MATRICES: dict[str, Any] = {"coop_matrices": metal_adapter.MATRICES, "subgroup_size": 32, "backend": "Metal"}
# What a watch finds, and may be.
_MAY_RACE = (
    ("indexing_run", "two writes of device memory"),  # of values put to one place, any may stay
    ("amp_unscale", "two writes of device memory"),  # of one value
    ("foreach_apply", "a write and a read of device memory"),  # threads past the end read the last, and drop it
    ("optimizer_step", "a write and a read of device memory"),
)
_USERS_OWN = "a user's own kernel, which slangpy compiles and records"


class Metal:
    """What stands between the runtime and the driver in this process."""

    def __init__(self, order: int, watches: bool) -> None:
        self._order = order
        self._watches = watches
        self._libraries: dict[int, tuple[build.Library, str]] = {}  # by a kernel's compilation; with its key
        self._refused: dict[int, str] = {}
        self._emitter: build.Emitter | None = None
        self._seeds = itertools.count()
        self._waited: set[str] = set()
        self.results = Results()
        self.family = ""

    def _current(self) -> Family:
        return self.results.families.setdefault(self.family, Family())

    def write(self, folder: str) -> None:
        """What this process has done so far, to a file of its own."""
        part = Path(folder, f"{os.getpid()}.part")
        part.write_text(json.dumps(self.results.as_json()))
        part.replace(part.with_suffix(".json"))

    def compile(self, recorder: Any, arguments: tuple[Any, ...]) -> Any:
        """In the place of `_C.Recorder.compile`."""
        python, pool, name, text, entry, key, parameter_bytes, in_buffer = arguments
        if self._emitter is None:
            self._emitter = build.Emitter()
        emitted = self._emitter.emit(text, entry, key)
        variant = Variant(name, emitted.refused, "simdgroup_multiply_accumulate" in emitted.metal)
        self.results.variants[key] = variant
        self._current().variants.add(key)
        if emitted.refused:
            kernel = recorder.compile(*arguments)
            self._refused[kernel.compilation] = key
            return kernel
        kind = min(parameter_bytes, _SOFTWARE_PUSH_CONSTANTS) if not in_buffer else parameter_bytes, in_buffer
        kernel = recorder.compile(python, pool, name, _NOTHING, "main", "nothing", *kind)
        self._libraries[kernel.compilation] = build.Library(name, emitted, self._watches), key
        return kernel

    def execute(self, stream: Any, batch: Any, on_driver: Any) -> None:
        """In the place of `Stream._execute`: in the order of the dispatches, each where it can run."""
        dispatches = batch.dispatches()
        family = self._current()
        family.dispatches += len(dispatches)
        begin = 0
        for here, group in itertools.groupby(dispatches, lambda each: each[0] in self._libraries):
            part = list(group)
            if here:
                _drain(stream)
                for compilation, *arguments in part:
                    self._run(compilation, *arguments)
            else:
                on_driver(stream, batch.part(begin, begin + len(part)))
                family.on_driver.update(
                    self.results.variants[self._refused[compilation]].refused for compilation, *_ in part
                )
            begin += len(part)

    def _run(
        self,
        compilation: int,
        parameters: bytes,
        groups: tuple[int, int, int],
        reads: build.Ranges,
        writes: build.Ranges,
    ) -> None:
        library, key = self._libraries[compilation]
        variant = self.results.variants[key]
        if key not in self._waited:
            self._waited.add(key)
            try:
                library.wait()
            except (RuntimeError, ValueError) as error:
                variant.refused = str(error)
                raise
        try:
            if self._watches:  # a kernel that may report errors does not say so among what it writes
                address = device.current().errors.address
                writes = [*writes, (address, address + _ERROR_BYTES)]
            library.run(parameters, groups, self._order, next(self._seeds), reads, writes)
        except RuntimeError as error:
            if not any(library.name == name and words in str(error) for name, words in _MAY_RACE):
                self.results.faults[str(error)] += 1
                raise
        variant.runs += 1


def _drain(stream: Any) -> None:
    """Have the driver do what is recorded, and go on with another encoder."""
    if stream._encoder is not None:
        submission = stream._device.submit_command_buffer(stream._encoder.finish())
        stream._device.wait_for_submit(submission)
        stream._last_submission = submission
        stream._encoder = None
    stream._open_encoder()


class _Recorder:
    """A `_C.Recorder` for the compiler alone."""

    def __init__(self, recorder: Any, metal: Metal) -> None:
        self._recorder = recorder
        self._metal = metal

    def compile(self, *arguments: Any) -> Any:
        return self._metal.compile(self._recorder, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recorder, name)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("metal")
    group.addoption("--metal-order", choices=build.ORDERS, default="forward", help="in which order threads have turns")
    group.addoption("--metal-watch", action="store_true", help="find accesses out of bounds, and missing barriers")
    group.addoption("--metal-matrices", action="store_true", help="multiply by simdgroup matrices, as Apple's GPUs can")
    group.addoption("--metal-results", help="a folder that gets what each process did, as JSON")


class Options(NamedTuple):
    """What pytest is told; a process behind a test is told the same."""

    order: int
    watches: bool
    matrices: bool
    folder: str | None


def install(options: Options) -> Metal:
    """Have every dispatch of this process, whose device is not open yet, run as Metal."""
    metal = Metal(options.order, options.watches)
    if options.matrices:
        real = adapter.choose
        adapter.choose = lambda: dataclasses.replace(real(), **_MATRICES)
    begin = kernel.Compiler.__init__

    def compiler(self: Any, raw: Any, recorder: Any, *rest: Any) -> None:
        recorder.watched = options.watches
        begin(self, raw, _Recorder(recorder, metal), *rest)

    execute, record = stream.Stream._execute, stream.Stream.record

    def recorded(self: Any, pipeline: Any, parameters: Any, *rest: Any) -> None:
        family = metal._current()
        family.dispatches += 1
        family.on_driver[_USERS_OWN] += 1
        record(self, pipeline, parameters, *rest)

    kernel.Compiler.__init__ = compiler  # type: ignore[method-assign]
    stream.Stream._execute = lambda self, batch: metal.execute(self, batch, execute)  # type: ignore[method-assign]
    stream.Stream.record = recorded  # type: ignore[method-assign]
    return metal


class _Pipe:
    """The pipe of a process behind a test, which writes down what was done: it is killed in the end."""

    _OFTEN = 20  # verdicts

    def __init__(self, pipe: Any, metal: Metal, folder: str | None) -> None:
        self._pipe = pipe
        self._metal = metal
        self._folder = folder
        self._count = 0

    def recv(self) -> Any:
        return self._pipe.recv()

    def send(self, message: Any) -> None:
        self._count += 1
        if self._folder is not None and self._count % self._OFTEN == 0:
            self._metal.write(self._folder)
        self._pipe.send(message)


def judging(options: Options, pipe: Any) -> None:
    """In the place of `opinfo.sweep.judging`, which judges torch's operator database in processes of its own."""
    metal = install(options)
    metal.family = "opinfo"
    sweep.judging(_Pipe(pipe, metal, options.folder))  # type: ignore[arg-type]
    if options.folder is not None:
        metal.write(options.folder)


def pytest_configure(config: pytest.Config) -> None:
    options = Options(
        build.ORDERS.index(config.getoption("--metal-order")),
        config.getoption("--metal-watch"),
        config.getoption("--metal-matrices"),
        config.getoption("--metal-results"),
    )
    sweep.sweep.__defaults__ = (functools.partial(judging, options),)
    metal = install(options)
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return  # its workers run the tests
    config.pluginmanager.register(_Watcher(metal, options.folder), "metal-watcher")


class _Watcher:
    """Knows whose dispatches they are, and writes down what was done."""

    def __init__(self, metal: Metal, folder: str | None) -> None:
        self._metal = metal
        self._folder = folder

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._metal.family = item.path.stem.removeprefix("test_")
        begun = time.perf_counter()
        try:
            return (yield)
        finally:
            self._metal._current().seconds += time.perf_counter() - begun

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and report.outcome == "skipped"):
            self._metal._current().outcomes[report.outcome] += 1
            if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
                self._metal.results.skips[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_sessionfinish(self) -> None:
        if self._folder is not None:
            self._metal.write(self._folder)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        families = self._metal.results.families.values()
        count = sum(each.dispatches for each in families)
        elsewhere = sum((each.on_driver for each in families), Counter())
        if count:
            terminalreporter.write_line(f"{count - elsewhere.total()} of {count} dispatches ran as Metal")
            for reason, number in elsewhere.most_common():
                terminalreporter.write_line(f"  {number} did not: {reason}")
