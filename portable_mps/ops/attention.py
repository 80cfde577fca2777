"""Scaled dot-product attention that holds a tile of scores at a time, forward and backward.

Dao et al., "FlashAttention", NeurIPS 2022, and Dao, "FlashAttention-2", 2023. Which arguments come here, and which go
to torch's composition of other operators, csrc/attention.cpp decides. Which weights dropout keeps comes from Philox
counters, one for four neighbours, and is made out again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch.engines import PLAIN, WORKGROUP, engine_for
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
_means = Template("attention/means", "means", "6Q6q4I")
_workgroup_forward = Template("attention/workgroup_forward", "forward", _FORWARD)
_workgroup_backward = Template("attention/workgroup_backward", "backward", _BACKWARD)
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
    """What both passes know: query (batch, heads, rows, width), key (batch, heads / group, columns, width), value
    (batch, heads / group, columns, depth), and a mask that is expanded to (batch, heads, rows, columns)."""

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

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of one row a head, the heads of a group as rows of one head."""
        return tensor.squeeze(2).unflatten(1, (self.key.shape[1], self.group))

    def packed(self) -> _Problem:
        """The same problem with heads that share keys as rows of one head, so that keys are read once."""
        bias = None if self.bias is None else self.pack(self.bias)
        return replace(self, query=self.pack(self.query), bias=bias)

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
    apart = tensor.shape[1] > 1 and tensor.shape[2] > 1 and tensor.shape[3] > 1
    return apart and tensor.stride(3) == 1 and tensor.stride(1) < tensor.stride(2)


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


def _is_aligned(*tensors: torch.Tensor, elements: int = 4) -> bool:
    """Whether so many elements of a row can be one load everywhere."""
    return all(
        t.shape[3] % elements == 0
        and t.data_ptr() % (elements * t.element_size()) == 0
        and all(s % elements == 0 for s in t.stride()[:3])
        for t in tensors
    )


def _plain_defines(problem: _Problem, rows: int, *others: torch.Tensor) -> dict[str, Any]:
    return {
        **problem.variant(),
        **_plain_tile(problem, rows),
        "VECTOR": int(_is_aligned(problem.query, problem.key, problem.value, *others)),
        "EXACT": int(problem.query.dtype == torch.float32),
    }


@dataclass(frozen=True)
class _WorkgroupTile:
    """Rows of the workgroup's own side and of the other side a turn, threads, and turns that are written out."""

    own: int
    other: int
    threads: int
    unroll: int = 1
    narrow: int = 16


# By the wider of width and depth, rounded up; tuned on an H100.
_ROUNDED = (32, 64, 128, 256)
_FORWARD_TILES = {
    32: _WorkgroupTile(64, 64, 128),
    64: _WorkgroupTile(64, 64, 128),
    128: _WorkgroupTile(64, 64, 128),
    256: _WorkgroupTile(64, 32, 256),
}
_QUERY_TILES = {
    32: _WorkgroupTile(64, 64, 128),
    64: _WorkgroupTile(64, 64, 128),
    128: _WorkgroupTile(64, 64, 256),
    256: _WorkgroupTile(32, 32, 256),
}
_KEY_TILES = {
    32: _WorkgroupTile(64, 64, 128),
    64: _WorkgroupTile(64, 64, 128),
    128: _WorkgroupTile(64, 64, 256),
    256: _WorkgroupTile(32, 32, 256),
}


def _workgroup_defines(
    problem: _Problem, tiles: dict[int, _WorkgroupTile], *others: torch.Tensor
) -> tuple[_WorkgroupTile, dict[str, Any]] | None:
    """A tile and what the matrices of a workgroup need to know; None where they cannot be had."""
    dtype = problem.query.dtype
    if engine_for(dtype) != WORKGROUP:
        return None
    tensors = (problem.query, problem.key, problem.value, *others)
    if any(t.shape[2] * t.stride(2) >= 2**31 for t in tensors):  # their addressing counts in 32 bits
        return None
    width, depth = (next(r for r in _ROUNDED if size <= r) for size in (problem.width, problem.depth))
    tile = tiles[max(width, depth)]
    defines = {
        **problem.variant(),
        "E": "half" if dtype == torch.float16 else "BFloat16",
        "W": width,
        "D": depth,
        "FULL": int(width == problem.width and depth == problem.depth),
        "ALIGNED": int(_is_aligned(*tensors, elements=8)),
        "THREADS": tile.threads,
        "UNROLL": tile.unroll,
    }
    return tile, defines


