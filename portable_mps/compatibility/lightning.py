"""Lightning, under each of its names: `Trainer(accelerator="mps")`, "auto", `Fabric`, and the strategies ddp and fsdp.

Processes are torchrun's, or Lightning's own where the machine has as many adapters. It numbers devices by process; here
each process has one, number 0, of an adapter of its own where there are enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from portable_mps import settings
from portable_mps.compatibility.rescoping import Answering, rescoped
from portable_mps.runtime import adapter


def _is_available() -> bool:
    """Lightning's own question without that for the processor, which is about Macs with an AMD card."""
    return os.getenv("DISABLE_MPS", "0") != "1" and torch.backends.mps.is_available()


def _devices() -> list[int]:
    """What `devices=` may name: an adapter each, and as many as torchrun has started processes."""
    if not _is_available():
        return []
    return list(range(max(settings.local_world_size(), len(adapter.best(adapter.adapters())))))


def accept(module: ModuleType) -> None:
    """module: fabric's accelerators.mps, whose answer lightning.pytorch takes too."""
    module.MPSAccelerator.is_available = staticmethod(_is_available)
    module._get_all_available_mps_gpus = _devices  # type: ignore[attr-defined]
    count_devices(module)


def count_devices(module: ModuleType) -> None:
    """module: accelerators.mps."""
    accelerator = module.MPSAccelerator

    def devices(wanted: Any) -> list[torch.device]:
        return [torch.device("mps", 0)] * len(accelerator.parse_devices(wanted))

    accelerator.get_parallel_devices = staticmethod(devices)
    accelerator.auto_device_count = staticmethod(lambda: settings.local_world_size())


def distribute(module: ModuleType) -> None:
    """module: what chooses a strategy, and refuses all of several processes for mps."""
    connector = getattr(module, "_Connector", None) or module._AcceleratorConnector
    accelerator = module.MPSAccelerator
    choose, check = connector._check_config_and_set_final_flags, connector._check_strategy_and_fallback

    def check_as_gpu(self: Any) -> None:
        flag = self._accelerator_flag
        try:
            if flag == "mps" or isinstance(flag, accelerator):
                self._accelerator_flag = "gpu"
            check(self)
        finally:
            self._accelerator_flag = flag

    connector._check_config_and_set_final_flags = rescoped(
        choose, MPSAccelerator=Answering(accelerator, is_available=lambda: False)
    )
    connector._check_strategy_and_fallback = check_as_gpu


def replicate(module: ModuleType) -> None:
    """module: strategies.ddp, which makes a stream of CUDA's for a device with a number, and registers hooks there."""
    strategy = module.DDPStrategy
    for name in ("determine_ddp_device_ids", "_determine_ddp_device_ids"):
        if hasattr(strategy, name):
            setattr(strategy, name, _unless_mps(getattr(strategy, name), lambda self: None))
    if hasattr(strategy, "_register_ddp_hooks"):

        def register(self: Any) -> None:
            module._register_ddp_comm_hook(
                model=self.model,
                ddp_comm_state=self._ddp_comm_state,
                ddp_comm_hook=self._ddp_comm_hook,
                ddp_comm_wrapper=self._ddp_comm_wrapper,
            )

        strategy._register_ddp_hooks = _unless_mps(strategy._register_ddp_hooks, register)


def _unless_mps(method: Callable[[Any], Any], on_mps: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: on_mps(self) if self.root_device.type == "mps" else method(self)


def mix_precision(module: ModuleType) -> None:
    """module: plugins.precision.fsdp, whose autocast and scaler of gradients are CUDA's."""
    precision = module.FSDPPrecision
    begin = precision.__init__

    def autocast(device_type: str, **keywords: Any) -> torch.autocast:
        return torch.autocast("mps", **keywords)

    def initialize(self: Any, precision: Any, scaler: Any = None) -> None:
        begin(self, precision, scaler)
        if scaler is None and self.scaler is not None:
            self.scaler = type(self.scaler)(device="mps")

    precision.forward_context = rescoped(precision.forward_context, torch=Answering(torch, autocast=autocast))
    precision.__init__ = initialize
