"""gather, scatter and their reductions: one index tensor of the operands' own rank."""

from __future__ import annotations

import torch

from portable_mps.dispatch.checks import COMPLEX, FLOATS, INTEGERS, number_of, require_dtype
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import resized, separate, wrapped_dim, written
from portable_mps.ops.indexing import along, check_source, combining

_OUT_OF_BOUNDS = "index {index} is out of bounds for dimension {dim} with size {size}"
_REDUCTIONS = {"add": "sum", "multiply": "prod", "sum": "sum", "prod": "prod", "amin": "amin", "amax": "amax"}


def _check(name: str, self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor | None) -> int:
    """The wrapped dim. Repeats the structured operators' checks, which calls with out= do not pass through."""
    dim = wrapped_dim(dim, self.dim())
    if index.numel() == 0:
        return dim
    if index.dtype not in (torch.int64, torch.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    ranks = [max(t.dim(), 1) for t in (self, index, source) if t is not None]
    if len(set(ranks)) != 1:
        raise RuntimeError("Index tensor must have the same number of dimensions as self tensor")
    for d in range(index.dim()):
        if (d != dim and index.size(d) > _size(self, d)) or (source is not None and index.size(d) > _size(source, d)):
            limits = f"self {list(self.shape)} apart from dimension {dim}"
            limits += "" if source is None else f" and to be smaller size than src {list(source.shape)}"
            raise RuntimeError(f"Expected index {list(index.shape)} to be smaller than {limits}")
    if source is not None and source.dtype != self.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
    refuse_as_cpu("gather", self.dtype, torch.int64)
    return dim


def _size(tensor: torch.Tensor, dim: int) -> int:
    return tensor.size(dim) if tensor.dim() else 1


def _vector(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dim() else tensor.reshape(1)


def _apply(action: str, base: torch.Tensor, dim: int, index: torch.Tensor, values: torch.Tensor) -> None:
    along(action, _vector(base), dim, _vector(index), _vector(values), _OUT_OF_BOUNDS, RuntimeError)


@implements("gather.out")
def gather_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, *, sparse_grad: bool = False, out: torch.Tensor
) -> torch.Tensor:
    """self's elements at `index` along `dim`."""
    written(out, self.dtype)
    dim = _check("gather", self, dim, index, None)
    resized(out, index.shape)
    separate(out, self, index)
    _apply("get", self, dim, index, out)
    return out


def _scatter(
    action: str, out: torch.Tensor, self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor | float
) -> torch.Tensor:
    dim = _check("scatter", self, dim, index, source if isinstance(source, torch.Tensor) else None)
    if out is not self:
        written(out, self.dtype)
        resized(out, self.shape).copy_(self)
    if index.numel() == 0:
        return out
    base = out if action == "put" else combining(out)
    if isinstance(source, torch.Tensor):
        values = _like(source, index).to(base.dtype)
    else:
        values = torch.full((), source, dtype=self.dtype, device=self.device).to(base.dtype).expand(index.shape)
    _apply(action, base, dim, index, values)
    return out if base is out else out.copy_(base)


def _like(source: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The corner of `source` that has index's shape."""
    return _vector(source).as_strided(_vector(index).shape, _vector(source).stride())


def _reduction(reduce: str, allowed: tuple[str, ...]) -> str:
    if reduce not in allowed:
        raise RuntimeError(f"reduce argument must be either {' or '.join(allowed)}")
    return reduce


@implements("scatter.src_out")
def scatter_src_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    """self with elements of `src` at `index` along `dim`."""
    return _scatter("put", out, self, dim, index, src)


@implements("scatter.value_out")
def scatter_value_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, value: float, *, out: torch.Tensor
) -> torch.Tensor:
    """self with a number at `index` along `dim`."""
    return _scatter("put", out, self, dim, index, number_of(value, self.dtype).item())


@implements("scatter.reduce_out")
def scatter_reduce_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, *, reduce: str, out: torch.Tensor
) -> torch.Tensor:
    """self with elements of `src` added to, or multiplied with, those at `index` along `dim`."""
    return _scatter(_REDUCTIONS[_reduction(reduce, ("add", "multiply"))], out, self, dim, index, src)


