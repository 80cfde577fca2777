"""Running sums, products, extrema and log-sum-exps against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, skip_without_float64

# Short and long rows (several tiles, several workgroups), along each dimension, and scalars.
CASES = [((), 0), ((1,), -1), ((5,), 0), ((3, 4, 5), 0), ((3, 4, 5), 1), ((3, 4, 5), -1), ((7, 133), 1), ((133, 7), 0)]
CASES += [((2, 5000), 1), ((5000, 3), 0), ((20_001,), 0), ((2, 3000, 40), 1)]


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)


def counted(*shape: int) -> torch.Tensor:
    """Floats whose sums are exact in any order."""
    return sample(*shape).round()


@pytest.mark.parametrize("shape,dim", CASES)
def test_shapes(shape, dim):
    compare(lambda t: t.cumsum(dim), counted(*shape))
    compare(lambda t: t.cummax(dim), counted(*shape))
    compare(lambda t: t.cummin(dim), counted(*shape))
    compare(lambda t: t.logcumsumexp(dim), sample(*shape), rtol=1e-5)
    ones_and_twos = torch.where(sample(*shape) > 6, 2.0, 1.0).copysign(sample(*shape))
    compare(lambda t: t.cumprod(dim), ones_and_twos)


@pytest.mark.parametrize("dtype", (*FLOATS, torch.float64, *INTEGERS, torch.bool))
def test_dtypes(dtype):
    x = sample(6, 40, dtype=dtype)
    loose = {"rtol": 3e-2, "atol": 1e-2} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
    for dim in (0, 1):
        compare(lambda t, d=dim: t.cumsum(d), x, **loose)
        compare(lambda t, d=dim: t[:5].cumprod(d), x, **loose)
        compare(lambda t, d=dim: t.cummax(d), x)
        compare(lambda t, d=dim: t.cummin(d), x)
        if dtype.is_floating_point:
            compare(lambda t, d=dim: t.logcumsumexp(d), x, **loose)


def test_dtype_argument():
    x = sample(4, 30)
    compare(lambda t: t.cumsum(1, dtype=torch.float64), x, rtol=1e-6)
    compare(lambda t: t.cumsum(1, dtype=torch.int64), x)
    compare(lambda t: t.cumsum(1, dtype=torch.int8), x.int())
    compare(lambda t: t.cumsum(1, dtype=torch.float16), x, rtol=2e-2, atol=2e-2)
    compare(lambda t: t.cumprod(1, dtype=torch.float32), x.long())


@pytest.mark.parametrize("size", [9, 3000])
def test_special_values(size):
    x = sample(6, size)
    x[0, 3], x[1, 5], x[2, 6] = torch.inf, -torch.inf, torch.nan
    x[3, 3], x[3, 7] = torch.inf, -torch.inf
    x[4] = -torch.inf
    x[5] = 0.0
    x[2, 8] = torch.nan
    compare(lambda t: t.cummax(1), x)
    compare(lambda t: t.cummin(1), x)
    compare(lambda t: t.logcumsumexp(1), x, rtol=1e-5)
    compare(lambda t: t.cumsum(1), x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dim", [0, 1])
def test_gradients(dim):
    x = sample(5, 7)
    for function in (torch.cumsum, torch.cumprod, torch.logcumsumexp):
        compare(lambda t, f=function: f(t, dim), x, grad=True, rtol=1e-4, atol=1e-4)
    compare(lambda t: t.cummax(dim)[0], x, grad=True)
    compare(lambda t: t.cummin(dim)[0], x, grad=True)
    x[2, 3] = 0
    compare(lambda t: t.cumprod(dim), x, grad=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_log_sums_are_rounded_once(dtype):
    if dtype.is_complex:
        skip_without_float64("complex sums are not kept in two floats")
    # Each of a hundred merges would round to a multiple of 1e-3.
    x = (sample(3, 100) + torch.tensor([[1e4], [-1e4], [0]])).to(dtype)
    exact = x.to(torch.complex128 if dtype.is_complex else torch.float64).logcumsumexp(1).to(dtype)
    assert_same(x.to("mps").logcumsumexp(1), exact, rtol=1.2e-7, atol=1e-6)


def test_layouts_and_outputs():
    x = counted(6, 20)
    compare(lambda t: t.t().cumsum(0), x)
    compare(lambda t: t[::2, 3:].cumsum(1), x)
    compare(lambda t: t[:, :0].cumsum(1), x)
    compare(lambda t: t[:0].cumsum(1), x)
    compare(lambda t: t[:0].cummax(0), x)
    compare(lambda t: t.clone().cumsum_(0), x)
    compare(lambda t: t.clone().t().cumprod_(0), x.sign())
    device = x.to("mps")
    out = torch.empty(20, 6, device="mps").t()
    torch.cumsum(device, 1, out=out)
    assert_same(out, x.cumsum(1))
    values, indices = torch.empty(20, 6, device="mps").t(), torch.empty(0, dtype=torch.int64, device="mps")
    torch.cummin(device, 0, out=(values, indices))
    assert_same((values, indices), tuple(x.cummin(0)))
    compare(lambda t: torch.cumulative_trapezoid(t, dim=1), x)


def test_errors():
    x = sample(3, 4).to("mps")
    for call in (lambda: x.cumsum(2), lambda: x.cummax(-3), lambda: x.logcumsumexp(5)):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(RuntimeError):
        torch.cumsum(x, 0, dtype=torch.float64, out=torch.empty(3, 4, device="mps"))
