"""Cholesky and LU factorisations, and what is read off them: determinants."""

from __future__ import annotations

import torch

from portable_mps.dispatch.registry import implements
from portable_mps.ops.linalg import (
    MatrixKernel,
    check_dtype,
    check_square,
    stacked_in_place,
)

_cholesky = MatrixKernel("linalg_factor", "cholesky", 1, 2, 5)
_lu = MatrixKernel("linalg_factor", "lu", 1, 2, 5)


def factor_cholesky(a: torch.Tensor, info: torch.Tensor) -> None:
    """a (batch, n, n): the lower triangle becomes L with A = L L^H. info (batch), int32: LAPACK's potrf's."""
    info.zero_()
    n = a.shape[-1]
    _cholesky((a,), (0, info), 0, (n, n, 0, 0), n, (a, info))


@implements("linalg_cholesky_ex.L")
def linalg_cholesky_ex(
    self: torch.Tensor, *, upper: bool = False, check_errors: bool = False, L: torch.Tensor, info: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    check_dtype("cholesky_cpu", self)
    L.copy_(self.triu() if upper else self.tril())
    with stacked_in_place(L) as factor:
        # U^T is the lower factor of A^T, which lies in memory as A's upper triangle does.
        factor_cholesky(factor.mT if upper else factor, info)
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.cholesky_ex", is_matrix=self.dim() == 2)
    return L, info


@implements("cholesky")
def cholesky(self: torch.Tensor, upper: bool = False) -> torch.Tensor:
    if self.numel() == 0:
        return torch.empty_like(self, memory_format=torch.contiguous_format)
    check_square("cholesky", self)
    check_dtype("cholesky_cpu", self)
    factor, info = torch.linalg.cholesky_ex(self, upper=upper)
    torch._linalg_check_errors(info, "cholesky", is_matrix=self.dim() == 2)
    return factor


@implements("linalg_lu_factor_ex.out")
def linalg_lu_factor_ex(
    A: torch.Tensor,
    *,
    pivot: bool = True,
    check_errors: bool = False,
    LU: torch.Tensor,
    pivots: torch.Tensor,
    info: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    check_dtype("lu_cpu", A)
    LU.copy_(A)
    info.zero_()
    order = pivots if pivots.is_contiguous() else torch.empty_like(pivots, memory_format=torch.contiguous_format)
    m, n = A.shape[-2:]
    with stacked_in_place(LU) as factor:
        _lu((factor,), (order, info), min(m, n), (m, n, 0, int(pivot)), max(m, n), (factor, order, info))
    if order is not pivots:
        pivots.copy_(order)
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.lu_factor_ex", is_matrix=A.dim() == 2)
    return LU, pivots, info
