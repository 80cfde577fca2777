"""flex_attention in a compiled graph: torch's dense composition, whose parts Inductor fuses.

The scores are in memory. Block masks decide what is masked, as in eager, and save no work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._higher_order_ops.flex_attention import sdpa_dense, sdpa_dense_backward
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.ir import TensorBox, ir_node_to_tensor
from torch._inductor.lowering import process_subgraph_nodes
from torch._inductor.virtualized import V
from torch.fx.experimental.proxy_tensor import make_fx


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
    """Inductor's lowering of the operator: the output, the logarithms of the sums and the maxima."""
    known = len(score_mod_other_buffers)
    masks = (*block_mask[:-1], block_mask[-1].graph_module)

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *others: Any) -> Any:
        mods = others[:known], others[known:]
        return sdpa_dense(q, k, v, subgraph.graph_module, masks, scale, kernel_options, *mods)

    return _lowered(dense, [query, key, value, *score_mod_other_buffers, *mask_mod_other_buffers])


def backward(*arguments: Any) -> Any:
    """Of the operator's gradient: those of query, key, value, and of what the score's function captured."""
    *tensors, fw_graph, joint_graph, block_mask, scale, kernel_options, score_buffers, mask_buffers = arguments
    known = len(score_buffers)
    masks = (*block_mask[:-1], block_mask[-1].graph_module)
    graphs = fw_graph.graph_module, joint_graph.graph_module
    is_given = [tensor is not None for tensor in tensors]

    def dense(*flat: Any) -> Any:
        rest = iter(flat)
        own: list[Any] = [next(rest) if given else None for given in is_given]
        others = tuple(rest)
        settings: list[Any] = [masks, scale, kernel_options, others[:known], others[known:]]
        return sdpa_dense_backward(*[*own, *graphs, *settings])

    return _lowered(dense, [*(t for t in tensors if t is not None), *score_buffers, *mask_buffers])


def _lowered(function: Callable[..., Any], arguments: list[Any]) -> Any:
    """The function of tensors as part of the graph that is being lowered."""
    with V.fake_mode:
        examples = [ir_node_to_tensor(a) if isinstance(a, TensorBox) else a for a in arguments]
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
