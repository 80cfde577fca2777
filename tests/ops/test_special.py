"""Orthogonal polynomials, incomplete gamma functions and the rarer Bessel functions against torch on the CPU."""

import math

import pytest
import torch
from support import assert_same, compare, skip_without_float64

CHEBYSHEV = [f"{prefix}chebyshev_polynomial_{kind}" for prefix in ("", "shifted_") for kind in "tuvw"]
POLYNOMIALS = [*CHEBYSHEV, "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l"]
POLYNOMIALS.append("legendre_polynomial_p")
POINTS = torch.cat([torch.linspace(-2, 2, 21), torch.tensor([0.0, 1.0, -1.0, 0.999])])


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials(name):
    function = getattr(torch.special, name)
    degrees = torch.arange(-1.0, 13.0)
    compare(function, POINTS[:, None], degrees, rtol=2e-4, atol=2e-4)
    compare(function, POINTS[:, None].double(), degrees.double(), rtol=1e-9, atol=1e-9)
    compare(lambda x: function(x, 3), POINTS, rtol=2e-5, atol=2e-5)
    compare(function, torch.arange(-2, 3), torch.tensor(2))


@pytest.mark.parametrize("name", ["hermite_polynomial_h", "hermite_polynomial_he"])
def test_hermite_polynomials_near_their_roots(name):
    skip_without_float64("the recurrence is rounded at each step")
    function = getattr(torch.special, name)
    x, degrees = torch.linspace(-9, 9, 2001), torch.arange(10.0)[:, None]
    assert_same(function(x.to("mps"), degrees.to("mps")), function(x.double(), degrees.double()).float())


@pytest.mark.parametrize("name", ["hermite_polynomial_h", "hermite_polynomial_he"])
def test_degrees_that_are_too_high(name):
    compare(getattr(torch.special, name), torch.tensor([0.5, 1.5]), torch.tensor([129.0, 1e9]))


SHAPES = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 9.9, 10.0, 50.0, 200.0, 1e3, 1e5, math.inf, -1.0])


@pytest.mark.parametrize("name", ["gammainc", "gammaincc"])
def test_incomplete_gamma(name):
    function = getattr(torch.special, name)
    ratios = torch.tensor([0.1, 0.5, 0.9, 1.0, 1.01, 2.0, 10.0])
    points = torch.cat([SHAPES[:, None] * ratios, torch.tensor([[0.0, 1e-3, 1.0, 30.0, math.inf]]).expand(13, 5)], 1)
    compare(function, SHAPES[:, None], points, rtol=1e-5, atol=5e-6)
    compare(function, SHAPES[:, None].double(), points.double(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_incomplete_gamma_of_large_numbers(dtype):
    """Against the function itself: ATen's double is 7e-10 off at 100. Beyond 1e5 two terms of the expansion do."""
    mpmath = pytest.importorskip("mpmath")
    limits = {"rtol": 2e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-15}
    a = torch.tensor([30.0, 100.0, 9e4, 1.1e5, 1e6, 1e6, 1e6], dtype=dtype)
    x = a * torch.tensor([0.8, 1.1, 1.001, 1.0, 0.9985, 1.0, 1.002], dtype=dtype)
    with mpmath.workdps(40):
        pairs = list(zip(a.tolist(), x.tolist(), strict=True))
        lower = torch.tensor([float(mpmath.gammainc(p, 0, q, regularized=True)) for p, q in pairs], dtype=dtype)
        upper = torch.tensor([float(mpmath.gammainc(p, q, regularized=True)) for p, q in pairs], dtype=dtype)
    assert_same(torch.igamma(a.to("mps"), x.to("mps")), lower, **limits)
    assert_same(torch.igammac(a.to("mps"), x.to("mps")), upper, **limits)
    huge = torch.tensor([1e7, 1e12, 3e38], dtype=dtype)
    compare(torch.igamma, huge, huge, rtol=1e-6)
    compare(torch.igammac, huge, huge * 0.9)
    compare(torch.igammac, huge, huge * 1.1)


def test_gradient_of_incomplete_gamma():
    shape = torch.tensor([0.5, 2.0, 20.0])
    compare(lambda x: torch.special.gammainc(shape.to(x.device), x), shape * 1.1, grad=True, rtol=1e-4)


@pytest.mark.parametrize("name", ["modified_bessel_i0", "modified_bessel_i1", "spherical_bessel_j0"])
def test_bessel(name):
    function = getattr(torch.special, name)
    compare(function, torch.linspace(-20, 20, 81), rtol=1e-5, atol=1e-6)
    compare(function, torch.linspace(-20, 20, 81).double(), rtol=1e-9, atol=1e-9)
    compare(function, torch.arange(5), rtol=1e-5)


def test_ldexp():
    x = torch.tensor([0.0, 1.0, -1.5, 3e38, 1e-40, math.inf, math.nan])
    for exponent in (torch.arange(-3, 4), torch.tensor(-130), torch.tensor(0.5), torch.arange(-3.0, 4.0)):
        compare(torch.ldexp, x, exponent)
        compare(lambda t, e: t.clone().ldexp_(e), x, exponent)
    compare(torch.ldexp, torch.arange(7), torch.arange(-3, 4))
    compare(lambda t: torch.ldexp(t, torch.tensor(3, device=t.device)), x[:3], grad=True)


def test_airy():
    """Against Ai itself, where ATen lacks a term of two of its denominators."""
    mpmath = pytest.importorskip("mpmath")
    x = torch.cat([torch.linspace(-60, 20, 400), torch.tensor([-2.09, 0.0, 2.09, 103.0, 104.0])]).double()
    exact = torch.tensor([float(mpmath.airyai(value)) for value in x.tolist()], dtype=torch.float64)
    assert_same(torch.special.airy_ai(x.to("mps")), torch.where(x > 103.892, 0, exact), rtol=1e-12, atol=1e-13)
    assert_same(torch.special.airy_ai(x[200:].float().to("mps")), exact[200:].float(), rtol=2e-5, atol=2e-6)
    compare(torch.special.airy_ai, torch.tensor([float("inf"), -float("inf"), float("nan"), 200]))
