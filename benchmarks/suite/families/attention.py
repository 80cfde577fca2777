"""scaled_dot_product_attention. Sizes are batch, heads, length of the queries, length of the keys, width of a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from suite.case import Case, Inputs, Work, both_passes, with_backward

TITLE = "Attention"
NOTE = (
    "Batch x heads x length x width. A causal mask halves the operations that are counted; a backward pass counts 2.5 "
    "times the forward one. One query on many keys is bound by reading these."
)


def attention(
    inputs: Inputs, batch: int, heads: int, queries: int, keys: int, width: int, mask: str = "", backward: bool = False
) -> Work:
    """mask: "", "causal" or "float", which is a tensor (queries, keys) that is added."""
    q = inputs.leaf(batch, heads, queries, width)
    k, v = (inputs.leaf(batch, heads, keys, width) for _ in range(2))
    if not backward:
        q, k, v = q.detach(), k.detach(), v.detach()
    bias = inputs.normal(queries, keys) if mask == "float" else None
    is_causal = mask == "causal"

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=is_causal)

    operands = (q, k, v) if bias is None else (q, k, v, bias)
    if queries == 1:
        return Work(forward, operands, bytes=2 * k.numel() * k.element_size())
    flops = 4.0 * batch * heads * queries * keys * width * (0.5 if is_causal else 1)
    if not backward:
        return Work(forward, operands, flops=flops)
    return Work(with_backward(forward, (q, k, v)), operands, flops=3.5 * flops)


_SHAPES = {"8x12x1024x64": (8, 12, 1024, 1024, 64), "2x16x4096x128": (2, 16, 4096, 4096, 128)}
_MASKS = {"": "", ", causal": "causal", ", float mask": "float"}

CASES = (
    *(
        case
        for shape, sizes in _SHAPES.items()
        for dtype in ("f32", "f16", "bf16")
        for words, mask in _MASKS.items()
        for case in both_passes(f"{dtype} {shape}{words}", attention, sizes, dtype, {"mask": mask})
    ),
    *(Case(f"{dtype} 32x32x1x128 on 4096 keys", attention, (32, 32, 1, 4096, 128), dtype) for dtype in ("f16", "bf16")),
    Case("bf16 1x32x1x128 on 4096 keys", attention, (1, 32, 1, 4096, 128), "bf16"),
)
