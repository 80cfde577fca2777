"""Accelerate: what `accelerate env` prints for a bug report."""

from __future__ import annotations

import platform
from types import ModuleType
from typing import Any

import torch


class _Platform:
    """The module `platform`, but for the processor, which stands for the GPU there."""

    def __getattr__(self, name: str) -> Any:
        return getattr(platform, name)

    def processor(self) -> str:
        return torch.backends.mps.get_name()


def name_the_adapter(module: ModuleType) -> None:
    """module: commands.env, which asks `sysctl` for Apple's chip and then `platform` for the processor."""
    module.platform = _Platform()  # type: ignore[attr-defined]
