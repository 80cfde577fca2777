"""cdist and pdist against torch on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import assert_same, compare

NORMS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, math.inf]


def sample(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", NORMS)
def test_cdist(p):
    compare(lambda a, b: torch.cdist(a, b, p), sample(5, 7), sample(3, 7, seed=2), grad=True, rtol=1e-5)
    a, b = sample(2, 1, 18, 20), sample(3, 17, 20, seed=2)  # more than a tile each way, a batch that is broadcast
    compare(lambda a, b: torch.cdist(a, b, p), a, b, grad=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"])
def test_euclidean_modes(mode):
    a, b = sample(30, 4), sample(2, 9, 4, seed=2)
    compare(lambda a, b: torch.cdist(a, b, compute_mode=mode), a, b, grad=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", NORMS)
def test_equal_rows_have_no_gradient(p):
    a = sample(3, 4)
    compare(lambda a, b: torch.cdist(a, b, p), a, a.clone(), grad=True, rtol=1e-5)
    b = a.clone()
    b[:, ::2] += 1
    compare(lambda a, b: torch.cdist(a, b, p), a, b, grad=True, rtol=1e-5)


@pytest.mark.parametrize("shapes", [((0, 3), (2, 3)), ((2, 3), (0, 3)), ((2, 0), (4, 0)), ((0, 2, 3), (0, 4, 3))])
def test_nothing(shapes):
    for p in (1.0, 2.0):
        compare(lambda a, b, p=p: torch.cdist(a, b, p), sample(*shapes[0]), sample(*shapes[1]), grad=True)


def test_strides_and_halves():
    compare(lambda a, b: torch.cdist(a.t(), b[::2], 1.0), sample(7, 5), sample(6, 7), grad=True, rtol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        a, b = sample(4, 6).to(dtype), sample(5, 6, seed=2).to(dtype)
        for p in (3.0, math.inf):
            x, on_device = a.float().requires_grad_(), a.to("mps").requires_grad_()
            expected, actual = torch.cdist(x, b.float(), p), torch.cdist(on_device, b.to("mps"), p)
            assert_same(actual, expected.to(dtype))
            expected.sum().backward()
            actual.sum().backward()
            assert_same(on_device.grad, x.grad.to(dtype), atol=1e-2)


def test_gradients_in_double_precision():
    a, b = (sample(*shape).double().to("mps").requires_grad_() for shape in ((3, 4), (2, 4)))
    for p in (1.0, 1.5, 2.0, 3.0):
        assert torch.autograd.gradcheck(lambda a, b, p=p: torch.cdist(a, b, p), (a, b))


@pytest.mark.parametrize("p", NORMS)
def test_pdist(p):
    compare(lambda a: F.pdist(a, p), sample(6, 4), grad=True, rtol=1e-5)
    compare(lambda a: F.pdist(a, p), sample(1, 4), grad=True)


def test_errors():
    a = sample(3, 4).to("mps")
    for wrong in (sample(3, 5).to("mps"), sample(4).to("mps")):
        with pytest.raises(RuntimeError):
            torch.cdist(a, wrong)
    with pytest.raises(RuntimeError, match="non-negative"):
        torch.cdist(a, a, -1.0)
    with pytest.raises(RuntimeError, match="floating-point"):
        torch.cdist(a.int(), a.int())


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_nan_is_at_nan(p):
    nan, inf = torch.nan, torch.inf
    x = torch.tensor([[1, 2, nan], [1, 2, inf], [0, 0, 0], [nan, nan, nan]])
    y = torch.tensor([[1, 2, 3], [1, nan, inf], [0, inf, -inf]])
    torch.testing.assert_close(torch.cdist(x.to("mps"), y.to("mps"), p).cpu(), torch.cdist(x, y, p), equal_nan=True)


def test_cdist_refuses_tensors_of_the_cpu():
    x = torch.ones(2, 3)
    for pair in ((x.to("mps"), x), (x, x.to("mps"))):
        with pytest.raises(RuntimeError, match="same device"):
            torch.cdist(*pair)