@implements("scatter.value_reduce_out")
def scatter_value_reduce_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, value: float, *, reduce: str, out: torch.Tensor
) -> torch.Tensor:
    """self with a number added to, or multiplied with, the elements at `index` along `dim`."""
    return _scatter(_REDUCTIONS[_reduction(reduce, ("add", "multiply"))], out, self, dim, index, value)


@implements("scatter_add.out")
def scatter_add_out(
    self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, *, out: torch.Tensor
) -> torch.Tensor:
    """self with elements of `src` added at `index` along `dim`."""
    return _scatter("sum", out, self, dim, index, src)


def _identity(reduce: str, dtype: torch.dtype) -> float:
    if reduce in ("sum", "mean", "prod"):
        return 1 if reduce == "prod" else 0
    if dtype.is_complex:
        raise NotImplementedError(
            f"\"scatter_gather_tensor_cpu_reduce_{reduce}\" not implemented for '{scalar_type(dtype)}'"
        )
    if dtype.is_floating_point:
        return float("-inf" if reduce == "amax" else "inf")
    if dtype == torch.bool:
        return reduce == "amin"
    limits = torch.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max


@implements("scatter_reduce.two_out")
def scatter_reduce_two_out(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src: torch.Tensor,
    reduce: str,
    *,
    include_self: bool = True,
    out: torch.Tensor,
) -> torch.Tensor:
    """Elements of `src` combined at `index` along `dim`, with self's or without: sum, prod, mean, amax, amin."""
    _reduction(reduce, ("sum", "prod", "mean", "amax", "amin"))
    dim = _check("scatter_reduce", self, dim, index, src)
    if reduce == "mean":
        require_dtype("scatter_gather_tensor_cpu_reduce_mean", self, COMPLEX | FLOATS | INTEGERS)
    if out is not self:
        written(out, self.dtype)
        resized(out, self.shape).copy_(self)
    return out if index.numel() == 0 else reduced_into(out, dim, index, _like(src, index), reduce, include_self)


def reduced_into(
    out: torch.Tensor, dim: int, index: torch.Tensor, values: torch.Tensor, reduce: str, include_self: bool
) -> torch.Tensor:
    """Reduce `values` into `out` where `index`, of their shape, points; targets start empty without include_self."""
    base = combining(out)
    if not include_self:
        start = torch.full((), _identity(reduce, base.dtype), dtype=base.dtype, device=base.device)
        _apply("put", base, dim, index, start.expand(values.shape))
    _apply("sum" if reduce == "mean" else reduce, base, dim, index, values.to(base.dtype))
    if reduce == "mean":
        exact = not base.dtype.is_floating_point and not base.dtype.is_complex
        kind = torch.int64 if exact else torch.float32
        counts = (torch.ones if include_self else torch.zeros)(base.shape, dtype=kind, device=base.device)
        _apply("sum", counts, dim, index, torch.ones((), dtype=kind, device=base.device).expand(values.shape))
        counts.clamp_(min=1)
        base.div_(counts, rounding_mode="floor" if exact else None)
    return out if base is out else out.copy_(base)


@implements("index_reduce.out")
def index_reduce_out(
    self: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    source: torch.Tensor,
    reduce: str,
    *,
    include_self: bool = True,
    out: torch.Tensor,
) -> torch.Tensor:
    """Slices of `source` combined at a vector of indices, with self's or without: "prod", "mean", "amax", "amin"."""
    _reduction(reduce, ("prod", "mean", "amax", "amin"))
    dim = wrapped_dim(dim, self.dim())
    check_source("index_reduce", self, dim, index, source)
    require_dtype("index_func_", self, FLOATS | INTEGERS)
    if out is not self:
        written(out, self.dtype)
        resized(out, self.shape).copy_(self)
    if source.numel() == 0:
        return out
    values = _vector(source)
    spread = index.reshape([1] * dim + [-1] + [1] * (values.dim() - dim - 1)).expand(values.shape)
    return reduced_into(out, dim, spread, values, reduce, include_self)
