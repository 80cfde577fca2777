"""Factorisations of indefinite matrices against LAPACK's, pivots included, and what they solve."""

import pytest
import torch
from support import assert_same, compare

REAL, COMPLEX = (torch.float32, torch.float64), (torch.complex64, torch.complex128)
CASES = [(dtype, False) for dtype in REAL + COMPLEX] + [(dtype, True) for dtype in COMPLEX]
LIMITS = {"rtol": 1e-3, "atol": 1e-3}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def indefinite(*shape, dtype, hermitian):
    a = sample(*shape, dtype=dtype)
    a = a + (a.mH if hermitian else a.mT)
    a.diagonal(0, -2, -1)[..., ::2] = 0  # makes blocks of two
    return a


@pytest.mark.parametrize(("dtype", "hermitian"), CASES, ids=str)
def test_factor_and_solve(dtype, hermitian):
    blocks_of_two = 0
    for shape in ((0, 0), (1, 1), (2, 2), (3, 3), (2, 3, 5, 5), (0, 3, 3), (10, 10), (40, 40)):
        a = indefinite(*shape, dtype=dtype, hermitian=hermitian)
        if shape == (1, 1):
            a += 2
        compare(lambda x: torch.linalg.ldl_factor_ex(x, hermitian=hermitian), a, **LIMITS)
        ld, pivots, _ = torch.linalg.ldl_factor_ex(a, hermitian=hermitian)
        blocks_of_two += int((pivots < 0).sum())
        b = sample(*shape[:-1], 3, dtype=dtype, seed=1)
        compare(lambda f, p, x: torch.linalg.ldl_solve(f, p, x, hermitian=hermitian), ld, pivots, b, **LIMITS)
    assert blocks_of_two > 20


@pytest.mark.parametrize(("dtype", "hermitian"), [CASES[1], CASES[3], CASES[5]], ids=str)
def test_large(dtype, hermitian):
    a = indefinite(250, 250, dtype=dtype, hermitian=hermitian).to("mps")
    b = sample(250, 2, dtype=dtype)
    x = torch.linalg.ldl_solve(*torch.linalg.ldl_factor(a, hermitian=hermitian), b.to("mps"), hermitian=hermitian)
    assert_same(a @ x, b, rtol=1e-8, atol=1e-8)


def test_one_triangle_is_read_and_strides_do_not_matter():
    a = indefinite(4, 6, 6, dtype=torch.float32, hermitian=False)
    compare(torch.linalg.ldl_factor, a + torch.full((6, 6), 7.0).triu(1), **LIMITS)
    compare(torch.linalg.ldl_factor, a[::2].mT, **LIMITS)


def test_pivots_may_lie_in_any_order():
    a = indefinite(2, 5, 5, dtype=torch.float32, hermitian=False)
    ld, pivots = torch.linalg.ldl_factor(a)
    compare(torch.linalg.ldl_solve, ld, pivots.t().contiguous().t(), sample(5, 3), **LIMITS)


def test_singular():
    a = torch.zeros(2, 3, 3)
    a[1] = torch.eye(3)
    assert torch.linalg.ldl_factor_ex(a.to("mps")).info.tolist() == [1, 0]
    compare(torch.linalg.ldl_factor_ex, a)
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError):
            torch.linalg.ldl_factor(a.to(device))


def test_errors():
    pivots = torch.ones(3, dtype=torch.int32)
    for call in (
        lambda d: torch.linalg.ldl_factor(torch.eye(3, device=d).half()),
        lambda d: torch.linalg.ldl_factor(torch.ones(2, 3, device=d)),
        lambda d: torch.linalg.ldl_solve(torch.eye(3, device=d).half(), pivots.to(d), torch.eye(3, device=d).half()),
        lambda d: torch.linalg.ldl_solve(torch.eye(3, device=d), pivots.to(d).float(), torch.eye(3, device=d)),
    ):
        raised = []
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError) as info:
                call(device)
            raised.append(type(info.value))
        assert raised[0] is raised[1]


def test_solving_into_an_argument():
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    factors, pivots = torch.linalg.ldl_factor(a + a.mT)
    b = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.ldl_solve(factors, pivots, b)
    into = factors.to("mps")
    actual = torch.linalg.ldl_solve(into, pivots.to("mps"), b.to("mps"), out=into)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-4)
