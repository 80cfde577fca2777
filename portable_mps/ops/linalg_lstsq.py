"""Least squares, by QR for matrices of full rank and by singular values for all others."""

from __future__ import annotations

import torch

from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import castable, on_device
from portable_mps.ops.linalg import columns_copy, columns_empty, stack
from portable_mps.ops.linalg_qr import apply_q, factor_qr
from portable_mps.ops.linalg_solve import substitute
from portable_mps.ops.linalg_spectral import svd

_DRIVERS = ("gels", "gelsy", "gelsd", "gelss")
_NAME = "torch.linalg.lstsq"


def _by_qr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The x (batch, n, k) of least norm among those that minimise |a x - b|; a (batch, m, n) of full rank."""
    m, n = a.shape[-2:]
    wide = m < n
    factors = columns_copy(a.mH if wide else a)
    tau = a.new_empty((a.shape[0], min(m, n)))
    factor_qr(factors, tau)
    r = factors[:, : min(m, n)]
    x = columns_empty(b, b.shape[0], max(m, n), b.shape[-1])
    if wide:  # a = R^H Q^H
        x[:, m:] = 0
        x[:, :m] = b
        substitute(r, x[:, :m], upper=True, transposed=True, conjugated=True)
        apply_q(factors, tau, x)
    else:
        x.copy_(b)
        apply_q(factors, tau, x, adjoint=True)
        substitute(r, x[:, :n], upper=True)
    return x[:, :n]


def _by_svd(
    a: torch.Tensor, b: torch.Tensor, rcond: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`_by_qr` for any rank, with the ranks (batch), singular values (batch, min(m, n)) and errors (batch).

    Singular values of at most rcond times the largest count as zero.
    """
    wide = a.shape[-2] < a.shape[-1]
    info = torch.empty(a.shape[0], dtype=torch.int32, device=a.device)
    u, s, v = svd(a.mH.resolve_conj() if wide else a, True, False, info)
    if wide:
        u, v = v, u
    kept = s > rcond * s[:, :1]
    inverse = s.reciprocal().where(kept, 0).to(a.dtype)
    x = v @ (inverse.unsqueeze(-1) * (u.mH @ b))
    return x, kept.sum(-1), s, info


@implements("linalg_lstsq.out")
def linalg_lstsq_out(
    self: torch.Tensor,
    b: torch.Tensor,
    rcond: float | None = None,
    *,
    driver: str | None = None,
    solution: torch.Tensor,
    residuals: torch.Tensor,
    rank: torch.Tensor,
    singular_values: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The drivers gelsy, gelsd and gelss differ in what they return alone."""
    on_device(self, b)
    driver = driver or "gelsy"  # as on the CPU
    right = _checked_right_side(self, b, driver)
    vector = right is not b
    real = self.dtype.to_real()
    for out, dtype in ((solution, self.dtype), (residuals, real), (rank, torch.int64), (singular_values, real)):
        on_device(out)
        castable(out, dtype)

    batch, (m, n), count = self.shape[:-2], self.shape[-2:], right.shape[-1]
    smallest = min(m, n)
    if rcond is None:
        rcond = torch.finfo(self.dtype).eps * max(m, n)
    if self.numel() and right.numel():
        a, y = stack(self), stack(right)
        x, ranks, values = (_by_qr(a, y), None, None) if driver == "gels" else _solved_by_svd(a, y, rcond, self.dim())
    else:
        a, y = self.new_zeros((batch.numel(), m, n)), right.reshape(batch.numel(), m, count)
        x = right.new_zeros((batch.numel(), n, count))
        ranks = torch.zeros(batch.numel(), dtype=torch.int64, device=self.device)
        values = torch.zeros((batch.numel(), smallest), dtype=real, device=self.device)

    full = driver != "gelsy" and m > n and (ranks is None or bool((ranks == n).all()))
    rest = (a @ x - y).abs().square().sum(-2) if full else None
    nothing = (0,)
    results = (
        (solution, x, (*batch, n) if vector else (*batch, n, count)),
        (residuals, rest, (*batch, count) if full else nothing),
        (rank, None if driver == "gels" else ranks, nothing if driver == "gels" else batch),
        (singular_values, values, (*batch, smallest) if driver in ("gelsd", "gelss") else nothing),
    )
    for out, value, shape in results:
        torch._prims_common.wrappers._maybe_resize_out(out, torch.Size(shape))
        if value is not None and out.numel():
            out.copy_(value.reshape(shape))
    return solution, residuals, rank, singular_values


def _solved_by_svd(
    a: torch.Tensor, b: torch.Tensor, rcond: float, dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, ranks, values, info = _by_svd(a, b, rcond)
    torch._linalg_check_errors(info, _NAME, is_matrix=dim == 2)
    return x, ranks, values


def _checked_right_side(a: torch.Tensor, b: torch.Tensor, driver: str) -> torch.Tensor:
    """b with columns; RuntimeError in torch's words for what does not fit."""
    if a.dim() < 2:
        raise RuntimeError(f"{_NAME}: input must have at least 2 dimensions.")
    if b.dim() < 1:
        raise RuntimeError(f"{_NAME}: other must have at least 1 dimension.")
    if not 0 <= a.dim() - b.dim() <= 1:
        raise RuntimeError(
            f"{_NAME}: input.dim() must be greater or equal to other.dim() and (input.dim() - other.dim()) <= 1"
        )
    vector = a.dim() - 1 == b.dim() and b.shape == a.shape[:-1]
    right = b.unsqueeze(-1) if vector or b.dim() == 1 else b
    if a.shape[-2] != right.shape[-2]:
        raise RuntimeError(f"{_NAME}: input.size(-2) should match other.size({-1 if right is not b else -2})")
    if a.dtype != b.dtype:
        raise RuntimeError(f"{_NAME}: Expected input and other to have the same dtype, but got {a.dtype} and {b.dtype}")
    if driver not in _DRIVERS:
        raise RuntimeError(f"{_NAME}: parameter `driver` should be one of (gels, gelsy, gelsd, gelss)")
    if a.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        raise RuntimeError("This function doesn't handle types other than float and double")
    if right.shape[:-2] != a.shape[:-2]:
        raise RuntimeError(f"{_NAME}: the batches of input and other differ: {a.shape[:-2]} and {right.shape[:-2]}")
    return right
