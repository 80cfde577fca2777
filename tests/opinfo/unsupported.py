"""The check `dtypes`: a dtype that the CPU lacks for an operator is refused with the CPU's exception type."""

from __future__ import annotations

from typing import Any

import torch

from opinfo import both
from opinfo.both import Problems, Sample


def base_dtype(op: Any) -> torch.dtype:
    """The dtype of the samples that are cast: float32 where the operator has it."""
    of_op = sorted(op.supported_dtypes("cpu"), key=str)
    return torch.float32 if torch.float32 in of_op else of_op[0]


@torch.no_grad()
def dtypes(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """The base dtype's samples in `dtype`. Where the CPU takes it after all, the values agree.

    Where torch's GPUs have the dtype, we may have it too.
    """
    base = base_dtype(op)

    def cast(leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype):
            return dtype if leaf == base else leaf
        if not isinstance(leaf, torch.Tensor) or leaf.dtype != base:
            return leaf
        leaf = leaf.detach()
        # What a cast makes of negative numbers there, C++ leaves open.
        unsigned = not dtype.is_signed and dtype != torch.bool and base != torch.bool
        return (leaf.abs() if unsigned else leaf).to(dtype)

    beyond = both.torch_gpus_have(op, dtype)
    yield from both.compared(op, dtype, op, both.mapped(sample, cast), refusals=True, beyond=beyond)
