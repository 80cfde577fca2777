"""Quantised tensors against torch on the CPU."""

import io

import pytest
import torch
from support import assert_same

DTYPES = (torch.quint8, torch.qint8, torch.qint32)


def numbers(*shape):
    """Some of them past the ends."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4
    x.view(-1)[:2] = torch.tensor([1e9, -1e9])
    return x


def by_tensor(x, dtype=torch.quint8, scale=0.1, zero_point=3):
    return torch.quantize_per_tensor(x, scale, zero_point, dtype)


def by_channel(x, dtype=torch.qint8, axis=1):
    steps = torch.tensor([0.1, 0.2, 0.05, 0.3], device=x.device)
    return torch.quantize_per_channel(x, steps, torch.tensor([0, 1, 2, 3], device=x.device), axis, dtype)


def same(actual, expected):
    if isinstance(expected, (tuple, list)):
        for mine, reference in zip(actual, expected, strict=True):
            same(mine, reference)
    elif isinstance(expected, torch.Tensor) and expected.is_quantized:
        assert actual.device.type == "mps"
        assert (actual.dtype, actual.qscheme(), actual.shape) == (expected.dtype, expected.qscheme(), expected.shape)
        if expected.qscheme() == torch.per_tensor_affine:
            assert (actual.q_scale(), actual.q_zero_point()) == (expected.q_scale(), expected.q_zero_point())
        else:
            assert actual.q_per_channel_axis() == expected.q_per_channel_axis()
            assert_same(actual.q_per_channel_scales(), expected.q_per_channel_scales())
            assert_same(actual.q_per_channel_zero_points(), expected.q_per_channel_zero_points())
        assert_same(actual.int_repr(), expected.int_repr())
    else:
        assert_same(actual, expected)


def check(function, x):
    same(function(x.to("mps")), function(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantising_and_back(dtype):
    for x in (numbers(3, 4), numbers(2, 4, 5).transpose(0, 2), torch.empty(0, 4), torch.tensor(1.7)):
        check(lambda t: by_tensor(t, dtype), x)
        check(lambda t: by_tensor(t, dtype).dequantize(), x)
    check(lambda t: by_channel(t, dtype), numbers(3, 4))
    check(lambda t: by_channel(t, dtype, axis=0).dequantize(), numbers(4, 3, 2))
    check(lambda t: torch.quantize_per_tensor(t, torch.tensor(0.3), torch.tensor(2), dtype), numbers(3, 4))
    check(lambda t: t.half().dequantize(), numbers(3, 4))
    check(
        lambda t: torch.quantize_per_tensor([t, t], torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), dtype),
        numbers(3, 4),
    )
    check(lambda t: torch.dequantize([by_tensor(t), by_tensor(t, torch.qint8)]), numbers(3, 4))
    assert_same(by_tensor(numbers(3, 4).to("mps"), dtype).int_repr(), by_tensor(numbers(3, 4), dtype).int_repr())


def test_half_way_between_two_integers():
    # torch 2.11 rounds before it adds the zero point.
    x = torch.tensor([0.05, 0.15, 0.25, 0.35, -0.05, -0.15, -0.25], device="mps")
    assert by_tensor(x).int_repr().tolist() == [4, 4, 6, 6, 2, 2, 0]


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8])
def test_dynamic(dtype, reduce_range):
    for scale in (1, 100):
        x = torch.randn(50, generator=torch.Generator().manual_seed(1)) * scale
        check(lambda t: torch.quantize_per_tensor_dynamic(t, dtype, reduce_range), x)


@pytest.mark.parametrize("make", [by_tensor, by_channel])
def test_moving(make):
    q = make(numbers(3, 4))
    same(q.to("mps"), q)
    assert q.to("mps").cpu().equal(q)
    assert q.to("mps").equal(q.to("mps"))
    assert not q.to("mps").equal(make(numbers(3, 4) + 1).to("mps"))
    file = io.BytesIO()
    torch.save(q.to("mps"), file)
    file.seek(0)
    same(torch.load(file), q)
    check(lambda t: make(t).clone(), numbers(3, 4))
    check(lambda t: make(t).detach(), numbers(3, 4))
    assert torch.empty_like(q.to("mps")).qscheme() == q.qscheme()
    assert "mps:0" in repr(q.to("mps"))


def test_copies_take_scales():
    steps, zero = torch.tensor([0.5, 0.6, 0.7, 0.8]), torch.zeros(4, dtype=torch.int64)
    other = torch.quantize_per_channel(numbers(3, 4), steps, zero, 1, torch.qint8)
    expected = by_channel(numbers(3, 4)).copy_(other)
    same(by_channel(numbers(3, 4).to("mps")).copy_(other.to("mps")), expected)
    same(by_channel(numbers(3, 4).to("mps")).copy_(other), expected)
    back = by_channel(numbers(3, 4)).copy_(other.to("mps"))
    assert back.device.type == "cpu"
    assert back.equal(expected)


def test_views():
    for function in (
        *(lambda q: q[1], lambda q: q[:, 1:], lambda q: q.t(), lambda q: q.view(2, 6), lambda q: q.reshape(-1)),
        *(
            lambda q: q.unsqueeze(0),
            lambda q: q[None].squeeze(),
            lambda q: q.permute(1, 0),
            lambda q: q.unfold(1, 2, 1),
        ),
        *(lambda q: q.t().contiguous(), lambda q: q.expand(2, 3, 4)),
    ):
        check(lambda t, f=function: f(by_tensor(t)), numbers(3, 4))


def test_elements():
    other = numbers(3, 4).flip(0)
    for function in (
        *(lambda q, t: q.copy_(t), lambda q, t: q.fill_(0.7), lambda q, t: q.masked_fill_(t > 0, 0.5)),
        *(lambda q, t: q.flip(0), lambda q, t: q.index_select(1, torch.tensor([2, 0], device=t.device))),
        *(lambda q, t: q[torch.tensor([0, 2], device=t.device)], lambda q, t: torch.cat([q, q], 1)),
        *(lambda q, t: torch.cat([q, by_tensor(t, scale=0.3)]), lambda q, t: torch.stack([q, q])),
        *(lambda q, t: q.max(), lambda q, t: q.min(), lambda q, t: q.max(1), lambda q, t: q.sort(dim=1, stable=True)),
        *(lambda q, t: q.topk(2)[0], lambda q, t: torch.relu(q), lambda q, t: q.clamp(0, 0.5), lambda q, t: q.mean(0)),
        *(lambda q, t: q == q, lambda q, t: q > 0.1, lambda q, t: torch.nn.functional.relu(q, inplace=True)),
    ):
        check(lambda t, f=function: f(by_tensor(t), other.to(t.device)), numbers(3, 4))

    def put(t):
        q = by_tensor(t)
        q[torch.tensor([0, 2], device=t.device)] = t[:2]
        q[1] = t[0]
        return q

    check(put, numbers(3, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: by_tensor(t.double()),
        lambda t: by_tensor(t, zero_point=300),
        lambda t: by_tensor(t, torch.qint8, zero_point=-129),
        lambda t: by_channel(t, axis=2),
        lambda t: by_channel(t, axis=0),
        lambda t: t.clone().copy_(by_tensor(t)),
        lambda t: by_tensor(t).copy_(by_tensor(t, torch.qint8)),
        lambda t: by_tensor(t) + by_tensor(t),
        lambda t: torch.quantize_per_tensor_dynamic(t, torch.qint32, False),
    ],
)
def test_errors(call):
    with pytest.raises(Exception) as expected:
        call(numbers(3, 4))
    with pytest.raises(expected.type):
        call(numbers(3, 4).to("mps"))
