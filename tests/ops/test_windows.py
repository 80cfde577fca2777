"""Sliding windows against torch on the CPU."""

import pytest
import torch
from support import FLOATS, compare
from torch.nn import functional


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_windows(dtype):
    x = sample(2, 3, 6, 7, dtype=dtype)
    loose = {"rtol": 2e-2, "atol": 5e-2} if dtype.itemsize == 2 else {}
    for options in ({}, {"stride": 2}, {"padding": (1, 2), "dilation": (2, 1)}):
        compare(lambda t, o=options: functional.unfold(t, (2, 3), **o), x, grad=True, **loose)
        columns = functional.unfold(x, (2, 3), **options)
        compare(lambda t, o=options: functional.fold(t, (6, 7), (2, 3), **o), columns, grad=True, **loose)
    compare(lambda t: functional.unfold(t[0], 2), x)
    for size, step in ((2, 1), (3, 2), (2, 3), (6, 1)):
        compare(lambda t, s=size, p=step: t.unfold(2, s, p), x, grad=True, **loose)
    compare(lambda t: t.unfold(0, 1, 1).unfold(3, 3, 2), x, grad=True, **loose)
    device = x.to("mps")
    for call in (
        lambda: functional.unfold(device, 9),
        lambda: functional.unfold(device, 2, stride=0),
        lambda: functional.fold(device[0], (6, 7), 2),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            call()
