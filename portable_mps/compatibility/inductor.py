"""torch.compile's code generator for this device."""

from __future__ import annotations

from types import ModuleType


def generate_slang(module: ModuleType) -> None:
    """Put our scheduler in the place of Inductor's for Metal, before Inductor registers that.

    Random numbers are drawn by eager's kernels, with eager's seeds, unless the user has said otherwise.
    """
    from torch._inductor import config

    from portable_mps.inductor.scheduling import SlangScheduling

    module.MetalScheduling = SlangScheduling  # type: ignore[attr-defined]
    config.fallback_random = True
