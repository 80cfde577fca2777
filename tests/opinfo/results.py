"""The check `results`: every `dtype=` and every output's dtype is taken or refused as by the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.testing._comparison import default_tolerances
from torch.utils import _pytree as pytree

from opinfo import both, compare, samples
from opinfo.both import Problems, Sample
from opinfo.dtypes import DTYPES


@torch.no_grad()
def results(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """`dtype=` where the operator has it, and `out=` of each dtype, one output at a time."""
    yield from _dtype_argument(op, dtype, sample)
    if op.supports_out:
        yield from _out(op, dtype, sample)


def _dtype_argument(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    for given in DTYPES:
        other = both.replaced(sample, sample.input, sample.args, {**sample.kwargs, "dtype": given})
        refusal = both.attempt(lambda v=other: samples.call(op, op, v, "cpu"))[1]
        if isinstance(refusal, TypeError):
            return  # it has no such argument
        for problem in both.compared(op, dtype, op, other, refusals=True, beyond=both.torch_gpus_have(op, given)):
            yield both.named(f"dtype={given}", problem)


def _out(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    expected, refusal = both.attempt(lambda: samples.call(op, op, sample, "cpu"))
    leaves, tree = pytree.tree_flatten(expected)
    if refusal is not None or not all(isinstance(t, torch.Tensor) and t.layout == torch.strided for t in leaves):
        return
    for place, leaf in enumerate(leaves):
        for given in DTYPES:
            if given != leaf.dtype:
                outs = [torch.zeros_like(t, dtype=given if i == place else None) for i, t in enumerate(leaves)]
                out = pytree.tree_unflatten(outs, tree)
                other = both.replaced(sample, sample.input, sample.args, {**sample.kwargs, "out": out})
                allowed = _tolerance_of(op, dtype, leaf.dtype, given)
                for problem in both.compared(op, dtype, op, other, allowed=allowed, refusals=True):
                    yield both.named(f"out={given}", problem)


def _tolerance_of(op: Any, dtype: torch.dtype, natural: torch.dtype, given: torch.dtype) -> dict[torch.dtype, Any]:
    """A wider output holds what was computed in the operator's own dtype."""
    if not (natural.is_floating_point or natural.is_complex) or natural.itemsize < 2:
        return {}
    wider = given.itemsize > natural.itemsize or (not natural.is_complex and given.is_complex)
    limits = compare.tolerance(op, dtype).get(natural) or compare.Tolerance(*default_tolerances(natural))
    return {given: limits} if wider and (given.is_floating_point or given.is_complex) else {}
