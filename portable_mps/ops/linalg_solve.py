"""Systems of linear equations by substitution in the factors of Cholesky and LU; inverses and determinants."""

from __future__ import annotations

import sys

import torch

from portable_mps.dispatch.checks import raise_where
from portable_mps.dispatch.products import product
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import on_device, written
from portable_mps.ops.linalg import (
    MOST_TURNS,
    MatrixKernel,
    check_dtype,
    check_square,
    columns_copy,
    columns_empty,
    register_outputs,
    resize_columns,
    stack,
    stacked_in_place,
    structured,
)

_triangular = MatrixKernel("linalg_solve", "triangular", 2, 1, 6)
_interchange = MatrixKernel("linalg_solve", "interchange", 2, 1, 6)
_UPPER, _UNIT, _CONJUGATE, _BACKWARD = 1, 2, 4, 8
_WHOLE = 64  # equations that one kernel solves; more are split, so that most of the work is matrix products


def substitute(
    a: torch.Tensor,
    b: torch.Tensor,
    upper: bool,
    unit: bool = False,
    transposed: bool = False,
    conjugated: bool = False,
) -> None:
    """b (batch, n, k) := op(a)^-1 b for triangular a (batch, n, n), of which only its triangle is read.

    op transposes and conjugates as it is told; `upper` is said of `a` itself, `unit`: its diagonal counts as ones.
    """
    if transposed:
        a, upper = a.mT, not upper
    n, width = b.shape[-2:]
    if n <= _WHOLE:
        flags = _UPPER * upper | _UNIT * unit | _CONJUGATE * conjugated
        _triangular((a, b), (0,), 0, (n, width, 0, 0, flags), n, (b,), columns=width)
        return
    half = n // 2
    top, bottom = slice(0, half), slice(half, n)
    first, second = (bottom, top) if upper else (top, bottom)
    substitute(a[:, first, first], b[:, first], upper, unit, conjugated=conjugated)
    coupling = a[:, second, first]
    product(coupling.conj() if conjugated else coupling, b[:, first], b[:, second], b[:, second], -1, 1)
    substitute(a[:, second, second], b[:, second], upper, unit, conjugated=conjugated)


def interchange(b: torch.Tensor, pivots: torch.Tensor, backward: bool = False, first: int = 0) -> None:
    """Interchange rows first + k and pivots[k] - 1 of b (batch, m, k), in order or backward. pivots (batch, count)."""
    m, width = b.shape[-2:]
    if pivots.stride(-1) != 1:
        pivots = pivots.contiguous()
    parts = range(0, pivots.shape[-1], MOST_TURNS)
    for start in reversed(parts) if backward else parts:
        part = pivots[:, start : start + MOST_TURNS]
        numbers = (m, width, part.shape[-1], first + start, _BACKWARD * backward)
        _interchange((b, b), (part,), pivots.stride(0), numbers, width, (b,), columns=width, per_thread=True)


def substitute_factors(
    lu: torch.Tensor, pivots: torch.Tensor, b: torch.Tensor, transposed: bool, conjugated: bool
) -> None:
    """b (batch, n, k) := op(P L U)^-1 b, where op transposes and conjugates as it is told."""
    steps = [
        lambda: interchange(b, pivots, backward=transposed),
        lambda: substitute(lu, b, upper=False, unit=True, transposed=transposed, conjugated=conjugated),
        lambda: substitute(lu, b, upper=True, transposed=transposed, conjugated=conjugated),
    ]
    for step in reversed(steps) if transposed else steps:
        step()


def _check_solver(name: str, a: torch.Tensor, b: torch.Tensor, left: bool) -> None:
    check_square(name, a)
    if b.dim() < 2:
        raise RuntimeError(f"{name}: The input tensor B must have at least 2 dimensions.")
    if a.shape[-2] != b.shape[-2 if left else -1]:
        shapes = f"{a.shape[-2]}x{a.shape[-1]} and {b.shape[-2]}x{b.shape[-1]}"
        equation = "AX = B" if left else "XA = B"
        raise RuntimeError(f"{name}: Incompatible shapes of A and B for the equation {equation} ({shapes})")


