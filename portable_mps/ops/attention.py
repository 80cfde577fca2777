"""Scaled dot-product attention that holds a tile of scores at a time, forward and backward.

Dao et al., "FlashAttention", NeurIPS 2022, and Dao, "FlashAttention-2", 2023. Which arguments come here, and which go
to torch's composition of other operators, csrc/attention.cpp decides. Which weights dropout keeps comes from Philox
counters, one for four neighbours, and is made out again in the backward pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch.engines import PLAIN, WORKGROUP, engine_for
from portable_mps.dispatch.launch import Seed, check_turns, draw, grid, launch, remember
from portable_mps.dispatch.promotion import storage
from portable_mps.dispatch.registry import implements, reserve
from portable_mps.ops.attention_tiles import (
    BACKWARD_LAYOUT,
    BIAS,
    FORWARD,
    FORWARD_LAYOUT,
    KEY_TILES,
    KEYS,
    QUERIES,
    QUERY_TILES,
    Problem,
    expanded,
    gradient_like,
    in_place,
    laid_like,
    like,
    plain_defines,
    plain_tile,
    row_stride,
    rows_are_outside,
    subgroup_defines,
    subgroup_turns,
    turns_of,
    workgroup_defines,
    workgroup_forward_defines,
)
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_Tensors = Sequence[torch.Tensor | None]
_Results = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]
_Known = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]
_Plan = Any  # what a function below says that it plans
_plain_forward = Template("attention/plain_forward", "forward", FORWARD_LAYOUT)
_merge = Template("attention/merge", "merge", FORWARD_LAYOUT)
_plain_backward = Template("attention/plain_backward", "backward", BACKWARD_LAYOUT)
_means = Template("attention/means", "means", "6Q6q4I")
_workgroup_forward = Template("attention/workgroup_forward", "forward", FORWARD_LAYOUT)
_workgroup_backward = Template("attention/workgroup_backward", "backward", BACKWARD_LAYOUT)
_subgroup_forward = Template("attention/subgroup_forward", "forward", FORWARD_LAYOUT)
_subgroup_backward = Template("attention/subgroup_backward", "backward", BACKWARD_LAYOUT)
_mask_extents = Template("attention/extents", "extents", "QQqqqqIIII")
_EXTENT = 16  # rows or columns that share an extent, as in kernels/attention/extent.slangh
_plans: dict[tuple[Any, ...], _Plan] = {}

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


class _Launch:
    """A dispatch of which only the addresses and dropout's seed and offset change: made once, recorded many times.

    The template's layout has the addresses first; `numbers` are the arguments behind them, but for seed and offset,
    which stand at position `at` of them.
    """

    __slots__ = ("_after", "_before", "_groups", "_kernel", "_offsets", "_pack")

    def __init__(
        self, template: Template, groups: tuple[int, int, int], numbers: Sequence[Any], at: int, **defines: Any
    ) -> None:
        self._kernel = template.variant(**defines)
        self._pack = template.layout.pack
        self._offsets = template.offsets
        self._groups = groups
        self._before, self._after = tuple(numbers[:at]), tuple(numbers[at:])

    def record(
        self, tensors: _Tensors, reads: _Tensors, writes: Sequence[torch.Tensor], words: tuple[int, ...] = (0, 0)
    ) -> None:
        addresses = [0 if t is None else t.data_ptr() for t in tensors]
        parameters = self._pack(*addresses, *self._before, *words, *self._after)
        read = [t for t in reads if t is not None]
        places = self._offsets[: len(addresses)]
        draws = (self._offsets[len(addresses) + len(self._before)],) if words and isinstance(words[0], Seed) else ()
        device.current().stream.launch(self._kernel, parameters, self._groups, read, writes, places, draws)


def _memoised(key: tuple[Any, ...], build: Callable[[], _Plan]) -> _Plan:
    plan = _plans.get(key)
    return remember(_plans, key, build()) if plan is None else plan


def _layout(tensor: torch.Tensor | None) -> tuple[Any, ...] | None:
    """What a plan depends on of a tensor."""
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.data_ptr() & 15, tensor.dtype)


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
    training = torch.is_grad_enabled() and (
        query.requires_grad
        or key.requires_grad
        or value.requires_grad
        or (attn_bias is not None and attn_bias.requires_grad)
    )
    words = draw(None, 1) if dropout_p > 0 else (0, 0)
    problem = _problem(query, key, value, attn_bias, is_causal, scale, dropout_p)
    given, query, columns = query, problem.query, problem.columns
    output = like(given, problem.depth)
    sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    kept = torch.empty((2, problem.lines, problem.rows), dtype=torch.float32, device=query.device)
    # Matrices round the weights anyway.
    is_rounded = training and query.dtype != torch.float32 and engine_for(query.dtype) == PLAIN
    residual = torch.empty_like(output) if is_rounded else None
    results: _Results = (output, residual, sums, kept)
    if problem.rows == 1 and problem.group > 1 and not is_causal:
        results = (problem.pack(output), None if residual is None else problem.pack(residual), sums, kept)
        problem = problem.packed()
    _forward(problem, results, words)
    seeds = _C.drawn_numbers(*words) if dropout_p > 0 else _no_seeds()
    laid = laid_like(given, output)
    return laid, sums, residual, kept if training else None, output.shape[2], columns, *seeds, None


@functools.cache
def _no_seeds() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(0), torch.tensor(0)


def _problem(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
    dropout: float,
) -> Problem:
    return Problem(
        query=in_place(query),
        key=in_place(key),
        value=in_place(value),
        bias=expanded(attn_bias, query, key),
        is_causal=is_causal,
        scale=1 / math.sqrt(query.shape[3]) if scale is None else scale,
        dropout=dropout,
        extents=_extents(attn_bias, query, key),
    )


_LEAST = (32, 128)  # rows and columns from which it pays to know a mask's extents


def _extents(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """Of a mask of bool (kernels/attention/extents.slang): tiles that it leaves nothing of are not visited."""
    rows, columns = query.shape[2], key.shape[2]
    if mask is None or mask.dtype != torch.bool or rows < _LEAST[0] or columns < _LEAST[1]:
        return None
    mask = mask.expand(*query.shape[:3], columns)
    batch, heads = (1 if mask.stride(dim) == 0 else mask.shape[dim] for dim in (0, 1))
    blocks = -(-rows // _EXTENT) + -(-columns // _EXTENT)
    extents = torch.empty((batch, heads, blocks, 2), dtype=torch.int32, device=mask.device)
    arguments = (mask, extents, *mask.stride(), heads, rows, columns, batch * heads)
    launch(_mask_extents, grid(batch * heads * blocks), arguments, (mask,), (extents,))
    return extents


def _key(problem: Problem) -> tuple[Any, ...]:
    engine = engine_for(problem.query.dtype)
    tensors = (problem.query, problem.key, problem.value, problem.bias)
    return (*map(_layout, tensors), problem.extents is None, problem.is_causal, problem.scale, problem.dropout, engine)


def _forward(problem: Problem, results: _Results, words: tuple[int, int]) -> None:
    """Fill (output, what it lost to rounding, sums, statistics)."""
    output, residual, sums, _ = results
    key = ("forward", *_key(problem), output.stride(), residual is not None)
    main, merge, splits = _memoised(key, lambda: _forward_plan(problem, output, _residual_kind(residual)))
    q, k, v, bias, extents = problem.query, problem.key, problem.value, problem.bias, problem.extents
    writes = [t for t in results if t is not None]
    if merge is None:
        main.record((q, k, v, *results, bias, extents), (q, k, v, bias, extents), writes, words)
        return
    parts = sums.new_empty((splits, problem.lines, problem.rows, problem.depth))
    statistics = sums.new_empty((2, splits, problem.lines, problem.rows))
    reads = (q, k, v, bias, extents)
    main.record((q, k, v, parts, None, None, statistics, bias, extents), reads, (parts, statistics), words)
    merge.record((parts, statistics, None, *results, None, None), (parts, statistics), writes)


def _forward_plan(problem: Problem, output: torch.Tensor, kind: int) -> _Plan:
    """(The launch, that of merging splits or None, splits)."""
    q, k, v = problem.query, problem.key, problem.value
    template = _plain_forward
    defines = workgroup_forward_defines(problem, output)
    fragmented = subgroup_defines(problem, FORWARD) if problem.rows > 1 else None
    if defines is not None:
        template, height, step, turns = _workgroup_forward, defines["BR"], defines["BC"], 1
    elif fragmented is not None:
        tile, defines = fragmented
        template, height, step = _subgroup_forward, tile.own, tile.other
        turns = subgroup_turns(defines)
    else:
        defines = plain_defines(problem, problem.rows, FORWARD)
        height, step = 16 * defines["RM"], 16 * defines["CN"]
        turns = turns_of(defines, (problem.width,), 1)
    tiles = -(-problem.rows // height)
    span, splits = _split(problem, tiles, step, turns)
    check_turns("scaled_dot_product_attention", turns * -(-span // step))
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    rows = (row_stride(q), row_stride(k), row_stride(v))
    at = len(strides) + 6
    groups = grid(tiles * problem.lines * splits)
    outside = output.stride()[:2]
    whole = (*strides, *outside, *problem.bias_strides(), *rows, row_stride(output), *problem.sizes())
    if splits == 1:
        numbers = (*whole, tiles, span, *problem.numbers())
        return _Launch(template, groups, numbers, at, SPLIT=0, RESIDUAL=kind, **defines), None, 1
    apart = (*strides, 0, 0, *problem.bias_strides(), *rows, 0, *problem.sizes())
    numbers = (*apart, tiles, span, *problem.numbers())
    main = _Launch(template, groups, numbers, at, SPLIT=1, RESIDUAL=0, **defines)
    merged = problem.variant() | {"BIASED": 0, "B": "float", "LOAD_B(x)": "x", "EXTENTS": 0}
    merged |= {"CAUSAL": 0, "DROPOUT": 0}
    numbers = (*whole, splits, span, *problem.numbers())
    return main, _Launch(_merge, grid(-(-output.numel() // 256)), numbers, at, RESIDUAL=kind, **merged), splits


def _residual_kind(residual: torch.Tensor | None) -> int:
    """RESIDUAL of kernels/attention/forward.slangh."""
    return 0 if residual is None else 2 if residual.dtype == torch.bfloat16 else 1


def _split(problem: Problem, tiles: int, step: int, turns: int) -> tuple[int, int]:
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
    words = (Seed(int(philox_seed) % 2**64), int(philox_offset) % 2**64) if dropout_p > 0 else (0, 0)
    problem = _problem(query, key, value, attn_bias, is_causal, scale, dropout_p)
    grad = in_place(grad_out)
    kept = cum_seq_k
    if kept is None:
        attends = logsumexp != -math.inf
        kept = torch.stack([torch.where(attends, logsumexp, 0), attends.float()])
    means, logs = _mean_slopes(problem, out, cum_seq_q, grad, kept)
    known = (grad, kept, logs, means)
    dq = dk = dv = dbias = None
    if grad_input_mask[0]:
        dq = gradient_like(query, problem.width)
        _gradient(QUERIES, problem, known, words, dq)
    if grad_input_mask[1] or grad_input_mask[2]:
        dk, dv = gradient_like(key, problem.width), gradient_like(value, problem.depth)
        _gradient(KEYS, problem, known, words, dk, dv)
    if grad_input_mask[3] and attn_bias is not None:
        dbias = _bias_gradient(problem, attn_bias, known, words)
    laid = (None if g is None else laid_like(t, g) for t, g in zip((query, key, value), (dq, dk, dv), strict=True))
    return *laid, dbias


def _mean_slopes(
    problem: Problem, output: torch.Tensor, residual: torch.Tensor | None, grad: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(lines, rows) each: the means of the weights' gradients, by weight, and for matrices of a workgroup the logarithm
    to base two of the sums of exponentials."""
    output = in_place(output)
    if residual is not None and residual.stride() != output.stride():
        residual = torch.empty_like(output).copy_(residual)
    means = torch.empty((problem.lines, problem.rows), dtype=torch.float32, device=grad.device)
    logs = None if engine_for(grad.dtype) != WORKGROUP or problem.bias is not None else torch.empty_like(means)
    kind = _residual_kind(residual)

    def plan() -> _Launch:
        row = storage(grad.dtype)
        sizes = (problem.lines, grad.shape[1], problem.rows, problem.depth)
        numbers = (*output.stride()[:3], *grad.stride()[:3], *sizes)
        variant = {"T": row.type, "LOAD(x)": row.load.format("x"), "RESIDUAL": kind, "LOGS": int(logs is not None)}
        return _Launch(_means, grid(-(-means.numel() // 16)), numbers, len(numbers), **variant)

    key = ("means", output.shape, output.stride(), grad.stride(), grad.dtype, kind, logs is not None)
    writes = (means,) if logs is None else (means, logs)
    kernel = _memoised(key, plan)
    kernel.record((output, residual, grad, means, kept, logs), (output, residual, grad, kept), writes, ())
    return means, logs


def _gradient(
    mode: str,
    problem: Problem,
    known: _Known,
    words: tuple[int, int],
    first: torch.Tensor,
    second: torch.Tensor | None = None,
    summed: int = 0,
) -> None:
    """Fill `first` with the gradient of the queries or of the mask, or, and `second`, with those of keys and values.

    known: the output's gradient and what is known of the rows. summed: over which dimensions a mask's gradient is, in
    bits.
    """
    grad, kept, logs, means = known
    key = (mode, *_key(problem), _layout(grad), _layout(first), _layout(second), logs is not None, summed)
    kernel, is_plain = _memoised(key, lambda: _gradient_plan(mode, problem, grad, first, second, summed))
    statistics = kept if is_plain or logs is None else logs
    q, k, v, bias, extents = problem.query, problem.key, problem.value, problem.bias, problem.extents
    reads = (q, k, v, grad, statistics, means)
    writes = (first,) if second is None else (first, second)
    kernel.record((*reads, first, second, bias, extents), (*reads, bias, extents), writes, words)


def _gradient_plan(
    mode: str, problem: Problem, grad: torch.Tensor, first: torch.Tensor, second: torch.Tensor | None, summed: int
) -> _Plan:
    """(The launch, whether it is the plain engine's)."""
    own = problem.columns if mode == KEYS else problem.rows
    other = problem.rows if mode == KEYS else problem.columns
    members = problem.group if mode == KEYS else 1
    found = None
    if mode != BIAS:
        results = (first,) if second is None else (first, second)
        found = workgroup_defines(problem, KEY_TILES if mode == KEYS else QUERY_TILES, own, grad, *results)
    fragmented = subgroup_defines(problem, mode, grad)
    if found is not None:
        tile, defines = found
        template, height = _workgroup_backward, tile.own
        groups = -(-own // height) * problem.lines // members
        defines |= {"OWN": tile.own, "OTHER": tile.other}
    elif fragmented is not None:
        of_subgroup, defines = fragmented
        template, height = _subgroup_backward, of_subgroup.own
        groups = -(-own // height) * problem.lines // members
        turns = subgroup_turns(defines) * -(-other // of_subgroup.other) * members
        check_turns("scaled_dot_product_attention's gradient", turns)
    else:
        defines = plain_defines(problem, own, mode, grad)
        template, height, step = _plain_backward, 16 * defines["RM"], 16 * defines["CN"]
        turns = turns_of(defines, (problem.width, problem.depth), {QUERIES: 1, KEYS: 2, BIAS: 0}[mode]) + 4
        if mode == BIAS:
            batch, heads, rows, columns = first.shape
            groups = batch * heads * -(-rows // height) * -(-columns // step)
            turns *= problem.lines // (batch * heads)
            turns *= (-(-own // height) if summed & 4 else 1) * (-(-other // step) if summed & 8 else 1)
        else:
            groups = -(-own // height) * problem.lines // members
            turns *= -(-other // step) * members
        check_turns("scaled_dot_product_attention's gradient", turns)
    exchanged = int(rows_are_outside(first)) | 2 * int(second is not None and rows_are_outside(second))
    tensors = (problem.query, problem.key, problem.value, grad)
    before = [s for t in tensors for s in t.stride()[:2]] + list(problem.bias_strides()[:2])
    after = (*problem.bias_strides()[2:], *map(row_stride, tensors), *problem.sizes(), -(-own // height))
    numbers = (*before, *after, exchanged | summed << 8, *problem.numbers())
    return _Launch(template, grid(groups), numbers, len(before), MODE=mode, **defines), found is None


def _bias_gradient(problem: Problem, attn_bias: torch.Tensor, known: _Known, words: tuple[int, int]) -> torch.Tensor:
    """Of a mask in its own shape: summed over what it is broadcast over, in float32."""
    shape = (1,) * (4 - attn_bias.dim()) + tuple(attn_bias.shape)
    whole = (*problem.query.shape[:3], problem.columns)
    summed = sum(1 << i for i in range(4) if shape[i] == 1 and whole[i] > 1)
    tile = plain_tile(problem, problem.rows, BIAS)
    partial = list(shape)
    for dim, size in ((2, 16 * tile["RM"]), (3, 16 * tile["CN"])):
        if summed >> dim & 1:
            partial[dim] = size
    total = torch.empty(partial, dtype=torch.float32, device=attn_bias.device)
    _gradient(BIAS, problem, known, words, total, summed=summed)
    return total.sum_to_size(shape).reshape(attn_bias.shape).to(attn_bias.dtype)


@implements("_nested_tensor_from_mask_left_aligned")
def is_left_aligned(t: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether each row of a boolean mask (batch, length) is true first and false from some place on.

    torch.nn.TransformerEncoder asks this before it sees that the device has no nested tensors.
    """
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())
