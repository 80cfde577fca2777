"""Accelerate: what `accelerate env` prints for a bug report, and processes of `torchrun`."""

from __future__ import annotations

import platform
from types import ModuleType
from typing import Any

import torch

from portable_mps import settings


class _Platform:
    """The module `platform`, but for the processor, which stands for the GPU there."""

    def __getattr__(self, name: str) -> Any:
        return getattr(platform, name)

    def processor(self) -> str:
        return torch.backends.mps.get_name()


def name_the_adapter(module: ModuleType) -> None:
    """module: commands.env, which asks `sysctl` for Apple's chip and then `platform` for the processor."""
    module.platform = _Platform()  # type: ignore[attr-defined]


def distribute(module: ModuleType) -> None:
    """module: accelerate.state, which starts no process group for mps: each process of `torchrun` would train alone.

    It has no kind of distribution for mps. That of CPUs is gloo's with DistributedDataParallel, and fits but for the
    device.
    """
    state, cpus = module.PartialState, module.DistributedType.MULTI_CPU
    prepared, set_device = state._prepare_backend, state.set_device

    def prepare(self: Any, cpu: bool = False, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        backend, kind = prepared(self, cpu, *arguments, **keywords)
        if kind == module.DistributedType.NO and not cpu and settings.local_rank() is not None:
            return "gloo", cpus
        return backend, kind

    def choose(self: Any) -> None:
        if self.device is None and self.distributed_type == cpus and not self._cpu:
            self.device = torch.device("mps")
        set_device(self)

    state._prepare_backend, state.set_device = prepare, choose
