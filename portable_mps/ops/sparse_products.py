"""Products of matrices in compressed form with dense ones and with each other.

Compressed rows times a dense matrix, and dense products at the elements of a sparse matrix, are kernels; the rest is
in terms of those and of the coordinate form (ops/sparse.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.functionality import implements_for
from portable_mps.dispatch.launch import check_turns
from portable_mps.dispatch.promotion import summed_in
from portable_mps.dispatch.strided import Linear, dtype_defines, resized
from portable_mps.ops.matmul import check_inner
from portable_mps.ops.sparse import sparse_sparse_matmul
from portable_mps.ops.sparse_compressed import LAYOUT_NAMES, compressed, copied_into, elements, in_rows
from portable_mps.runtime import device

_REDUCTIONS = ("sum", "mean", "amax", "amin")
_multiply = Linear("sparse_products", "multiply", "QQQQQQQxxxxx")
_sampled = Linear("sparse_products", "sampled", "QQQQQQQxxxxx")


def _defines(values: torch.Tensor, indices: torch.Tensor) -> dict[str, Any]:
    types = dtype_defines("T", values.dtype, complex=True)
    index = dtype_defines("INDEX", indices.dtype)["INDEX"]
    return {**types, "INDEX": index, **({"COMPLEX": 1} if values.is_complex() else {})}


def _product(
    rows: torch.Tensor, dense: torch.Tensor, reduce: str = "sum", argument: torch.Tensor | None = None
) -> torch.Tensor:
    """A matrix in compressed rows (m, k) by a dense one (k, n), with another reduction than the sum where asked.

    argument, int64 (m, n), gets the element that each extremum came from, or their number for an empty row.
    """
    starts, columns = rows.crow_indices().contiguous(), rows.col_indices().contiguous()
    values, dense = rows.values().contiguous(), dense.contiguous()
    output = torch.empty((rows.size(0), dense.size(1)), dtype=dense.dtype, device=dense.device)
    if values.numel() > device.current().adapter.loop_limit:
        check_turns("mm", int(starts.diff().max()))
    arguments = (
        *(values, columns, starts, dense, None, output, argument),
        *(output.numel(), values.numel(), dense.size(0), dense.size(1), 0),
    )
    written = [output] if argument is None else [output, argument]
    defines = {**_defines(values, columns), "REDUCE": reduce.upper()}
    _multiply(output.numel(), arguments, [values, columns, starts, dense], written, **defines)
    return output


def _blended(product: torch.Tensor, added: torch.Tensor, beta: complex, alpha: complex) -> torch.Tensor:
    """beta * added + alpha * product; added broadcasts, and is not looked at where beta is 0."""
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product.add(added.expand(product.shape), alpha=beta)


def _check_shapes(mat1: torch.Tensor, mat2: torch.Tensor) -> None:
    if mat1.dim() != 2 or mat2.dim() != 2:
        raise RuntimeError(f"addmm: 2-D matrices expected, got {mat1.dim()}D and {mat2.dim()}D tensors")
    check_inner(mat1, mat2)


@implements_for("SparseCsr", "addmm.out")
def addmm_out(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    *,
    beta: complex = 1,
    alpha: complex = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """beta * self + alpha * mat1 @ mat2. The product of two sparse matrices is sparse, one with a dense one dense."""
    _check_shapes(mat1, mat2)
    if mat1.dtype != mat2.dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {mat1.dtype} != {mat2.dtype}")
    mat1, mat2 = mat1.resolve_conj(), mat2.resolve_conj()  # torch leaves that to products
    shape = (mat1.size(0), mat2.size(1))
    if mat1.layout != torch.strided and mat2.layout != torch.strided:
        if out.layout == torch.strided:
            raise RuntimeError(
                f"addmm: computation on MPS is not implemented for {LAYOUT_NAMES[out.layout]} + "
                f"{LAYOUT_NAMES[mat1.layout]} @ {LAYOUT_NAMES[mat2.layout]}"
            )
        product = sparse_sparse_matmul(mat1.to_sparse(), mat2.to_sparse()) * alpha
        if beta != 0:
            product = product.add(self.to_sparse(), alpha=beta).coalesce()
        return copied_into(out, product.to_sparse(layout=out.layout))
    if mat1.layout == torch.strided:
        product = _product(in_rows(mat2.transpose(0, 1)), mat1.transpose(0, 1)).transpose(0, 1)
    else:
        product = _product(in_rows(mat1), mat2)
    return resized(out, shape).copy_(_blended(product, self, beta, alpha))


@implements_for("SparseCsr", "addmv.out")
def addmv_out(
    self: torch.Tensor,
    mat: torch.Tensor,
    vec: torch.Tensor,
    *,
    beta: complex = 1,
    alpha: complex = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """beta * self + alpha * mat @ vec, mat in compressed form. RuntimeError for shapes that do not fit."""
    if mat.dim() != 2 or vec.dim() != 1 or mat.size(1) != vec.size(0):
        raise RuntimeError(f"size mismatch, got input ({mat.size(0)}), mat ({list(mat.shape)}), vec ({vec.size(0)})")
    product = _product(in_rows(mat), vec.resolve_conj().unsqueeze(1)).squeeze(1)
    return resized(out, product.shape).copy_(_blended(product, self, beta, alpha))


def _check_sampled(self: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor) -> None:
    def need(holds: bool, message: str) -> None:
        if not holds:
            raise RuntimeError(message)

    layout = "sampled_addmm: Expected {} to have {} layout, but got {}"
    need(self.layout == torch.sparse_csr, layout.format("result", "sparse csr", LAYOUT_NAMES[self.layout]))
    for name, tensor in (("mat1", mat1), ("mat2", mat2)):
        need(tensor.layout == torch.strided, layout.format(name, "strided", LAYOUT_NAMES[tensor.layout]))
    need(
        self.is_floating_point() or self.is_complex(),
        f"sparse_sampled_addmm: Expected self to be a floating-point or complex tensor, but got {self.dtype}",
    )
    dtypes = "sampled_addmm: Expected {} and {} to have the same dtype, but got {} and {}"
    need(mat1.dtype == mat2.dtype, dtypes.format("mat1", "mat2", mat1.dtype, mat2.dtype))
    need(mat1.dtype == self.dtype, dtypes.format("mat1", "self", mat1.dtype, self.dtype))
    need(mat1.dim() >= 2 and mat2.dim() >= 2, "sampled_addmm: Expected mat1 and mat2 to be matrices")
    batches = self.shape[:-2]
    for name, tensor in (("mat1", mat1), ("mat2", mat2)):
        need(tensor.shape[:-2] == batches, f"sampled_addmm: Expected self and {name} to have the same batch size")
    need(
        mat1.size(-1) == mat2.size(-2),
        "sampled_addmm: mat1 and mat2 shapes cannot be multiplied "
        f"({mat1.size(-2)}x{mat1.size(-1)} and {mat2.size(-2)}x{mat2.size(-1)})",
    )
    need(self.size(-2) == mat1.size(-2), "sampled_addmm: self.shape[-2] must match mat1.shape[-2]")
    need(self.size(-1) == mat2.size(-1), "sampled_addmm: self.shape[-1] must match mat2.shape[-1]")


def _samples(rows: torch.Tensor, columns: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The dot products of left's (m, k) rows with right's (n, k) that the indices name, [elements]."""
    left, right = left.contiguous(), right.contiguous()
    check_turns("sampled_addmm", left.size(1))
    output = torch.empty(rows.shape, dtype=left.dtype, device=left.device)
    arguments = (
        *(None, columns, rows, right, left, output, None),
        *(output.numel(), output.numel(), left.size(1), right.size(0), left.size(0)),
    )
    _sampled(output.numel(), arguments, [columns, rows, left, right], [output], **_defines(left, columns))
    return output


