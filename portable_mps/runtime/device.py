"""The process's one open device, opened at first use."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from portable_mps import _C, settings
from portable_mps.runtime import adapter as adapters
from portable_mps.runtime import cache as cache_folder
from portable_mps.runtime import notices, profiler, workers
from portable_mps.runtime.adapter import vulkan
from portable_mps.runtime.errors import ErrorRecord
from portable_mps.runtime.host_buffers import HostBuffers
from portable_mps.runtime.kernel import KERNELS, Compiler, open_pool
from portable_mps.runtime.memory import Slabs
from portable_mps.runtime.parameters import ParameterBuffer
from portable_mps.runtime.stream import Stream

_SHADER_CACHE_BYTES = 1 << 32  # what the cache may grow to; a full one keeps nothing new


class Device:
    """An adapter, its memory, its stream and its compiler."""

    def __init__(self) -> None:
        try:
            import slangpy as spy
        except ImportError as error:
            raise adapters.NoAdapterError(
                f"slangpy, which runs the kernels, cannot be loaded ({error}). Install the libraries that it links to "
                "(Debian, Ubuntu: apt-get install libx11-6 libatomic1), or slangpy itself: pip install slangpy==0.43.1"
            ) from error

        self.adapter = adapters.choose()
        if self.adapter.missing:
            raise adapters.NoAdapterError(f"{self.adapter.name} lacks {', '.join(self.adapter.missing)}")
        cache = cache_folder.join(_folder_name(f"{self.adapter.name} {self.adapter.driver} {spy.SGL_VERSION}"))
        options = spy.SlangCompilerOptions()
        options.include_paths = [str(KERNELS)]
        modes = spy.SlangFloatingPointMode
        options.floating_point_mode = mode = modes.fast if settings.fast_math() else modes.precise
        self.raw = adapters.open_device(
            self.adapter,
            compiler_options=options,
            shader_cache_path=None if cache is None else str(cache / "shaders"),
            shader_cache_size=_SHADER_CACHE_BYTES,
            module_cache_path=None if cache is None else str(cache / "modules"),
            label="portable-mps",
        )
        self.cache_folder = cache
        self.slabs = Slabs(self.raw)
        native = adapters.native()
        handle, functions = (0, {}) if native is None else vulkan.device_functions()
        # By the mode that the code depends on; slangpy's own caches ask for that themselves.
        kept = None if cache is None else cache_folder.below(cache, f"kernels-{mode.name}")
        self.pool = pool = open_pool(handle, functions, self.adapter.profile, mode, kept)
        waiting = notices.Compiling(cache is not None, lambda: 0 if pool is None else pool.unfinished)
        clock = adapters.clock(self.adapter, self.raw)
        self.stream = Stream(self.raw, self.slabs, clock, handle, functions, waiting)
        self.host_buffers = HostBuffers(self.raw, native, self.adapter.handle)
        if native is not None:
            self._parameters = ParameterBuffer(self.raw, native, self.adapter.handle)
            self.stream.recorder.use_parameter_buffer(*self._parameters.handles)
        _C.set_recorder(self.stream.recorder)
        self.errors = ErrorRecord(self.stream, self.slabs)
        self.stream.error_check = self.errors.check
        self.compiler = Compiler(self.raw, self.stream.recorder, self.adapter, waiting, self.pool)
        if self.adapter.is_software:
            notices.software(self.adapter.name)
        if (settings.local_rank() or 0) == 0 and (sharing := adapters.sharing()) is not None:
            notices.shared(*sharing)
        _C.set_default_memory_ratio(settings.high_watermark_ratio())

    def close(self) -> None:
        """Wait for work in flight; the driver's own objects go with the process."""
        try:
            workers.finish()
            self.stream.submit()
            self.raw.wait_for_idle()
        finally:  # what cannot be submitted may be a kernel that does not compile
            if self.pool is not None:
                self.pool.stop()


def _folder_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text)


_device: Device | None = None
_lock = threading.Lock()
_forked = False


def current() -> Device:
    """The device, opened by the first call.

    Raises NoAdapterError where there is none, RuntimeError in a child forked after the parent opened it.
    """
    global _device
    if _device is None:
        if _forked:
            raise RuntimeError(
                "Cannot re-initialize MPS in forked subprocess. To use MPS with multiprocessing, you must use the "
                "'spawn' start method"
            )
        with _lock:
            if _device is None:
                _device = Device()
                atexit.register(_device.close)
                workers.prepare()
                profiler.opened()
    return _device


def is_open() -> bool:
    """Whether the device has been used in this process."""
    return _device is not None


def in_bad_fork() -> bool:
    """Whether this process was forked from one that had the device open."""
    return _forked


def _after_fork() -> None:
    global _device, _forked
    if _device is not None:
        # The parent's handles are useless here: leave them alone, and refuse to go on.
        _kept.append(_device)
        atexit.unregister(_device.close)
        _device, _forked = None, True
        _C.set_recorder(None)
    adapters.forget()


_kept: list[Any] = []
os.register_at_fork(after_in_child=_after_fork)
