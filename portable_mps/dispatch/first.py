"""What a process may call before it has a tensor on `mps`: the only operators that `import torch` registers.

All others wait for the first allocation (csrc/allocator.cpp), which imports portable_mps.ops: reading 60 files and
registering a thousand kernels takes longer than a script that never uses the device should have to wait.
"""

from __future__ import annotations

from typing import Any

from portable_mps.dispatch import functionality, registry

COMPOSITES = (
    *("dropout", "group_norm", "renorm"),
    *("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"),
)
"""Composite operators that we replace in Python; csrc/attention.cpp replaces one by itself."""


WINDOWS = ("kaiser_window", "kaiser_window.periodic", "kaiser_window.beta")
"""Factories that torch would compose, of a kernel that it lacks for `mps`."""


def register() -> None:
    """Register them, and what is called for an operator that has no kernel, or none yet."""
    registry.register_fallback(_without_kernel)
    for name in COMPOSITES:
        registry.register_composite_first(name)
    for name in WINDOWS:
        registry.register_first(name)
    for kind in functionality.FACTORIES:
        functionality.register_first(kind)


def _without_kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    import portable_mps.ops  # noqa: F401
    from portable_mps.dispatch import fallback

    return fallback.without_kernel(op, *args, **kwargs)
