"""ATen operators, one file per family; importing a file registers its operators and does nothing else."""

from portable_mps.ops import (
    copy,
    unary,
)

__all__ = ["copy", "unary"]
