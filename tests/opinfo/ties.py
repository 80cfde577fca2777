"""Operators that may choose among equal elements: two right answers are made equal before they are compared."""

from __future__ import annotations

from typing import Any

import torch

# Where the position of `dim` is among the arguments behind the input.
_DIM = {"argsort": 0, "kthvalue": 1, "median": 0, "mode": 0, "nanmedian": 0, "sort": 0, "topk": 1}
_BY_VALUE = {*_DIM, "msort"}


def is_free(op: Any, sample: Any) -> bool:
    """Whether the operator promises no order among equal elements of this sample."""
    return op.name in _BY_VALUE and not sample.kwargs.get("stable", False)


def resolve(op: Any, sample: Any, result: Any) -> Any:
    """The result with each index replaced by the element that it points to, and whether an index occurs twice."""
    if not is_free(op, sample) or op.name == "msort" or (op.name != "argsort" and isinstance(result, torch.Tensor)):
        return result
    values, indices = (None, result) if op.name == "argsort" else result
    position = _DIM[op.name]
    dim = sample.args[position] if len(sample.args) > position else sample.kwargs.get("dim", -1)
    input = sample.input.detach().to(indices.device)
    if not input.dim():
        return result
    kept = indices if indices.dim() == input.dim() else indices.unsqueeze(dim)
    repeats = bool((kept.sort(dim).values.diff(dim=dim) == 0).any()) if kept.numel() else False
    return values, input.gather(dim, kept), repeats


def by_value(op: Any, sample: Any, gradients: Any) -> Any:
    """Gradients of the input summed over equal elements, on the CPU: their sum is promised, their places are not."""
    input = sample.input.detach()
    _, group = input.unique(return_inverse=True)
    return [
        torch.zeros(int(group.max()) + 1 if group.numel() else 0, dtype=torch.float64).index_add(
            0, group.flatten(), gradient.detach().cpu().double().flatten()
        )
        for gradient in gradients
    ]
