"""Cholesky and LU factorisations."""

from __future__ import annotations

import torch

from portable_mps.dispatch.products import product
from portable_mps.dispatch.registry import implements
from portable_mps.ops.linalg import MOST_TURNS, MatrixKernel, check_dtype, check_square, stacked_in_place, structured
from portable_mps.ops.linalg_solve import interchange, substitute
from portable_mps.ops.shape import contiguous_out, finish

_cholesky = MatrixKernel("linalg_factor", "cholesky", 1, 2, 5)
_lu = MatrixKernel("linalg_factor", "lu", 1, 2, 5)
# Rows and columns of a matrix that one kernel factors; of larger ones, those of a panel. The rest of a large matrix is
# updated by a matrix product (Golub and Van Loan, "Matrix Computations", 4th edition, 3.2.11 and 4.2.9).
_WHOLE = 128
_PANEL = 32


def factor_cholesky(a: torch.Tensor, info: torch.Tensor) -> None:
    """a (batch, n, n) with zeros above the diagonal becomes L with A = L L^H. info (batch), int32: LAPACK's potrf's."""
    info.zero_()
    n = a.shape[-1]
    width = n if n <= _WHOLE else _PANEL
    for first in range(0, n, max(width, 1)):
        last = min(first + width, n)
        block = a[:, first:last, first:last]
        _cholesky((block,), (0, info), 0, (last - first, last - first, first, 0), width, (a, info))
        if last < n:
            below, rest = a[:, last:, first:last], a[:, last:, last:]
            # X L^H = B is conj(L) X^T = B^T.
            substitute(block, below.mT, upper=False, conjugated=True)
            product(below, below.mH, rest, rest, -1, 1)
    if width < n:
        a.tril_()


def factor_lu(a: torch.Tensor, pivots: torch.Tensor, info: torch.Tensor, pivot: bool = True) -> None:
    """a (batch, m, n) becomes L and U, pivots (batch, min(m, n)) and info (batch) are LAPACK's getrf's.

    Without `pivot` there are no interchanges.
    """
    info.zero_()
    m, n = a.shape[-2:]
    steps = pivots.shape[-1]
    width = steps if max(m, n) <= _WHOLE else min(_PANEL, max(1, MOST_TURNS // (m // 8 + 32)))
    for first in range(0, steps, max(width, 1)):
        last = min(first + width, steps)
        whole = width == steps
        panel = a[:, first:, first : n if whole else last]
        order = pivots[:, first:last]
        _lu((panel,), (order, info), steps, (m - first, panel.shape[-1], first, int(pivot)), m, (a, pivots, info))
        if whole:
            break
        if pivot:
            interchange(a[:, :, :first], order, first=first)
            interchange(a[:, :, last:], order, first=first)
        if last < n:
            row, rest = a[:, first:last, last:], a[:, last:, last:]
            substitute(a[:, first:last, first:last], row, upper=False, unit=True)
            product(a[:, last:, first:last], row, rest, rest, -1, 1)


@structured("linalg_cholesky_ex.L", "L", "info")
def linalg_cholesky_ex(
    self: torch.Tensor, *, upper: bool = False, check_errors: bool = False, L: torch.Tensor, info: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky's factor of each matrix, and in `info` the order of its first minor that is not positive, or 0."""
    check_dtype("cholesky_cpu", self)
    L.copy_(self.triu() if upper else self.tril())
    errors = contiguous_out(info, info.shape)
    with stacked_in_place(L) as factor:
        # U^T is the lower factor of A^T, which lies in memory as A's upper triangle does.
        factor_cholesky(factor.mT if upper else factor, errors)
    finish(info, errors)
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.cholesky_ex", is_matrix=self.dim() == 2)
    return L, info


@implements("cholesky")
def cholesky(self: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """Cholesky's factor; an error for a matrix that is not positive definite."""
    if self.numel() == 0:
        return torch.empty_like(self, memory_format=torch.contiguous_format)
    check_square("cholesky", self)
    check_dtype("cholesky_cpu", self)
    factor, info = torch.linalg.cholesky_ex(self, upper=upper)
    torch._linalg_check_errors(info, "cholesky", is_matrix=self.dim() == 2)
    return factor


@implements("linalg_lu_factor_ex")
def linalg_lu_factor_ex_new(
    A: torch.Tensor, *, pivot: bool = True, check_errors: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Column-major, as on the CPU and as compiled graphs expect it; torch's own for `mps` would be row-major."""
    LU, pivots, info = (torch.empty(0, dtype=dtype, device=A.device) for dtype in (A.dtype, torch.int32, torch.int32))
    if A.dim() >= 2:
        LU = torch.empty(A.mT.shape, dtype=A.dtype, device=A.device).mT
        pivots = pivots.new_empty((*A.shape[:-2], min(A.shape[-2:])))
        info = info.new_empty(A.shape[:-2])
    return torch.ops.aten.linalg_lu_factor_ex.out(
        A, pivot=pivot, check_errors=check_errors, LU=LU, pivots=pivots, info=info
    )


@structured("linalg_lu_factor_ex.out", "LU", "pivots", "info")
def linalg_lu_factor_ex(
    A: torch.Tensor,
    *,
    pivot: bool = True,
    check_errors: bool = False,
    LU: torch.Tensor,
    pivots: torch.Tensor,
    info: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LU factors in one matrix, pivots counted from 1, and in `info` the first pivot that is zero, or 0."""
    check_dtype("lu_cpu", A)
    LU.copy_(A)
    order, errors = contiguous_out(pivots, pivots.shape), contiguous_out(info, info.shape)
    with stacked_in_place(LU) as factor:
        factor_lu(factor, order.view(factor.shape[0], order.shape[-1]), errors, pivot)
    finish(pivots, order)
    finish(info, errors)
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.lu_factor_ex", is_matrix=A.dim() == 2)
    return LU, pivots, info
