"""softmax and log_softmax against torch on the CPU."""

import math

import pytest
import torch
from support import FLOATS, assert_same, compare, compare_with_float64

FUNCTIONS = (torch.softmax, torch.log_softmax)


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)


# Rows that fit in registers (two variants) and that do not; along the last, a middle and the first dimension.
CASES = [((), 0), ((1,), 0), ((5,), -1), ((3, 4, 5), 0), ((3, 4, 5), 1), ((3, 4, 5), 2), ((2, 300), 1), ((300, 2), 0)]
CASES += [((3, 2000), 1), ((2, 5000), 1), ((500, 3), 0), ((40, 33), 0), ((2, 100, 70), 1)]


@pytest.mark.parametrize("shape,dim", CASES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_shapes(function, shape, dim):
    compare(lambda t: function(t, dim), sample(*shape), grad=True, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_dtypes(function, dtype):
    x = sample(6, 50, dtype=dtype)
    loose = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for dim in (0, 1):
        compare(lambda t, d=dim: function(t, d), x, grad=True, **loose)
        compare(lambda t, d=dim: function(t, d, dtype=torch.float32), x, grad=True, **(loose or {"atol": 1e-6}))


# Lengths that vectors fit or do not, in registers and beyond them; rows that start at a vector and beside one.
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("size", [4, 7, 12, 64, 1000, 1001, 1028, 4096, 4100, 9001])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_lengths_and_alignment(size, start, dtype):
    x = sample(3 * size + start, dtype=dtype)
    for function in FUNCTIONS:
        compare_with_float64(lambda t, f=function: f(t[start:].view(3, size), 1), x, units=100)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("size", [8, 9, 5000, 5001])
def test_special_values(function, size):
    x = sample(6, size)
    x[0, 3] = math.inf
    x[1, 3] = -math.inf
    x[2, 3] = math.nan
    x[3] = -math.inf
    x[4, 0] = 1e30
    x[5] = -1e30
    compare(lambda t: function(t, 1), x, rtol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_layouts(function):
    x = sample(12, 20)
    compare(lambda t: function(t.t(), 0), x)
    compare(lambda t: function(t[::2, 3:], -1), x, grad=True)
    compare(lambda t: function(t[:, :0], 1), x)
    compare(lambda t: function(t[:0], 1), x)


def test_out_and_errors():
    x = sample(4, 6)
    on_device = x.to("mps")
    out = torch.empty(6, 4, device="mps").t()
    torch.softmax(on_device, 1, out=out)
    assert_same(out, x.softmax(1))
    with pytest.raises(IndexError):
        torch.softmax(on_device, 2)
    with pytest.raises(RuntimeError):
        torch.ops.aten._softmax(on_device, 1, True)


def test_masked():
    x, mask = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) > 0.5
    mask[0, 0, 0] = True  # nothing is left: NaN
    for dim in (-1, 1):
        compare(lambda t, m: torch._masked_softmax(t, m, dim, 2), x, mask)  # noqa: B023
    output = torch._masked_softmax(x, mask, 3, 2).nan_to_num()
    compare(lambda g, o, m: torch.ops.aten._masked_softmax_backward(g, o, m, 3), torch.randn(2, 3, 4, 4), output, mask)
    for arguments in ((mask[0], -1, 2), (mask[0, 0], -1, None), (mask[0, 0], -1, 3), (mask.int(), -1, 2)):
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError):
                torch._masked_softmax(x.to(device), arguments[0].to(device), *arguments[1:])
