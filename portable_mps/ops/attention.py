"""Scaled dot-product attention: products and a fused softmax, in blocks of heads that bound the memory taken.

Which arguments come here, and which go to torch's composition of other operators, csrc/attention.cpp decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from portable_mps.dispatch.launch import check_turns, grid, launch
from portable_mps.dispatch.products import product
from portable_mps.dispatch.promotion import storage, summed_in
from portable_mps.dispatch.registry import implements, reserve
from portable_mps.dispatch.rows import THREADS, threads_along
from portable_mps.runtime.kernel import Template

_SIZES = "IIII"
_BIAS = "Qqii"
_softmax = Template("attention", "softmax", "QQ" + _SIZES)
_softmax_biased = Template("attention", "softmax", "QQ" + _BIAS + _SIZES)
_backward = Template("attention", "backward", "QQQ" + _SIZES)
_backward_biased = Template("attention", "backward", "QQQ" + _BIAS + _SIZES)
_SCORE_BYTES = 1 << 28  # scores held at a time


reserve("scaled_dot_product_attention", "csrc/attention.cpp")
reserve("_fused_sdp_choice", "csrc/attention.cpp")


@implements("_scaled_dot_product_attention_math_for_mps")
def math_for_mps(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, weights): what programs that were exported on a Mac call."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, dropout_mask, scale=scale, enable_gqa=enable_gqa
    )


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """(batch, heads, rows, width) as (batch * heads, rows, width)."""
    return tensor.reshape(-1, *tensor.shape[2:])


def _blocks(heads: int, rows: int, columns: int) -> Iterator[slice]:
    count = max(1, min(heads, _SCORE_BYTES // max(1, rows * columns * 4), 32768))
    for start in range(0, heads, count):
        yield slice(start, min(start + count, heads))


def _geometry(scores: torch.Tensor) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Workgroups, and the kernel's sizes, for (heads, rows, columns) scores."""
    heads, rows, columns = scores.shape
    height_log2 = threads_along(columns).bit_length() - 1
    check_turns("scaled_dot_product_attention", 3 * (columns >> height_log2))
    return grid(-(-heads * rows // (THREADS >> height_log2))), (heads, rows, columns, height_log2 | 16)


def _variant(dtype: torch.dtype, causal: bool, bias: torch.Tensor | None, backward: bool) -> dict[str, object]:
    row = storage(dtype if bias is None else bias.dtype)
    return {
        "T": row.type,
        "LOAD(x)": row.load.format("x"),
        "A": storage(dtype).compute,
        "CAUSAL": int(causal),
        "BIASED": int(bias is not None),
        "BACKWARD": int(backward),
    }


def _bias_arguments(bias: torch.Tensor | None) -> tuple[object, ...]:
    return () if bias is None else (bias, bias.stride(0), bias.stride(1), bias.stride(2))


def _expand_bias(bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    if bias is None:
        return None
    return _flat(bias.expand(*query.shape[:3], key.shape[2]))


@implements("_scaled_dot_product_fused_attention_overrideable")
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor | int | None, ...]:
    """query (batch, heads, rows, width), key and value (batch, heads, columns, width or depth)."""
    if dropout_p != 0.0:
        raise NotImplementedError("attention with dropout runs as separate operators on the MPS device")
    batch, heads, rows, width = query.shape
    columns, depth = key.shape[2], value.shape[3]
    scale = 1 / math.sqrt(width) if scale is None else scale
    output = query.new_empty((batch, heads, rows, depth))
    sums = query.new_empty((batch * heads, rows), dtype=summed_in(query.dtype))
    bias = _expand_bias(attn_bias, query, key)
    q, k, v, flat_output = _flat(query), _flat(key), _flat(value), _flat(output)
    for block in _blocks(batch * heads, rows, columns):
        scores = _scores(q[block], k[block], scale)
        part = None if bias is None else bias[block]
        groups, sizes = _geometry(scores)
        launch(
            _softmax if part is None else _softmax_biased,
            groups,
            (scores, sums[block], *_bias_arguments(part), *sizes),
            reads=() if part is None else (part,),
            writes=(scores, sums[block]),
            **_variant(query.dtype, is_causal, part, backward=False),
        )
        product(scores, v[block], flat_output[block])
    empty = query.new_empty((), dtype=torch.int64)
    return output, sums.view(batch, heads, rows), None, None, rows, columns, empty, empty, query.new_empty(0)


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    scores = q.new_empty((q.shape[0], q.shape[1], k.shape[1]), dtype=summed_in(q.dtype))
    product(q, k.transpose(1, 2), scores, alpha=scale)
    return scores


@implements("_scaled_dot_product_fused_attention_overrideable_backward")
def attention_backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    grad_input_mask: list[bool],
    out: torch.Tensor,
    logsumexp: torch.Tensor,
    cum_seq_q: torch.Tensor | None,
    cum_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    philox_seed: torch.Tensor,
    philox_offset: torch.Tensor,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor | None, ...]:
    batch, heads, rows, width = query.shape
    columns = key.shape[2]
    scale = 1 / math.sqrt(width) if scale is None else scale
    grads = [torch.empty(t.shape, dtype=t.dtype, device="mps") for t in (query, key, value)]
    dq, dk, dv = (_flat(g) for g in grads)
    q, k, v, do = _flat(query), _flat(key), _flat(value), _flat(grad_out)
    sums = logsumexp.view(-1, rows)
    bias = _expand_bias(attn_bias, query, key)
    for block in _blocks(batch * heads, rows, columns):
        scores = _scores(q[block], k[block], scale)
        slopes = torch.empty_like(scores)
        product(do[block], v[block].transpose(1, 2), slopes)
        part = None if bias is None else bias[block]
        groups, sizes = _geometry(scores)
        reads = [sums[block]] + ([] if part is None else [part])
        launch(
            _backward if part is None else _backward_biased,
            groups,
            (scores, sums[block], slopes, *_bias_arguments(part), *sizes),
            reads=reads,
            writes=(scores, slopes),
            **_variant(query.dtype, is_causal, part, backward=True),
        )
        weights, score_grads = scores, slopes
        product(weights.transpose(1, 2), do[block], dv[block])
        product(score_grads, k[block], dq[block], alpha=scale)
        product(score_grads.transpose(1, 2), q[block], dk[block], alpha=scale)
    return (*grads, None)


@implements("_nested_tensor_from_mask_left_aligned")
def is_left_aligned(t: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether each row of a boolean mask (batch, length) is true first and false from some place on.

    torch.nn.TransformerEncoder asks this before it sees that the device has no nested tensors.
    """
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())
