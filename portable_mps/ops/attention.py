"""Scaled dot-product attention that holds a tile of scores at a time, forward and backward.

Dao et al., "FlashAttention", NeurIPS 2022, and Dao, "FlashAttention-2", 2023. Which arguments come here, and which go to
torch's composition of other operators, csrc/attention.cpp decides. Dropout's weights come from Philox counters, one for
four neighbouring weights, and are made again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch.launch import check_turns, grid, launch
from portable_mps.dispatch.promotion import storage
from portable_mps.dispatch.registry import implements, reserve
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_FORWARD = "8Q12q2Q4i9I3f"
_BACKWARD = "9Q10q2Q6i9I3f"
_plain_forward = Template("attention/plain_forward", "forward", _FORWARD)
_merge = Template("attention/merge", "merge", _FORWARD)
_plain_backward = Template("attention/plain_backward", "backward", _BACKWARD)
_means = Template("attention/means", "means", "4Q6q4I")
_QUERIES, _KEYS, _BIAS = "QUERIES", "KEYS", "BIAS"

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


@dataclass(frozen=True)
class _Problem:
    """What both passes know: query (batch, heads, rows, width), key (batch, heads / group, columns, width), value (batch,
    heads / group, columns, depth), and a mask that is expanded to (batch, heads, rows, columns)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor | None
    is_causal: bool
    scale: float
    dropout: float
    seed: int
    offset: int

    @property
    def lines(self) -> int:
        return self.query.shape[0] * self.query.shape[1]

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def rows(self) -> int:
        return self.query.shape[2]

    @property
    def columns(self) -> int:
        return self.key.shape[2]

    @property
    def width(self) -> int:
        return self.query.shape[3]

    @property
    def depth(self) -> int:
        return self.value.shape[3]

    def reads(self) -> list[torch.Tensor]:
        given = [self.query, self.key, self.value]
        return given if self.bias is None else [*given, self.bias]

    def bias_strides(self) -> tuple[int, ...]:
        return (0, 0, 0, 0) if self.bias is None else tuple(self.bias.stride())

    def sizes(self) -> tuple[int, ...]:
        """lines, heads, group, rows, columns, width, depth, as the kernels' parameters have them."""
        return (self.lines, self.query.shape[1], self.group, self.rows, self.columns, self.width, self.depth)

    def numbers(self) -> tuple[float, float, float]:
        keep = 1 - self.dropout
        return (self.scale, keep, 1 / keep if keep else 0.0)

    def variant(self) -> dict[str, Any]:
        """The compile key's part that every kernel has."""
        row = storage(self.query.dtype)
        mask = row if self.bias is None else storage(self.bias.dtype)
        is_bool = self.bias is not None and self.bias.dtype == torch.bool
        return {
            "T": row.type,
            "LOAD(x)": row.load.format("x"),
            "STORE(x)": row.store.format("x"),
            "B": mask.type,
            "LOAD_B(x)": mask.load.format("x"),
            "BIASED": 0 if self.bias is None else 2 if is_bool else 1,
            "CAUSAL": int(self.is_causal),
            "DROPOUT": int(self.dropout > 0),
        }


