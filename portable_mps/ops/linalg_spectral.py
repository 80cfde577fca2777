"""Eigenvalues of Hermitian matrices and singular values, with their vectors."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.ops.linalg import (
    MOST_TURNS,
    MatrixKernel,
    check_dtype,
    columns_copy,
    columns_empty,
    stack,
    structured,
    threads_for,
)
from portable_mps.ops.linalg_qr import apply_q, factor_qr, q_of

_diagonalize = MatrixKernel("linalg_spectral", "diagonalize", 2, 2, 7)
_find_round = MatrixKernel("linalg_spectral", "find_round", 2, 2, 7)
_rotate_round = MatrixKernel("linalg_spectral", "rotate_round", 2, 2, 7)
_orthogonalize = MatrixKernel("linalg_spectral", "orthogonalize", 2, 2, 7)
_SWEEPS = 30  # six to ten are enough for any matrix seen
_SMALL = 64  # columns of a matrix that one workgroup turns


def _rotate(a: torch.Tensor, hermitian: bool, vectors: bool, info: torch.Tensor) -> torch.Tensor:
    """Run Jacobi rotations on a (batch, m, n) in place; their product (batch, n, n), of no use unless `vectors`.

    a becomes diagonal if it is `hermitian`, else its columns orthogonal. info (batch): 1 where it did not converge.
    """
    batch, m, n = a.shape
    v = columns_empty(a, batch, n, n)
    if vectors:
        v.zero_().diagonal(dim1=-2, dim2=-1).fill_(1)
    pairs = (n + 1) // 2
    rounds = 2 * pairs - 1
    rotations = a.new_empty((batch, 3 * pairs))
    info.zero_()

    def run(kernel: MatrixKernel, start: int, stop: int, **blocks: Any) -> None:
        groups = 1 if not blocks else -(-pairs // (threads if "per_thread" in blocks else threads // rows))
        numbers = (m, n, int(vectors), start, stop, groups)
        kernel((a, v), (rotations, info), 3 * pairs, numbers, n, (a, v, rotations, info), **blocks)

    threads, rows = threads_for(n)
    if n <= _SMALL:
        turns = rounds * -(-pairs // (threads // rows)) * (4 * -(-m // rows) + 3 * rows.bit_length() + 2)
        sweeps = max(1, MOST_TURNS // turns)
        for sweep in range(0, _SWEEPS, sweeps):
            run(_diagonalize if hermitian else _orthogonalize, sweep * rounds, (sweep + sweeps) * rounds)
        return v
    for _ in range(_SWEEPS):
        info.zero_()
        for number in range(rounds):
            if hermitian:
                run(_find_round, number, number + 1, columns=pairs, per_thread=True)
                run(_rotate_round, number, number + 1, columns=pairs)
            else:
                run(_orthogonalize, number, number + 1, columns=pairs)
        if not info.any():
            break
    return v


def _largest(a: torch.Tensor) -> torch.Tensor:
    """The largest modulus in each matrix, (batch, 1, 1); 1 for a matrix of zeros."""
    largest = a.abs().amax((-2, -1), keepdim=True)
    return largest.where(largest != 0, 1)


def _not_finite(largest: torch.Tensor) -> torch.Tensor:
    return (~largest.isfinite()).int().view(-1)


def _take_columns(matrices: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return matrices.gather(-1, order.unsqueeze(-2).expand(matrices.shape))


def eigh(a: torch.Tensor, upper: bool, vectors: bool, info: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (batch, n), ascending, and eigenvectors (batch, n, n), of Hermitian matrices given by a triangle."""
    triangle = a.triu(1) if upper else a.tril(-1)
    work = columns_copy(triangle + triangle.mH)
    work.diagonal(dim1=-2, dim2=-1).copy_(a.diagonal(dim1=-2, dim2=-1).real)
    scale = _largest(work)
    work /= scale
    v = _rotate(work, True, vectors, info)
    info |= _not_finite(scale)
    values, order = work.diagonal(dim1=-2, dim2=-1).real.sort(-1)
    return values * scale.squeeze(-1), _take_columns(v, order) if vectors else v


