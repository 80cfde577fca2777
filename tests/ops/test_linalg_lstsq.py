"""Least squares against the CPU's four drivers: solutions, residuals, ranks, singular values, gradients, errors."""

import pytest
import torch
from support import assert_same, compare

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
DRIVERS = ("gels", "gelsy", "gelsd", "gelss")
LIMITS = {"rtol": 1e-3, "atol": 1e-3}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_full_rank(dtype, driver):
    def solve(a, b):
        return tuple(torch.linalg.lstsq(a, b, driver=driver))

    for shape, right in (
        ((5, 3), (5, 2)),
        ((3, 5), (3, 2)),
        ((4, 4), (4, 1)),
        ((2, 5, 3), (2, 5, 2)),
        ((2, 3, 5, 3), (2, 3, 5)),
        ((5, 3), (5,)),
        ((1, 1), (1, 1)),
        ((60, 40), (60, 3)),
        ((0, 4, 3), (0, 4, 2)),
        ((0, 3), (0, 2)),
    ):
        compare(solve, sample(*shape, dtype=dtype), sample(*right, dtype=dtype, seed=1), **LIMITS)
    if driver != "gels":  # whose residuals are 0 on the CPU for a matrix without columns
        compare(solve, sample(4, 0, dtype=dtype), sample(4, 2, dtype=dtype), **LIMITS)
    compare(solve, sample(3, 5, dtype=dtype).mT, sample(2, 5, dtype=dtype, seed=1).mH, **LIMITS)


@pytest.mark.parametrize("driver", DRIVERS[1:])
def test_deficient_rank(driver):
    a = sample(2, 6, 2) @ sample(2, 2, 4)
    b = sample(2, 6, 3, seed=1)

    def solve(x, y):
        solution, residuals, rank, values = torch.linalg.lstsq(x, y, driver=driver)
        return solution, residuals, rank, values[..., :2]

    compare(solve, a, b, **LIMITS)
    compare(solve, a.mT, b[:, :4], **LIMITS)
    if driver != "gelsy":  # cuts a pivoted QR factorisation off, where the others, and we, cut singular values off
        compare(lambda x, y: tuple(torch.linalg.lstsq(x, y, 0.5, driver=driver))[::2], sample(6, 4), b[0], **LIMITS)


def test_gradients_and_default():
    compare(lambda a, b: torch.linalg.lstsq(a, b).solution, sample(2, 5, 3), sample(2, 5, 2), grad=True, **LIMITS)
    compare(lambda a, b: tuple(torch.linalg.lstsq(a, b)), sample(5, 3), sample(5, 2), **LIMITS)


def test_out():
    a, b = sample(5, 3), sample(5, 2, seed=1)
    expected = torch.linalg.lstsq(a, b, driver="gelsd")
    out = [torch.empty(0, device="mps") for _ in range(4)]
    out[2] = out[2].long()
    torch.linalg.lstsq(a.to("mps"), b.to("mps"), driver="gelsd", out=out)
    assert_same(out, list(expected), **LIMITS)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.ones(4), torch.ones(4)),
        (torch.ones(4, 3), torch.tensor(1.0)),
        (torch.ones(4, 3), torch.ones(5)),
        (torch.ones(4, 3), torch.ones(5, 2)),
        (torch.ones(4, 3), torch.ones(2, 4, 2)),
        (torch.ones(4, 3), torch.ones(4, 2).double()),
        (torch.ones(4, 3).half(), torch.ones(4, 2).half()),
        (torch.ones(2, 4, 3), torch.ones(3, 4, 2)),
        (torch.ones(4, 3), torch.ones(4, 2), None, "other"),
    ],
)
def test_errors(arguments):
    a, b, *rest = arguments
    driver = rest[1] if rest else None
    raised = []
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError) as info:
            torch.linalg.lstsq(a.to(device), b.to(device), driver=driver)
        raised.append(type(info.value))
    assert raised[0] is raised[1]
