"""slangpy's own device on the CPU, which runs a kernel's threads one after another: for tests of what Metal's way
through the runtime shares with it. Kernels whose threads share memory or wait for each other do not compile for it.
"""

from __future__ import annotations

import functools
from typing import Any

from portable_mps.runtime.adapter.description import (
    FEATURES,
    SOFTWARE,
    Adapter,
    free_host_memory,
    hidden,
    host_memory,
    processors,
)
from portable_mps.runtime.clock import Queries
from portable_mps.runtime.parameters import MOST_BYTES

INSTALL = "slangpy brings it; it needs a C++ compiler."
_LACKING = {
    "float32_atomics",
    "int64_atomics",
    "subgroup_shuffle",
    "cooperative_matrix",
    "bfloat16",
    "workgroup_matrix",
}


@functools.cache
def adapters() -> tuple[Adapter, ...]:
    """The one."""
    import slangpy as spy

    hides = hidden()
    memory = host_memory()
    return (
        Adapter(
            index=0,
            name="CPU",
            driver=f"slangpy {spy.SGL_VERSION}",
            kind=SOFTWARE,
            backend="CPU",
            api_version="",
            cores=processors(),
            memory=memory,
            max_buffer=memory,
            sure_allocation=memory,
            subgroup_size=1,
            max_push_constants=MOST_BYTES,
            max_shared_memory=32768,
            registers=255,
            max_workgroup=1024,
            max_groups=((1 << 31) - 1,) * 3,
            timestamp_period_ns=1.0,
            features={name: name not in _LACKING | hides.keys() for name in FEATURES},
        ),
    )


def free_memory(adapter: Adapter, taken: int) -> int:
    """Bytes of the machine's memory."""
    return free_host_memory()


def open_device(adapter: Adapter, **options: Any) -> Any:
    """A slangpy.Device."""
    import slangpy as spy

    return spy.Device(type=spy.DeviceType.cpu, enable_hot_reload=False, enable_rhi_validation=False, **options)


def clock(adapter: Adapter, device: Any) -> Queries:
    """That of an opened device."""
    return Queries(device, 1e9 / device.info.timestamp_frequency)


def forget() -> None:
    """There is nothing to ask again."""
