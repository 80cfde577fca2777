"""torch.compile's code generator for this device."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any


def generate_slang(module: ModuleType) -> None:
    """Put our scheduler in the place of Inductor's for Metal, before Inductor registers that."""
    from portable_mps.inductor.scheduling import SlangScheduling

    module.MetalScheduling = SlangScheduling  # type: ignore[attr-defined]


def draw_as_eager(module: ModuleType) -> None:
    """Random numbers are eager's kernels', with eager's seeds and values, until the user says otherwise."""
    module.fallback_random = True  # type: ignore[attr-defined]


def prepare(module: ModuleType) -> None:
    """Before Dynamo traces anything.

    Our kernels are planned in Python, and run where Dynamo looks on: they are not part of anybody's model. What
    Inductor's cache on disk holds are generated kernels: those of another generator than this are not ours.
    """
    import torch

    for name in ("dispatch", "inductor", "ops", "runtime"):  # not torch_mps: what torch calls of it may be traced
        module.add(f"portable_mps.{name}")
    module.add("slangpy")
    sources = [Path(__file__), *sorted((Path(__file__).parent.parent / "inductor").glob("*.py"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    torch.compiler.config.cache_key_tag += f"portable-mps {digest}"


def lay_out_convolutions(module: ModuleType) -> None:
    """A convolution without memory has the strides of ours: torch knows Metal's in its own builds alone."""
    import torch

    of_others = torch._C._conv_determine_backend_memory_format

    def determine(input: torch.Tensor, weight: torch.Tensor, backend: Any) -> torch.memory_format:
        if input.device.type != "mps":
            return of_others(input, weight, backend)
        from portable_mps.ops.convolution import SMALL, format_like

        return format_like(input, weight, input.dtype in SMALL)

    torch._C._conv_determine_backend_memory_format = determine
