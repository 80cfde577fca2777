"""Systems of equations, inverses and determinants against the CPU, with gradients."""

import pytest
import torch
from support import assert_same, compare, to_mps

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
LIMITS = {"rtol": 1e-3, "atol": 1e-3}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def regular(*shape, dtype=torch.float32):
    """Matrices far from singular."""
    return sample(*shape, dtype=dtype) + 2 * shape[-1] ** 0.5 * torch.eye(shape[-1], dtype=dtype)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("unitriangular", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triangular_systems(dtype, unitriangular, upper, left):
    def solve(a, b):
        return torch.linalg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unitriangular)

    for n, width in ((1, 1), (5, 3), (4, 0), (0, 2), (40, 70), (300, 5)):
        a = regular(n, n, dtype=dtype) / n**0.5 if n else regular(0, 0, dtype=dtype)
        if unitriangular:
            a = a / 10
        a = a.triu() if upper else a.tril()
        if n > 100:
            a = a / n**0.5 + torch.eye(n, dtype=dtype)
        b = sample(n, width, dtype=dtype) if left else sample(width, n, dtype=dtype)
        compare(solve, a, b, **LIMITS)
    batch, one = (regular(2, 1, 3, 3, dtype=dtype), sample(4, 3, 3, dtype=dtype))
    batch = batch.triu() if upper else batch.tril()
    compare(solve, batch, one, **LIMITS)
    compare(solve, batch[0, 0].mT.contiguous().mT, one, **LIMITS)
    # Only the triangle is read, and not the diagonal of ones.
    other = torch.full((3, 3), float("nan"), dtype=dtype)
    compare(solve, batch[0, 0] + (other.tril(-1) if upper else other.triu(1)), one, **LIMITS)


def test_triangular_gradients_and_older_form():
    a, b = regular(2, 3, 3).triu(), sample(2, 3, 4)
    compare(lambda x, y: torch.linalg.solve_triangular(x, y, upper=True), a, b, grad=True, **LIMITS)
    for transpose in (False, True):
        for dtype in DTYPES:
            c, d = regular(2, 3, 3, dtype=dtype), sample(3, 4, dtype=dtype)
            compare(lambda x, y: tuple(torch.triangular_solve(y, x, transpose=transpose)), c, d, **LIMITS)  # noqa: B023
    out = torch.empty(5, 5, device="mps")[::2, :4]
    torch.linalg.solve_triangular(*to_mps((a[0], b[0])), upper=True, out=out)
    assert_same(out, torch.linalg.solve_triangular(a[0], b[0], upper=True), **LIMITS)


