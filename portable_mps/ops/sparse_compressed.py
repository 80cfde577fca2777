"""Sparse tensors in compressed form (CSR, CSC, BSR, BSC): building, checking, conversions and sums.

Most of torch's kernels for them are taken as they are (dispatch/functionality.py), and C++ makes the tensors
(csrc/compressed.cpp). The rest is here, in terms of sorting, searching and sums over indices; products are in
ops/sparse_products.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.functionality import implements_for, take, take_for_dense, taken
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import castable, resized, wrapped_dim

_STRUCTURE = """
_nnz dense_dim sparse_dim values crow_indices col_indices ccol_indices row_indices
empty.memory_format clone copy_ resize_ resize_as_sparse_ zero_ fill_.Scalar normal_ select_copy.int
sparse_mask _to_dense _to_sparse _to_sparse.sparse_dim
sum sum.dim_IntList add.Tensor add_.Tensor mul.Tensor mul_.Tensor mul.out mul_.Scalar mm mm.out addmm
_conj_physical conj_physical.out conj_physical_ isinf isnan relu relu_ threshold_backward threshold_backward.grad_input
"""
_FUNCTIONS = """
abs angle asin asinh atan atanh ceil deg2rad erf erfinv expm1 floor frac log1p neg rad2deg round sgn sign sin sinh sqrt
tan tanh trunc
"""
_TRUTHS = "isneginf isposinf signbit"
_TAKEN = {
    *_STRUCTURE.split(),
    *(form for f in _FUNCTIONS.split() for form in (f, f"{f}.out", f"{f}_") if form != "angle_"),
    *(form for f in _TRUTHS.split() for form in (f, f"{f}.out")),
}
take("SparseCsr", _TAKEN)
take_for_dense(("_to_sparse_csr", "_to_sparse_csc", "_to_sparse_bsr", "_to_sparse_bsc"))

_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_IN_BLOCKS = (torch.sparse_bsr, torch.sparse_bsc)
LAYOUT_NAMES = {torch.sparse_csr: "SparseCsr", torch.sparse_csc: "SparseCsc", torch.sparse_bsr: "SparseBsr"}
LAYOUT_NAMES |= {torch.sparse_bsc: "SparseBsc", torch.sparse_coo: "Sparse", torch.strided: "Strided"}
"""As torch's errors have them."""
_METHODS = {
    torch.sparse_csr: "sparse_csr",
    torch.sparse_csc: "sparse_csc",
    torch.sparse_bsr: "sparse_bsr",
    torch.sparse_bsc: "sparse_bsc",
}


