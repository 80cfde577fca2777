"""Every environment variable that portable-mps reads, typed, in one place.

Values are read when asked for, so that a script may set them before it first uses the device.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _flag(name: str) -> bool | None:
    """True or False for a variable that is set ("0" and "" are False), None for one that is not."""
    value = os.environ.get(name)
    return None if value is None else value not in ("", "0")


def activate() -> bool | None:
    """PORTABLE_MPS: 1 takes the `mps` device even beside another accelerator, 0 never takes it."""
    return _flag("PORTABLE_MPS")


def adapter() -> str | None:
    """PORTABLE_MPS_ADAPTER: the adapter's index in `portable-mps info`, or a part of its name."""
    return os.environ.get("PORTABLE_MPS_ADAPTER") or None


def backend() -> str:
    """PORTABLE_MPS_BACKEND: `vulkan`, or `metal` where torch was built without an `mps` device on a Mac; for tests,
    `slangpy` (Vulkan, with kernels compiled and recorded as for Metal) and `cpu` (slangpy's own)."""
    return os.environ.get("PORTABLE_MPS_BACKEND") or ("metal" if sys.platform == "darwin" else "vulkan")


def hidden() -> list[str]:
    """PORTABLE_MPS_HIDE: features that the adapter shall seem to lack, and limits (`push_constants=128`), by comma."""
    return [item.strip() for item in os.environ.get("PORTABLE_MPS_HIDE", "").split(",") if item.strip()]


def matrix_engine() -> str | None:
    """PORTABLE_MPS_MATRIX: `workgroup`, `subgroup` or `plain` instead of the best that the adapter has."""
    return os.environ.get("PORTABLE_MPS_MATRIX") or None


def tunes() -> bool:
    """PORTABLE_MPS_TUNE: time the tiles of a large matrix product when its class of shapes is first met."""
    return bool(_flag("PORTABLE_MPS_TUNE"))


def replay_mode() -> int:
    """PORTABLE_MPS_REPLAY: 0 has Python plan each call of an operator; `always`, for tests, replays first ones, too."""
    value = os.environ.get("PORTABLE_MPS_REPLAY", "1")
    return 2 if value == "always" else int(value not in ("", "0"))


def local_world_size() -> int:
    """LOCAL_WORLD_SIZE, as `torchrun` sets it: how many processes of one run are on this machine."""
    return _number("LOCAL_WORLD_SIZE") or 1


def local_rank() -> int | None:
    """LOCAL_RANK, as `torchrun` sets it: picks one adapter for each process of a machine."""
    return _number("LOCAL_RANK")


def _number(name: str) -> int | None:
    """A variable that another program sets; None where it is no whole number."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None


def cache_folder() -> Path:
    """PORTABLE_MPS_CACHE, or `portable-mps` in the user's cache folder: compiled kernels live there."""
    chosen = os.environ.get("PORTABLE_MPS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portable-mps"


def compilers() -> int | None:
    """PORTABLE_MPS_COMPILERS: how many threads compile kernels; 0: none, slangpy compiles. None where nobody says."""
    text = os.environ.get("PORTABLE_MPS_COMPILERS")
    if not text:
        return None
    if not text.isdecimal():
        raise RuntimeError(f"invalid PORTABLE_MPS_COMPILERS {text!r}: expected a number of threads")
    return int(text)


def uses_shipped() -> bool:
    """PORTABLE_MPS_SHIPPED: 0 has every kernel compiled here, those too whose SPIR-V came with the package."""
    return _flag("PORTABLE_MPS_SHIPPED") is not False


def collection() -> Path | None:
    """PORTABLE_MPS_COLLECT: a folder that gets the source of every kernel that is asked for, for other compilers."""
    folder = os.environ.get("PORTABLE_MPS_COLLECT")
    return Path(folder) if folder else None


def quiet() -> bool:
    """PORTABLE_MPS_QUIET: print no notices on the terminal (a slow software driver, kernels being compiled)."""
    return bool(_flag("PORTABLE_MPS_QUIET"))


def fallback_enabled() -> bool:
    """PYTORCH_ENABLE_MPS_FALLBACK: run operators that the device lacks on the CPU, with a warning."""
    return bool(_flag("PYTORCH_ENABLE_MPS_FALLBACK"))


def high_watermark_ratio() -> float:
    """PYTORCH_MPS_HIGH_WATERMARK_RATIO: share of the adapter's memory that may be taken; 0 is no limit."""
    ratio = float(os.environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO") or 1.0)
    if not 0.0 <= ratio <= 2.0:
        raise RuntimeError(f"invalid PYTORCH_MPS_HIGH_WATERMARK_RATIO {ratio}: expected 0 to 2")
    return ratio


def fast_math() -> bool:
    """PYTORCH_MPS_FAST_MATH: let the shader compiler reassociate and contract float32 arithmetic."""
    return bool(_flag("PYTORCH_MPS_FAST_MATH"))


def log_profile() -> bool:
    """PYTORCH_MPS_LOG_PROFILE_INFO or PYTORCH_MPS_TRACE_SIGNPOSTS: print each kernel's device time at exit."""
    return bool(_flag("PYTORCH_MPS_LOG_PROFILE_INFO") or _flag("PYTORCH_MPS_TRACE_SIGNPOSTS"))


def debug_allocator() -> bool:
    """PYTORCH_DEBUG_MPS_ALLOCATOR: log every slab that is taken from or returned to the driver."""
    return bool(_flag("PYTORCH_DEBUG_MPS_ALLOCATOR"))