def _in_place(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, or a copy where the kernels cannot address it: rows are contiguous and not too far apart."""
    far = tensor.shape[2] > 1 and abs(tensor.stride(2)) >= 2**31
    return tensor if tensor.stride(3) == 1 and not far else tensor.contiguous()


def _row_stride(tensor: torch.Tensor) -> int:
    return tensor.stride(2) if tensor.shape[2] > 1 else 0


def _like(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """An empty tensor like (batch, heads, rows, …) `tensor` in the layout that it has: heads or rows outside."""
    batch, heads, rows, _ = tensor.shape
    if _rows_are_outside(tensor):
        return tensor.new_empty((batch, rows, heads, width)).transpose(1, 2)
    return tensor.new_empty((batch, heads, rows, width))


def _rows_are_outside(tensor: torch.Tensor) -> bool:
    return tensor.shape[1] > 1 and tensor.shape[2] > 1 and tensor.stride(1) < tensor.stride(2)


def _expanded(bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    return None if bias is None else bias.expand(*query.shape[:3], key.shape[2])


def _plain_tile(problem: _Problem, rows: int) -> dict[str, int]:
    """Tile and vectors of the plain engine, by the wider of the rows and how many there are to a workgroup."""
    wide = max(problem.width, problem.depth)
    each = 1 if wide <= 16 else 2 if wide <= 32 else 4
    tall = 1 if rows <= 16 else 4 if wide <= 128 else 2
    return {
        "RM": tall,
        "CN": 4 if wide <= 128 else 2,
        "VEC": each,
        "WIDE": -(-wide // (16 * each)),
        "UNROLL": 2 if device.current().adapter.is_software else 16,
    }


def _is_aligned(*tensors: torch.Tensor) -> bool:
    """Whether four elements of a row can be one load everywhere."""
    return all(
        t.shape[3] % 4 == 0 and t.data_ptr() % (4 * t.element_size()) == 0 and all(s % 4 == 0 for s in t.stride()[:3])
        for t in tensors
    )


def _plain_defines(problem: _Problem, rows: int, *others: torch.Tensor) -> dict[str, Any]:
    return {
        **problem.variant(),
        **_plain_tile(problem, rows),
        "VECTOR": int(_is_aligned(problem.query, problem.key, problem.value, *others)),
        "EXACT": int(problem.query.dtype == torch.float32),
    }


def _turns(tile: dict[str, int], products: Sequence[int], weighed: int) -> int:
    """Of a thread through its loops, for one tile of the other side."""
    inner = 16 // tile["UNROLL"]
    return sum(-(-p // 16) * (1 + inner) for p in products) + weighed * tile["CN"] * (3 + inner) + 17


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
    """query (batch, heads, rows, width), key and value (batch, heads / group, columns, width or depth).

    attn_bias: broadcast, of bool or floats. The results that torch names cum_seq_q and cum_seq_k, where there will be a
    backward pass, are what the output lost to rounding, and each row's maximum and inverse sum.
    """
    given = (query, key, value) if attn_bias is None else (query, key, value, attn_bias)
    training = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    seed, offset = _C.reserve_philox(None, 1) if dropout_p > 0 else (0, 0)
    problem = _Problem(
        query=_in_place(query),
        key=_in_place(key),
        value=_in_place(value),
        bias=_expanded(attn_bias, query, key),
        is_causal=is_causal,
        scale=1 / math.sqrt(query.shape[3]) if scale is None else scale,
        dropout=dropout_p,
        seed=seed,
        offset=offset,
    )
    output = _like(query, value.shape[3])
    sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    kept = sums.new_empty((2, problem.lines, problem.rows))
    residual = torch.empty_like(output) if training and query.dtype != torch.float32 else None
    _forward(problem, output, residual, sums, kept)
    words = [torch.tensor(word - (word >> 63 << 64), dtype=torch.int64) for word in (seed, offset)]
    return output, sums, residual, kept if training else None, problem.rows, problem.columns, *words, None


def _forward(
    problem: _Problem, output: torch.Tensor, residual: torch.Tensor | None, sums: torch.Tensor, kept: torch.Tensor
) -> None:
    q, k, v = problem.query, problem.key, problem.value
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    row_strides = (_row_stride(q), _row_stride(k), _row_stride(v))
    defines = _plain_defines(problem, problem.rows)
    height, step = 16 * defines["RM"], 16 * defines["CN"]
    tiles = -(-problem.rows // height)
    span, splits = _split(problem, tiles, step, _turns(defines, (problem.width,), 1))
    check_turns("scaled_dot_product_attention", _turns(defines, (problem.width,), 1) * -(-span // step))
    written = (output, sums, kept) if residual is None else (output, sums, kept, residual)
    shared = (*problem.bias_strides(), problem.seed, problem.offset, *row_strides)
    tail = (*problem.sizes(), tiles, span, *problem.numbers())
    if splits == 1:
        arguments = (q, k, v, output, residual, sums, kept, problem.bias, *strides, *output.stride()[:2], *shared)
        launch(
            _plain_forward,
            grid(tiles * problem.lines),
            (*arguments, _row_stride(output), *tail),
            reads=problem.reads(),
            writes=written,
            SPLIT=0,
            RESIDUAL=int(residual is not None),
            **defines,
        )
        return
    parts = sums.new_empty((splits, problem.lines, problem.rows, problem.depth))
    statistics = sums.new_empty((2, splits, problem.lines, problem.rows))
    launch(
        _plain_forward,
        grid(tiles * problem.lines * splits),
        (q, k, v, parts, None, None, statistics, problem.bias, *strides, 0, 0, *shared, 0, *tail),
        reads=problem.reads(),
        writes=(parts, statistics),
        SPLIT=1,
        RESIDUAL=0,
        **defines,
    )
    arguments = (parts, statistics, None, output, residual, sums, kept, None, *strides, *output.stride()[:2], *shared)
    row = problem.variant()
    launch(
        _merge,
        grid(-(-output.numel() // 256)),
        (*arguments, _row_stride(output), *problem.sizes(), splits, span, *problem.numbers()),
        reads=(parts, statistics),
        writes=written,
        RESIDUAL=int(residual is not None),
        **row | {"BIASED": 0, "B": "float", "LOAD_B(x)": "x", "CAUSAL": 0, "DROPOUT": 0},
    )


def _split(problem: _Problem, tiles: int, step: int, turns: int) -> tuple[int, int]:
    """(columns of a split, splits): columns go to several workgroups where heads and rows do not fill the GPU."""
    adapter = device.current().adapter
    blocks = -(-problem.columns // step)
    most = max(1, adapter.loop_limit // turns)  # tiles of columns that a thread may take
    wanted = 2 * max(adapter.cores, 16) if not adapter.is_software else 1
    splits = max(-(-blocks // most), min(wanted // (tiles * problem.lines), blocks // 4, 64), 1)
    each = -(-blocks // splits)
    return each * step, -(-blocks // each)


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
    """Gradients of query, key, value and attn_bias. cum_seq_q, cum_seq_k: see `attention`; without them the output's
    rounding and that of logsumexp show in the gradients."""
    seed, offset = (int(t) % 2**64 for t in (philox_seed, philox_offset)) if dropout_p > 0 else (0, 0)
    problem = _Problem(
        query=_in_place(query),
        key=_in_place(key),
        value=_in_place(value),
        bias=_expanded(attn_bias, query, key),
        is_causal=is_causal,
        scale=1 / math.sqrt(query.shape[3]) if scale is None else scale,
        dropout=dropout_p,
        seed=seed,
        offset=offset,
    )
    grad = _in_place(grad_out)
    residual = cum_seq_q
    kept = torch.stack([logsumexp, torch.ones_like(logsumexp)]) if cum_seq_k is None else cum_seq_k
    means = _mean_slopes(problem, out, residual, grad)
    dq = dk = dv = dbias = None
    if grad_input_mask[0]:
        dq = _like(query, problem.width)
        _plain_gradient(_QUERIES, problem, grad, kept, means, dq, None)
    if grad_input_mask[1] or grad_input_mask[2]:
        dk, dv = _like(key, problem.width), _like(value, problem.depth)
        _plain_gradient(_KEYS, problem, grad, kept, means, dk, dv)
    if grad_input_mask[3] and attn_bias is not None:
        dbias = _bias_gradient(problem, attn_bias, grad, kept, means)
    return dq, dk, dv, dbias


def _mean_slopes(
    problem: _Problem, output: torch.Tensor, residual: torch.Tensor | None, grad: torch.Tensor
) -> torch.Tensor:
    """(lines, rows): the means of the weights' gradients, by weight."""
    output = _in_place(output)
    if residual is not None and residual.stride() != output.stride():
        residual = torch.empty_like(output).copy_(residual)
    means = torch.empty((problem.lines, problem.rows), dtype=torch.float32, device=grad.device)
    row = storage(grad.dtype)
    launch(
        _means,
        grid(-(-means.numel() // 16)),
        (output, residual, grad, means, *output.stride()[:3], *grad.stride()[:3], problem.lines, grad.shape[1],
         problem.rows, problem.depth),
        reads=(output, grad) if residual is None else (output, grad, residual),
        writes=(means,),
        T=row.type,
        RESIDUAL=int(residual is not None),
        **{"LOAD(x)": row.load.format("x")},
    )  # fmt: skip
    return means


def _plain_gradient(
    mode: str,
    problem: _Problem,
    grad: torch.Tensor,
    kept: torch.Tensor,
    means: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor | None,
    summed: int = 0,
) -> None:
    """A launch of plain_backward.slang. summed: over which dimensions a mask's gradient is, in bits."""
    q, k, v = problem.query, problem.key, problem.value
    own = problem.columns if mode == _KEYS else problem.rows
    other = problem.rows if mode == _KEYS else problem.columns
    defines = _plain_defines(problem, own, grad)
    height, step = 16 * defines["RM"], 16 * defines["CN"]
    tiles = -(-own // height)
    if mode == _BIAS:
        groups = first.shape[0] * first.shape[1] * -(-first.shape[2] // height) * -(-first.shape[3] // step)
        covered = problem.lines // (first.shape[0] * first.shape[1])
        covered *= (tiles if summed & 4 else 1) * (-(-other // step) if summed & 8 else 1)
        turns = covered * (_turns(defines, (problem.width, problem.depth), 0) + 4)
    else:
        groups = tiles * problem.lines // (problem.group if mode == _KEYS else 1)
        turns = -(-other // step) * (problem.group if mode == _KEYS else 1)
        turns *= _turns(defines, (problem.width, problem.depth), 2 if mode == _KEYS else 1)
    check_turns("scaled_dot_product_attention's gradient", turns)
    layout = int(_rows_are_outside(first)) | 2 * int(second is not None and _rows_are_outside(second))
    strides = [s for t in (q, k, v, grad) for s in t.stride()[:2]]
    bias = problem.bias_strides()
    launch(
        _plain_backward,
        grid(groups),
        (q, k, v, grad, kept, means, first, second, problem.bias, *strides, *bias[:2], problem.seed, problem.offset,
         *bias[2:], *map(_row_stride, (q, k, v, grad)), *problem.sizes(), tiles, layout | summed << 8,
         *problem.numbers()),
        reads=[*problem.reads(), grad, kept, means],
        writes=(first,) if second is None else (first, second),
        MODE=mode,
        **defines,
    )  # fmt: skip


def _bias_gradient(
    problem: _Problem, attn_bias: torch.Tensor, grad: torch.Tensor, kept: torch.Tensor, means: torch.Tensor
) -> torch.Tensor:
    """Of a mask in its own shape: summed over what it is broadcast over, in float32."""
    shape = (1,) * (4 - attn_bias.dim()) + tuple(attn_bias.shape)
    whole = (*problem.query.shape[:3], problem.columns)
    summed = sum(1 << i for i in range(4) if shape[i] == 1 and whole[i] > 1)
    tile = _plain_tile(problem, problem.rows)
    partial = list(shape)
    for dim, size in ((2, 16 * tile["RM"]), (3, 16 * tile["CN"])):
        if summed >> dim & 1:
            partial[dim] = size
    total = torch.empty(partial, dtype=torch.float32, device=grad.device)
    _plain_gradient(_BIAS, problem, grad, kept, means, total, None, summed)
    return total.sum_to_size(shape).reshape(attn_bias.shape).to(attn_bias.dtype)


@implements("_nested_tensor_from_mask_left_aligned")
def is_left_aligned(t: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether each row of a boolean mask (batch, length) is true first and false from some place on.

    torch.nn.TransformerEncoder asks this before it sees that the device has no nested tensors.
    """
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())