def _parts(compressed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The compressed and the plain indices."""
    if compressed.layout in _BY_ROWS:
        return compressed.crow_indices(), compressed.col_indices()
    return compressed.ccol_indices(), compressed.row_indices()


def _blocksize(compressed: torch.Tensor) -> list[int]:
    """Empty for a layout without blocks."""
    return list(compressed.values().shape[_parts(compressed)[1].dim() :][:2]) if compressed.layout in _IN_BLOCKS else []


def compressed(
    starts: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, shape: Sequence[int], layout: torch.layout
) -> torch.Tensor:
    """A tensor of these arrays, unchecked. layout: torch.sparse_csr, _csc, _bsr or _bsc."""
    return torch.ops.aten._sparse_compressed_tensor_unsafe(
        starts, indices, values, list(shape), dtype=values.dtype, layout=layout, device=values.device
    )


@implements_for("SparseCsr", "_sparse_compressed_tensor_with_dims")
def without_elements(
    nnz: int,
    dense_dim: int,
    size: Sequence[int],
    blocksize: Sequence[int],
    index_dtype: torch.dtype,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """A tensor of this shape, whose `nnz` elements a batch are yet to be written."""
    batch = len(size) - dense_dim - 2
    if dense_dim < 0 or batch < 0:
        raise RuntimeError(
            f"sparse_compressed_tensor_with_dims: dimensionality must be at least dense_dim(={dense_dim}) + "
            f"sparse_dim(=2), but got {len(size)}"
        )
    if len(blocksize) != 2 * (layout in _IN_BLOCKS):
        raise RuntimeError(f"sparse_compressed_tensor_with_dims: {layout} does not take a blocksize of {blocksize}")
    along = layout not in _BY_ROWS
    lines = size[batch + along] // (blocksize[along] if blocksize else 1)
    starts = torch.zeros((*size[:batch], lines + 1), dtype=index_dtype, device=device)
    indices = torch.empty((*size[:batch], nnz), dtype=index_dtype, device=device)
    values = torch.empty((*size[:batch], nnz, *blocksize, *size[batch + 2 :]), dtype=dtype, device=device)
    return compressed(starts, indices, values, size, layout)


# Indices --------------------------------------------------------------------------------------------------------------


@implements("_convert_indices_from_coo_to_csr.out")
def starts_of_rows(self: torch.Tensor, size: int, *, out_int32: bool = False, out: torch.Tensor) -> torch.Tensor:
    """Sorted rows [elements] to where each of `size` rows starts and the last one ends [size + 1]."""
    rows = torch.arange(size + 1, dtype=self.dtype, device=self.device)
    return out.copy_(torch.searchsorted(self.contiguous(), rows))


@implements("_convert_indices_from_csr_to_coo.out")
def rows_of_starts(
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    *,
    out_int32: bool = False,
    transpose: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """The inverse: [batch dimensions + 2, elements], rows and columns exchanged with `transpose`."""
    count = col_indices.size(-1)
    places = torch.arange(count, dtype=crow_indices.dtype, device=crow_indices.device)
    ends = crow_indices[..., 1:].contiguous()
    rows = torch.searchsorted(ends, places.expand(*ends.shape[:-1], count).contiguous(), right=True)
    batches = ends.shape[:-1]
    for d, size in enumerate(batches):
        index = torch.arange(size, device=out.device).view(-1, *(1,) * (len(batches) - d))
        out[d].view(col_indices.shape).copy_(index.expand_as(col_indices))
    row, column = (len(batches) + 1, len(batches)) if transpose else (len(batches), len(batches) + 1)
    out[row].view(col_indices.shape).copy_(rows)
    out[column].view(col_indices.shape).copy_(col_indices)
    return out


@implements("_validate_compressed_sparse_indices")
def validate(
    is_crow: bool, compressed_idx: torch.Tensor, plain_idx: torch.Tensor, cdim: int, dim: int, nnz: int
) -> None:
    """torch's invariants of compressed indices. The host waits for the checks."""
    if plain_idx.dtype != compressed_idx.dtype:
        names = {torch.int32: "Int", torch.int64: "Long"}
        raise RuntimeError(f"Found dtype {names[compressed_idx.dtype]} but expected {names[plain_idx.dtype]}")
    starts, indices = ("crow_indices", "col_indices") if is_crow else ("ccol_indices", "row_indices")
    lines, others = ("nrows", "ncols") if is_crow else ("ncols", "nrows")
    lengths = compressed_idx.diff()
    invariants = [
        (compressed_idx[..., 0] == 0, f"{starts}[..., 0] == 0"),
        (compressed_idx[..., -1] == nnz, f"{starts}[..., -1] == nnz"),
        ((lengths >= 0) & (lengths <= dim), f"0 <= {starts}[..., 1:] - {starts}[..., :-1] <= {others}"),
        ((plain_idx >= 0) & (plain_idx < dim), f"0 <= {indices} < {others}"),
    ]
    if plain_idx.numel():
        batched = compressed_idx.reshape(-1, compressed_idx.size(-1)), plain_idx.reshape(-1, plain_idx.size(-1))
        matrix, line, place = torch.ops.aten._convert_indices_from_csr_to_coo(*batched).to(torch.int64)
        order = (
            f"{indices}[..., {starts}[..., i - 1]:{starts}[..., i]] for all i = 1, ..., {lines} are sorted and "
            "distinct along the last dimension values"
        )
        invariants.append((((matrix * cdim + line) * dim + place).diff() > 0, order))
    for (_, invariant), holds in zip(invariants, torch.stack([h.all() for h, _ in invariants]).tolist(), strict=True):
        if not holds:
            raise RuntimeError(f"`{invariant}` is not satisfied.")


# Conversions ----------------------------------------------------------------------------------------------------------


def elements(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [elements] each, batches one behind the other: an element's (or block's) place along the compressed
    dimension, counted through all batches, and along the other."""
    starts, indices = _parts(self)
    *batch, lines, places = torch.ops.aten._convert_indices_from_csr_to_coo(starts, indices).to(torch.int64)
    at = torch.zeros_like(lines)
    for index, size in zip(batch, self.shape, strict=False):
        at = at * size + index
    return at * (starts.size(-1) - 1) + lines, places


def _sorted_into(
    layout: torch.layout,
    shape: Sequence[int],
    sizes: tuple[int, int],
    lines: torch.Tensor,
    places: torch.Tensor,
    values: torch.Tensor,
    batch: Sequence[int] = (),
    index: torch.dtype = torch.int64,
) -> torch.Tensor:
    """Elements in any order, compressed: lines and places as `elements` has them, sizes: how many of each there are,
    values [elements, …]; of a batch each has as many."""
    each, across = sizes
    order = (lines * across + places).argsort(stable=True)
    batches = math.prod(batch)
    starts = torch.ops.aten._convert_indices_from_coo_to_csr(lines[order], batches * each)
    count = lines.numel() // max(batches, 1)
    before = torch.arange(batches, device=lines.device).unsqueeze(1) * count
    starts = torch.nn.functional.pad(starts[:-1].view(batches, each) - before, (0, 1), value=count)
    return compressed(
        starts.view(*batch, each + 1).to(index),
        places[order].view(*batch, count).to(index),
        values[order].view(*batch, count, *values.shape[1:]),
        shape,
        layout,
    )


def _flipped(self: torch.Tensor, layout: torch.layout) -> torch.Tensor:
    """From rows to columns, or back. Blocks stay as they are."""
    starts, indices = _parts(self)
    batch, values = indices.shape[:-1], self.values()
    lines, places = elements(self)
    each = starts.size(-1) - 1
    across = self.size(len(batch) + (self.layout in _BY_ROWS))
    if self.layout in _IN_BLOCKS:
        across //= _blocksize(self)[self.layout in _BY_ROWS]
    at = lines.div(max(each, 1), rounding_mode="floor")
    return _sorted_into(
        layout,
        self.shape,
        (across, each),
        at * across + places,
        lines - at * each,
        values.reshape(lines.numel(), *values.shape[len(batch) + 1 :]),
        batch,
        indices.dtype,
    )


def _refuse_dense_dim(name: str, self: torch.Tensor, layout: torch.layout, dense_dim: int | None) -> None:
    if dense_dim is not None:
        raise RuntimeError(
            f"{name}: conversion from {LAYOUT_NAMES[self.layout]} to {LAYOUT_NAMES[layout]} with dense_dim argument "
            "given is not supported"
        )


def _without_blocks(self: torch.Tensor, layout: torch.layout, dense_dim: int | None) -> torch.Tensor:
    name = f"sparse_compressed_to_{_METHODS[layout]}"
    _refuse_dense_dim(name, self, layout, dense_dim)
    if self.layout in _IN_BLOCKS:
        raise RuntimeError(f"{name}: expected SparseCsr or SparseCsc layout but got {LAYOUT_NAMES[self.layout]}")
    return self if self.layout == layout else _flipped(self, layout)


@implements_for("SparseCsr", "_to_sparse_csr")
def to_sparse_csr(self: torch.Tensor, dense_dim: int | None = None) -> torch.Tensor:
    """In compressed rows."""
    return _without_blocks(self, torch.sparse_csr, dense_dim)


@implements_for("SparseCsr", "_to_sparse_csc")
def to_sparse_csc(self: torch.Tensor, dense_dim: int | None = None) -> torch.Tensor:
    """In compressed columns."""
    return _without_blocks(self, torch.sparse_csc, dense_dim)


def _from_coordinates(self: torch.Tensor, layout: torch.layout, dense_dim: int | None) -> torch.Tensor:
    name = f"coo_to_{_METHODS[layout]}"
    _refuse_dense_dim(name, self, layout, dense_dim)
    if self.sparse_dim() != 2:
        raise RuntimeError(
            f"{name}: conversion from Sparse to {LAYOUT_NAMES[layout]} for input tensors with sparse_dim()!=2 is not "
            "supported"
        )
    self = self.coalesce()
    (rows, columns), (high, wide) = self.indices(), self.shape[:2]
    if layout == torch.sparse_csr:
        return _sorted_into(layout, self.shape, (high, wide), rows, columns, self.values())
    return _sorted_into(layout, self.shape, (wide, high), columns, rows, self.values())


@implements_for("Sparse", "_to_sparse_csr")
def coordinates_to_sparse_csr(self: torch.Tensor, dense_dim: int | None = None) -> torch.Tensor:
    """A tensor in coordinate form, in compressed rows."""
    return _from_coordinates(self, torch.sparse_csr, dense_dim)


@implements_for("Sparse", "_to_sparse_csc")
def coordinates_to_sparse_csc(self: torch.Tensor, dense_dim: int | None = None) -> torch.Tensor:
    """A tensor in coordinate form, in compressed columns."""
    return _from_coordinates(self, torch.sparse_csc, dense_dim)


def in_rows(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix of any compressed layout in rows without blocks."""
    if matrix.layout in _IN_BLOCKS:
        matrix = matrix.to_sparse()
    return matrix.to_sparse_csr()


def _check_blocks(name: str, self: torch.Tensor, blocksize: Sequence[int]) -> None:
    if len(blocksize) != 2:
        raise RuntimeError(f"{name}: blocksize needs to be a tuple of size 2, but got {len(blocksize)}")
    if min(blocksize) <= 0:
        raise RuntimeError(f"{name}: blocksize needs to be positive, but got {list(blocksize)}")
    if self.size(0) % blocksize[0] or self.size(1) % blocksize[1]:
        raise RuntimeError(
            f"{name}: tensor sparse size ({self.size(0)},{self.size(1)}) must be divisible by given blocksize "
            f"({blocksize[0]},{blocksize[1]})"
        )


def _in_blocks(
    self: torch.Tensor, blocksize: Sequence[int], dense_dim: int | None, layout: torch.layout
) -> torch.Tensor:
    """Cut into blocks: those that have an element are kept."""
    name = f"sparse_compressed_to_{_METHODS[layout]}"
    _refuse_dense_dim(name, self, layout, dense_dim)
    if self.layout in _IN_BLOCKS:
        given = _blocksize(self)
        if list(blocksize) != given:
            name = name if self.layout != layout else f"to_{_METHODS[layout]}"
            raise RuntimeError(
                f"{name}: conversion from {LAYOUT_NAMES[self.layout]} to {LAYOUT_NAMES[layout]} with blocksize changed "
                f"from {given} to {list(blocksize)} is not supported"
            )
        return self if self.layout == layout else _flipped(self, layout)
    if self.dim() != 2 + self.dense_dim():
        raise RuntimeError(
            f"{name}: conversion from {LAYOUT_NAMES[self.layout]} to {LAYOUT_NAMES[layout]} for batched inputs is not "
            "supported"
        )
    _check_blocks(name, self, blocksize)
    high, wide = blocksize
    coordinates = self.to_sparse()
    rows, columns = coordinates._indices()
    down, across = self.size(0) // high, self.size(1) // wide
    at = rows.div(high, rounding_mode="floor") * across + columns.div(wide, rounding_mode="floor")
    kept, block = torch.unique(at, return_inverse=True)
    values = self.values().new_zeros((kept.numel(), high, wide, *self.shape[2:]))
    values[block, rows % high, columns % wide] = coordinates._values()
    row, column = kept.div(max(across, 1), rounding_mode="floor"), kept % max(across, 1)
    index = _parts(self)[1].dtype
    if layout == torch.sparse_bsr:
        return _sorted_into(layout, self.shape, (down, across), row, column, values, index=index)
    return _sorted_into(layout, self.shape, (across, down), column, row, values, index=index)


@implements_for("SparseCsr", "_to_sparse_bsr")
def to_sparse_bsr(self: torch.Tensor, blocksize: Sequence[int], dense_dim: int | None = None) -> torch.Tensor:
    """In compressed rows of blocks."""
    return _in_blocks(self, blocksize, dense_dim, torch.sparse_bsr)


@implements_for("SparseCsr", "_to_sparse_bsc")
def to_sparse_bsc(self: torch.Tensor, blocksize: Sequence[int], dense_dim: int | None = None) -> torch.Tensor:
    """In compressed columns of blocks."""
    return _in_blocks(self, blocksize, dense_dim, torch.sparse_bsc)


@implements_for("SparseCsr", "empty_like")
def empty_like(
    self: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    **others: Any,
) -> torch.Tensor:
    """With the indices of self; in another layout without elements."""
    options: dict[str, Any] = {"dtype": dtype or self.dtype, "device": device or self.device}
    if layout in (torch.strided, torch.sparse_coo):
        return torch.empty(self.shape, layout=layout, **options)
    if layout not in (None, self.layout):
        raise RuntimeError(f"empty_like with different sparse layout is not supported (got {layout})")
    starts, indices = (part.to(options["device"], copy=True) for part in _parts(self))
    return compressed(starts, indices, torch.empty_like(self.values(), **options), self.shape, self.layout)


@implements_for("SparseCsr", "zeros_like")
def zeros_like(
    self: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    **others: Any,
) -> torch.Tensor:
    """Without elements."""
    options: dict[str, Any] = {"dtype": dtype or self.dtype, "device": device or self.device}
    if layout in (torch.strided, torch.sparse_coo):
        return torch.zeros(self.shape, layout=layout, **options)
    return torch.ops.aten._sparse_compressed_tensor_with_dims(
        *(0, self.dense_dim(), list(self.shape), _blocksize(self), _parts(self)[1].dtype),
        layout=layout or self.layout,
        **options,
    )


@implements_for("SparseCsr", "select.int")
def select(self: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    """The slice at `index` along `dim`."""
    starts, indices = _parts(self)
    batches = indices.dim() - 1
    at = wrapped_dim(dim, self.dim())
    if at >= batches:
        return taken("SparseCsr", torch.ops.aten.select.int)(self, dim, index)
    values = self.values().select(at, index)
    shape = [*self.shape[:at], *self.shape[at + 1 :]]
    return compressed(starts.select(at, index), indices.select(at, index), values, shape, self.layout)


def copied_into(out: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """`out`, a compressed tensor, with the elements of result."""
    out.resize_as_sparse_(result)
    return out.copy_(result)


@implements_for("SparseCsr", "mul.Scalar")
def mul_scalar(self: torch.Tensor, other: complex) -> torch.Tensor:
    """self times a number."""
    starts, indices = (part.clone() for part in _parts(self))
    return compressed(starts, indices, self.values() * other, self.shape, self.layout)


# Sums -----------------------------------------------------------------------------------------------------------------


@implements_for("SparseCsr", "add.out")
def add_out(self: torch.Tensor, other: torch.Tensor, *, alpha: complex = 1, out: torch.Tensor) -> torch.Tensor:
    """self + alpha * other."""
    dtype = torch.result_type(self, other)
    castable(out, dtype)
    if self.shape != other.shape:
        raise RuntimeError(
            f"add: expected 'self' and 'other' to have same size, but self has size {list(self.shape)} while other has "
            f"size {list(other.shape)} (FYI: op2-sparse addition does not currently support broadcasting)"
        )
    if self.layout == torch.strided:
        total = self.to(dtype).add(other.to(dtype).to_sparse(), alpha=alpha)
        return resized(out, total.shape).copy_(total)
    if other.layout != self.layout or self.layout in _IN_BLOCKS:
        raise RuntimeError(f"add: {LAYOUT_NAMES[self.layout]} + {LAYOUT_NAMES[other.layout]} is not supported")
    total = self.to(dtype).to_sparse().add(other.to(dtype).to_sparse(), alpha=alpha)
    return copied_into(out, total.to(out.dtype).to_sparse(layout=self.layout))


def _reduced(
    self: torch.Tensor, dim: Sequence[int], keepdim: bool, dtype: torch.dtype | None, reduce: str
) -> torch.Tensor:
    """The elements of a matrix in compressed rows, reduced over some of its dimensions; empty lines stay empty."""
    if not keepdim:
        raise RuntimeError("reduction operations on CSR tensors with keepdim=False is unsupported")
    if self.layout != torch.sparse_csr:
        raise RuntimeError(f"reduction of a {LAYOUT_NAMES[self.layout]} tensor is not supported")
    dims = {d % 2 for d in dim}
    if dtype is None:
        integral = not self.is_floating_point() and not self.is_complex()
        dtype = torch.int64 if integral else self.dtype
    starts, columns, values = self.crow_indices(), self.col_indices(), self.values().to(dtype)
    reduce_all = getattr(torch, reduce)
    if len(dims) == 2:
        some = min(1, values.numel())
        total = reduce_all(values).reshape(1)[:some]
        return compressed(starts.new_tensor([0, some]), columns.new_zeros(some), total, (1, 1), self.layout)
    rows, places = elements(self)
    kept, place = torch.unique(places if dims == {0} else rows, return_inverse=True)
    start = torch.zeros if reduce == "sum" else torch.ones
    total = start(kept.numel(), dtype=dtype, device=values.device)
    total = total.index_add(0, place, values) if reduce == "sum" else total.index_reduce(0, place, values, "prod")
    if dims == {0}:
        ends = starts.new_tensor([0, kept.numel()])
        return compressed(ends, kept.to(columns.dtype), total, (1, self.size(1)), self.layout)
    ends = torch.ops.aten._convert_indices_from_coo_to_csr(kept, self.size(0)).to(starts.dtype)
    return compressed(ends, columns.new_zeros(kept.numel()), total, (self.size(0), 1), self.layout)


@implements_for("SparseCsr", "_sparse_csr_sum.dim_dtype")
def csr_sum(
    self: torch.Tensor, dim: Sequence[int], keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Sums of the elements that are there, along `dim`."""
    return _reduced(self, dim, keepdim, dtype, "sum")


@implements_for("SparseCsr", "_sparse_csr_prod.dim_dtype")
def csr_prod(
    self: torch.Tensor, dim: Sequence[int], keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Products of the elements that are there, along `dim`."""
    return _reduced(self, dim, keepdim, dtype, "prod")
