"""Sparse tensors in coordinate form: building, coalescing, sums, products with dense tensors and with each other.

Most of torch's kernels for them are taken as they are (dispatch/functionality.py). The rest is here, in terms of
sorting, indexing and sums over indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from portable_mps.dispatch.functionality import implements_for, take, take_for_dense
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import resized, wrapped_dim
from portable_mps.ops.matmul import check_inner

_STRUCTURE = """
_coalesced_ _dimI _dimV _indices _nnz _values dense_dim indices is_coalesced sparse_dim values
_sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors empty.memory_format empty_like
sparse_resize_ sparse_resize_and_clear_ resize_as_sparse_ copy_ copy_sparse_to_sparse_ clone zero_ zeros.out
_to_dense _to_sparse _to_sparse.sparse_dim _to_sparse_bsr _to_sparse_bsc
_sparse_broadcast_to permute unsqueeze narrow_copy cat
sum sum.dim_IntList any norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype native_norm native_norm.ScalarOpt_dim_dtype
add.Tensor add_.Tensor sub.Tensor sub_.Tensor sub.out mul.Tensor mul_.Tensor div.Tensor div_.Tensor div.out
div.Tensor_mode div_.Tensor_mode div.out_mode floor_divide floor_divide.out floor_divide_.Tensor
pow.Tensor_Scalar pow.Tensor_Scalar_out mm mm.out mv nan_to_num nan_to_num.out nan_to_num_ isinf isnan relu relu_
view_as_complex view_as_real conj_physical.out threshold_backward threshold_backward.grad_input
"""
_FUNCTIONS = """
abs asin asinh atan atanh ceil deg2rad erf erfinv expm1 floor frac log1p neg rad2deg round sgn sign sin sinh sqrt tan
tanh trunc
"""
_TRUTHS = "isneginf isposinf signbit"
_TAKEN = {
    *_STRUCTURE.split(),
    *(form for f in _FUNCTIONS.split() for form in (f, f"{f}.out", f"{f}_")),
    *(form for f in _TRUTHS.split() for form in (f, f"{f}.out")),
}
take("Sparse", _TAKEN)
take_for_dense(("_to_sparse", "_to_sparse.sparse_dim"))


# Indices as places in a flattened tensor ------------------------------------------------------------------------------

_CHUNK = 1 << 26  # elements of a product that are in memory at a time


def _places(sparse: torch.Tensor, dims: Sequence[int] | None = None) -> torch.Tensor:
    """int64 [nnz]: where each element is among the sparse dimensions, or these of them, flattened."""
    indices = sparse._indices()
    chosen = list(range(sparse.sparse_dim())) if dims is None else list(dims)
    places = torch.zeros(indices.size(1), dtype=torch.int64, device=sparse.device)
    for d in chosen:
        places = places * sparse.size(d) + indices[d]
    return places


def _indices(places: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """int64 [dims, n]: the inverse of `_places`."""
    rows = []
    for size in reversed(sizes):
        rows.append(places % max(size, 1))
        places = places.div(max(size, 1), rounding_mode="floor")
    if not rows:
        return places.new_empty((0, places.numel()))
    return torch.stack(rows[::-1])


def _sparse(
    indices: torch.Tensor, values: torch.Tensor, shape: Sequence[int], coalesced: bool | None = None
) -> torch.Tensor:
    dims = indices.size(0)
    return torch.ops.aten._sparse_coo_tensor_with_dims_and_tensors(
        dims,
        len(shape) - dims,
        list(shape),
        indices,
        values,
        dtype=values.dtype,
        layout=torch.sparse_coo,
        device=values.device,
        is_coalesced=coalesced,
    )


def _flattened(dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
    """A dense tensor of sparse's shape with the sparse dimensions made one."""
    dims = sparse.sparse_dim()
    return dense.reshape(math.prod(sparse.shape[:dims]), *sparse.shape[dims:])


