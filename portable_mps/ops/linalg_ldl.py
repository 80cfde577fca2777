"""Factorisations of symmetric and Hermitian indefinite matrices, and systems solved with them."""

from __future__ import annotations

import torch

from portable_mps.ops.linalg import (
    MOST_TURNS,
    MatrixKernel,
    check_dtype,
    columns_copy,
    stack,
    stacked_in_place,
    structured,
)
from portable_mps.ops.linalg_solve import check_pivots, interchange, substitute
from portable_mps.ops.shape import contiguous_out, finish

_factor = MatrixKernel("linalg_ldl", "factor", 1, 3, 4)
_convert = MatrixKernel("linalg_ldl", "convert", 1, 3, 4)


def factor_ldl(a: torch.Tensor, hermitian: bool, pivots: torch.Tensor, info: torch.Tensor) -> None:
    """The lower triangle of a (batch, n, n) becomes L and D; pivots (batch, n), info (batch): LAPACK's sytrf's."""
    info.zero_()
    n = a.shape[-1]
    following = torch.zeros_like(info)
    width = max(1, MOST_TURNS // (n * n // 200 + n // 16 + 50))
    for first in range(0, n, width):
        numbers = (n, min(first + width, n), int(hermitian))
        _factor((a,), (pivots, info, following), n, numbers, n, (a, pivots, info, following))


@structured("linalg_ldl_factor_ex.out", "LD", "pivots", "info")
def linalg_ldl_factor_ex(
    self: torch.Tensor,
    *,
    hermitian: bool = False,
    check_errors: bool = False,
    LD: torch.Tensor,
    pivots: torch.Tensor,
    info: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LDL factors of symmetric or, with `hermitian`, Hermitian matrices, pivots and `info`."""
    check_dtype("ldl_factor_kernel_cpu", self)
    LD.copy_(self.tril())
    order, errors = contiguous_out(pivots, pivots.shape), contiguous_out(info, info.shape)
    with stacked_in_place(LD) as factor:
        factor_ldl(factor, hermitian and self.is_complex(), order.view(factor.shape[:2]), errors)
    finish(pivots, order)
    finish(info, errors)
    if check_errors:
        torch._linalg_check_errors(info, "torch.linalg.ldl_factor_ex", is_matrix=self.dim() == 2)
    return LD, pivots, info


def _solve_blocks(
    diagonal: torch.Tensor, below: torch.Tensor, starts: torch.Tensor, seconds: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """D^-1 y for blocks of one or two rows. diagonal (batch, n), below (batch, n): the element under the diagonal of a
    block that starts there; its mirror image is already under `seconds`. starts, seconds (batch, n): boolean."""
    n = y.shape[-2]
    partner = (torch.arange(n, device=y.device) + starts.long() - seconds.long()).unsqueeze(-1)
    other = diagonal.gather(-1, partner.squeeze(-1))
    pair = starts | seconds
    mirror = below.gather(-1, partner.squeeze(-1))
    divisor = torch.where(pair, diagonal * other - below * mirror, diagonal).unsqueeze(-1)
    scaled = torch.where(pair, other, 1).unsqueeze(-1) * y
    coupled = torch.where(pair, mirror, 0).unsqueeze(-1) * y.gather(-2, partner.expand(y.shape))
    return (scaled - coupled) / divisor


@structured("linalg_ldl_solve.out", "out")
def linalg_ldl_solve(
    LD: torch.Tensor, pivots: torch.Tensor, B: torch.Tensor, *, hermitian: bool = False, out: torch.Tensor
) -> torch.Tensor:
    """The solution of systems whose factors are LD."""
    check_dtype("ldl_solve_kernel_cpu", LD)
    check_pivots(pivots, LD.shape[-1], "ldl_solve")
    out.copy_(B)
    if out.numel() == 0:
        return out
    conjugated = hermitian and LD.is_complex()
    batch, n = out.shape[:-2], LD.shape[-1]
    ld = stack(LD.expand(*batch, n, n))
    codes = pivots.expand(*batch, n).reshape(ld.shape[:2]).contiguous()  # what follows has its strides
    two = codes < 0
    starts = two & (two.cumsum(-1) % 2 == 1)
    seconds = two & ~starts
    own = torch.arange(1, n + 1, dtype=codes.dtype, device=codes.device)
    order = torch.where(starts, own, codes.abs())

    lower = columns_copy(ld.tril(-1))
    under = torch.nn.functional.pad(ld.diagonal(-1, -2, -1), (0, 1))
    under = torch.where(starts, under, 0)
    lower.diagonal(-1, -2, -1).masked_fill_(starts[:, :-1], 0)
    _convert((lower,), (order, starts.int(), 0), n, (n, n, 0), n, (lower,), columns=n, per_thread=True)
    image = torch.nn.functional.pad(under, (1, 0))[:, :-1]
    under = under + (image.conj() if conjugated else image)
    diagonal = ld.diagonal(0, -2, -1)

    with stacked_in_place(out) as x:
        interchange(x, order)
        substitute(lower, x, upper=False, unit=True)
        x.copy_(_solve_blocks(diagonal, under, starts, seconds, x))
        substitute(lower, x, upper=False, unit=True, transposed=True, conjugated=conjugated)
        interchange(x, order, backward=True)
    return out