def _workgroup_forward_defines(problem: _Problem, output: torch.Tensor) -> dict[str, Any] | None:
    found = _workgroup_defines(problem, _FORWARD_TILES, output)
    if found is None:
        return None
    tile, defines = found
    rows = min(tile.own, 32) if problem.rows <= 32 else tile.own
    return {**defines, "BR": rows, "BC": tile.other, "NARROW": tile.narrow}


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
    is_rounded = query.dtype != torch.float32 and engine_for(query.dtype) == PLAIN  # matrices round the weights anyway
    residual = torch.empty_like(output) if training and is_rounded else None
    if problem.rows == 1 and problem.group > 1 and not is_causal:
        _forward(
            problem.packed(), problem.pack(output), None if residual is None else problem.pack(residual), sums, kept
        )
    else:
        _forward(problem, output, residual, sums, kept)
    words = [torch.tensor(word - (word >> 63 << 64), dtype=torch.int64) for word in (seed, offset)]
    return output, sums, residual, kept if training else None, problem.rows, problem.columns, *words, None


def _forward(
    problem: _Problem, output: torch.Tensor, residual: torch.Tensor | None, sums: torch.Tensor, kept: torch.Tensor
) -> None:
    """Fill what `attention` returns."""
    q, k, v = problem.query, problem.key, problem.value
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    row_strides = (_row_stride(q), _row_stride(k), _row_stride(v))
    template = _plain_forward
    defines = _workgroup_forward_defines(problem, output)
    if defines is not None:
        template, height, step, turns = _workgroup_forward, defines["BR"], defines["BC"], 1
    else:
        defines = _plain_defines(problem, problem.rows)
        height, step = 16 * defines["RM"], 16 * defines["CN"]
        turns = _turns(defines, (problem.width,), 1)
    tiles = -(-problem.rows // height)
    span, splits = _split(problem, tiles, step, turns)
    check_turns("scaled_dot_product_attention", turns * -(-span // step))
    written = (output, sums, kept) if residual is None else (output, sums, kept, residual)
    shared = (*problem.bias_strides(), problem.seed, problem.offset, *row_strides)
    tail = (*problem.sizes(), tiles, span, *problem.numbers())
    kind = _residual_kind(residual)
    if splits == 1:
        arguments = (q, k, v, output, residual, sums, kept, problem.bias, *strides, *output.stride()[:2], *shared)
        launch(
            template,
            grid(tiles * problem.lines),
            (*arguments, _row_stride(output), *tail),
            reads=problem.reads(),
            writes=written,
            SPLIT=0,
            RESIDUAL=kind,
            **defines,
        )
        return
    parts = sums.new_empty((splits, problem.lines, problem.rows, problem.depth))
    statistics = sums.new_empty((2, splits, problem.lines, problem.rows))
    launch(
        template,
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
        RESIDUAL=kind,
        **row | {"BIASED": 0, "B": "float", "LOAD_B(x)": "x", "CAUSAL": 0, "DROPOUT": 0},
    )


def _residual_kind(residual: torch.Tensor | None) -> int:
    """RESIDUAL of kernels/attention/forward.slangh."""
    return 0 if residual is None else 2 if residual.dtype == torch.bfloat16 else 1


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
    means, logs = _mean_slopes(problem, out, residual, grad, kept)
    dq = dk = dv = dbias = None
    if grad_input_mask[0]:
        dq = _like(query, problem.width)
        _gradient(_QUERIES, problem, grad, kept, logs, means, dq, None)
    if grad_input_mask[1] or grad_input_mask[2]:
        dk, dv = _like(key, problem.width), _like(value, problem.depth)
        _gradient(_KEYS, problem, grad, kept, logs, means, dk, dv)
    if grad_input_mask[3] and attn_bias is not None:
        dbias = _bias_gradient(problem, attn_bias, grad, kept, means)
    return dq, dk, dv, dbias


def _mean_slopes(
    problem: _Problem, output: torch.Tensor, residual: torch.Tensor | None, grad: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(lines, rows) each: the means of the weights' gradients, by weight, and for engines of matrices the logarithm to
    base two of the sums of exponentials."""
    output = _in_place(output)
    if residual is not None and residual.stride() != output.stride():
        residual = torch.empty_like(output).copy_(residual)
    means = torch.empty((problem.lines, problem.rows), dtype=torch.float32, device=grad.device)
    logs = None if engine_for(grad.dtype) == PLAIN or problem.bias is not None else torch.empty_like(means)
    row = storage(grad.dtype)
    launch(
        _means,
        grid(-(-means.numel() // 16)),
        (output, residual, grad, means, kept, logs, *output.stride()[:3], *grad.stride()[:3], problem.lines,
         grad.shape[1], problem.rows, problem.depth),
        reads=(output, grad, kept) if residual is None else (output, grad, kept, residual),
        writes=(means,) if logs is None else (means, logs),
        T=row.type,
        RESIDUAL=_residual_kind(residual),
        LOGS=int(logs is not None),
        **{"LOAD(x)": row.load.format("x")},
    )  # fmt: skip
    return means, logs


def _gradient(
    mode: str,
    problem: _Problem,
    grad: torch.Tensor,
    kept: torch.Tensor,
    logs: torch.Tensor | None,
    means: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor | None,
    summed: int = 0,
) -> None:
    """Fill `first` with the gradient of the queries or of the mask, or, and `second`, with those of keys and values.

    summed: over which dimensions a mask's gradient is, in bits.
    """
    own = problem.columns if mode == _KEYS else problem.rows
    other = problem.rows if mode == _KEYS else problem.columns
    members = problem.group if mode == _KEYS else 1
    products = 2 if mode == _KEYS else 1
    found = None
    if mode != _BIAS:
        results = (first,) if second is None else (first, second)
        found = _workgroup_defines(problem, _KEY_TILES if mode == _KEYS else _QUERY_TILES, grad, *results)
    if found is not None:
        tile, defines = found
        template, height, statistics = _workgroup_backward, tile.own, kept if logs is None else logs
        groups = -(-own // height) * problem.lines // members
        defines |= {"OWN": tile.own, "OTHER": tile.other}
    else:
        defines = _plain_defines(problem, own, grad)
        template, height, statistics = _plain_backward, 16 * defines["RM"], kept
        step = 16 * defines["CN"]
        turns = _turns(defines, (problem.width, problem.depth), products if mode != _BIAS else 0) + 4
        if mode == _BIAS:
            batch, heads, rows, columns = first.shape
            groups = batch * heads * -(-rows // height) * -(-columns // step)
            turns *= problem.lines // (batch * heads)
            turns *= (-(-own // height) if summed & 4 else 1) * (-(-other // step) if summed & 8 else 1)
        else:
            groups = -(-own // height) * problem.lines // members
            turns *= -(-other // step) * members
        check_turns("scaled_dot_product_attention's gradient", turns)
    layout = int(_rows_are_outside(first)) | 2 * int(second is not None and _rows_are_outside(second))
    tensors = (problem.query, problem.key, problem.value, grad)
    strides = [s for t in tensors for s in t.stride()[:2]]
    bias = problem.bias_strides()
    launch(
        template,
        grid(groups),
        (*tensors, statistics, means, first, second, problem.bias, *strides, *bias[:2], problem.seed, problem.offset,
         *bias[2:], *map(_row_stride, tensors), *problem.sizes(), -(-own // height), layout | summed << 8,
         *problem.numbers()),
        reads=[*problem.reads(), grad, statistics, means],
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
    _gradient(_BIAS, problem, grad, kept, None, means, total, None, summed)
    return total.sum_to_size(shape).reshape(attn_bias.shape).to(attn_bias.dtype)


@implements("_nested_tensor_from_mask_left_aligned")
def is_left_aligned(t: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether each row of a boolean mask (batch, length) is true first and false from some place on.

    torch.nn.TransformerEncoder asks this before it sees that the device has no nested tensors.
    """
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())
