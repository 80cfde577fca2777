"""Cholesky and LU factorisations: values, layout, error codes, gradients, shapes from none to large."""

import warnings

import pytest
import torch
from support import assert_same, compare

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SHAPES = ((0, 0), (1, 1), (0, 3, 3), (2, 0, 0), (2, 3, 5, 5), (40, 40), (200, 200))
LIMITS = {"rtol": 1e-3, "atol": 1e-3}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def positive(*shape, dtype=torch.float32):
    a = sample(*shape, dtype=dtype)
    return a @ a.mH + torch.eye(shape[-1], dtype=dtype)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cholesky(dtype, shape, upper):
    a = positive(*shape, dtype=dtype)
    expected, info = torch.linalg.cholesky_ex(a, upper=upper)
    actual, actual_info = torch.linalg.cholesky_ex(a.to("mps"), upper=upper)
    assert_same((actual, actual_info), (expected, info), **LIMITS)
    assert actual.stride() == expected.stride()


def test_cholesky_reads_one_triangle():
    a = positive(4, 4)
    compare(torch.linalg.cholesky, a + torch.full((4, 4), float("nan")).triu(1), **LIMITS)
    compare(lambda x: torch.linalg.cholesky(x, upper=True), a + torch.full((4, 4), float("nan")).tril(-1), **LIMITS)


def test_cholesky_of_a_matrix_that_is_not_positive():
    a = positive(3, 4, 4)
    a[1, 2, 2] = -1
    a[2] = float("nan")
    assert torch.linalg.cholesky_ex(a.to("mps")).info.tolist() == [0, 3, 1]
    for function in (torch.linalg.cholesky, torch.cholesky):
        with pytest.raises(torch.linalg.LinAlgError, match="leading minor of order 3 is not positive-definite"):
            function(a[1].to("mps"))
    with pytest.raises(torch.linalg.LinAlgError, match="Batch element 1"):
        torch.linalg.cholesky_ex(a.to("mps"), check_errors=True)


def test_cholesky_gradient():
    compare(lambda x: torch.linalg.cholesky(x @ x.mT + 1), sample(2, 3, 3) + 2 * torch.eye(3), grad=True, **LIMITS)


@pytest.mark.parametrize("shape", [*SHAPES, (7, 4), (4, 7), (3, 60, 30), (150, 250), (2, 300, 300)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lu(dtype, shape):
    a = sample(*shape, dtype=dtype)
    compare(torch.linalg.lu_factor_ex, a, **LIMITS)
    compare(torch.linalg.lu, a, **LIMITS)


def test_lu_of_strided_matrices():
    a = sample(6, 8, 10)
    for view in (a.mT, a[:, ::2, 1::3], a.transpose(0, 2), a[0].expand(3, 8, 10), a.conj()):
        compare(torch.linalg.lu_factor, view, **LIMITS)
    out = [torch.empty(10, 8, device="mps").t(), torch.empty(16, dtype=torch.int32, device="mps")[::2]]
    torch.linalg.lu_factor(a[0].to("mps"), out=out)
    assert_same(out, list(torch.linalg.lu_factor(a[0])), **LIMITS)


def test_lu_of_a_singular_matrix():
    a = torch.ones(2, 3, 3)
    a[1] = 0
    compare(torch.linalg.lu_factor_ex, a)
    with pytest.raises(RuntimeError, match="U\\[2,2\\] is zero"):
        torch.linalg.lu_factor_ex(a.to("mps"), check_errors=True)


def test_lu_without_interchanges():
    a = sample(2, 5, 5) + 5 * torch.eye(5)
    p, lower, upper = torch.linalg.lu(a.to("mps"), pivot=False)
    assert p.numel() == 0
    assert_same(lower @ upper, a, **LIMITS)
    assert_same(torch.linalg.lu_factor(a.to("mps"), pivot=False).pivots, torch.arange(1, 6).int().expand(2, 5))


def test_outputs_of_another_shape():
    a = positive(4, 4)
    for function in (torch.linalg.cholesky_ex, torch.linalg.lu_factor_ex, torch.linalg.lu):
        expected = function(a)
        for shape in ((0,), (2, 3), (5, 5)):
            out = [torch.empty(shape, dtype=t.dtype, device="mps") for t in expected]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of resizing
                function(a.to("mps"), out=out)
            assert_same(out, list(expected), **LIMITS)
        wrong = [torch.empty(0, dtype=torch.int64, device="mps") for _ in expected]
        with pytest.raises(RuntimeError, match="dtype"):
            function(a.to("mps"), out=wrong)
        with pytest.raises(RuntimeError):
            function(a.to("mps"), out=[torch.empty_like(t) for t in expected])


def test_lu_gradient():
    for shape in ((3, 3), (2, 5, 3), (3, 5)):
        compare(torch.linalg.lu, sample(*shape), grad=True, **LIMITS)
        compare(lambda x: torch.linalg.lu_factor(x).LU, sample(*shape), grad=True, **LIMITS)


def test_lu_unpack():
    for shape in ((3, 3), (2, 5, 3), (3, 5), (0, 3, 2)):
        lu, pivots = torch.linalg.lu_factor(sample(*shape))
        compare(torch.lu_unpack, lu, pivots)
        compare(lambda d, p: torch.lu_unpack(d, p, unpack_data=False), lu, pivots)
        compare(lambda d, p: torch.lu_unpack(d, p, unpack_pivots=False), lu, pivots)


@pytest.mark.parametrize("function", [torch.linalg.cholesky, torch.cholesky, torch.linalg.lu_factor, torch.linalg.lu])
@pytest.mark.parametrize("bad", [torch.eye(3).half(), torch.eye(3).long(), torch.ones(3)])
def test_errors(function, bad):
    raised = []
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError) as info:
            function(bad.to(device))
        raised.append(type(info.value))
    assert raised[0] is raised[1]
