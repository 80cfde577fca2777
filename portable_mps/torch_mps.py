"""What torch.mps and torch.backends.mps call in `torch._C` and a build without Metal lacks."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch

from portable_mps import _C, device_module


def _bridge() -> Any:
    """Imported by the first call that asks the device something, not by `import torch`."""
    from portable_mps.runtime import bridge

    return bridge


def _is_in_bad_fork() -> bool:
    from portable_mps.runtime import device

    return device.in_bad_fork()


def _set_memory_fraction(fraction: float) -> None:
    _C.set_memory_ratio(fraction)


def _empty_cache() -> None:
    from portable_mps.runtime import bridge

    _C.empty_cache()
    bridge.free_host_buffers()


def _profiler() -> Any:
    from portable_mps.runtime import profiler

    return profiler


def _compile_shader(source: str) -> Any:
    from portable_mps.runtime import shader

    return shader.ShaderLibrary(source)


def _core_count() -> int:
    """Compute units of the adapter; 0 where the driver does not tell."""
    from portable_mps.runtime import adapter

    return adapter.choose().cores


def _name() -> str:
    from portable_mps.runtime import adapter

    return adapter.choose().name


def _new_storage(cls: type, *arguments: Any, **keywords: Any) -> Any:
    """torch.UntypedStorage.__new__, with our allocator for device="mps"."""
    wanted = keywords.get("device")
    if wanted is not None and torch.device(wanted).type == "mps":
        del keywords["device"]
        keywords["allocator"] = _C.allocator_address()
    return torch._C.StorageBase.__new__(cls, *arguments, **keywords)


def _resize_storage(self: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
    """torch.UntypedStorage.resize_, also of ours. size: in bytes."""
    if self.device.type != "mps":
        return torch._C.StorageBase.resize_(self, size)  # type: ignore[attr-defined]
    _C.resize_storage(self, size)
    return self


def _needs_metal(what: str) -> Any:
    def refuse(*arguments: Any) -> None:
        raise NotImplementedError(f"{what} needs Metal; this mps device runs through Vulkan")

    return refuse


def _support_foreach() -> None:
    """Make torch.optim and clip_grad_norm_ prefer ops/foreach.py's dispatches for all parameters to one a parameter.

    On a Mac, where each foreach operator is a loop, `mps` is not among the devices of this list.
    """
    from torch.optim import optimizer, swa_utils
    from torch.utils import _foreach_utils

    listed = _foreach_utils._get_foreach_kernels_supported_devices

    def devices() -> list[str]:
        return [*listed(), "mps"]

    for module in (_foreach_utils, optimizer, swa_utils):
        module._get_foreach_kernels_supported_devices = devices  # type: ignore[attr-defined]


def _support_collectives() -> None:
    """Tell torch.distributed that gloo serves `mps` (csrc/collectives.cpp), and CPU tensors beside it.

    Without a backend torch takes that of the accelerator, which for `mps` is gloo for `mps` alone.
    """
    if not torch.distributed.is_available():
        return
    from torch.distributed import distributed_c10d

    backend = distributed_c10d.Backend
    backend.backend_capability[backend.GLOO] = [*backend.backend_capability[backend.GLOO], "mps"]
    config = distributed_c10d.BackendConfig
    made = config.__init__

    def init(self: Any, name: Any) -> None:
        made(self, name)
        if str(name) == backend.UNDEFINED and "mps" in self.device_backend_map:
            self.device_backend_map = {"cpu": backend(backend.GLOO), "mps": backend(backend.GLOO)}

    config.__init__ = init  # type: ignore[method-assign, assignment]


def _leave_worker_asleep() -> None:
    """torch wakes autograd's worker, which any backward() starts, when the interpreter is gone, to clear a thread state
    of Python's that has been freed. It is allowed to sleep on, as it may where workers hang.
    """
    # At the end, not now: children would inherit it.
    atexit.register(os.environ.setdefault, "TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT", "0")


def _is_any_autocast_enabled() -> bool:
    """Also on `mps`, which torch's own leaves out.

    By this, compiled code keeps the dtypes that were cast when it was traced, and finds what it has on disk. (Dynamo
    takes it as a constant of its guards, as it does torch's.)
    """
    return _of_others() or torch.is_autocast_enabled("mps")


_of_others = torch._C._is_any_autocast_enabled


def install() -> None:
    """Give `torch._C` the functions that torch.mps and torch.backends.mps are written against."""
    functions: dict[str, Any] = {
        "_is_any_autocast_enabled": _is_any_autocast_enabled,
        "_mps_is_in_bad_fork": _is_in_bad_fork,
        "_mps_is_available": lambda: _bridge().adapter_count() > 0,
        "_mps_is_on_macos_or_newer": lambda major, minor: True,
        "_mps_get_name": _name,
        "_mps_get_core_count": _core_count,
        "_mps_get_default_generator": _C.default_generator,
        "_mps_deviceSynchronize": lambda: _bridge().synchronize(),
        "_mps_emptyCache": _empty_cache,
        "_mps_setMemoryFraction": _set_memory_fraction,
        "_mps_currentAllocatedMemory": _C.allocated_memory,
        "_mps_driverAllocatedMemory": _C.driver_memory,
        "_mps_recommendedMaxMemory": lambda: _bridge().device_memory(),
        "_mps_profilerStartTrace": lambda mode, wait: _profiler().start(mode, wait),
        "_mps_profilerStopTrace": lambda: _profiler().stop(),
        "_mps_compileShader": _compile_shader,
        "_mps_isCaptureEnabled": lambda: False,
        "_mps_isCapturing": lambda: False,
        "_mps_startCapture": _needs_metal("torch.mps.profiler.metal_capture"),
        "_mps_stopCapture": lambda: None,
        "_mps_loadMetalllib": _needs_metal("torch.mps.load_metallib"),
        "_mps_loadMetallibFromPath": _needs_metal("torch.mps.load_metallib"),
        "_mps_host_alias_storage": _needs_metal("A host view of device memory"),
    }
    for name, function in functions.items():
        setattr(torch._C, name, function)
    torch.UntypedStorage.__new__ = _new_storage  # type: ignore[method-assign]
    torch.UntypedStorage.resize_ = _resize_storage  # type: ignore[method-assign, assignment]
    torch._C._has_mps = True
    torch.mps._is_in_bad_fork = _is_in_bad_fork
    device_module.install()
    _support_foreach()
    _support_collectives()
    _leave_worker_asleep()
