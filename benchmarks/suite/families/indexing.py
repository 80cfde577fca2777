"""Sorting, scans, indexing and embeddings."""

from __future__ import annotations

import torch.nn.functional as F

from suite.case import Case, Inputs, Work, both_passes, with_backward

TITLE = "Sorting, scans, indexing"
NOTE = "Bytes, where there are some, are those read and written once. Indices are random, and int64."


def sort(inputs: Inputs, rows: int, columns: int) -> Work:
    x = inputs.normal(rows, columns) if inputs.dtype.is_floating_point else inputs.integers(0, 1 << 40, rows, columns)
    return Work(lambda: x.sort(1), (x,))


def topk(inputs: Inputs, rows: int, columns: int, k: int) -> Work:
    x = inputs.normal(rows, columns)
    return Work(lambda: x.topk(min(k, columns), 1), (x,))


def cumsum(inputs: Inputs, rows: int, columns: int, dim: int) -> Work:
    x = inputs.normal(rows, columns)
    return Work(lambda: x.cumsum(dim), (x,), bytes=2.0 * x.numel() * x.element_size())


def index_rows(inputs: Inputs, rows: int, columns: int) -> Work:
    x, index = inputs.normal(rows, columns), inputs.integers(0, rows, rows)
    return Work(lambda: x[index], (x, index), bytes=2.0 * x.numel() * x.element_size())


def index_add(inputs: Inputs, rows: int, columns: int) -> Work:
    """Rows on to rows, which repeat."""
    x, target, index = inputs.normal(rows, columns), inputs.normal(rows, columns), inputs.integers(0, rows, rows)
    return Work(lambda: target.index_add_(0, index, x), (x, target), bytes=3.0 * x.numel() * x.element_size())


def gather(inputs: Inputs, rows: int, columns: int) -> Work:
    x, index = inputs.normal(rows, columns), inputs.integers(0, columns, rows, columns)
    return Work(lambda: x.gather(1, index), (x, index), bytes=x.numel() * (2.0 * x.element_size() + 8))


def scatter_add(inputs: Inputs, rows: int, columns: int) -> Work:
    x, target = inputs.normal(rows, columns), inputs.normal(rows, columns)
    index = inputs.integers(0, columns, rows, columns)
    size = x.numel() * (3.0 * x.element_size() + 8)
    return Work(lambda: target.scatter_add_(1, index, x), (x, target, index), bytes=size)


def masked(inputs: Inputs, count: int) -> Work:
    """Half of the elements; their number goes to the host."""
    x = inputs.normal(count)
    mask = inputs.normal(count) > 0
    return Work(lambda: x[mask], (x, mask))


def embedding(inputs: Inputs, words: int, width: int, batch: int, length: int, backward: bool) -> Work:
    tokens, weight = inputs.integers(0, words, batch, length), inputs.leaf(words, width)
    if backward:
        return Work(with_backward(lambda: F.embedding(tokens, weight), (weight,)), (weight,))
    weight = weight.detach()
    return Work(lambda: F.embedding(tokens, weight), (weight,))


_VOCABULARY = (50257, 768, 8, 1024)

CASES = (
    Case("f32 sort 2^24", sort, (1, 1 << 24)),
    Case("i64 sort 2^24", sort, (1, 1 << 24), "i64"),
    Case("f32 sort 4096 rows of 4096", sort, (4096, 4096)),
    *(Case(f"f32 top 50 of 50257, {rows} rows", topk, (rows, 50257), options={"k": 50}) for rows in (64, 2048)),
    Case("f32 cumsum 2^26", cumsum, (1, 1 << 26), options={"dim": 1}),
    *(Case(f"f32 cumsum 16384x4096, dim {dim}", cumsum, (16384, 4096), options={"dim": dim}) for dim in (0, 1)),
    Case("f32 index rows 262144x1024", index_rows, (262144, 1024)),
    Case("f32 index add rows 262144x256", index_add, (262144, 256)),
    Case("f32 gather 8192x4096", gather, (8192, 4096)),
    Case("f32 scatter add 8192x4096", scatter_add, (8192, 4096)),
    Case("f32 masked select 2^26", masked, (1 << 26,)),
    *(
        case
        for dtype in ("f32", "bf16")
        for case in both_passes(f"{dtype} embedding 50257x768, 8x1024", embedding, _VOCABULARY, dtype)
    ),
)
