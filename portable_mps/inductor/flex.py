"""flex_attention in a compiled graph: attention's kernels with the user's functions of a score in them.

ops/flex_attention.py has the operators that run them. What these do not serve (float64, heads wider than 256, blocks
whose sizes are no multiples of 16) is torch's dense composition, whose parts Inductor fuses and which holds the scores
in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._higher_order_ops.flex_attention import sdpa_dense, sdpa_dense_backward
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.ir import IRNode, TensorBox, ir_node_to_tensor
from torch._inductor.lowering import process_subgraph_nodes
from torch._inductor.utils import convert_to_symint
from torch._inductor.virtualized import V
from torch.fx.experimental.proxy_tensor import make_fx

from portable_mps.inductor.score import ScoreFunctions
from portable_mps.ops.flex_attention import SMALLEST_BLOCK, WIDEST

_LN_2 = math.log(2)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_OF_QUERIES = slice(2, 6)  # of a block mask: counts and indices of keys, and those of full blocks
_OF_KEYS = slice(6, 10)
_SIZES = slice(14, 16)


def forward(
    query: TensorBox,
    key: TensorBox,
    value: TensorBox,
    subgraph: Any,
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: dict[str, Any],
    score_mod_other_buffers: Sequence[Any],
    mask_mod_other_buffers: Sequence[Any],
) -> Any:
    """Inductor's lowering of the operator: the output, and the logarithms of the sums and the maxima, to base two."""
    score, mask = subgraph.graph_module, block_mask[-1].graph_module
    sizes = _block_sizes(block_mask)
    if not _is_served((query, key, value), sizes):
        known = len(score_mod_other_buffers)
        masks = (*block_mask[:-1], mask)

        def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *others: Any) -> Any:
            mods = others[:known], others[known:]
            return sdpa_dense(q, k, v, score, masks, scale, kernel_options, *mods)

        return _lowered(dense, [query, key, value, *score_mod_other_buffers, *mask_mod_other_buffers])

    score_buffers, mask_buffers = _realized(score_mod_other_buffers), _realized(mask_mod_other_buffers)
    functions = ScoreFunctions()
    functions.add_modified(score, score_buffers, mask, mask_buffers)
    text, captured, numbers = functions.text(), _captured(functions), functions.numbers
    blocks = _blocks(block_mask[_OF_QUERIES])

    def tiled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> Any:
        lists, tensors, values = _apart(rest, len(blocks), len(captured))
        k, v = (t.expand(q.shape[0], *t.shape[1:]) for t in (k, v))
        output, sums, maxima = torch.ops.portable_mps.flex_attention(
            q, k, v, lists, sizes, tensors, values, scale, text
        )
        return output, sums / _LN_2, maxima / _LN_2

    return _lowered(tiled, [query, key, value, *blocks, *captured, *numbers])


