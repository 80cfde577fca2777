"""torchvision's operators: nms, roi_align, roi_pool, their position-sensitive forms, deform_conv2d."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch


def register(module: ModuleType) -> None:
    """Register our kernels; nothing where torchvision could not load the library that defines its operators."""
    if torch._C._dispatch_has_kernel("torchvision::nms"):
        import_module("portable_mps.ops.torchvision")
