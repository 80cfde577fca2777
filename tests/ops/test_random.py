"""Random numbers: distributions by their moments and by Kolmogorov and Smirnov's test, seeds, states, errors."""

import math

import pytest
import torch
from support import FLOATS, INTEGERS
from torch.utils.checkpoint import checkpoint

COUNT = 20_000


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1234)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="mps")


def assert_follows(sample: torch.Tensor, cumulative) -> None:
    """Kolmogorov and Smirnov: the largest distance between the sample's and the distribution's cumulative functions."""
    x = sample.cpu().double().flatten().sort()[0]
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    expected = cumulative(x)
    distance = torch.maximum(expected - steps[:-1], steps[1:] - expected).max().item()
    assert distance < 2.0 / math.sqrt(len(x)), distance  # 1.95 is passed once in 2000


NORMAL = torch.distributions.Normal(1.0, 2.0)
DISTRIBUTIONS = {
    "uniform": (lambda t: t.uniform_(-2, 3), lambda x: (x + 2) / 5),
    "normal": (lambda t: t.normal_(1, 2), NORMAL.cdf),
    "log_normal": (lambda t: t.log_normal_(1, 2), lambda x: NORMAL.cdf(x.log())),
    "exponential": (lambda t: t.exponential_(1.5), lambda x: 1 - torch.exp(-1.5 * x)),
    "cauchy": (lambda t: t.cauchy_(1, 2), lambda x: 0.5 + torch.atan((x - 1) / 2) / math.pi),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_continuous(name, dtype):
    fill, cumulative = DISTRIBUTIONS[name]
    assert_follows(fill(empty(COUNT, dtype=dtype)), cumulative)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_half_types_fill_and_stay_in_range(name, dtype):
    x = DISTRIBUTIONS[name][0](empty(COUNT + 3, dtype=dtype)).cpu().double()
    assert not x.isnan().any()
    if name == "uniform":
        assert x.min() >= -2 and x.max() < 3 and abs(x.mean() - 0.5) < 0.03
    if name == "normal":
        assert abs(x.mean() - 1) < 0.06 and abs(x.std() - 2) < 0.06
    if name in ("exponential", "log_normal"):
        assert x.min() > 0 or name == "log_normal"


@pytest.mark.parametrize("dtype", (*FLOATS, torch.float64))
def test_uniform_excludes_its_end(dtype):
    assert empty(50_000, dtype=dtype).uniform_(0, 1).max().item() < 1
    assert (
        empty(50_000, dtype=dtype).uniform_(3, 3 + 4 * torch.finfo(dtype).eps).max().item()
        < 3 + 4 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_integers(dtype):
    x = empty(COUNT + 1, dtype=dtype).random_(3, 9).cpu().double()
    counts = torch.bincount(x.long())[3:]
    assert x.min() == 3 and x.max() == 8 and (counts - COUNT / 6).abs().max() < 5 * math.sqrt(COUNT / 6)
    x = empty(COUNT, dtype=dtype).random_(5).cpu().double()
    assert x.min() == 0 and x.max() == 4
    x = empty(COUNT, dtype=dtype).random_().cpu().double()
    high = 2.0 ** {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}.get(dtype, 0)
    high = high if dtype.is_floating_point else float(torch.iinfo(dtype).max)
    assert x.min() >= 0 and x.max() <= high and abs(x.mean() / high - 0.5) < 0.02


def test_integer_extremes():
    x = empty(COUNT, dtype=torch.int64).random_(-(2**63), None).cpu()
    assert (x < 0).double().mean().sub(0.5).abs() < 0.02 and x.double().abs().max() > 2**62
    x = empty(COUNT, dtype=torch.int64).random_(-(2**62) - 7, 2**63 - 1).cpu()
    assert x.min() >= -(2**62) - 7
    assert empty(100, dtype=torch.bool).random_().cpu().unique().numel() == 2
    with pytest.warns(UserWarning, match="out of bounds"):
        rounded = empty(100, dtype=torch.float16).random_(0, 65504)
    assert (rounded.cpu().double() < 65504).all()
    assert torch.randint(7, 8, (3,), device="mps").tolist() == [7, 7, 7]


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS + (torch.bool,))
def test_bernoulli(dtype):
    x = empty(COUNT, dtype=dtype).bernoulli_(0.3).cpu().double()
    assert ((x == 0) | (x == 1)).all() and abs(x.mean() - 0.3) < 0.02
    p = torch.tensor([0.0, 0.2, 1.0], device="mps")
    x = empty(COUNT // 4, 3, dtype=dtype).bernoulli_(p).cpu().double().mean(0)
    assert x[0] == 0 and x[2] == 1 and abs(x[1] - 0.2) < 0.03


def test_bernoulli_from_probabilities():
    for dtype in (torch.float32, torch.float16, torch.float64):
        drawn = torch.bernoulli(torch.full((COUNT,), 0.75, device="mps", dtype=dtype))
        assert drawn.dtype == dtype and abs(drawn.cpu().double().mean() - 0.75) < 0.02
    assert torch.bernoulli(empty(3, 2).t().zero_(), 1.0).cpu().eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32])
