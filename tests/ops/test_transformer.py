"""torch.nn's inference paths: fused multi-head attention and encoder layers."""

import pytest
import torch
from support import assert_same, compare, to_mps
from torch.nn.attention import SDPBackend

aten = torch.ops.aten
WIDTH, HEADS = 8, 2
LIMITS = {"rtol": 1e-5, "atol": 1e-5}


def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = ((3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,))
    return [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_attention(wanted, averaged):
    compare(
        lambda x, *w: aten._native_multi_head_attention(x, x, x, WIDTH, HEADS, *w, None, wanted, averaged),
        torch.randn(2, 5, WIDTH),
        *weights(),
        **LIMITS,
    )


PADDING = torch.arange(5) >= torch.tensor([[3], [5]])
MASKS = {0: torch.ones(5, 5).triu(1) > 0, 1: PADDING, 2: PADDING[:, None, None].expand(2, HEADS, 5, 5).contiguous()}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind):
    compare(
        lambda q, k, v, m, *w: aten._native_multi_head_attention(q, k, v, WIDTH, HEADS, *w, m, True, True, kind),
        *(torch.randn(2, 5, WIDTH) for _ in range(3)),
        MASKS[kind],
        *weights(),
        **LIMITS,
    )
    compare(lambda x, m: aten._masked_softmax(x, m, -1, kind), torch.randn(2, HEADS, 5, 5), MASKS[kind])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer(activation, norm_first):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 16, activation=activation, batch_first=True, norm_first=norm_first
    ).eval()
    attention = layer.self_attn
    first = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias)
    norms = (layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias)
    feed = (layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias)
    x = torch.randn(2, 5, WIDTH)
    with torch.no_grad():
        expected = layer(x)
        kinds = activation == "gelu", norm_first, layer.norm1.eps
        mine = aten._transformer_encoder_layer_fwd(
            x.to("mps"), WIDTH, HEADS, *to_mps(first), *kinds, *to_mps(norms), *to_mps(feed)
        )
        assert_same(mine, expected, **LIMITS)


def test_bias_and_scale():
    compare(lambda x, b: aten._transform_bias_rescale_qkv(x, b, 2), torch.randn(2, 5, 24), torch.randn(24), **LIMITS)


def test_backend():
    x = torch.ones(1, 2, 3, 8, device="mps")
    assert torch._fused_sdp_choice(x, x, x) == SDPBackend.OVERRIDEABLE.value
    assert torch._fused_sdp_choice(x, x, x, dropout_p=0.1) == SDPBackend.OVERRIDEABLE.value
    x = x.double()
    assert torch._fused_sdp_choice(x, x, x) == SDPBackend.MATH.value


def attend(device, query=(2, 5, WIDTH), width=WIDTH, heads=HEADS):
    x = torch.ones(query, device=device)
    return aten._native_multi_head_attention(x, x, x, width, heads, *(w.to(device) for w in weights()))


@pytest.mark.parametrize("wrong", [{"query": (5, WIDTH)}, {"width": 6}, {"heads": 3}])
def test_errors(wrong):
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError):
            attend(device, **wrong)
