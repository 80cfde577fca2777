"""QR factorisations by Householder reflections, products with their Q, and least squares by them."""

from __future__ import annotations

import torch

from portable_mps.dispatch.products import product
from portable_mps.dispatch.registry import implements
from portable_mps.ops.linalg import (
    MOST_TURNS,
    MatrixKernel,
    check_dtype,
    columns_copy,
    columns_empty,
    register_outputs,
    stack,
    stacked_in_place,
    structured,
)
from portable_mps.ops.linalg_solve import substitute

_factor = MatrixKernel("linalg_qr", "factor", 2, 1, 5)
_apply = MatrixKernel("linalg_qr", "apply", 2, 1, 5)
_WHOLE = 128  # rows and columns of a matrix that one kernel factors; larger ones go panel by panel
_PANEL = 16
_BLOCK = 64  # reflections of a larger matrix that are applied together
_BACKWARD, _CONJUGATE_TAU, _CONJUGATE_VECTORS = 1, 2, 4


def factor_qr(a: torch.Tensor, tau: torch.Tensor) -> None:
    """a (batch, m, n) becomes R and, below its diagonal, the vectors of the reflections; tau (batch, min(m, n))."""
    m, n = a.shape[-2:]
    steps = tau.shape[-1]
    width = steps if max(m, n) <= _WHOLE else max(1, min(_PANEL, MOST_TURNS // (m // 2)))
    for first in range(0, steps, max(width, 1)):
        last = min(first + width, steps)
        panel = a[:, first:, first : n if width == steps else last]
        scales = tau[:, first:last]
        numbers = (m - first, panel.shape[-1], last - first, 0)
        _factor((panel, panel), (scales,), tau.stride(0), numbers, m, (a, tau))
        if width < steps and last < n:
            apply_q(panel, scales, a[:, first:, last:], adjoint=True)


def apply_q(
    vectors: torch.Tensor, tau: torch.Tensor, c: torch.Tensor, left: bool = True, adjoint: bool = False
) -> None:
    """c := op(Q) c, or c op(Q), for Q = H_1 ... H_k of vectors (batch, m, >= k) and tau (batch, k)."""
    c = c if left else c.mT  # c Q is (Q^T c^T)^T
    m, n = c.shape[-2:]
    count = tau.shape[-1]
    transposed, conjugated = adjoint == left, adjoint
    if m > _WHOLE:
        blocks = range(0, count, _BLOCK)
        for first in blocks if transposed else reversed(blocks):
            last = min(first + _BLOCK, count)
            part = (vectors[:, first:, first:last], tau[:, first:last], c[:, first:])
            _apply_block(*part, transposed, conjugated, conjugate_vectors=not left)
        return
    flags = _BACKWARD * (not transposed) | _CONJUGATE_TAU * conjugated | _CONJUGATE_VECTORS * (not left)
    if tau.stride(-1) != 1:
        tau = tau.contiguous()
    _apply((vectors, c), (tau,), tau.stride(0), (m, n, count, flags), m, (c,), columns=n)


def _apply_block(
    vectors: torch.Tensor,
    tau: torch.Tensor,
    c: torch.Tensor,
    transposed: bool,
    conjugated: bool,
    conjugate_vectors: bool,
) -> None:
    """c := (I - V op(T) V^H) c by matrix products, T transposed and conjugated as told.

    Schreiber and Van Loan, "A storage-efficient WY representation for products of Householder transformations", 1989,
    with T = D (1 + U D)^-1 for D of tau and U of V^H V above its diagonal (Puglisi's form, which takes a tau of zero).
    """
    count = tau.shape[-1]
    v = vectors.tril(-1)
    v.diagonal(dim1=-2, dim2=-1).fill_(1)
    gram = v.new_empty((v.shape[0], count, count))
    product(v.mH, v, gram)
    gram = gram.triu(1) * tau.unsqueeze(-2)
    scale = (tau.conj() if conjugated else tau).unsqueeze(-1)
    v = v.conj() if conjugate_vectors else v
    w = columns_empty(c, c.shape[0], count, c.shape[-1])
    product(v.mH, c, w)
    if transposed:
        w *= scale
    substitute(gram, w, upper=True, unit=True, transposed=transposed, conjugated=conjugated)
    if not transposed:
        w *= scale
    product(v, w, c, c, -1, 1)


def q_of(vectors: torch.Tensor, tau: torch.Tensor, columns: int) -> torch.Tensor:
    """The first columns of Q, (batch, m, columns)."""
    q = columns_empty(vectors, *vectors.shape[:-1], columns).zero_()
    q.diagonal(dim1=-2, dim2=-1).fill_(1)
    apply_q(vectors, tau, q)
    return q


@implements("geqrf")
def geqrf(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Householder's vectors with R above them, and their factors tau. RuntimeError for fewer than two dimensions."""
    if self.dim() < 2:
        raise RuntimeError("torch.geqrf: input must have at least 2 dimensions.")
    check_dtype("geqrf_cpu", self)
    a = columns_copy(self)
    tau = self.new_empty((*self.shape[:-2], min(self.shape[-2:])))
    with stacked_in_place(a) as factor:
        factor_qr(factor, tau.view(factor.shape[0], tau.shape[-1]))
    return a, tau


@structured("linalg_qr.out", "Q", "R")
def linalg_qr(
    A: torch.Tensor, mode: str = "reduced", *, Q: torch.Tensor, R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and R; `mode` "reduced", "complete" or "r"."""
    a, tau = geqrf(A)
    R.copy_(a[..., : R.shape[-2], :].triu())
    if mode != "r":
        vectors = stack(a)
        q = q_of(vectors, tau.view(vectors.shape[0], tau.shape[-1]), Q.shape[-1])
        Q.copy_(q.view(Q.shape) if q.numel() else q.reshape(Q.shape))
    return Q, R


@implements("linalg_householder_product")
def linalg_householder_product(input: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """The first columns of the product of Householder's reflections."""
    from torch import _meta_registrations as checks  # here, for not every version of torch has loaded it

    result = checks.linalg_householder_product(input, tau)
    check_dtype("orgqr_cpu", input)
    vectors = stack(input)
    q = q_of(vectors, tau.reshape(vectors.shape[0], tau.shape[-1]), input.shape[-1])
    return result.copy_(q.reshape(input.shape))


@implements("ormqr")
def ormqr(
    self: torch.Tensor, input2: torch.Tensor, input3: torch.Tensor, left: bool = True, transpose: bool = False
) -> torch.Tensor:
    """The product of a matrix with that of Householder's reflections, from the left or right."""
    from torch import _meta_registrations as checks

    side = -2 if left else -1
    matrices = min(self.dim(), input3.dim()) >= 2 and input2.dim() >= 1
    if matrices and input2.shape[-1] != min(input3.shape[side], self.shape[-1]):
        raise RuntimeError(f"torch.ormqr: tau.shape[-1] must be equal to min(other.shape[{side}], input.shape[-1])")
    checks.ormqr(self, input2, input3, left, transpose)
    check_dtype("ormqr_cpu", self)
    result = columns_copy(input3)
    vectors = stack(self)
    with stacked_in_place(result) as c:
        apply_q(vectors, input2.reshape(vectors.shape[0], input2.shape[-1]), c, left, adjoint=transpose)
    return result


register_outputs("geqrf.a", geqrf, "a", "tau")
register_outputs("linalg_householder_product.out", linalg_householder_product, "out")
register_outputs("ormqr.out", ormqr, "out", casts=False)
