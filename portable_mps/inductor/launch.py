"""The kernels of a compiled graph, as its wrapper makes them."""

from __future__ import annotations

import builtins
import struct

from portable_mps import _C
from portable_mps.runtime import device


def graph_kernel(
    name: str, access: str, numbers: str, messages: tuple[tuple[str, str], ...], source: str
) -> _C.GraphKernel:
    """A fused kernel, compiled here and now.

    access: "r" or "w" for each tensor that it is called with. numbers: "q" for each whole number behind these, "d" or
    "f" for one in floating point. messages: (exception's name, text) of each error that it may report.
    """
    now = device.current()
    codes = [now.errors.arm(text, getattr(builtins, kind)) for kind, text in messages]
    behind = struct.pack(f"@Q{len(codes)}I", now.errors.address, *codes) if codes else b""
    layout = f"@{len(access)}Q{numbers}" + ("0Q" if not codes else f"Q{len(codes)}I0Q")
    kernel = now.compiler.compile(name, source, struct.calcsize(layout))
    return _C.GraphKernel(kernel, access, numbers, behind, bool(codes), now.adapter.loop_limit, name)
