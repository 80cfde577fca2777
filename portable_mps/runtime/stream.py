"""The one in-order stream: records dispatches and copies, submits them, and knows what has finished."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from portable_mps import _C
from portable_mps.runtime import host_buffers
from portable_mps.runtime.clock import Clock
from portable_mps.runtime.host_buffers import HostBuffer
from portable_mps.runtime.notices import Compiling

Step = _C.Batch | tuple[Any, np.ndarray, tuple[int, int, int], bool]  # the latter: what `record` takes

SUBMIT_AFTER = 8  # calls of `poll` before what is recorded is handed over, whatever the device is doing
_STAGING_STEP = 1 << 16
_COMPILED_TOGETHER = 4096  # dispatches that may wait for their kernels
_HELD_BYTES = 1 << 26  # of host memory, for uploads that wait behind such dispatches
_MAX_TRANSFER = 1 << 28  # bytes of host memory staged at a time


class Stream:
    """Records in the order of the calls. Every method may be called from any thread.

    Dispatches are tracked and kept in C++ (csrc/recorder.h) until a copy or a submission needs their command buffer.

    clock: takes times. functions: addresses of Vulkan functions by name, with which C++ records dispatches; none where
    slangpy does.
    waiting: entered while kernels that are still compiled are waited for.
    """

    def __init__(
        self,
        device: Any,
        slabs: Any,
        clock: Clock,
        handle: int,
        functions: dict[str, int],
        waiting: Compiling,
    ) -> None:
        import slangpy as spy

        self._spy = spy
        self._device = device
        self._slabs = slabs
        self._waiting = waiting
        self.clock = clock
        self._encoder: Any = None
        self._deferred: list[_C.Batch | Callable[[Any], None]] = []  # to be recorded when kernels are there
        self._deferred_dispatches = 0
        self._held_bytes = 0
        self._polls = 0
        self._last_submission: int | None = None
        self._submissions: dict[int, int] = {}  # event -> submission that completes it
        self._next_event = 1
        self._times: dict[int, Callable[[], float]] = {}  # event -> its time in nanoseconds
        self._staging: dict[int, Any] = {}
        self.recorder = _C.Recorder(self, handle, functions)
        self._records_in_cpp = bool(functions)
        self.lock = self.recorder.lock
        self.launch = self.recorder.launch
        self.error_check: Any = None  # set by device: raises what kernels reported
        self._profiler: Any = None

    # Recording ------------------------------------------------------------------------------------

    def open(self) -> Any:
        """The encoder, with everything so far in it, for whoever holds the lock: waits for kernels that are still
        compiled."""
        if self._encoder is None:
            self._open_encoder()
        if self._deferred:
            self._record_deferred()
        batch = self.recorder.take()
        if batch is not None:
            self._execute(batch)
        return self._encoder

    def _open_encoder(self) -> None:
        self._encoder = self._device.create_command_encoder()
        # Submissions to one queue may overlap: what they share is ordered by a barrier at the front.
        self.barrier(self._encoder)

    def _record_deferred(self) -> None:
        steps, self._deferred, self._deferred_dispatches, self._held_bytes = self._deferred, [], 0, 0
        failure: RuntimeError | None = None
        for step in steps:
            if isinstance(step, _C.Batch):
                try:
                    self._execute(step)
                except RuntimeError as error:  # what follows is recorded, as the rest of its batch is
                    failure = failure or error
            else:
                step(self._encoder)
        if failure is not None:
            raise failure

    def barrier(self, encoder: Any) -> None:
        """Order all that the encoder has before all that follows."""
        if self._records_in_cpp:
            encoder.execute_callback(lambda commands: self.recorder.barrier(commands.value))
        else:
            encoder.global_barrier()

    def record(
        self, pipeline: Any, parameters: np.ndarray | dict[str, bytes], groups: tuple[int, int, int], barrier: bool
    ) -> None:
        """Record one dispatch with slangpy. `barrier` is what the hazard tracker said; hold `lock` since asking it.

        parameters: the bytes of the kernel's `p`, or those of its uniform parameters by name.
        """
        profiler = self._profiler
        if profiler is not None:
            profiler.before()
        encoder = self.open()
        if barrier and profiler is None:
            self.barrier(encoder)
        compute = encoder.begin_compute_pass()
        cursor = self._spy.ShaderCursor(compute.bind_pipeline(pipeline.pipeline)).find_entry_point(0)
        if isinstance(parameters, dict):
            for name, value in parameters.items():
                cursor[name].set_data(np.frombuffer(value, np.uint8).copy())  # slangpy refuses read-only arrays
        elif pipeline.in_buffer:
            cursor["p"].dereference().set_data(parameters)
        else:
            cursor["p"].set_data(parameters)
        compute.dispatch_compute(groups)
        compute.end()
        if profiler is not None:
            profiler.after(pipeline.name, groups)

    def record_alone(self, batch: _C.Batch, pipeline: Any, groups: tuple[int, int, int]) -> None:
        """Record a batch of one dispatch, which the profiler shall see."""
        profiler = self._profiler
        if profiler is not None:
            profiler.before()
        self.open()
        self._execute(batch)
        if profiler is not None:
            profiler.after(pipeline.name, groups)

    def replay(self, steps: list[Step]) -> None:
        """Record what was captured, between barriers."""
        with self.lock:
            self.barrier(self.open())
            for step in steps:
                if isinstance(step, _C.Batch):
                    self._execute(step)
                else:
                    self.record(*step)
            self.barrier(self._encoder)
            self.recorder.reset_hazards()
            self.poll()

    def _execute(self, batch: _C.Batch) -> None:
        with self._waiting if self.recorder.is_compiling else contextlib.nullcontext():
            error = self.recorder.prepare(batch)
        self._encoder.execute_callback(lambda commands: self.recorder.replay(batch, commands.value))
        if error:  # the others' dispatches are recorded
            raise RuntimeError(error)

    @staticmethod
    def _refuse_in_graphs(what: str) -> None:
        if _C.is_capturing():
            raise RuntimeError(f"{what} while a graph is captured: do it before capture_begin() or after capture_end()")

    @property
    def profiler(self) -> Any:
        """A runtime.profiler.Profiler, which every dispatch passes through, or None."""
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        with self.lock:
            self._profiler = profiler
            self.recorder.direct = profiler is None

    def poll(self) -> None:
        """Called every few dispatches: hand over what is recorded if the device has run dry, or it is much."""
        pending = self._deferred_dispatches + self.recorder.pending
        if self.recorder.is_compiling and pending < _COMPILED_TOGETHER:
            return  # handing over would wait for the compiler, which has more to do if all goes on
        self._polls += 1
        if self._polls >= SUBMIT_AFTER or self._idle():
            self.submit()

    def _idle(self) -> bool:
        last = self._last_submission
        return last is None or self._device.is_submit_finished(last)

    def _defers(self, held: int = 0) -> bool:
        """Whether a copy is put off, for which `held` bytes of host memory are kept: while kernels are compiled.

        Who calls goes on: a first pass that stops at each upload has its kernels compiled a few at a time.
        """
        return self.recorder.is_compiling and self._held_bytes + held <= _HELD_BYTES

    def _transfer(
        self,
        reads: list[tuple[int, int]],
        writes: list[tuple[int, int]],
        step: Callable[[Any], None],
        deferred: bool,
        held: int = 0,
    ) -> None:
        """Have `step` record a copy between these ranges, given the encoder: now, or later as `_defers` said."""

        def record(encoder: Any) -> None:
            if conflicts:
                self.barrier(encoder)
            step(encoder)
            # Copies leave the buffer in a state that slangpy tracks; kernels bypass that, so order them by hand.
            self.barrier(encoder)

        encoder = None if deferred else self.open()
        conflicts = self.recorder.access(reads, writes)
        if encoder is not None:
            return record(encoder)
        self._held_bytes += held
        self._deferred_dispatches += self.recorder.pending
        batch = self.recorder.take()
        self._deferred.extend([record] if batch is None else [batch, record])

    def copy(self, destination: int, source: int, size: int) -> None:
        """Record a copy of `size` bytes between device addresses; the ranges must not overlap."""
        self._refuse_in_graphs("memory was copied")
        with self.lock:
            target, target_offset = self._slabs.locate(destination)
            origin, origin_offset = self._slabs.locate(source)
            self._transfer(
                [(source, source + size)],
                [(destination, destination + size)],
                lambda encoder: encoder.copy_buffer(target, target_offset, origin, origin_offset, size),
                self._defers(),
            )

    def upload(self, destination: int, data: np.ndarray) -> None:
        """Copy host bytes (uint8, 1-d) to a device address. The host memory is free again on return."""
        self._refuse_in_graphs("values were copied from the host")
        for start in range(0, data.size, _MAX_TRANSFER):
            part = data[start : start + _MAX_TRANSFER]
            with self.lock:
                self._upload(destination + start, part)
                if data.size > _MAX_TRANSFER:
                    self.submit()

    def _upload(self, address: int, data: np.ndarray) -> None:
        buffer, offset = self._slabs.locate(address)
        deferred = self._defers(data.size)
        kept = data.copy() if deferred else data
        self._transfer(
            [],
            [(address, address + data.size)],
            lambda encoder: encoder.upload_buffer_data(buffer, offset, kept),
            deferred,
            data.size,
        )

    def download(self, source: int, data: np.ndarray) -> None:
        """Copy device bytes into host memory (uint8, 1-d); waits for the device."""
        self._refuse_in_graphs("the host asked for values")
        self._fetch(source, data)
        if self.error_check is not None:
            self.error_check()

    def _fetch(self, source: int, data: np.ndarray) -> None:
        for start in range(0, data.size, _MAX_TRANSFER):
            part = data[start : start + _MAX_TRANSFER]
            with self.lock:
                staging = self._staging_buffer(part.size)
                self._download(source + start, part.size, staging)
                self.submit()
                self._device.wait_for_submit(self._last_submission)
                part[:] = staging.to_numpy().view(np.uint8)[: part.size]

    def to_host(self, buffer: HostBuffer, source: int, size: int) -> int:
        """Copy `size` device bytes to a host buffer without waiting, unless slangpy copies; the submission to wait
        for."""
        self._refuse_in_graphs("the host asked for values")
        if buffer.handle is None:
            self._fetch(source, buffer.memory[:size])
            return 0
        slab, offset = self._slabs.locate(source)
        copied = (slab.native_handle.value, offset, buffer.handle, 0, size)
        return self._exchange([(source, source + size)], [], copied)

    def from_host(self, destination: int, buffer: HostBuffer, size: int) -> int:
        """Copy a host buffer's first `size` bytes to a device address; the submission after which it may be changed."""
        if buffer.handle is None:
            self.upload(destination, buffer.memory[:size])
            return 0
        self._refuse_in_graphs("values were copied from the host")
        slab, offset = self._slabs.locate(destination)
        copied = (buffer.handle, 0, slab.native_handle.value, offset, size)
        return self._exchange([], [(destination, destination + size)], copied)

    def _exchange(
        self, reads: list[tuple[int, int]], writes: list[tuple[int, int]], copied: tuple[Any, int, Any, int, int]
    ) -> int:
        """Record and submit a copy; copied: what host_buffers.copy takes."""

        def step(encoder: Any) -> None:
            encoder.execute_callback(lambda commands: host_buffers.copy(commands.value, *copied))

        with self.lock:
            self._transfer(reads, writes, step, deferred=False)
            self.submit()
            return self._last_submission or 0

    def wait_for(self, submission: int) -> None:
        """Wait until the device has done what was submitted so."""
        if submission:
            self._device.wait_for_submit(submission)

    def _download(self, address: int, size: int, staging: Any) -> None:
        buffer, offset = self._slabs.locate(address)
        self._transfer(
            [(address, address + size)],
            [],
            lambda encoder: encoder.copy_buffer(staging, 0, buffer, offset, size),
            deferred=False,
        )

    def _staging_buffer(self, size: int) -> Any:
        rounded = 256 if size <= 256 else max(_STAGING_STEP, 1 << (size - 1).bit_length())
        buffer = self._staging.get(rounded)
        if buffer is None:
            spy = self._spy
            usage = spy.BufferUsage.copy_destination
            buffer = self._device.create_buffer(size=rounded, memory_type=spy.MemoryType.read_back, usage=usage)
            if rounded <= 1 << 24:  # larger ones are rare: not worth keeping
                self._staging[rounded] = buffer
        return buffer

    # Submission and waiting -----------------------------------------------------------------------

    def submit(self) -> None:
        """Hand what is recorded to the device."""
        with self.lock:
            if self._encoder is not None or self._deferred or self.recorder.pending:
                commands = self.open().finish()
                self._encoder = None
                self._polls = 0
                self._last_submission = self._device.submit_command_buffer(commands)
                # Not when the next encoder opens: its first dispatch has told its accesses by then.
                self.recorder.reset_hazards()

    def wait(self) -> None:
        """Wait until everything recorded so far has run."""
        self._refuse_in_graphs("the host waited")
        with self.lock:
            self.submit()
            last = self._last_submission
        if last is not None:
            self._device.wait_for_submit(last)

    def synchronize(self) -> None:
        """`wait`, and raise what kernels reported."""
        self.wait()
        if self.error_check is not None:
            self.error_check()

    # Events ---------------------------------------------------------------------------------------

    def record_event(self, timed: bool) -> int:
        """A number for this position in the stream; `timed` ones also take a device timestamp."""
        self._refuse_in_graphs("an event was recorded")
        with self.lock:
            event = self._next_event
            self._next_event += 1
            if timed:
                self._times[event] = self.clock.mark(self, is_end=True)
            self.submit()
            self._submissions[event] = self._last_submission or 0
            if len(self._submissions) > 1024:  # old events have long passed
                for old in list(self._submissions)[:512]:
                    self._submissions.pop(old)
                    self._times.pop(old, None)
            return event

    def query_event(self, event: int) -> bool:
        """Whether the device has passed the event."""
        submission = self._submissions.get(event)
        return not submission or bool(self._device.is_submit_finished(submission))

    def synchronize_event(self, event: int) -> None:
        """Wait until the device has passed the event."""
        submission = self._submissions.get(event)
        if submission:
            self._device.wait_for_submit(submission)

    def elapsed_milliseconds(self, start: int, end: int) -> float:
        """Device time between two timed events; ValueError for events that took no timestamp."""
        if start not in self._times or end not in self._times:
            raise ValueError("elapsed time needs two events made with enable_timing=True and recorded")
        self.synchronize_event(end)
        return (self._times[end]() - self._times[start]()) / 1e6
