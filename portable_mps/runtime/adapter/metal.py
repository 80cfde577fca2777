"""Metal's adapter, on a Mac whose torch was built without an `mps` device: slangpy opens it, and compiles and records
the kernels.

Written from Apple's documentation and slang-rhi's source. Nobody has run it: no Apple machine was at hand.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
from collections.abc import Callable
from typing import Any

from portable_mps.runtime.adapter import objective_c
from portable_mps.runtime.adapter.description import FEATURES, Adapter, NoAdapterError, hidden
from portable_mps.runtime.parameters import MOST_BYTES

INSTALL = "Metal comes with macOS 15 and later; run `portable-mps doctor` there."
# "Metal Feature Set Tables" (Apple), GPUs of family Apple7 (M1) and later.
_LACKING = {"float64", "int64_atomics", "bfloat16", "workgroup_matrix"}
_SUBGROUP, _SHARED_BYTES, _MOST_THREADS = 32, 32768, 1024
MATRICES = ((8, 8, 8, "f16", "f32"), (8, 8, 8, "bf16", "f32"), (8, 8, 8, "f32", "f32"))
"""`Adapter.coop_matrices`: simdgroup matrices ("Metal Shading Language Specification", 2.4)."""


@functools.cache
def adapters() -> tuple[Adapter, ...]:
    """The one that macOS prefers. NoAdapterError where there is no Metal."""
    try:
        device = objective_c.default_metal_device()
    except OSError as error:
        raise NoAdapterError(f"there is no Metal here ({error}). {INSTALL}") from error
    return (_describe(device),) if device else ()


def _describe(device: int) -> Adapter:
    """device: an MTLDevice."""
    hides = hidden()
    most = objective_c.send(device, "maxBufferLength")
    memory = objective_c.send(device, "recommendedMaxWorkingSetSize")
    is_unified = objective_c.send(device, "hasUnifiedMemory", ctypes.c_bool)
    return Adapter(
        index=0,
        name=objective_c.text(objective_c.send(device, "name", ctypes.c_void_p)),
        driver=f"macOS {platform.mac_ver()[0]}",
        kind="integrated GPU" if is_unified else "discrete GPU",
        backend="Metal",
        api_version="",
        cores=_cores(),
        memory=memory,
        max_buffer=most,
        sure_allocation=most,
        subgroup_size=_SUBGROUP,
        max_push_constants=MOST_BYTES,  # slangpy puts a kernel's parameters into a constant buffer, however many
        max_shared_memory=min(_SHARED_BYTES, hides.get("shared", _SHARED_BYTES)),
        registers=128,  # of 32 bits at full occupancy is what is known of them, from measurements by others
        max_workgroup=_MOST_THREADS,
        max_groups=((1 << 31) - 1,) * 3,
        timestamp_period_ns=1.0,
        features={name: name not in _LACKING | hides.keys() for name in FEATURES},
        coop_matrices=() if "cooperative_matrix" in hides else MATRICES,
        handle=device,
    )


def _cores() -> int:
    """Of the GPU, as the registry of devices has it; 0 where it has not."""
    try:
        listed = subprocess.run(["ioreg", "-rc", "AGXAccelerator", "-d1"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    lines = (line.partition("=") for line in listed.stdout.splitlines() if '"gpu-core-count"' in line)
    return next((int(value) for _, _, value in lines if value.strip().isdecimal()), 0)


def free_memory(adapter: Adapter, taken: int) -> int:
    """Bytes of what macOS would have a process use at most, less what this one does."""
    return max(adapter.memory - int(objective_c.send(adapter.handle, "currentAllocatedSize")), 0)


def open_device(adapter: Adapter, **options: Any) -> Any:
    """A slangpy.Device. NoAdapterError before macOS 15: kernels get addresses of memory, which is resident for a
    device's whole queue only there."""
    import slangpy as spy

    device = spy.Device(type=spy.DeviceType.metal, enable_hot_reload=False, enable_rhi_validation=False, **options)
    if spy.Feature.residency_set not in device.features:
        raise NoAdapterError(f"{adapter.name} has no residency sets, which macOS 15 brings: update macOS")
    return device


class CommandBuffers:
    """When the device began and ended whole command buffers, the only times that slang-rhi 0.43 leaves us: Metal's
    counters are not written there. So each place in the stream that takes a time ends a command buffer."""

    def mark(self, stream: Any, is_end: bool) -> Callable[[], float]:
        """See runtime.clock.Clock."""
        if not is_end:
            stream.submit()
        kept: list[_CommandBuffer] = []
        stream.open().execute_callback(lambda commands: kept.append(_CommandBuffer(commands.value)))
        if is_end:
            stream.submit()
        return lambda: kept[0].seconds("GPUEndTime" if is_end else "GPUStartTime") * 1e9


class _CommandBuffer:
    """An MTLCommandBuffer, kept for its times."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        objective_c.send(handle, "retain", ctypes.c_void_p)

    def seconds(self, which: str) -> float:
        return float(objective_c.send(self._handle, which, ctypes.c_double))

    def __del__(self) -> None:
        objective_c.send(self._handle, "release", None)


def clock(adapter: Adapter, device: Any) -> CommandBuffers:
    """That of an opened device."""
    return CommandBuffers()


def forget() -> None:
    """Drop what was read: a forked child must ask again."""
    adapters.cache_clear()
