"""Nested tensors: between rows of unequal lengths, packed one after the other, and dense tensors with padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from portable_mps.dispatch.registry import implements


def _places(offsets: Sequence[torch.Tensor], max_lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """For each element of the dense tensor (batch, *max_lengths): its packed row, and whether there is one.

    offsets[d] says where the parts of dimension d's rows begin among those of dimension d + 1.
    """
    device = offsets[0].device
    row = torch.arange(offsets[0].numel() - 1, device=device)
    valid = torch.ones_like(row, dtype=torch.bool)
    for starts, length in zip(offsets, max_lengths, strict=True):
        begin, end = starts[row].unsqueeze(-1), starts[row + 1].unsqueeze(-1)
        place = begin + torch.arange(length, device=device)
        valid = valid.unsqueeze(-1) & (place < end)
        row = torch.where(valid, place, 0)
    return row, valid


@implements("_nested_tensor_from_tensor_list")
def strided_nested_tensor(list: Sequence[torch.Tensor], *options: object) -> torch.Tensor:
    """The layout that torch.nested takes when it is told none; torch has a list of devices for it."""
    raise NotImplementedError(
        "torch makes no nested tensors in the strided layout on the MPS device: pass layout=torch.jagged"
    )


@implements("_jagged_to_padded_dense_forward")
def jagged_to_padded_dense(
    values: torch.Tensor, offsets: Sequence[torch.Tensor], max_lengths: Sequence[int], padding_value: float = 0.0
) -> torch.Tensor:
    """values (rows, …) to (batch, *max_lengths, …); rows past a maximum are left out."""
    if len(offsets) != len(max_lengths):
        raise RuntimeError(
            f"_jagged_to_padded_dense_forward(): expected len(offsets) == len(max_lengths), but got {len(offsets)} and "
            f"{len(max_lengths)}"
        )
    row, valid = _places(offsets, max_lengths)
    if values.size(0) == 0:
        shape = [*row.shape, *values.shape[1:]]
        return torch.full(shape, padding_value, dtype=values.dtype, device=values.device)
    dense = values[row]
    return dense.masked_fill_(~valid.reshape(*valid.shape, *(1,) * (values.dim() - 1)), padding_value)


@implements("_padded_dense_to_jagged_forward")
def padded_dense_to_jagged(
    dense: torch.Tensor, offsets: Sequence[torch.Tensor], total_L: int | None = None
) -> torch.Tensor:
    """dense (batch, lengths…, …) to (total_L, …); the host waits for the number of rows where it is not given."""
    total = int(offsets[-1][-1].item()) if total_L is None else total_L
    levels = len(offsets)
    row, valid = _places(offsets, dense.shape[1 : 1 + levels])
    inner = dense.shape[1 + levels :]
    # One row more takes what is padding.
    values = torch.zeros((total + 1, *inner), dtype=dense.dtype, device=dense.device)
    target = torch.where(valid & (row < total), row, total).reshape(-1)
    return values.index_copy_(0, target, dense.reshape(-1, *inner))[:total]
