"""Eigenvalues and singular values against the CPU; vectors by what they must satisfy, for they are not unique."""

import pytest
import torch
from support import assert_same, compare

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SHAPES = ((1, 1), (2, 2), (3, 3), (2, 3, 5, 5), (40, 40), (0, 0), (0, 3, 3))


def limits(dtype, size):
    eps = torch.finfo(dtype).eps
    return {"rtol": 0, "atol": 50 * eps * max(size, 1)}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def hermitian(*shape, dtype=torch.float32):
    a = sample(*shape, dtype=dtype)
    return (a + a.mH) / 2


def check_unitary(u):
    identity = torch.eye(u.shape[-1], dtype=u.dtype).expand(*u.shape[:-2], -1, -1)
    assert_same(u.mH @ u, identity, **limits(u.dtype, u.shape[-2]))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_eigh(dtype, upper):
    for shape in (*SHAPES, (5, 7, 7), (101, 101)):
        a = hermitian(*shape, dtype=dtype)
        uplo = "U" if upper else "L"
        triangle = a.triu() if upper else a.tril()
        values, vectors = torch.linalg.eigh(triangle.to("mps"), uplo)
        assert_same(values, torch.linalg.eigvalsh(a), **limits(dtype, shape[-1]))
        assert_same(
            torch.linalg.eigvalsh(triangle.to("mps"), uplo), torch.linalg.eigvalsh(a), **limits(dtype, shape[-1])
        )
        assert_same(vectors * values.unsqueeze(-2) @ vectors.mH, a, **limits(dtype, shape[-1]))
        check_unitary(vectors)
        assert not vectors.numel() or vectors.mT.is_contiguous()


def test_eigh_of_special_matrices():
    for a in (
        torch.zeros(3, 3),
        torch.eye(4),
        torch.diag(torch.tensor([3.0, -1, 2, 2])),
        torch.ones(5, 5),
        torch.tensor([[0.0, 1], [1, 0]]),
        hermitian(4, 4) * 1e-30,
        hermitian(4, 4) * 1e15,
        torch.diag(torch.tensor([1.0, 1e-4, 1e4])),
    ):
        values = torch.linalg.eigvalsh(a.to("mps"))
        assert_same(values / a.abs().max().clamp(min=1e-35), torch.linalg.eigvalsh(a) / a.abs().max().clamp(min=1e-35))


def svd_parts(a, full):
    u, s, vh = torch.linalg.svd(a.to("mps"), full_matrices=full)
    k = min(a.shape[-2:])
    assert_same(s, torch.linalg.svdvals(a), **limits(a.dtype, max(a.shape[-2:]) * 4))
    assert_same(u[..., :k] * s.unsqueeze(-2) @ vh[..., :k, :], a, **limits(a.dtype, max(a.shape[-2:]) * 4))
    check_unitary(u)
    check_unitary(vh.mH)
    expected = torch.linalg.svd(a, full_matrices=full)
    for mine, theirs in zip((u, s, vh), expected, strict=True):
        assert mine.shape == theirs.shape
        assert not theirs.numel() or mine.stride() == theirs.stride()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_svd(dtype, full):
    for shape in (*SHAPES, (2, 5, 3), (2, 3, 5), (60, 30), (3, 0), (0, 3), (70, 70)):
        svd_parts(sample(*shape, dtype=dtype), full)


def test_svd_of_special_matrices():
    rank_two = sample(6, 2) @ sample(2, 4)
    for a in (
        torch.zeros(3, 2),
        torch.ones(4, 4),
        torch.eye(3),
        rank_two,
        rank_two.mT,
        torch.diag(torch.tensor([0.0, 3, 0])),
    ):
        svd_parts(a, True)
        svd_parts(a, False)
    for size in (1e-30, 1e30):
        s = torch.linalg.svdvals((sample(5, 3) * size).to("mps"))
        assert_same(s / size, torch.linalg.svdvals(sample(5, 3)), rtol=1e-4, atol=1e-5)


def test_svdvals_of_strided_batches():
    a = sample(4, 6, 8)
    for view in (a.mT, a[:, ::2, 1::3], a.transpose(0, 2), a[0].expand(3, 6, 8)):
        compare(torch.linalg.svdvals, view, rtol=1e-4, atol=1e-4)


def test_gradients():
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    compare(torch.linalg.svdvals, sample(2, 4, 3), grad=True, **tolerance)
    compare(lambda x: torch.linalg.eigvalsh(x + x.mT), sample(2, 4, 4), grad=True, **tolerance)
    compare(lambda x: torch.linalg.eigh(x + x.mT).eigenvectors.square(), sample(4, 4), grad=True, **tolerance)
    compare(lambda x: torch.linalg.svd(x, full_matrices=False)[0].square(), sample(5, 3), grad=True, **tolerance)


def test_what_is_made_of_them():
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    a = sample(2, 5, 3)
    low = sample(5, 2) @ sample(2, 4)
    compare(torch.linalg.pinv, a, grad=True, **tolerance)
    compare(torch.linalg.pinv, low, **tolerance)
    compare(lambda x: torch.linalg.pinv(x + x.mT, hermitian=True), sample(3, 3), **tolerance)
    compare(lambda x: (torch.linalg.matrix_rank(x), torch.linalg.matrix_rank(x @ x.mT, hermitian=True)), low)
    compare(lambda x: tuple(torch.linalg.cond(x, p) for p in (None, 2, -2)), a, **tolerance)
    compare(lambda x: tuple(torch.linalg.cond(x, p) for p in (1, "fro", "nuc")), sample(4, 4), **tolerance)
    compare(lambda x: tuple(torch.linalg.matrix_norm(x, p) for p in (2, -2, "nuc", "fro")), a, grad=True, **tolerance)


@pytest.mark.parametrize("function", [torch.linalg.eigh, torch.linalg.svd, torch.linalg.svdvals, torch.linalg.eigvalsh])
@pytest.mark.parametrize("bad", [torch.eye(3).half(), torch.ones(3), torch.full((3, 3), float("nan"))], ids=str)
def test_errors(function, bad):
    raised = []
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError) as info:
            function(bad.to(device))
        raised.append(type(info.value))
    assert raised[0] is raised[1]
    with pytest.raises(torch.linalg.LinAlgError):
        function(torch.full((3, 3), float("inf"), device="mps"))
    with pytest.raises(RuntimeError, match="driver"):
        torch.linalg.svd(torch.eye(3, device="mps"), driver="gesvd")