def test_geometric(dtype):
    x = empty(COUNT, dtype=dtype).geometric_(0.25).cpu().double()
    assert x.min() == 1 and (x == x.floor()).all() and abs(x.mean() - 4) < 0.2


def test_seeds_decide():
    first = torch.rand(1000, device="mps")
    second = torch.rand(1000, device="mps")
    assert not torch.equal(first.cpu(), second.cpu())
    torch.manual_seed(1234)
    assert torch.equal(first.cpu(), torch.rand(1000, device="mps").cpu())
    assert torch.unique(torch.cat((first, second)).cpu()).numel() > 1990


def test_numbers_are_fixed_for_all_adapters():
    torch.manual_seed(0)
    assert torch.randint(0, 1000, (6,), device="mps").tolist() == SEED_0_INTEGERS


SEED_0_INTEGERS = [541, 348, 97, 875, 191, 526]


def test_strides_do_not_matter():
    contiguous = empty(6, 5).normal_()
    torch.manual_seed(1234)
    transposed = empty(5, 6).t().normal_()
    assert torch.equal(contiguous.cpu(), transposed.cpu())
    torch.manual_seed(1234)
    spaced = torch.zeros(6, 10, device="mps")
    spaced[:, 1::2].normal_()
    assert torch.equal(spaced[:, 1::2].cpu(), contiguous.cpu()) and spaced[:, ::2].cpu().eq(0).all()
    shifted = torch.zeros(9, device="mps")
    shifted[1:8].uniform_(1, 2)
    assert shifted.cpu()[[0, 8]].eq(0).all() and shifted.cpu()[1:8].ge(1).all()


def test_empty_outputs_draw_nothing():
    state = torch.mps.get_rng_state()
    for fill in (*(f for f, _ in DISTRIBUTIONS.values()), lambda t: t.random_(3), lambda t: t.bernoulli_(0.5)):
        assert fill(empty(0, 3)).shape == (0, 3)
    assert torch.equal(state, torch.mps.get_rng_state())


def test_states_are_restored():
    state = torch.mps.get_rng_state()
    first = torch.randn(100, device="mps")
    torch.randn(50, device="mps")
    torch.mps.set_rng_state(state)
    assert torch.equal(first.cpu(), torch.randn(100, device="mps").cpu())


def test_generators():
    generator = torch.Generator(device="mps").manual_seed(7)
    default = torch.mps.get_rng_state()
    first = torch.rand(10, device="mps", generator=generator)
    state = generator.get_state()
    second = torch.randn(10, device="mps", generator=generator)
    generator.set_state(state)
    assert torch.equal(second.cpu(), torch.randn(10, device="mps", generator=generator).cpu())
    generator.manual_seed(7)
    assert torch.equal(first.cpu(), torch.rand(10, device="mps", generator=generator).cpu())
    assert torch.equal(default, torch.mps.get_rng_state())
    with pytest.raises(RuntimeError, match="generator"):
        empty(3).normal_(generator=torch.Generator())


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1024, 5000])
def test_randperm(count):
    order = torch.randperm(count, device="mps")
    assert order.dtype == torch.int64
    assert torch.equal(order.cpu().sort()[0], torch.arange(count))
    if count > 2:
        assert not torch.equal(order.cpu(), torch.randperm(count, device="mps").cpu())


