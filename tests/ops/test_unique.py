"""unique and unique_consecutive, of elements and of slices, against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, compare

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)


def sample(*shape: int, dtype: torch.dtype = torch.int64, high: int = 6) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(4)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x = sample(6, 9, dtype=dtype)
    for function in (torch.unique, torch.unique_consecutive):
        compare(lambda t, f=function: f(t, return_inverse=True, return_counts=True), x)
        compare(lambda t, f=function: f(t[:, :2], return_inverse=True, return_counts=True, dim=0), x)
        compare(lambda t, f=function: f(t, return_inverse=True, return_counts=True, dim=1), x)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2500,), (3, 0), (4, 5, 3)])
def test_shapes(shape):
    x = sample(*shape, high=900 if shape == (2500,) else 4)
    for inverse in (False, True):
        for counts in (False, True):
            compare(lambda t, i=inverse, c=counts: torch.unique(t, return_inverse=i, return_counts=c), x)
            compare(lambda t, i=inverse, c=counts: torch.unique_consecutive(t, return_inverse=i, return_counts=c), x)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8])
def test_slices(width):
    x = sample(50, width, high=2 if width > 2 else 5)
    for dim in (0, 1):
        compare(lambda t, d=dim: torch.unique(t, return_inverse=True, return_counts=True, dim=d), x)
    compare(lambda t: torch.unique(t, dim=1, return_inverse=True), x.view(5, 10, width))
    compare(lambda t: torch.unique(t.t(), dim=1, return_inverse=True), x)
    compare(lambda t: torch.unique_consecutive(t, dim=0, return_counts=True), x[x[:, 0].argsort(stable=True)])


def test_special_values():
    x = torch.tensor([torch.nan, 1.0, -0.0, 0.0, torch.inf, torch.nan, -torch.inf, 1.0])
    compare(lambda t: torch.unique(t, return_inverse=True, return_counts=True)[0], x)
    compare(lambda t: torch.unique(t, return_counts=True)[1], x)


def test_empty_slices():
    compare(lambda t: torch.unique(t, dim=0), torch.empty(0, 3))
    for shape, dim in (((3, 0), 0), ((0, 0), 0)):
        with pytest.raises(RuntimeError):
            torch.unique(torch.empty(shape, device="mps"), dim=dim)