@implements_for("SparseCsr", "sparse_sampled_addmm")
def sampled_addmm(
    self: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, *, beta: complex = 1, alpha: complex = 1
) -> torch.Tensor:
    """beta * self + alpha * (mat1 @ mat2) at the elements of self; batches of matrices as one whose rows go on."""
    _check_sampled(self, mat1, mat2)
    rows, columns = elements(self)
    left, right = mat1.flatten(0, -2), mat2.mT.flatten(0, -2)
    matrix = rows.div(max(self.size(-2), 1), rounding_mode="floor")
    products = _samples(rows, matrix * self.size(-1) + columns, left, right)
    starts, indices = self.crow_indices().clone(), self.col_indices().clone()
    values = _blended(products.view(indices.shape), self.values(), beta, alpha)
    return compressed(starts, indices, values, self.shape, self.layout)


@implements_for("SparseCsr", "sparse_sampled_addmm.out")
def sampled_addmm_out(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    *,
    beta: complex = 1,
    alpha: complex = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """`sampled_addmm` into `out`."""
    return copied_into(out, sampled_addmm(self, mat1, mat2, beta=beta, alpha=alpha))


@implements_for("SparseCsr", "_sparse_mm_reduce_impl")
def mm_reduce(self: torch.Tensor, other: torch.Tensor, reduce: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The product with another reduction than the sum and, where autograd asks, which element each extremum is."""
    if self.layout != torch.sparse_csr:
        raise RuntimeError(f"sparse_mm_reduce: expect self to be SparseCsr, got {LAYOUT_NAMES[self.layout]}")
    if other.layout != torch.strided:
        raise RuntimeError(f"sparse_mm_reduce: expect other to be Strided, got {LAYOUT_NAMES[other.layout]}")
    if reduce not in _REDUCTIONS:
        raise RuntimeError(f"sparse_mm_reduce: reduce type of {reduce} has not been enabled.")
    if self.dtype != other.dtype:
        raise RuntimeError(
            f"Expected tensor for argument #1 'other' to have scalar type {self.dtype}; but got {other.dtype} instead "
            "(while checking arguments for sparse_mm_reduce)"
        )
    if other.dim() != 2 or other.size(0) != self.size(1):
        raise RuntimeError(
            f"Expected a tensor of dimension 2 and tensor.size[0] == {self.size(1)} but got: dimension {other.dim()} "
            f"and tensor.size[0] = {other.size(0)} (while checking arguments for sparse_mm_reduce)"
        )
    if not other.is_floating_point():
        raise NotImplementedError(f'"spmm_reduce_kernel" not implemented for {other.dtype}')
    argument = torch.empty(0, dtype=torch.int64, device=other.device)
    if reduce.startswith("a") and torch.is_grad_enabled() and (self.requires_grad or other.requires_grad):
        argument = argument.resize_((self.size(0), other.size(1)))
        return _product(self, other, reduce, argument), argument
    return _product(self, other, reduce), argument


@implements_for("SparseCsr", "_sparse_mm_reduce_impl_backward")
def mm_reduce_backward(
    self: torch.Tensor,
    grad_out: torch.Tensor,
    weight: torch.Tensor,
    reduce: str,
    arg_out: torch.Tensor,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of the values of self, as a tensor like it, and of the dense matrix."""
    (rows, columns), dtype = elements(self), weight.dtype
    values, grad_out, weight = (t.to(summed_in(dtype)) for t in (self.values(), grad_out, weight))
    grad_values = grad_weight = None
    if reduce in ("sum", "mean"):
        if reduce == "mean":
            grad_out = grad_out / self.crow_indices().diff().clamp_min(1).unsqueeze(1)
        if output_mask[0]:
            grad_values = _samples(rows, columns, grad_out, weight)
        if output_mask[1]:
            grad_weight = _product(in_rows(self.to(weight.dtype).transpose(0, 1)), grad_out)
    else:
        # Every result came from one element, or from none.
        found = arg_out < values.numel()
        chosen = torch.where(found, arg_out, 0)
        grad_out = torch.where(found, grad_out, 0)
        if output_mask[0]:
            products = grad_out * weight.gather(0, columns[chosen])
            grad_values = torch.zeros_like(values).index_add_(0, chosen.flatten(), products.flatten())
        if output_mask[1]:
            grad_weight = torch.zeros_like(weight).scatter_add_(0, columns[chosen], grad_out * values[chosen])
    if grad_weight is not None:
        grad_weight = grad_weight.to(dtype)
    if grad_values is None:
        return None, grad_weight
    like_self = self.crow_indices(), self.col_indices(), grad_values.to(dtype)
    return compressed(*like_self, self.shape, self.layout), grad_weight


@implements_for("SparseCsr", "triangular_solve.X")
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
    """By the dense matrix: rows of a triangular system wait for each other, which a GPU cannot hide."""
    solution = torch.triangular_solve(self, A.to_dense(), upper, transpose, unitriangular).solution
    return resized(X, solution.shape).copy_(solution), M