def svd(
    a: torch.Tensor, vectors: bool, full: bool, info: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a (batch, m, n), m >= n: U (batch, m, m if full else n), S (batch, n), descending, V (batch, n, n)."""
    batch, m, n = a.shape
    scale = _largest(a)
    work = columns_copy(a / scale)
    tall = m > n  # QR first (Chan, "An improved algorithm for computing the singular value decomposition", 1982)
    if tall:
        reflections, tau = work, a.new_empty((batch, n))
        factor_qr(reflections, tau)
        work = columns_copy(reflections[:, :n].triu())
    v = _rotate(work, False, vectors, info)
    info |= _not_finite(scale)
    norms, order = torch.linalg.vector_norm(work, dim=-2).sort(-1, descending=True)
    s = norms * scale.squeeze(-1)
    if not vectors:
        return work, s, v
    # The columns are orthogonal: their QR factorisation makes them unit vectors, and those that are zero as well.
    work = _take_columns(work, order)
    work = columns_copy(work)
    sides = a.new_empty((batch, n))
    factor_qr(work, sides)
    sign = work.diagonal(dim1=-2, dim2=-1).real.sign()
    u = q_of(work, sides, n) * sign.where(sign != 0, 1).unsqueeze(-2)
    if tall:
        columns = m if full else n
        product = columns_empty(a, batch, m, columns).zero_()
        product.diagonal(dim1=-2, dim2=-1).fill_(1)
        product[:, :n, :n] = u
        apply_q(reflections, tau, product)
        u = product
    return u, s, _take_columns(v, order)


@structured("_linalg_eigh.eigenvalues", "eigenvalues", "eigenvectors")
def _linalg_eigh(
    A: torch.Tensor, UPLO: str = "L", compute_v: bool = True, *, eigenvalues: torch.Tensor, eigenvectors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    check_dtype("linalg_eigh_cpu", A)
    if A.numel():
        a = stack(A)
        info = torch.empty(a.shape[0], dtype=torch.int32, device=A.device)
        values, vectors = eigh(a, UPLO.upper() == "U", compute_v, info)
        eigenvalues.copy_(values.view(eigenvalues.shape))
        if compute_v:
            eigenvectors.copy_(vectors.view(A.shape))
        torch._linalg_check_errors(info, "linalg.eigh", is_matrix=A.dim() == 2)
    return eigenvalues, eigenvectors


@structured("_linalg_svd.U", "U", "S", "Vh")
def _linalg_svd(
    A: torch.Tensor,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: str | None = None,
    U: torch.Tensor,
    S: torch.Tensor,
    Vh: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if driver is not None:
        raise RuntimeError(
            "torch.linalg.svd: keyword argument `driver=` is only supported on CUDA inputs with cuSOLVER"
        )
    check_dtype("linalg_svd_cpu", A)
    if A.numel() == 0:
        for vectors in (U, Vh) if compute_uv else ():
            vectors.zero_().diagonal(dim1=-2, dim2=-1).fill_(1)
        return U, S, Vh
    wide = A.shape[-2] < A.shape[-1]
    a = stack(A)
    info = torch.empty(a.shape[0], dtype=torch.int32, device=A.device)
    u, s, v = svd(a.mH.resolve_conj() if wide else a, compute_uv, full_matrices, info)
    S.copy_(s.view(S.shape))
    if compute_uv:
        u, v = (v, u) if wide else (u, v)
        U.copy_(u.reshape(U.shape))
        Vh.copy_(v.mH.reshape(Vh.shape))
    torch._linalg_check_errors(info, "linalg.svd", is_matrix=A.dim() == 2)
    return U, S, Vh