def test_randperm_is_uniform():
    places = torch.stack([torch.randperm(3, device="mps") for _ in range(600)]).cpu()
    counts = (places * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 60 and counts.max() < 140


def test_randperm_dtypes():
    for dtype in (torch.int32, torch.int16, torch.uint8, torch.float32, torch.float16):
        order = torch.randperm(100, device="mps", dtype=dtype)
        assert order.dtype == dtype and order.cpu().long().sort()[0].equal(torch.arange(100))
    with pytest.raises(RuntimeError, match="too large"):
        torch.randperm(300, device="mps", dtype=torch.uint8)


@pytest.mark.parametrize("dtype", (*FLOATS, torch.float64))
def test_dropout(dtype):
    x = torch.linspace(1, 2, 10_001, device="mps", dtype=dtype).requires_grad_()
    y = torch.nn.functional.dropout(x, 0.25)
    kept = y != 0
    assert abs(kept.float().mean().item() - 0.75) < 0.02
    scaled = (x.detach().cpu().double() / 0.75).to(dtype)
    torch.testing.assert_close(y.detach().cpu(), torch.where(kept.cpu(), scaled, 0), rtol=1e-2, atol=0)
    y.sum().backward()
    torch.testing.assert_close(x.grad.cpu(), (kept.cpu() / 0.75).to(dtype), rtol=1e-2, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_restores_random_numbers(reentrant):
    x = torch.ones(500, device="mps", requires_grad=True)
    y = checkpoint(lambda t: torch.nn.functional.dropout(t * 2) * t, x, use_reentrant=reentrant)
    y.sum().backward()
    assert torch.equal(x.grad.cpu() != 0, y.detach().cpu() != 0)


def test_dropout_modes():
    x = torch.ones(8, 4, device="mps")
    assert torch.nn.functional.dropout(x, 0.5, training=False) is x
    assert torch.nn.functional.dropout(x, 0.0).cpu().eq(1).all()
    assert torch.nn.functional.dropout(x, 1.0).cpu().eq(0).all()
    assert torch.nn.functional.dropout(x.t(), 0.5).shape == (4, 8)
    out, mask = torch.native_dropout(x, 0.5, True)
    assert mask.dtype == torch.bool and torch.equal(out.cpu(), mask.cpu() * 2.0)
    assert torch.native_dropout(x, 0.5, False)[1].cpu().all()
    channels = torch.nn.functional.dropout2d(torch.ones(4, 16, 3, 3, device="mps"), 0.5).cpu()
    assert ((channels == 0).all((2, 3)) | (channels == 2).all((2, 3))).all()
    assert torch.nn.functional.alpha_dropout(x, 0.5).shape == x.shape
    with pytest.raises((RuntimeError, ValueError)):
        torch.nn.functional.dropout(x, 1.5)


def test_normal_of_tensors():
    mean = torch.arange(3.0, device="mps").expand(COUNT, 3)
    std = torch.tensor([0.5, 1.0, 2.0], device="mps")
    x = torch.normal(mean, std).cpu()
    torch.testing.assert_close(x.mean(0), torch.arange(3.0), rtol=0, atol=0.08)
    torch.testing.assert_close(x.std(0), std.cpu(), rtol=0.05, atol=0)
    assert abs(torch.normal(mean, 0.5).cpu()[:, 2].mean() - 2) < 0.03
    assert abs(torch.normal(1.0, std.expand(COUNT, 3)).cpu().mean() - 1) < 0.05
    out = empty(0)
    assert torch.normal(mean[:2], std, out=out) is out and out.shape == (2, 3)
    assert torch.normal(0.0, 1.0, (2, 3), device="mps").shape == (2, 3)
    with pytest.raises(RuntimeError, match="std"):
        torch.normal(mean, -std).cpu()


def test_complex():
    z = torch.randn(COUNT, dtype=torch.complex64, device="mps").cpu()
    assert abs(z.abs().square().mean() - 1) < 0.04


ERRORS = [
    (lambda t: t.normal_(0, -1), RuntimeError),
    (lambda t: t.uniform_(1, 0), RuntimeError),
    (lambda t: t.uniform_(0, 1e39), RuntimeError),
    (lambda t: t.long().uniform_(), NotImplementedError),
    (lambda t: t.long().normal_(), NotImplementedError),
    (lambda t: t.exponential_(0), RuntimeError),
    (lambda t: t.cauchy_(0, 0), RuntimeError),
    (lambda t: t.long().cauchy_(), RuntimeError),
    (lambda t: t.log_normal_(0, 0), RuntimeError),
    (lambda t: t.geometric_(0), RuntimeError),
    (lambda t: t.geometric_(1), RuntimeError),
    (lambda t: t.random_(3, 3), RuntimeError),
    (lambda t: t.to(torch.uint8).random_(-1, 3), RuntimeError),
    (lambda t: t.to(torch.int8).random_(0, 300), RuntimeError),
    (lambda t: t.bernoulli_(1.5), RuntimeError),
    (lambda t: t.bernoulli_(torch.full_like(t, 1.5)).cpu(), RuntimeError),
    (lambda t: torch.randperm(-1, device=t.device), RuntimeError),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case):
    call, kind = ERRORS[case]
    with pytest.raises(kind):
        call(torch.ones(3))
    with pytest.raises(kind):
        call(torch.ones(3, device="mps"))


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_dropout_keeps_the_layout(layout):
    x = torch.ones(2, 4, 5, 6)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x.transpose(0, 3)
    torch.manual_seed(0)
    result = torch.nn.functional.dropout(x.to("mps"), 0.25)
    assert result.stride() == torch.nn.functional.dropout(x, 0.25).stride()
    torch.testing.assert_close(result.cpu().unique(), torch.tensor([0.0, 1 / 0.75]))
    assert 0.6 < (result != 0).float().mean().item() < 0.9


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2])
@pytest.mark.parametrize(
    "call", [lambda t: t.random_(), lambda t: t.random_(5), lambda t: torch.randperm(3, dtype=t.dtype, device=t.device)]
)
def test_dtypes_without_random_integers(call, dtype):
    with pytest.raises((RuntimeError, NotImplementedError)) as expected:
        call(torch.zeros(3, dtype=dtype))
    with pytest.raises(expected.type):
        call(torch.zeros(3, dtype=dtype, device="mps"))


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_dropout_does_not_hide_nan(p):
    x = torch.full((64,), float("nan"), device="mps", requires_grad=True)
    out = torch.nn.functional.dropout(x, p)
    assert out.isnan().all()
    (grad,) = torch.autograd.grad(out, x, torch.full_like(x, float("inf")))
    assert grad.isfinite().sum() == 0
