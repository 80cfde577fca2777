"""torch.distributed, where it lists the devices that it takes, and `mps` is not among them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from portable_mps.compatibility.rescoping import Answering, rescoped


def _taking_mps(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose list of devices ends with the backend from outside torch: that is `mps` for it."""
    named = Answering(torch._C, _get_privateuse1_backend_name=lambda: "mps")
    return rescoped(function, torch=Answering(torch, _C=named))


def synchronize_batch_norm(module: types.ModuleType) -> None:
    """module: torch.nn.modules.batchnorm. What it calls is in ops/sync_batch_norm.py."""
    module.SyncBatchNorm.forward = _taking_mps(module.SyncBatchNorm.forward)


def move_inputs(module: types.ModuleType) -> None:
    """module: torch.distributed.fsdp._fully_shard._fsdp_state: inputs that are on the CPU go to the device."""
    module.FSDPState._root_pre_forward = _taking_mps(module.FSDPState._root_pre_forward)


def scale_gradients(module: types.ModuleType) -> None:
    """module: torch.distributed.fsdp.sharded_grad_scaler."""
    module._is_supported_device = _taking_mps(module._is_supported_device)  # type: ignore[attr-defined]


def gather_parameters(module: types.ModuleType) -> None:
    """module: torch.distributed.fsdp._fully_shard._fsdp_collectives, whose operators are the same for all devices."""
    for name, function in (
        ("all_gather_copy_in", module.all_gather_copy_in_cuda),
        ("split_with_sizes_copy", module.split_with_sizes_copy),
        ("chunk_cat", module.chunk_cat),
    ):
        torch.library.impl(module.lib, name, "MPS")(function)


def compress_to_bfloat16(module: types.ModuleType) -> None:
    """module: torch.nn.parallel.distributed, which asks for NCCL where gloo carries bfloat16 as well."""
    checked = module.DistributedDataParallel._check_comm_hook

    def check(self: Any, hook: Any) -> None:
        if self.device_type == "mps" and callable(hook):
            hook = functools.wraps(hook)(lambda state, bucket: None)
            hook.__name__ = "hook"  # by the name it is that it is refused
        checked(self, hook)

    module.DistributedDataParallel._check_comm_hook = check


def copy_options(module: types.ModuleType) -> None:
    """module: torch.distributed.distributed_c10d. Groups that name their device are divided with a copy of options."""
    gloo = getattr(module, "ProcessGroupGloo", None)
    if gloo is None:
        return

    def copied(self: Any, memo: dict[int, Any]) -> Any:
        made = gloo._Options()
        for name in ("_timeout", "_devices", "_threads", "global_ranks_in_group", "group_name"):
            setattr(made, name, getattr(self, name))
        return made

    gloo._Options.__deepcopy__ = copied
