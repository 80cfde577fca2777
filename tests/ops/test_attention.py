"""Scaled dot-product attention and the modules built on it, against torch on the CPU."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from support import assert_same, compare, to_mps
from torch import nn

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LOOSE = {"rtol": 3e-2, "atol": 3e-2}
attend = F.scaled_dot_product_attention


def heads(rows=11, columns=13, width=8, depth=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, rows, width), (2, 3, columns, width), (2, 3, columns, depth))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype, causal):
    tolerance = CLOSE if dtype in (torch.float32, torch.float64) else LOOSE
    compare(lambda q, k, v: attend(q, k, v, is_causal=causal), *heads(dtype=dtype), grad=True, **tolerance)


@pytest.mark.parametrize("rows,columns,width,depth", [(1, 1, 4, 4), (1, 70, 16, 16), (70, 300, 5, 3), (5, 2000, 8, 8)])
def test_shapes(rows, columns, width, depth):
    compare(attend, *heads(rows, columns, width, depth), grad=True, rtol=1e-3, atol=1e-4)


def test_scale():
    compare(lambda q, k, v: attend(q, k, v, scale=0.3), *heads(), grad=True, **CLOSE)


@pytest.mark.parametrize("shape", [(11, 13), (2, 1, 11, 13), (2, 3, 11, 13), (1, 1, 1, 13)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(shape, kind):
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(shape, generator=generator) > 0.4 if kind == "bool" else torch.randn(shape, generator=generator)
    q, k, v = heads()
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m.detach()), q, k, v, mask, **CLOSE)
    mine, theirs = [t.clone().requires_grad_() for t in (q, k, v)], [to_mps(t).requires_grad_() for t in (q, k, v)]
    attend(*mine, attn_mask=mask).sum().backward()
    attend(*theirs, attn_mask=mask.to("mps")).sum().backward()
    for one, other in zip(theirs, mine, strict=True):
        assert_same(one.grad, other.grad, **CLOSE)


def test_a_mask_that_learns():
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m), *heads(), torch.randn(2, 3, 11, 13), grad=True, **CLOSE)


def test_rows_with_nothing_to_attend_to():
    q, k, v = heads(4, 5)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m), q, k, v, mask, **CLOSE)


def test_infinite_scores_become_nan_as_on_the_cpu():
    q, k, v = heads(2, 3)
    q[0, 0, 0, 0] = math.inf
    assert attend(*to_mps((q, k, v))).cpu().isnan().equal(attend(q, k, v).isnan())


def test_grouped_queries():
    q, k, v = heads()
    compare(lambda q, k, v: attend(q, k, v, enable_gqa=True), q, k[:, :1], v[:, :1], grad=True, **CLOSE)


def test_strided_and_three_dimensions():
    q, k, v = heads()
    compare(
        lambda q, k, v: attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)), q, q, q, grad=True, **CLOSE
    )
    compare(attend, q[0], k[0], v[0], grad=True, **CLOSE)


def test_empty():
    q, k, v = heads()
    compare(attend, q[:, :, :0], k, v)


def test_dropout():
    torch.manual_seed(0)
    q, k, v = (torch.ones(1, 1, 64, 8, device="mps") for _ in range(3))
    out = attend(q, k, v, dropout_p=0.5)
    assert abs(out.mean().item() - 1) < 0.1 and out.std().item() > 0.01
    assert attend(q, k, v, dropout_p=0.0).cpu().allclose(torch.ones(1, 1, 64, 8))


def test_wrong_shapes():
    q, k, v = heads()
    for arguments in ((q, k[..., :4], v), (q, k, v[:, :, :4]), (q, k.half(), v)):
        with pytest.raises(RuntimeError):
            attend(*to_mps(arguments))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MultiheadAttention(12, 3, batch_first=True),
        lambda: nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True),
        lambda: nn.TransformerDecoderLayer(12, 3, 24, dropout=0.0, batch_first=True),
        lambda: nn.LSTM(12, 7, num_layers=2, bidirectional=True),
        lambda: nn.GRU(12, 7),
        lambda: nn.RNN(12, 7),
    ],
    ids=["attention", "encoder", "decoder", "lstm", "gru", "rnn"],
)
def test_modules(make, training):
    torch.manual_seed(0)
    module = make().train(training)
    mine = copy.deepcopy(module).to("mps")
    x = torch.randn(3, 5, 12)
    count = {nn.MultiheadAttention: 3, nn.TransformerDecoderLayer: 2}.get(type(module), 1)

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    a, b = x.to("mps").requires_grad_(training), x.clone().requires_grad_(training)
    with torch.set_grad_enabled(training):
        out, expected = first(mine(*[a] * count)), first(module(*[b] * count))
    assert_same(out, expected, **CLOSE)
    if training:
        out.square().sum().backward()
        expected.square().sum().backward()
        assert_same(a.grad, b.grad, rtol=1e-3, atol=1e-4)
        for one, other in zip(mine.parameters(), module.parameters(), strict=True):
            assert_same(one.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_encoder_with_padding_in_evaluation():
    """torch.nn's fast path asks whether the mask is aligned, then sees that the device has no nested tensors."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False, False, False]])
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=padding)
        actual = encoder.to("mps")(x.to("mps"), src_key_padding_mask=padding.to("mps"))
    assert_same(actual[~padding.to("mps")], expected[~padding], rtol=1e-4, atol=1e-5)
