"""Copies that rearrange. Sizes are rows and columns."""

from __future__ import annotations

import torch

from suite.case import Case, Inputs, Work

TITLE = "Copies"
NOTE = "Bytes are those read and written once."


def _moved(x: torch.Tensor) -> float:
    return 2.0 * x.numel() * x.element_size()


def transpose(inputs: Inputs, rows: int, columns: int) -> Work:
    x = inputs.normal(rows, columns)
    return Work(lambda: x.t().contiguous(), (x,), bytes=_moved(x))


def permute(inputs: Inputs, batch: int, length: int, heads: int, width: int) -> Work:
    """Heads ahead of the sequence, as attention layers do."""
    x = inputs.normal(batch, length, heads, width)
    return Work(lambda: x.transpose(1, 2).contiguous(), (x,), bytes=_moved(x))


def channels_last(inputs: Inputs, batch: int, channels: int, height: int, width: int) -> Work:
    x = inputs.normal(batch, channels, height, width)
    return Work(lambda: x.contiguous(memory_format=torch.channels_last), (x,), bytes=_moved(x))


def broadcast_add(inputs: Inputs, rows: int, columns: int) -> Work:
    x, row = inputs.normal(rows, columns), inputs.normal(columns)
    return Work(lambda: x + row, (x,), bytes=_moved(x))


def column_add(inputs: Inputs, rows: int, columns: int) -> Work:
    x, column = inputs.normal(rows, columns), inputs.normal(rows, 1)
    return Work(lambda: x + column, (x,), bytes=_moved(x))


def cat(inputs: Inputs, rows: int, columns: int, dim: int) -> Work:
    x, y = inputs.normal(rows, columns), inputs.normal(rows, columns)
    return Work(lambda: torch.cat((x, y), dim), (x, y), bytes=2 * _moved(x))


def clone(inputs: Inputs, count: int) -> Work:
    x = inputs.normal(count)
    return Work(x.clone, (x,), bytes=_moved(x))


def fill(inputs: Inputs, count: int) -> Work:
    x = inputs.empty(count)
    return Work(lambda: x.fill_(1.0), (x,), bytes=_moved(x) / 2)


_SQUARE = (16384, 16384)

CASES = (
    *(Case(f"{d} transpose 16384^2", transpose, _SQUARE, d) for d in ("f32", "bf16")),
    Case("bf16 8x1024x12x64, heads to the front", permute, (8, 1024, 12, 64), "bf16"),
    Case("f32 64x256x56x56 to channels last", channels_last, (64, 256, 56, 56)),
    Case("f32 add a row to 16384^2", broadcast_add, _SQUARE),
    Case("f32 add a column to 16384^2", column_add, _SQUARE),
    *(
        Case(f"{d} cat of two 8192x16384, dim {dim}", cat, (8192, 16384), d, {"dim": dim})
        for d in ("f32", "bf16")
        for dim in (0, 1)
    ),
    Case("f32 clone 2^28", clone, (1 << 28,)),
    Case("f32 fill 2^28", fill, (1 << 28,)),
)