def _found(places: torch.Tensor, among: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each place its position in a sorted vector, and whether it is there."""
    if among.numel() == 0:
        return torch.zeros_like(places), torch.zeros_like(places, dtype=torch.bool)
    at = torch.searchsorted(among, places).clamp_max(among.numel() - 1)
    return at, among[at] == places


def _over_values(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """[nnz] to broadcast against values [nnz, …]."""
    return mask.reshape(-1, *(1,) * (values.dim() - 1))


def _into(out: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.copy_sparse_to_sparse_(out, result, False)


def _same_shape(name: str, self: torch.Tensor, other: torch.Tensor) -> None:
    if self.shape != other.shape:
        raise RuntimeError(
            f"{name}: expected 'self' and 'other' to have same size, but self has size {list(self.shape)} while other "
            f"has size {list(other.shape)}"
        )


@implements_for("Sparse", "_coalesce")
def coalesce(self: torch.Tensor) -> torch.Tensor:
    """Sorted indices, each once, with the sum of their values."""
    if self._nnz() < 2:
        return self.clone()._coalesced_(True)
    places, order = _places(self).sort(stable=True)
    kept, group = torch.unique_consecutive(places, return_inverse=True)
    values = self._values().index_select(0, order)
    summed = torch.zeros((kept.numel(), *values.shape[1:]), dtype=values.dtype, device=values.device)
    summed.index_add_(0, group, values)
    return _sparse(_indices(kept, self.shape[: self.sparse_dim()]), summed, self.shape, True)


# Elementwise ----------------------------------------------------------------------------------------------------------


@implements_for("Sparse", "add.out")
def add_out(self: torch.Tensor, other: torch.Tensor, *, alpha: complex = 1, out: torch.Tensor) -> torch.Tensor:
    """self + alpha * other."""
    if not (isinstance(self, torch.Tensor) and isinstance(other, torch.Tensor)):  # a Python number arrives as it is
        raise RuntimeError("add(sparse, dense) is not supported. Use add(dense, sparse) instead.")
    if self.is_sparse and not other.is_sparse:
        raise RuntimeError("add(sparse, dense) is not supported. Use add(dense, sparse) instead.")
    _same_shape("add", self, other)
    dtype = torch.result_type(self, other)
    if not torch.can_cast(dtype, out.dtype):
        raise RuntimeError(f"result type {dtype} can't be cast to the desired output type {out.dtype}")
    added = other._values().to(dtype)
    if alpha != 1:
        added = added * alpha
    if not self.is_sparse:
        total = self.to(dtype).clone(memory_format=torch.contiguous_format)
        _flattened(total, other).index_add_(0, _places(other), added)
        return resized(out, total.shape).copy_(total)
    if self.sparse_dim() != other.sparse_dim():
        raise RuntimeError("add: expected 'self' and 'other' to have same number of sparse dimensions")
    indices = torch.cat((self._indices(), other._indices()), 1)
    result = _sparse(indices, torch.cat((self._values().to(dtype), added)), self.shape)
    return _into(out, result.coalesce() if self.is_coalesced() and other.is_coalesced() else result)


@implements_for("Sparse", "mul.out")
def mul_out(self: torch.Tensor, other: torch.Tensor | complex, *, out: torch.Tensor) -> torch.Tensor:
    """self * other."""
    if not self.is_sparse:
        assert isinstance(other, torch.Tensor)
        self, other = other, self
    values = self._values()
    if not isinstance(other, torch.Tensor) or (other.dim() == 0 and not other.is_sparse):
        return _into(out, _sparse(self._indices(), values * other, self.shape, self.is_coalesced()))
    if not other.is_sparse:
        shape = torch.broadcast_shapes(self.shape, other.shape)
        if shape != self.shape:
            raise RuntimeError(f"mul: a sparse tensor of shape {list(self.shape)} is not broadcast to {list(shape)}")
        factors = _flattened(other.expand(shape), self).index_select(0, _places(self))
        return _into(out, _sparse(self._indices(), values * factors, shape, self.is_coalesced()))
    _same_shape("mul", self, other)
    if self.sparse_dim() != other.sparse_dim():
        raise RuntimeError("mul: expected 'self' and 'other' to have same number of sparse dimensions")
    marked = self.is_coalesced() and other.is_coalesced()  # the result is, but torch says so only then
    self, other = self.coalesce(), other.coalesce()
    at, both = _found(_places(self), _places(other))
    (kept,) = both.nonzero(as_tuple=True)
    products = self._values()[kept] * other._values()[at[kept]]
    return _into(out, _sparse(self._indices()[:, kept], products, self.shape, marked))


@implements_for("Sparse", "sparse_mask")
def sparse_mask(self: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The elements of self at the indices of mask."""
    if not mask.is_sparse:
        raise RuntimeError("sparse_mask(): the mask is not a sparse tensor")
    _same_shape("sparse_mask()", self, mask)
    places = _places(mask)
    if not self.is_sparse:
        values = _flattened(self, mask).index_select(0, places)
    else:
        if self.sparse_dim() != mask.sparse_dim():
            raise RuntimeError("sparse_mask(): the number of sparse dimensions in `self` should match that of the mask")
        self = self.coalesce()
        at, there = _found(places, _places(self))
        if self._nnz() == 0:
            values = self._values().new_zeros((places.numel(), *self._values().shape[1:]))
        else:
            values = self._values()[at]
            values = torch.where(_over_values(there, values), values, 0)
    return _sparse(mask._indices().clone(), values.to(self.dtype), mask.shape, mask.is_coalesced())


register("sparse_mask", sparse_mask)


# Products -------------------------------------------------------------------------------------------------------------


def _check_matrix(name: str, sparse: torch.Tensor, dims: int) -> None:
    if sparse.dim() != dims or sparse.sparse_dim() != dims:
        raise RuntimeError(
            f"{name}: expected {dims} sparse dimensions and no dense ones, but got {sparse.sparse_dim()} and "
            f"{sparse.dense_dim()}"
        )


def _add_product(
    total: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, dense: torch.Tensor
) -> None:
    """total[rows] += values * dense[columns], some of them at a time."""
    step = max(1, _CHUNK // max(1, dense.size(1)))
    for start in range(0, values.numel(), step):
        part = slice(start, start + step)
        total.index_add_(0, rows[part], values[part].unsqueeze(1) * dense.index_select(0, columns[part]))


@implements_for("Sparse", "addmm")
def addmm(
    self: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, *, beta: complex = 1, alpha: complex = 1
) -> torch.Tensor:
    """beta * self + alpha * mat1 @ mat2, with mat1 sparse and the others dense."""
    if not mat1.is_sparse or mat2.is_sparse or self.is_sparse:
        raise RuntimeError("addmm: of sparse tensors, mat1 must be the only one")
    _check_matrix("addmm", mat1, 2)
    if mat2.dim() != 2 or mat1.size(1) != mat2.size(0):
        raise RuntimeError(
            f"addmm: mat1 and mat2 of shapes {list(mat1.shape)} and {list(mat2.shape)} cannot be multiplied"
        )
    shape = (mat1.size(0), mat2.size(1))
    total = torch.zeros(shape, dtype=mat2.dtype, device=mat2.device)
    rows, columns = mat1._indices()
    _add_product(total, rows, columns, mat1._values(), mat2)
    total = total if alpha == 1 else total.mul_(alpha)
    return total if beta == 0 else total.add_(self.expand(shape), alpha=beta)


@implements_for("Sparse", "addmm.out")
def addmm_out(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    *,
    beta: complex = 1,
    alpha: complex = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """`addmm` into `out`."""
    result = addmm(self, mat1, mat2, beta=beta, alpha=alpha)
    return resized(out, result.shape).copy_(result)


@implements_for("Sparse", "addmm_")
def addmm_(
    self: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, *, beta: complex = 1, alpha: complex = 1
) -> torch.Tensor:
    """`addmm` into self."""
    return self.copy_(addmm(self, mat1, mat2, beta=beta, alpha=alpha))


@implements_for("Sparse", "bmm")
def bmm(self: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor:
    """(b, n, m) sparse by (b, m, p) dense: one product over the rows of all matrices."""
    _check_matrix("bmm", self, 3)
    if mat2.is_sparse or mat2.dim() != 3 or self.size(0) != mat2.size(0) or self.size(2) != mat2.size(1):
        raise RuntimeError(
            f"bmm: a sparse tensor of shape {list(self.shape)} and one of shape {list(mat2.shape)} cannot be multiplied"
        )
    batch, rows, inner = self.shape
    total = torch.zeros((batch * rows, mat2.size(2)), dtype=mat2.dtype, device=mat2.device)
    of, row, column = self._indices()
    dense = mat2.reshape(batch * inner, -1)
    _add_product(total, of * rows + row, of * inner + column, self._values(), dense)
    return total.view(batch, rows, -1)


@implements_for("Sparse", "bmm.out")
def bmm_out(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`bmm` into `out`."""
    result = bmm(self, mat2)
    return resized(out, result.shape).copy_(result)


@implements_for("Sparse", "hspmm")
def hspmm(mat1: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor:
    """A sparse matrix by a dense one, with only the rows that the sparse one has: one sparse dimension, one dense."""
    _check_matrix("hspmm", mat1, 2)
    if mat2.is_sparse or mat2.dim() != 2 or mat1.size(1) != mat2.size(0):
        raise RuntimeError(f"hspmm: Argument #3: Expected dim 0 size {mat1.size(1)}, got {mat2.size(0)}")
    rows, columns = mat1._indices()
    kept, row = torch.unique(rows, return_inverse=True)
    products = torch.zeros((kept.numel(), mat2.size(1)), dtype=mat2.dtype, device=mat2.device)
    _add_product(products, row, columns, mat1._values(), mat2)
    return _sparse(kept.unsqueeze(0), products, (mat1.size(0), mat2.size(1)))


@implements_for("Sparse", "hspmm.out")
def hspmm_out(mat1: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`hspmm` into `out`."""
    return _into(out, hspmm(mat1, mat2))


def _pairs(keys: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each key k, counts[k] pairs: the key's position, and a position from starts[k] on. The host waits."""
    each = counts[keys]
    first = torch.repeat_interleave(each)
    before = each.cumsum(0) - each
    within = torch.arange(first.numel(), device=keys.device) - before[first]
    return first, starts[keys[first]] + within


@implements_for("Sparse", "_sparse_sparse_matmul")
def sparse_sparse_matmul(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Each element of self meets the row of other that its column names (Gustavson, 1978)."""
    _check_matrix("sparse_sparse_matmul", self, 2)
    _check_matrix("sparse_sparse_matmul", other, 2)
    check_inner(self, other)
    if self.dtype != other.dtype:
        raise RuntimeError(f"mat1 dtype {self.dtype} does not match mat2 dtype {other.dtype}")
    self, other = self.coalesce(), other.coalesce()
    (rows, inner), (others_rows, columns) = self._indices(), other._indices()
    counts = torch.bincount(others_rows, minlength=other.size(0))
    mine, theirs = _pairs(inner, counts.cumsum(0) - counts, counts)
    products = self._values()[mine] * other._values()[theirs]
    shape = (self.size(0), other.size(1))
    return _sparse(torch.stack((rows[mine], columns[theirs])), products, shape).coalesce()


# Along dimensions -----------------------------------------------------------------------------------------------------


@implements_for("Sparse", "index_select")
def index_select(self: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """The slices along `dim` that a vector of indices names."""
    dim = wrapped_dim(dim, self.dim())
    if index.dim() != 1 or index.dtype not in (torch.int32, torch.int64):
        raise RuntimeError("index_select() argument index must be 1-D tensor of int32 or int64")
    shape = list(self.shape)
    shape[dim] = index.numel()
    if dim >= self.sparse_dim():
        values = self._values().index_select(dim - self.sparse_dim() + 1, index)
        return _sparse(self._indices().clone(), values, shape, self.is_coalesced())
    size = self.size(dim)
    if index.numel() and bool(((index < -size) | (index >= size)).any()):
        raise IndexError(f"index_select(): index out of range for dimension {dim} of size {size}")
    index = torch.where(index < 0, index + size, index).to(torch.int64)
    order = index.argsort(stable=True)
    counts = torch.bincount(index, minlength=size)
    found, place = _pairs(self._indices()[dim], counts.cumsum(0) - counts, counts)
    indices = self._indices()[:, found]
    indices[dim] = order[place]
    return _sparse(indices, self._values()[found], shape)


@implements_for("Sparse", "_sparse_sum_backward")
def sparse_sum_backward(grad: torch.Tensor, self: torch.Tensor, dim: Sequence[int]) -> torch.Tensor:
    """The gradient of a sum over dimensions, at the elements that self has."""
    summed = sorted({d % self.dim() for d in dim})
    rank = self.sparse_dim()
    kept = [d for d in range(rank) if d not in summed]
    values = self._values()
    if not kept:
        spread = grad.unsqueeze(0)
    else:
        if not grad.is_sparse:
            raise RuntimeError("_sparse_sum_backward: expected grad to be sparse where sparse dimensions remain")
        grad = grad.coalesce()
        at, there = _found(_places(self, kept), _places(grad))
        spread = grad._values().new_zeros((values.size(0), *grad._values().shape[1:]))
        if grad._nnz():
            spread = torch.where(_over_values(there, spread), grad._values()[at], 0)
    for d in summed:
        if d >= rank:
            spread = spread.unsqueeze(d - rank + 1)
    return _sparse(self._indices().clone(), spread.expand_as(values).clone(), self.shape, self.is_coalesced())


@implements("_spdiags")
def spdiags(
    diagonals: torch.Tensor, offsets: torch.Tensor, shape: Sequence[int], layout: torch.layout | None = None
) -> torch.Tensor:
    """A matrix of this shape with `diagonals` (n, length) at `offsets` (n): column j takes their j-th elements."""
    diagonals = diagonals if diagonals.dim() == 2 else diagonals.unsqueeze(0)
    offsets = offsets if offsets.dim() == 1 else offsets.reshape(1)
    if len(shape) != 2:
        raise RuntimeError(f"Output shape must be 2d, got {list(shape)}")
    if diagonals.dim() != 2:
        raise RuntimeError("Diagonals must be vector or matrix")
    if offsets.numel() != diagonals.size(0):
        raise RuntimeError(
            f"Number of diagonals ({diagonals.size(0)}) does not match the number of offsets ({offsets.numel()})"
        )
    if layout not in (None, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        raise RuntimeError(f"Only output layouts (Sparse, SparseCsr, SparseCsc) are supported, got {layout}")
    if offsets.unique().numel() != offsets.numel():
        raise RuntimeError("Offset tensor contains duplicate values")
    columns = torch.arange(min(diagonals.size(1), shape[1]), device=diagonals.device).expand(offsets.numel(), -1)
    rows = columns - offsets.to(torch.int64).unsqueeze(1)
    inside = (rows >= 0) & (rows < shape[0])
    result = _sparse(torch.stack((rows[inside], columns[inside])), diagonals[:, : columns.size(1)][inside], shape)
    return result if layout in (None, torch.sparse_coo) else result.to_sparse(layout=layout)


# Softmax of the elements that are there -------------------------------------------------------------------------------


def _groups(self: torch.Tensor, dim: int) -> tuple[torch.Tensor, int]:
    """Which elements differ in `dim` alone: the number of each element's group, and how many groups there are."""
    others = [d for d in range(self.sparse_dim()) if d != dim]
    kept, group = torch.unique(_places(self, others), return_inverse=True)
    return group, kept.numel()


def _softmax(self: torch.Tensor, dim: int, log: bool) -> torch.Tensor:
    self, dim = self.coalesce(), wrapped_dim(dim, self.dim())
    values = self._values()
    if dim >= self.sparse_dim():
        values = (torch.log_softmax if log else torch.softmax)(values, dim - self.sparse_dim() + 1)
        return _sparse(self._indices().clone(), values, self.shape, True)
    group, count = _groups(self, dim)
    highest = values.new_full((count, *values.shape[1:]), -math.inf).index_reduce_(0, group, values, "amax")
    shifted = values - highest[group]
    powers = shifted.exp()
    total = torch.zeros_like(highest).index_add_(0, group, powers)
    values = shifted - total.log()[group] if log else powers / total[group]
    return _sparse(self._indices().clone(), values, self.shape, True)


@implements_for("Sparse", "_sparse_softmax")
def softmax(self: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    """Along one dimension; what is not there counts as minus infinity."""
    _refuse_half_to_float("softmax", half_to_float)
    return _softmax(self, dim, log=False)


@implements_for("Sparse", "_sparse_log_softmax")
def log_softmax(self: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    """The logarithm of softmax along `dim`, over the elements that are there. RuntimeError for `half_to_float`."""
    _refuse_half_to_float("log_softmax", half_to_float)
    return _softmax(self, dim, log=True)


def _refuse_half_to_float(name: str, half_to_float: bool) -> None:
    if half_to_float:
        raise RuntimeError(f"{name} with half to float conversion is not supported on MPS")


def _softmax_backward(grad: torch.Tensor, output: torch.Tensor, dim: int, log: bool) -> torch.Tensor:
    dim = wrapped_dim(dim, output.dim())
    output = output.coalesce()
    results = output._values()
    gradients = sparse_mask(grad, output)._values()
    if dim >= output.sparse_dim():
        backward = torch.ops.aten._log_softmax_backward_data if log else torch.ops.aten._softmax_backward_data
        gradients = backward(gradients, results, dim - output.sparse_dim() + 1, results.dtype)
    else:
        group, count = _groups(output, dim)
        weighted = gradients if log else gradients * results
        total = results.new_zeros((count, *results.shape[1:])).index_add_(0, group, weighted)[group]
        gradients = gradients - results.exp() * total if log else weighted - results * total
    return _sparse(output._indices().clone(), gradients, output.shape, True)


@implements_for("Sparse", "_sparse_softmax_backward_data")
def softmax_backward(grad_output: torch.Tensor, output: torch.Tensor, dim: int, self: torch.Tensor) -> torch.Tensor:
    """The gradient of softmax, over the elements that are there."""
    return _softmax_backward(grad_output, output, dim, log=False)


@implements_for("Sparse", "_sparse_log_softmax_backward_data")
def log_softmax_backward(grad_output: torch.Tensor, output: torch.Tensor, dim: int, self: torch.Tensor) -> torch.Tensor:
    """The gradient of `log_softmax`."""
    return _softmax_backward(grad_output, output, dim, log=True)
