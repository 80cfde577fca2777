"""PyTorch's `mps` device on any GPU.

`import torch` calls `autoload` through torch's entry point; nothing here needs to be imported by a script.
"""

from __future__ import annotations

import os
import warnings

from portable_mps import settings

__version__ = "0.1.0"

WITHOUT_MPS = (
    "A Mac's torch brings the kernels of its mps device with it, and scripts use that. Only a torch built from source "
    "with USE_MPS=0 has its device from portable-mps there, through Metal, which nobody has run yet."
)
"""What a person on a Mac should know."""

inactive_reason: str | None = "torch has not loaded portable_mps"
"""Why `mps` is not ours in this process; None when it is."""


def autoload() -> None:
    """Make torch's `mps` device exist, unless torch already has an accelerator. Opens no device."""
    global inactive_reason
    inactive_reason = _reason_to_stay_out()
    if inactive_reason is not None:
        return
    from portable_mps import _C, torch_mps  # noqa: F401  (the extension registers the hooks on import)

    torch_mps.install()
    from portable_mps import compatibility
    from portable_mps.dispatch import first

    first.register()
    compatibility.watch()


def _reason_to_stay_out() -> str | None:
    import torch

    wanted = settings.activate()
    if torch.backends.mps.is_built():  # on a Mac
        reason = "this build of torch has an mps device of its own"
        if wanted:
            words = f"PORTABLE_MPS=1 changes nothing: {reason}. {WITHOUT_MPS}"
            warnings.warn(words, UserWarning, stacklevel=2)
        return reason
    if wanted is False:
        return "PORTABLE_MPS=0"
    other = None if wanted else _other_accelerator()
    if other is not None:
        return f"torch already has the accelerator '{other}' here; set PORTABLE_MPS=1 to use mps all the same"
    mismatch = _mismatch()
    if mismatch is not None:
        warnings.warn(mismatch, UserWarning, stacklevel=2)
    return mismatch


def _mismatch() -> str | None:
    """A sentence about an extension that another torch has been built with: libtorch's classes differ."""
    import torch

    try:
        from portable_mps._built_for import TORCH
    except ImportError:
        return "portable-mps is not built here: pip install --no-build-isolation . does it, for the torch that is there"
    if torch.__version__.split(".")[:2] == TORCH.split("."):
        return None
    here = torch.__version__
    return (
        f"this portable-mps was built for torch {TORCH}, here is torch {here}: install its wheel, or torch=={TORCH}.*"
    )


def _other_accelerator() -> str | None:
    """The accelerator that torch would use without us, asked in a way that survives a later fork.

    Not through torch.accelerator: it would make torch look up, and keep, the hooks of `mps` before ours are there.
    """
    import torch

    variable = "PYTORCH_NVML_BASED_CUDA_CHECK"  # makes torch count CUDA devices without starting CUDA
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        backends = {"cuda": torch.cuda, "xpu": torch.xpu, "mtia": torch.mtia}
        return next((name for name, backend in backends.items() if backend.is_available()), None)
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
