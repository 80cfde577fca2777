"""torch.nn's inference paths of attention and of transformer layers, composed of other operators."""

from __future__ import annotations

import math

import torch

from portable_mps.dispatch.registry import implements


@implements("_transform_bias_rescale_qkv")
def transform_bias_rescale_qkv(
    qkv: torch.Tensor, qkv_bias: torch.Tensor, num_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(batch, tokens, 3 * width) to queries, scaled, keys and values, each (batch, heads, tokens, width of a head)."""
    batch, tokens, width = qkv.shape
    if width % 3:
        raise RuntimeError(f"expected the last dimension of qkv to be three widths, got {width}")
    if width // 3 % num_heads:
        raise RuntimeError(f"expected the width {width // 3} to be divisible by the number of heads {num_heads}")
    per_head = width // 3 // num_heads
    parts = (qkv + qkv_bias).view(batch, tokens, 3, num_heads, per_head).permute(2, 0, 3, 1, 4).contiguous()
    query, key, value = parts.unbind(0)
    return query.mul_(1 / math.sqrt(per_head)), key, value


def _projected(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, width: int, weight: torch.Tensor
) -> torch.Tensor:
    """(batch, tokens, 3 * width)."""
    if query is key and key is value:
        return torch.nn.functional.linear(query, weight)
    parts = zip((query, key, value), weight.split(width), strict=True)
    return torch.cat([torch.nn.functional.linear(x, w) for x, w in parts], 2)


def _check_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    width: int,
    heads: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> None:
    for name, tensor, dims in (
        ("query", query, 3), ("key", key, 3), ("value", value, 3), ("qkv_weight", weight, 2), ("qkv_bias", bias, 1),
    ):  # fmt: skip
        if tensor.dim() != dims:
            raise RuntimeError(f"expected {dims}-D `{name}`, got {tensor.dim()}-D tensor")
    if query.size(2) != width:
        raise RuntimeError(f"passed-in embed_dim {width} didn't match last dim of query {query.size(2)}")
    if key.shape != value.shape:
        raise RuntimeError("expected `key`/`value` shapes to match")
    if list(weight.shape) != [3 * width, width]:
        raise RuntimeError("expected `qkv_weight` first dim to be 3x embed_dim and the second dim to be embed_Dim")
    if bias.size(0) != 3 * width:
        raise RuntimeError("expected `qkv_bias` first dim to be 3x embed_dim")
    if width % heads:
        raise RuntimeError("`embed_dim` must divide evenly by `num_heads`")


@implements("_native_multi_head_attention")
def native_multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor,
    proj_bias: torch.Tensor,
    mask: torch.Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(output, attention weights or, where they are not asked for, None)."""
    _check_attention(query, key, value, embed_dim, num_head, qkv_weight, qkv_bias)
    qkv = _projected(query, key, value, embed_dim, qkv_weight)
    q, k, v = transform_bias_rescale_qkv(qkv, qkv_bias, num_head)
    scores = q @ k.mT
    if mask is None:
        weights = scores.softmax(-1)
    else:
        weights = torch._masked_softmax(scores, mask.to(torch.bool), -1, mask_type)
    heads = (weights @ v).transpose(1, 2).flatten(2)
    output = torch.nn.functional.linear(heads, proj_weight, proj_bias)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


@implements("_transformer_encoder_layer_fwd")
def transformer_encoder_layer_forward(
    src: torch.Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor,
    proj_bias: torch.Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: torch.Tensor,
    norm_bias_1: torch.Tensor,
    norm_weight_2: torch.Tensor,
    norm_bias_2: torch.Tensor,
    ffn_weight_1: torch.Tensor,
    ffn_bias_1: torch.Tensor,
    ffn_weight_2: torch.Tensor,
    ffn_bias_2: torch.Tensor,
    mask: torch.Tensor | None = None,
    mask_type: int | None = None,
) -> torch.Tensor:
    """torch.nn.TransformerEncoderLayer in evaluation, of `src` (batch, tokens, embed_dim)."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        weights = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        return native_multi_head_attention(x, x, x, embed_dim, num_heads, *weights, mask, False, True, mask_type)[0]

    def feed(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.linear(x, ffn_weight_1, ffn_bias_1)
        hidden = torch.nn.functional.gelu(hidden) if use_gelu else hidden.relu_()
        return torch.nn.functional.linear(hidden, ffn_weight_2, ffn_bias_2)

    def first_norm(x: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(x, [embed_dim], norm_weight_1, norm_bias_1, eps)

    def second_norm(x: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(x, [embed_dim], norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = src + attend(first_norm(src))
        return x + feed(second_norm(x))
    x = first_norm(src + attend(src))
    return second_norm(x + feed(x))