def test_conjugate_views():
    """torch hands them to solve_triangular as they are."""
    a, b = regular(3, 3, dtype=torch.complex64).triu(), sample(3, 2, dtype=torch.complex64)
    compare(lambda x, y: torch.linalg.solve_triangular(x.mH, y, upper=False), a, b, **LIMITS)
    compare(lambda x, y: torch.linalg.solve_triangular(x, y.mH, upper=True, left=False), a, b, **LIMITS)
    compare(lambda x, y: torch.linalg.solve(x.mH, y.conj()), a, b, **LIMITS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_solve(dtype):
    for shape, right in (
        ((3, 3), (3,)),
        ((3, 3), (3, 2)),
        ((2, 3, 3), (2, 3)),
        ((2, 1, 4, 4), (3, 4, 2)),
        ((0, 0), (0, 2)),
    ):
        compare(torch.linalg.solve, regular(*shape, dtype=dtype), sample(*right, dtype=dtype), **LIMITS)
    a, b = regular(3, 4, 4, dtype=dtype), sample(3, 2, 4, dtype=dtype)
    compare(lambda x, y: torch.linalg.solve(x, y, left=False), a, b, **LIMITS)
    compare(torch.linalg.solve, a.mT, b.mT, **LIMITS)
    compare(torch.linalg.solve, regular(400, 400, dtype=dtype), sample(400, 3, dtype=dtype), **LIMITS)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lu_solve(dtype, left, adjoint):
    lu, pivots = torch.linalg.lu_factor(regular(2, 1, 5, 5, dtype=dtype)[..., torch.randperm(5), :])
    b = sample(3, 5, 2, dtype=dtype) if left else sample(3, 2, 5, dtype=dtype)
    compare(lambda f, p, x: torch.linalg.lu_solve(f, p, x, left=left, adjoint=adjoint), lu, pivots, b, **LIMITS)


def test_gradients_of_solutions():
    a, b = regular(2, 3, 3), sample(2, 3, 2)
    compare(torch.linalg.solve, a, b, grad=True, **LIMITS)
    compare(torch.linalg.solve, a.mT, b, grad=True, **LIMITS)
    compare(lambda x, y: torch.linalg.lu_solve(*torch.linalg.lu_factor(x), y), a, b, grad=True, **LIMITS)
    compare(torch.linalg.inv, a, grad=True, **LIMITS)
    compare(lambda x, y: torch.cholesky_solve(y, torch.linalg.cholesky(x @ x.mT)), a, b, grad=True, **LIMITS)
    compare(lambda x: torch.cholesky_inverse(torch.linalg.cholesky(x @ x.mT)), a, grad=True, **LIMITS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inverse(dtype):
    for shape in ((0, 0), (1, 1), (2, 3, 4, 4), (60, 60)):
        compare(torch.linalg.inv_ex, regular(*shape, dtype=dtype), **LIMITS)
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        torch.linalg.inv(torch.ones(2, 2, dtype=dtype, device="mps"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cholesky_solutions(dtype):
    a = regular(2, 5, 5, dtype=dtype)
    b = sample(2, 5, 3, dtype=dtype)
    for upper in (False, True):
        factor = torch.linalg.cholesky(a @ a.mH, upper=upper)
        compare(lambda f, y: torch.cholesky_solve(y, f, upper=upper), factor, b, **LIMITS)  # noqa: B023
        compare(lambda f: torch.cholesky_inverse(f, upper=upper), factor, **LIMITS)  # noqa: B023


def test_determinants():
    for shape in ((0, 0), (1, 1), (3, 3), (2, 4, 4), (20, 20)):
        a = sample(*shape)
        compare(lambda x: (torch.linalg.det(x), torch.linalg.slogdet(x), torch.linalg.slogdet(x.mT)), a, **LIMITS)
    compare(torch.linalg.det, sample(2, 3, 3), grad=True, **LIMITS)
    compare(lambda x: torch.linalg.slogdet(x).logabsdet, sample(2, 3, 3), grad=True, **LIMITS)
    compare(torch.logdet, regular(3, 3), grad=True, **LIMITS)
    singular = torch.ones(3, 3)
    compare(lambda x: (torch.det(x), torch.slogdet(x)), singular)


def test_equations_between_tensors():
    compare(torch.linalg.tensorsolve, regular(6, 6).view(2, 3, 6), sample(2, 3), grad=True, **LIMITS)
    compare(lambda x: torch.linalg.tensorinv(x, ind=1), regular(6, 6).view(6, 2, 3), **LIMITS)
    compare(lambda x: torch.linalg.matrix_power(x, -3), regular(3, 3) / 2, grad=True, **LIMITS)


def eye(n, dtype=torch.float32):
    return torch.eye(n, dtype=dtype)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.linalg.solve_triangular(eye(3).to(d), eye(2).to(d), upper=True),
        lambda d: torch.linalg.solve_triangular(eye(3).half().to(d), eye(3).half().to(d), upper=True),
        lambda d: torch.linalg.solve(torch.zeros(3, 3).to(d), eye(3).to(d)),
        lambda d: torch.linalg.solve(eye(3).to(d), eye(2).to(d)),
        lambda d: torch.linalg.inv(torch.ones(2, 3).to(d)),
        lambda d: torch.cholesky_solve(eye(3).half().to(d), eye(3).half().to(d)),
        lambda d: torch.cholesky_inverse(torch.ones(2, 3).to(d)),
        lambda d: torch.linalg.det(torch.ones(2, 3).to(d)),
        lambda d: torch.linalg.det(eye(3).half().to(d)),
    ],
)
def test_errors(call):
    raised = []
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError) as info:
            call(device)
        raised.append(type(info.value))
    assert raised[0] is raised[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda a, pivots: torch.lu_unpack(a, pivots),
        lambda a, pivots: torch.linalg.lu_solve(a, pivots, a),
        lambda a, pivots: torch.linalg.ldl_solve(a, pivots, a),
    ],
)
@pytest.mark.parametrize("wrong", [0, 4, 1000000])
def test_pivots_that_are_no_rows(call, wrong):
    pivots = torch.tensor([1, wrong, 3], dtype=torch.int32)
    with pytest.raises(RuntimeError, match="must be between 1 and 3"):
        call(eye(3).to("mps"), pivots.to("mps"))
        torch.mps.synchronize()


def test_operands_elsewhere():
    a = eye(3)
    for call in (torch.linalg.solve, torch.linalg.lstsq, torch.cholesky_solve):
        for operands in ((a.to("mps"), a), (a, a.to("mps"))):
            with pytest.raises(RuntimeError, match="device"):
                call(*operands)
    for operands in ((a.to("mps"), a), (a, a.to("mps"))):
        with pytest.raises(RuntimeError, match="same device"):
            torch.linalg.solve_triangular(*operands, upper=True)
