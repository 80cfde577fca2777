"""The kernels of compiled flex_attention: attention whose scores a function modifies, over blocks that a mask lists.

Dong et al., "Flex Attention", 2024. inductor/flex.py writes the functions and calls these operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.launch import check_turns, grid, launch
from portable_mps.dispatch.registry import define
from portable_mps.ops.attention_tiles import (
    BACKWARD_LAYOUT,
    FORWARD,
    FORWARD_LAYOUT,
    KEYS,
    QUERIES,
    Problem,
    in_place,
    plain_defines,
    row_stride,
    rows_are_outside,
    turns_of,
)
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

SMALLEST_BLOCK = 16  # rows of the smallest tile
WIDEST = 256  # elements of a row of query, key or value

_Tensors = Sequence[torch.Tensor]

_SCHEMA = (
    "flex_attention(Tensor query, Tensor key, Tensor value, Tensor[] blocks, int[] block_size, Tensor[] captured,"
    " SymInt[] numbers, float scale, str functions) -> (Tensor, Tensor, Tensor)"
)
_SCHEMA_OF_BACKWARD = (
    "flex_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor statistics, Tensor means,"
    " Tensor[] query_blocks, Tensor[] key_blocks, int[] block_size, Tensor[] captured, Tensor[] wanted,"
    " SymInt[] numbers, float scale, str functions) -> (Tensor, Tensor, Tensor, Tensor[])"
)


def _like(tensor: torch.Tensor, width: Any) -> torch.Tensor:
    """An empty tensor of (batch, heads, rows) of another, with heads or rows outside as there."""
    batch, heads, rows, _ = tensor.shape
    if tensor.stride(1) < tensor.stride(2):
        return tensor.new_empty((batch, rows, heads, width)).transpose(1, 2)
    return tensor.new_empty((batch, heads, rows, width))


def _forward_without_memory(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> Any:
    sums = query.new_empty(query.shape[:3], dtype=torch.float32)
    return _like(query, value.shape[3]), sums, torch.empty_like(sums)


def _backward_without_memory(grad: Any, query: Any, key: Any, value: Any, *rest: Any) -> Any:
    wanted = rest[6]
    results = (_like(tensor, tensor.shape[3]) for tensor in (query, key, value))
    return *results, [t.new_empty(t.shape, dtype=torch.float32) for t in wanted]


class _Flex:
    """What the kernels are told beside attention's parameters (kernels/attention/flex_fields.slangh)."""

    def __init__(
        self,
        blocks: _Tensors,
        sizes: tuple[int, int],
        captured: _Tensors,
        numbers: Sequence[int],
        functions: str,
        gradients: _Tensors = (),
    ) -> None:
        """blocks: counts and indices of blocks of the other side for each of the own, and where there are such, those
        of full blocks. sizes: of a block on the own and the other side."""
        now = device.current()
        self.blocks = [tensor.to(torch.int32).contiguous() for tensor in blocks]
        self.captured = list(captured)
        self.gradients = list(gradients)
        counts, indices = self.blocks[:2]
        shape = (1,) * (3 - counts.dim()) + tuple(counts.shape)
        full = self.blocks[2:]
        code = now.errors.arm("flex_attention: index {index} is out of bounds for what is captured", IndexError)
        addresses = [*captured, *([0] * (not captured))]
        values = [*numbers, *([0] * (not numbers))]
        lists = [*self.blocks, *([0, 0] * (not full))]
        most, most_full = indices.shape[-1], full[1].shape[-1] if full else 0
        self.arguments = [
            *addresses,
            *gradients,
            now.errors.address,
            *lists,
            *values,
            code,
            *shape,
            most,
            most_full,
            *sizes,
        ]
        self.layout = f"{len(addresses) + len(gradients)}Q5Q{len(values)}q8I"
        self.defines = {
            "FLEX": len(addresses),
            "GRADIENTS": len(gradients),
            "NUMBERS": len(values),
            "FUNCTIONS": functions.replace("\n", " \\\n"),
        }
        self._block = sizes[1]
        self._blocks = max(1, int(most + most_full))

    def tiles(self, other: int, step: int) -> int:
        """Of `step` rows, at most, that a tile attends to where the other side has `other` rows."""
        return self._blocks * -(-min(self._block, other) // step)

    @property
    def reads(self) -> list[torch.Tensor]:
        return [*self.blocks, *self.captured]


def _tile(problem: Problem, rows: int, mode: str, sizes: tuple[int, int], *others: torch.Tensor) -> dict[str, Any]:
    """The plain engine's tile, made to divide the blocks of its own and of the other side."""
    defines = plain_defines(problem, rows, mode, *others)
    for name, size in zip(("RM", "CN"), sizes, strict=True):
        while size % (16 * defines[name]):
            defines[name] //= 2
    return defines


def _problem(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> Problem:
    return Problem(in_place(query), in_place(key), in_place(value), None, is_causal=False, scale=scale, dropout=0.0)


_templates: dict[tuple[str, str], Template] = {}


def _template(entry: str, layout: str) -> Template:
    made = _templates.get((entry, layout))
    if made is None:
        made = _templates[entry, layout] = Template(f"attention/plain_{entry}", entry, layout)
    return made


@define(_SCHEMA, _forward_without_memory)
def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: _Tensors,
    block_size: Sequence[int],
    captured: _Tensors,
    numbers: Sequence[int],
    scale: float,
    functions: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, logarithms of the sums of exponentials, maxima): of query (batch, heads, rows, width), key (batch,
    heads / group, columns, width) and value (…, depth).

    blocks: of keys, for each block of queries; block_size: of queries and of keys. functions: see
    kernels/attention/flex.slangh; captured and numbers are what they read.
    """
    problem = _problem(query, key, value, scale)
    output = _like(query, problem.depth)
    sums = query.new_empty(query.shape[:3], dtype=torch.float32)
    kept = sums.new_empty((2, problem.lines, problem.rows))
    sizes = (block_size[0], block_size[1])
    flex = _Flex(blocks, sizes, captured, numbers, functions)
    defines = _tile(problem, problem.rows, FORWARD, sizes)
    height, step = 16 * defines["RM"], 16 * defines["CN"]
    check_turns("flex_attention", turns_of(defines, (problem.width,), 1) * flex.tiles(problem.columns, step))
    tiles = -(-problem.rows // height)
    q, k, v = problem.query, problem.key, problem.value
    outside = [s for t in (q, k, v, output) for s in t.stride()[:2]]
    strides = (*outside, *problem.bias_strides(), 0, 0, *map(row_stride, (q, k, v, output)))
    rest = (*problem.sizes(), tiles, problem.columns, *problem.numbers())
    launch(
        _template("forward", FORWARD_LAYOUT + flex.layout),
        grid(tiles * problem.lines),
        (q, k, v, output, None, sums, kept, None, None, *strides, *rest, *flex.arguments),
        (q, k, v, *flex.reads),
        (output, sums, kept),
        SPLIT=0,
        RESIDUAL=0,
        **defines,
        **flex.defines,
    )
    attends = sums != -math.inf
    return output, sums, torch.where(attends, kept[0].view_as(sums), -math.inf)


@define(_SCHEMA_OF_BACKWARD, _backward_without_memory)
def flex_attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    statistics: torch.Tensor,
    means: torch.Tensor,
    query_blocks: _Tensors,
    key_blocks: _Tensors,
    block_size: Sequence[int],
    captured: _Tensors,
    wanted: _Tensors,
    numbers: Sequence[int],
    scale: float,
    functions: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Gradients of query, key and value, and in float32 those of `wanted`, as the functions add them up.

    statistics: (2, batch, heads, rows), the logarithms of the sums of exponentials, and whether the row attends to
    anything. means: (batch, heads, rows), of the weights' gradients, by weight. query_blocks: of keys, for each block
    of queries; key_blocks: of queries, for each block of keys.
    """
    problem, grad = _problem(query, key, value, scale), in_place(grad)
    dq, dk, dv = (_like(tensor, tensor.shape[3]) for tensor in (query, key, value))
    gradients = [torch.zeros_like(t, dtype=torch.float32, memory_format=torch.contiguous_format) for t in wanted]
    rows, columns = block_size
    for mode, blocks, sizes, filled in (
        (QUERIES, query_blocks, (rows, columns), (dq,)),
        (KEYS, key_blocks, (columns, rows), (dk, dv)),
    ):
        flex = _Flex(blocks, sizes, captured, numbers, functions, gradients)
        _gradient(mode, problem, (grad, statistics.contiguous(), means.contiguous()), flex, sizes, filled)
    return dq, dk, dv, gradients


def _gradient(
    mode: str,
    problem: Problem,
    known: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    flex: _Flex,
    sizes: tuple[int, int],
    results: _Tensors,
) -> None:
    grad, statistics, means = known
    own, other = (problem.columns, problem.rows) if mode == KEYS else (problem.rows, problem.columns)
    members = problem.group if mode == KEYS else 1
    defines = _tile(problem, own, mode, sizes, grad)
    height, step = 16 * defines["RM"], 16 * defines["CN"]
    turns = turns_of(defines, (problem.width, problem.depth), 2 if mode == KEYS else 1) + 4
    check_turns("flex_attention's gradient", turns * flex.tiles(other, step) * members)
    q, k, v = problem.query, problem.key, problem.value
    tensors = (q, k, v, grad)
    first, second = (*results, None)[:2]
    exchanged = sum(1 << i for i, result in enumerate(results) if rows_are_outside(result))
    outside = [s for t in tensors for s in t.stride()[:2]]
    rest = (*map(row_stride, tensors), *problem.sizes(), -(-own // height), exchanged, *problem.numbers())
    launch(
        _template("backward", BACKWARD_LAYOUT + flex.layout),
        grid(-(-own // height) * problem.lines // members),
        (*tensors, statistics, means, first, second, None, None, *outside, 0, 0, 0, 0, 0, 0, *rest, *flex.arguments),
        (*tensors, statistics, means, *flex.reads),
        (*results, *flex.gradients),
        MODE=mode,
        **defines,
        **flex.defines,
    )
