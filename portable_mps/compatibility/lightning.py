"""Lightning, under each of its names: `Trainer(accelerator="mps")`, "auto" and `Fabric`."""

from __future__ import annotations

import os
from types import ModuleType

import torch


def _is_available() -> bool:
    """Lightning's own question without that for the processor, which is about Macs with an AMD card."""
    return os.getenv("DISABLE_MPS", "0") != "1" and torch.backends.mps.is_available()


def accept(module: ModuleType) -> None:
    """module: fabric's accelerators.mps, whose answer lightning.pytorch takes too."""
    module.MPSAccelerator.is_available = staticmethod(_is_available)