def backward(*arguments: Any) -> Any:
    """Of the operator's gradient: those of query, key, value, and of what the score's function captured."""
    *tensors, fw_graph, joint_graph, block_mask, scale, kernel_options, score_buffers, mask_buffers = arguments
    score, joint, mask = fw_graph.graph_module, joint_graph.graph_module, block_mask[-1].graph_module
    sizes = _block_sizes(block_mask)
    is_given = [tensor is not None for tensor in tensors]
    wanted = _gradients_of_captured(joint)
    if not _is_served(tensors[:3], sizes):
        if wanted:
            raise NotImplementedError(
                "flex_attention on mps has no gradient of what score_mod captures for float64, for heads wider than "
                f"{WIDEST}, nor for blocks whose sizes are no multiples of {SMALLEST_BLOCK}"
            )
        known = len(score_buffers)
        masks = (*block_mask[:-1], mask)

        def dense(*flat: Any) -> Any:
            rest = iter(flat)
            own: list[Any] = [next(rest) if given else None for given in is_given]
            others = tuple(rest)
            settings: list[Any] = [masks, scale, kernel_options, others[:known], others[known:]]
            return sdpa_dense_backward(*[*own, score, joint, *settings])

        return _lowered(dense, [*(t for t in tensors if t is not None), *score_buffers, *mask_buffers])

    of_score, of_mask = _realized(score_buffers), _realized(mask_buffers)
    functions = ScoreFunctions()
    functions.add_modified(score, of_score, mask, of_mask)
    functions.add_sloped(joint, of_score)
    captured_results = [score_buffers[i] for i in wanted]
    text, captured, numbers = functions.text(), _captured(functions), functions.numbers
    of_queries, of_keys = _blocks(block_mask[_OF_QUERIES]), _blocks(block_mask[_OF_KEYS])

    def tiled(*flat: Any) -> Any:
        own = iter(flat)
        first: list[Any] = [next(own) if given else None for given in is_given]
        q, k, v, out, sums, grad, grad_sums = first
        lists, read, values = _apart(tuple(own), len(of_queries) + len(of_keys), len(captured) + len(wanted))
        read, results = read[: len(captured)], read[len(captured) :]
        shapes = k.shape, v.shape
        k, v = (t.expand(q.shape[0], *t.shape[1:]) for t in (k, v))
        grad = torch.zeros_like(out) if grad is None else grad
        means = (out.float() * grad.float()).sum(-1)
        if grad_sums is not None:
            means = means - grad_sums / _LN_2
        attends = sums != -math.inf
        statistics = torch.stack([torch.where(attends, sums * _LN_2, 0.0), attends.float()])
        dq, dk, dv, others = torch.ops.portable_mps.flex_attention_backward(
            grad, q, k, v, statistics, means, lists[: len(of_queries)], lists[len(of_queries) :], sizes, read, results,
            values, scale, text,
        )  # fmt: skip
        dk, dv = (t.sum_to_size(shape) for t, shape in zip((dk, dv), shapes, strict=True))
        found = {i: g.to(t.dtype) for i, g, t in zip(wanted, others, results, strict=True)}
        return dq, dk, dv, tuple(found.get(i) for i in range(len(score_buffers)))

    given = [t for t in tensors if t is not None]
    return _lowered(tiled, [*given, *of_queries, *of_keys, *captured, *captured_results, *numbers])


def _block_sizes(block_mask: tuple[Any, ...]) -> list[int]:
    """Rows of a block of queries, and of one of keys."""
    return [V.graph.sizevars.guard_int(size) for size in block_mask[_SIZES]]


def _is_served(tensors: Sequence[TensorBox], sizes: Sequence[int]) -> bool:
    widths = [V.graph.sizevars.guard_int(t.get_size()[3]) for t in tensors]
    are_floats = all(t.get_dtype() in _FLOATS for t in tensors)
    return are_floats and max(widths) <= WIDEST and not any(size % SMALLEST_BLOCK for size in sizes)


def _gradients_of_captured(joint: torch.fx.GraphModule) -> list[int]:
    """Of which of the tensors that the score's function has captured there are any."""
    (results,) = next(node for node in joint.graph.nodes if node.op == "output").args
    return [i for i, result in enumerate(results[5:]) if result is not None]  # behind the score and four places


def _realized(buffers: Sequence[Any]) -> list[Any]:
    """With tensors, or what they are views of, in memory; numbers of the host as they are."""
    for buffer in buffers:
        if isinstance(buffer, TensorBox):
            buffer.realize()
    return list(buffers)


def _blocks(lists: Sequence[Any]) -> list[TensorBox]:
    return [tensor for tensor in lists if tensor is not None]


def _captured(functions: ScoreFunctions) -> list[TensorBox]:
    buffers = [V.graph.get_buffer(name) for name in functions.captured]
    return [buffer if isinstance(buffer, TensorBox) else TensorBox.create(buffer) for buffer in buffers]


def _apart(rest: tuple[Any, ...], lists: int, tensors: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Blocks, captured tensors, numbers."""
    return list(rest[:lists]), list(rest[lists : lists + tensors]), list(rest[lists + tensors :])


def _lowered(function: Callable[..., Any], arguments: list[Any]) -> Any:
    """The function of tensors as part of the graph that is being lowered."""
    with V.fake_mode:
        examples = [ir_node_to_tensor(a) if isinstance(a, IRNode) else convert_to_symint(a) for a in arguments]
        graph = make_fx(torch.func.functionalize(function), select_decomp_table())(*examples)
    _with_numbers(graph)
    return process_subgraph_nodes(graph, arguments)


def _with_numbers(module: torch.fx.GraphModule) -> None:
    """Constants, which are the module's own, as numbers: it is to become part of another."""
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constant = getattr(module, node.target)
            options = {"dtype": constant.dtype, "device": torch.device("mps", 0)}
            with module.graph.inserting_before(node):
                number = module.graph.call_function(torch.ops.aten.full.default, ([], constant.item()), options)
            number.meta.update(node.meta)
            node.replace_all_uses_with(number)
    module.graph.eliminate_dead_code()
