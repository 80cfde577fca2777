"""`portable-mps info`: what is here, as text."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from portable_mps import __version__, compatibility, settings

if TYPE_CHECKING:
    from portable_mps.runtime.adapter import Adapter


def report() -> str:
    """The whole report, a line a fact; opens no device."""
    import torch

    import portable_mps

    reason = portable_mps.inactive_reason
    lines = [
        f"portable-mps   {__version__}",
        f"torch          {torch.__version__}",
        f"python         {platform.python_version()} on {platform.platform()}",
        f"cache folder   {settings.cache_folder()}",
        f"mps is active  {'yes' if reason is None else f'no: {reason}'}",
    ]
    if reason is None:
        lines += [f"mended         {mend.module}: {mend.reason}" for mend in compatibility.installed()]
    from portable_mps.runtime import adapter

    try:
        found = adapter.adapters()
        chosen = adapter.choose().index if found else None
    except RuntimeError as error:  # a wrong setting, too
        return "\n".join([*lines, f"adapter        none: {error}"])
    if settings.hidden():
        lines.append(f"hidden         {', '.join(settings.hidden())}")
    for each in found:
        lines += ["", *_describe(each, each.index == chosen)]
    return "\n".join(lines)


def _limit(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size < 1 << 48 else "any size"


def _describe(adapter: Adapter, is_chosen: bool) -> list[str]:
    shapes = ", ".join(f"{m}x{n}x{k} {a}->{result}" for m, n, k, a, result in adapter.coop_matrices) or "none"
    features = adapter.features
    lines = [
        f"adapter {adapter.index}      {adapter.name}{'  <- mps:0' if is_chosen else ''}",
        f"  kind         {adapter.kind}",
        f"  driver       {adapter.driver}, {adapter.backend} {adapter.api_version}".rstrip(),
        f"  cores        {adapter.cores or 'unknown'}",
        f"  memory       {adapter.memory / 2**30:.1f} GiB",
        f"  allocation   {_limit(adapter.max_buffer)} a tensor at most, {_limit(adapter.sure_allocation)} promised",
        f"  subgroup     {adapter.subgroup_size} threads, {adapter.max_shared_memory >> 10} KiB shared a workgroup",
    ]
    for label, name in (("float16", "float16"), ("float64", "float64"), ("int64", "shaderInt64")):
        lines.append(f"  {label:<12} {'yes' if features[name] else 'no'}")
    lines.append(f"  matrices     {shapes}")
    if adapter.workgroup_matrices:
        types = sorted({f"{a}->{result}" for a, result, _ in adapter.workgroup_matrices})
        lines.append(f"               of whole workgroups: {', '.join(types)}")
    if adapter.missing:
        lines.append(f"  unusable     lacks {', '.join(adapter.missing)}")
    return lines
