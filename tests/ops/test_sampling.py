"""Samples of distributions given by tensors, and the gradients of samples."""

import pytest
import torch
from support import compare, skip_without_float64

COUNT = 4000


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(99)


def column(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device="mps").expand(COUNT, -1)


def assert_moments(sample: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> None:
    x = sample.cpu().double()
    error = 4.5 * (variance / COUNT).sqrt() + 1e-9
    assert ((x.mean(0) - mean).abs() <= error + 2e-3 * mean.abs()).all()
    torch.testing.assert_close(x.var(0), variance, rtol=0.15, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_poisson(dtype):
    rates = torch.tensor([0.0, 0.5, 4.0, 9.9, 12.0, 80.0], dtype=torch.float64)
    assert_moments(torch.poisson(column(*rates, dtype=dtype)), rates, rates)


def test_binomial():
    counts = torch.tensor([10.0, 10, 100, 100, 100, 5, 0], dtype=torch.float64)
    chances = torch.tensor([0.1, 0.9, 0.5, 0.02, 0.97, 1.0, 0.5], dtype=torch.float64)
    drawn = torch.binomial(column(*counts), column(*chances))
    assert_moments(drawn, counts * chances, counts * chances * (1 - chances))
    assert (drawn.cpu() >= 0).all() and (drawn.cpu() <= counts).all()
    assert torch.binomial(column(5.0), column(torch.nan)).isnan().all().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma(dtype):
    shapes = torch.tensor([0.3, 1.0, 2.5, 40.0], dtype=torch.float64)
    assert_moments(torch._standard_gamma(column(*shapes, dtype=dtype)), shapes, shapes)


def test_dirichlet():
    alpha = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    total = alpha.sum()
    drawn = torch._sample_dirichlet(column(*alpha))
    assert_moments(drawn, alpha / total, alpha * (total - alpha) / (total**2 * (total + 1)))
    torch.testing.assert_close(drawn.sum(-1).cpu(), torch.ones(COUNT))


def test_generators_and_empty():
    generator = torch.Generator(device="mps").manual_seed(5)
    first = torch.poisson(column(3.0), generator)
    generator.manual_seed(5)
    assert torch.equal(first.cpu(), torch.poisson(column(3.0), generator).cpu())
    assert torch.poisson(torch.empty(0, 2, device="mps")).shape == (0, 2)
    for error in (lambda: torch.poisson(-column(1.0)).cpu(), lambda: torch.poisson(column(1.0).long())):
        with pytest.raises((RuntimeError, NotImplementedError)):
            error()


@pytest.mark.parametrize("scale", [2, 20, 100])
def test_gamma_gradient(scale):
    alpha = torch.rand(300) * scale + 0.01
    x = torch._standard_gamma(alpha)
    compare(torch._standard_gamma_grad, alpha, x, rtol=5e-4, atol=1e-5)
    compare(torch._standard_gamma_grad, alpha.double(), x.double())


@pytest.mark.parametrize("scale", [1, 6, 60])
def test_dirichlet_gradient(scale):
    if scale == 60:
        skip_without_float64("the gradient's terms cancel")
    alpha = torch.rand(100, 3) * scale + 0.01
    x = torch._sample_dirichlet(alpha)
    total = alpha.sum(-1, keepdim=True).expand_as(alpha)
    compare(torch._dirichlet_grad, x, alpha, total, rtol=1e-3, atol=1e-4)
    compare(torch._dirichlet_grad, x.double(), alpha.double(), total.double())


def test_distributions_package():
    concentration = torch.tensor([1.5, 0.7], device="mps", requires_grad=True)
    for distribution in (
        torch.distributions.Gamma(concentration, 2.0 * torch.ones_like(concentration)),
        torch.distributions.Dirichlet(concentration),
        torch.distributions.Beta(concentration, concentration),
    ):
        (gradient,) = torch.autograd.grad(distribution.rsample((50,)).square().sum(), concentration)
        assert gradient.isfinite().all().item()
    drawn = torch.distributions.Categorical(probs=torch.tensor([0.2, 0.8], device="mps")).sample((COUNT,))
    assert abs(drawn.float().mean().item() - 0.8) < 0.04


WEIGHTS = torch.tensor([[0.0, 1.0, 2.0, 5.0, 0.0], [3.0, 0.0, 0.0, 1.0, 4.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_multinomial_with_replacement(dtype):
    drawn = torch.multinomial(WEIGHTS.to("mps", dtype), COUNT, replacement=True).cpu()
    assert drawn.shape == (2, COUNT) and drawn.dtype == torch.int64
    for row, weights in zip(drawn, WEIGHTS, strict=True):
        frequencies = torch.bincount(row, minlength=5) / COUNT
        assert (frequencies[weights == 0] == 0).all()
        torch.testing.assert_close(frequencies, weights / weights.sum(), rtol=0, atol=0.04)


def test_multinomial_without_replacement():
    drawn = torch.multinomial(WEIGHTS.to("mps"), 3).cpu()
    assert [set(row.tolist()) for row in drawn] == [{1, 2, 3}, {0, 3, 4}]
    first = torch.multinomial(WEIGHTS[0].to("mps").expand(COUNT, -1), 1).cpu().flatten()
    torch.testing.assert_close(torch.bincount(first, minlength=5) / COUNT, WEIGHTS[0] / 8, rtol=0, atol=0.04)
    out = torch.empty(0, dtype=torch.int64, device="mps")
    assert torch.multinomial(WEIGHTS[0].to("mps"), 2, out=out).shape == (2,)


@pytest.mark.parametrize(
    "weights, count, replacement",
    [
        ([1.0, -1.0], 1, False),
        ([1.0, torch.nan], 1, True),
        ([torch.inf, 1.0], 2, True),
        ([0.0, 0.0], 1, False),
        ([1.0, 2.0], 3, False),
        ([1.0, 2.0], 0, False),
        ([[[1.0]]], 1, False),
    ],
)
def test_multinomial_errors(weights, count, replacement):
    with pytest.raises(RuntimeError):
        torch.multinomial(torch.tensor(weights, device="mps"), count, replacement).cpu()
    torch.mps.synchronize()  # nothing is left over