@implements("linalg_solve_triangular.out")
def linalg_solve_triangular_out(
    self: torch.Tensor,
    B: torch.Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """The solution of triangular systems A X = B or, without `left`, X A = B."""
    on_device(self, B)
    _check_solver("linalg.solve_triangular", self, B, left)
    check_dtype("triangular_solve_cpu", self)
    written(out, self.dtype)
    batch = torch.broadcast_shapes(self.shape[:-2], B.shape[:-2])
    resize_columns(out, (*batch, *B.shape[-2:])).copy_(B)
    a = stack(self.expand(*batch, *self.shape[-2:]))
    with stacked_in_place(out) as x:
        if left:
            substitute(a, x, upper, unitriangular)
        else:  # X A = B is A^T X^T = B^T
            substitute(a, x.mT, upper, unitriangular, transposed=True)
    return out


@implements("linalg_solve_triangular")
def linalg_solve_triangular(
    self: torch.Tensor, B: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> torch.Tensor:
    """`linalg_solve_triangular_out` into a new tensor."""
    out = self.new_empty(0)
    return linalg_solve_triangular_out(self, B, upper=upper, left=left, unitriangular=unitriangular, out=out)


@structured("triangular_solve.X", "X", "M")
def triangular_solve(
    self: torch.Tensor,
    A: torch.Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
    *,
    X: torch.Tensor,
    M: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The solution of triangular systems, and a copy of A."""
    check_dtype("triangular_solve_cpu", self)
    for out, source in ((X, self), (M, A)):
        if 0 in X.shape[:-1] and 0 in M.shape:  # LAPACK's order, which the CPU gives to no elements, too
            out.as_strided_(out.shape, columns_empty(out, *out.shape).stride())
        out.copy_(source)
    with stacked_in_place(X) as x:
        substitute(stack(M), x, upper, unitriangular, transposed=transpose)
    return X, M


# torch 2.13 registers a reference for this device, a loop over the pivots in Python; a second registration would warn.
_reference = getattr(sys.modules.get("torch._refs.linalg"), "mps_lib", None)
if _reference is not None:
    _reference._destroy()


@structured("linalg_lu_solve.out", "out")
def linalg_lu_solve(
    LU: torch.Tensor,
    pivots: torch.Tensor,
    B: torch.Tensor,
    *,
    left: bool = True,
    adjoint: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """The solution of systems whose LU factors are given."""
    if B.numel():
        check_dtype("linalg.lu_solve_cpu", LU)
    check_pivots(pivots, LU.shape[-2], "lu_solve")
    solve_with_factors(LU, pivots, B, left, adjoint, out)
    return out


def check_pivots(pivots: torch.Tensor, rows: int, name: str) -> None:
    """Raise at the next synchronisation for pivots that are no number of a row, from 1 on; negative ones count as such
    for ldl_solve."""
    numbers = pivots.abs() if name == "ldl_solve" else pivots
    message = (
        f"Pivots given to {name} must be between 1 and {rows}. Did you properly pass the result of the factorization?"
    )
    raise_where((numbers < 1) | (numbers > rows), message)


def solve_with_factors(
    LU: torch.Tensor, pivots: torch.Tensor, B: torch.Tensor, left: bool, adjoint: bool, out: torch.Tensor
) -> None:
    """`linalg_lu_solve` for pivots that are known to be right."""
    batch = out.shape[:-2]
    lu = stack(LU.expand(*batch, *LU.shape[-2:]))
    order = pivots.expand(*batch, pivots.shape[-1]).reshape(lu.shape[0], -1) if lu.numel() else pivots
    out.copy_(B)
    if out.numel() == 0:
        return
    with stacked_in_place(out) as x:
        if left:
            substitute_factors(lu, order, x, transposed=adjoint, conjugated=adjoint)
        else:  # X A = B is A^T X^T = B^T
            substitute_factors(lu, order, x.mT, transposed=not adjoint, conjugated=adjoint)


def _factored_as_transpose(a: torch.Tensor) -> bool:
    """Whether torch factors A^T in place of A: it lies column by column already. Its gradients count on that."""
    return a.is_contiguous() and not a.is_complex()


@structured("_linalg_solve_ex.result", "result", "LU", "pivots", "info")
def _linalg_solve_ex(
    A: torch.Tensor,
    B: torch.Tensor,
    *,
    left: bool = True,
    check_errors: bool = False,
    result: torch.Tensor,
    LU: torch.Tensor,
    pivots: torch.Tensor,
    info: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    # A itself, never A^T as on the CPU: torch's gradient for this device counts on it.
    torch.ops.aten.linalg_lu_factor_ex.out(A, LU=LU, pivots=pivots, info=info)
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.solve_ex", is_matrix=A.dim() == 2)
    vector = B.dim() == 1 or (A.dim() - 1 == B.dim() and B.shape == A.shape[:-1])
    right, x = (B.unsqueeze(-1), result.unsqueeze(-1)) if vector else (B, result)
    solve_with_factors(LU, pivots, right, left, False, x)
    return result, LU, pivots, info


@structured("linalg_inv_ex.inverse", "inverse", "info")
def linalg_inv_ex(
    A: torch.Tensor, *, check_errors: bool = False, inverse: torch.Tensor, info: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of each matrix, and in `info` the first pivot that is zero, or 0."""
    lu, pivots, _ = torch.ops.aten.linalg_lu_factor_ex.out(
        A, LU=columns_empty(A, *A.shape), pivots=info.new_empty(A.shape[:-1]), info=info
    )
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.inv_ex", is_matrix=A.dim() == 2)
    solve_with_factors(lu, pivots, _identity(A), True, False, inverse)
    return inverse, info


def _identity(like: torch.Tensor) -> torch.Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand(like.shape)


def _sign_of_permutation(pivots: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """1 or -1 for each of the batch: the parity of the interchanges that are none of a row with itself."""
    own = torch.arange(1, pivots.shape[-1] + 1, dtype=pivots.dtype, device=pivots.device)
    return (1 - 2 * ((pivots != own).sum(-1) % 2)).to(dtype)


@structured("_linalg_det.result", "result", "LU", "pivots")
def _linalg_det(
    A: torch.Tensor, *, result: torch.Tensor, LU: torch.Tensor, pivots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    info = pivots.new_empty(A.shape[:-2])
    torch.ops.aten.linalg_lu_factor_ex.out(A.mT if _factored_as_transpose(A) else A, LU=LU, pivots=pivots, info=info)
    result.copy_(LU.diagonal(dim1=-2, dim2=-1).prod(-1) * _sign_of_permutation(pivots, LU.dtype))
    return result, LU, pivots


@structured("_linalg_slogdet.sign", "sign", "logabsdet", "LU", "pivots")
def _linalg_slogdet(
    A: torch.Tensor, *, sign: torch.Tensor, logabsdet: torch.Tensor, LU: torch.Tensor, pivots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    info = pivots.new_empty(A.shape[:-2])
    torch.ops.aten.linalg_lu_factor_ex.out(A.mT if _factored_as_transpose(A) else A, LU=LU, pivots=pivots, info=info)
    diagonal = LU.diagonal(dim1=-2, dim2=-1)
    sign.copy_(diagonal.sgn().prod(-1) * _sign_of_permutation(pivots, LU.dtype))
    logabsdet.copy_(diagonal.abs().log().sum(-1))
    return sign, logabsdet, LU, pivots


@structured("lu_unpack.out", "P", "L", "U")
def lu_unpack(
    LU_data: torch.Tensor,
    LU_pivots: torch.Tensor,
    unpack_data: bool = True,
    unpack_pivots: bool = True,
    *,
    P: torch.Tensor,
    L: torch.Tensor,
    U: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """P, L and U of factors in one matrix."""
    m, n = LU_data.shape[-2:]
    k = min(m, n)
    if unpack_data:
        L.copy_(LU_data[..., :k].tril(-1))
        L.diagonal(dim1=-2, dim2=-1).fill_(1)
        U.copy_(LU_data[..., :k, :].triu())
    if unpack_pivots and P.numel():
        check_pivots(LU_pivots, m, "lu_unpack")
        # In float32, for LU_data may be of integers.
        rows = torch.eye(m, device=P.device).expand(P.shape).contiguous()
        interchange(rows.view(-1, m, m), LU_pivots.reshape(-1, k), backward=True)
        P.copy_(rows)
    return P, L, U


@structured("linalg_lu.out", "P", "L", "U")
def linalg_lu(
    A: torch.Tensor, *, pivot: bool = True, P: torch.Tensor, L: torch.Tensor, U: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """P, L and U of each matrix."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(A, pivot=pivot)
    return lu_unpack(lu, pivots, unpack_pivots=pivot, P=P, L=L, U=U)


def _substitute_cholesky(factor: torch.Tensor, b: torch.Tensor, upper: bool) -> None:
    """b (batch, n, k) := (L L^H)^-1 b, or (U^H U)^-1 b."""
    substitute(factor, b, upper, transposed=upper, conjugated=upper)
    substitute(factor, b, upper, transposed=not upper, conjugated=not upper)


@implements("_cholesky_solve_helper")
def _cholesky_solve_helper(self: torch.Tensor, A: torch.Tensor, upper: bool) -> torch.Tensor:
    on_device(self, A)
    check_dtype("cholesky_solve_cpu", self)
    result = columns_copy(self)
    with stacked_in_place(result) as x:
        _substitute_cholesky(stack(A), x, upper)
    return result


@implements("cholesky_inverse")
def cholesky_inverse(self: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """The inverse of a matrix whose factor by Cholesky is given."""
    check_square("cholesky_inverse", self)
    check_dtype("cholesky_inverse_out_cpu", self)
    result = columns_copy(_identity(self))
    with stacked_in_place(result) as x:
        _substitute_cholesky(stack(self), x, upper)
    return result


register_outputs("cholesky_inverse.out", cholesky_inverse, "out")
