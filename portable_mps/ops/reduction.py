"""Reductions: sums, products, extrema, truth, norms and moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import scalar_type, summed_in
from portable_mps.dispatch.reduction import Accumulate, Reduction, canonical_dims, check_out, reduced_shape
from portable_mps.dispatch.registry import implements, register, register_composite
from portable_mps.dispatch.strided import apart_or_same, castable, on_device, resized, written

Dims = int | Sequence[int] | None

_sum = Reduction("sum", "A(0)", "s + a", "x + y", accumulate=Accumulate.OUTPUT, converts=True, like="sum.IntList_out")
_nansum = Reduction("nansum", "A(0)", "is_nan(a) ? s : s + a", "x + y", accumulate=Accumulate.OUTPUT, converts=True)
_prod = Reduction(
    "prod", "A(1)", "s * a", "x * y", accumulate=Accumulate.OUTPUT, complex=True, converts=True, like="prod.int_out"
)
_mean = Reduction("mean", "A(0)", "s + a", "x + y", ("maths::div(s, A(n))",), accumulate=Accumulate.OUTPUT)
_max = Reduction("max", "LOWEST", "larger(s, a)", "larger(x, y)", like="max")
_min = Reduction("min", "HIGHEST", "smaller(s, a)", "smaller(x, y)", like="min")
_range = Reduction(
    "range", "{ HIGHEST, LOWEST }", "span(s, { a, a })", "span(x, y)", ("s.low", "s.high"), "Range", like="aminmax"
)
_any = Reduction("any", "0u", "s | (cast_bool(a) ? 1u : 0u)", "x | y", state="uint")
_all = Reduction("all", "1u", "s & (cast_bool(a) ? 1u : 0u)", "x & y", state="uint")
_count = Reduction("count_nonzero", "Index(0)", "s + (cast_bool(a) ? 1 : 0)", "x + y", state="Index")


_hash = Reduction("hash", "0ull", "s ^ double_bits(a)", "x ^ y", state="uint64_t")


def _ranked(name: str, identity: str, better: str, results: tuple[str, ...]) -> Reduction:
    empty = f"{{ {identity}, ~Index(0) }}"
    step, merge, like = f"{better}(s, {{ a, i }})", f"{better}(x, y)", name.replace("_", ".")
    return Reduction(name, empty, step, merge, results, "Ranked", ordered=True, like=like)


_max_dim = _ranked("max_dim", "LOWEST", "largest", ("s.value", "s.index"))
_min_dim = _ranked("min_dim", "HIGHEST", "smallest", ("s.value", "s.index"))
_argmax = _ranked("argmax", "LOWEST", "largest", ("s.index",))
_argmin = _ranked("argmin", "HIGHEST", "smallest", ("s.index",))

_norms = {
    0.0: Reduction("norm_0", "A(0)", "s + (cast_bool(a) ? A(1) : A(0))", "x + y", accumulate=Accumulate.OUTPUT),
    1.0: Reduction("norm_1", "A(0)", "s + maths::abs(a)", "x + y", accumulate=Accumulate.OUTPUT),
    2.0: Reduction("norm_2", "A(0)", "s + a * a", "x + y", ("maths::sqrt(s)",), accumulate=Accumulate.OUTPUT),
    math.inf: Reduction("norm_max", "A(0)", "larger(s, maths::abs(a))", "larger(x, y)", accumulate=Accumulate.OUTPUT),
    -math.inf: Reduction(
        "norm_min", "HIGHEST", "smaller(s, maths::abs(a))", "smaller(x, y)", accumulate=Accumulate.OUTPUT
    ),
}
_norm = Reduction(
    "norm_p",
    "A(0)",
    "s + maths::pow(maths::abs(a), k0)",
    "x + y",
    ("maths::pow(s, maths::rcp(k0))",),
    scalars=1,
    accumulate=Accumulate.OUTPUT,
)


def _moments(name: str, *results: str, scalars: int = 1) -> Reduction:
    return Reduction(
        name,
        "{ A(0), A(0), A(0) }",
        "extended(s, a)",
        "pooled(x, y)",
        results,
        "Moments",
        scalars=scalars,
        accumulate=Accumulate.OUTPUT,
    )


_VARIANCE = "maths::div(s.deviations, larger(A(n) - k0, A(0)))"
_MEAN = "n == 0 ? maths::nan_of(A(0)) : s.mean"
_var = _moments("var", _VARIANCE)
_std = _moments("std", f"maths::sqrt({_VARIANCE})")
_var_mean = _moments("var_mean", _VARIANCE, _MEAN)
_std_mean = _moments("std_mean", f"maths::sqrt({_VARIANCE})", _MEAN)


def _into(
    row: Reduction,
    outputs: Sequence[torch.Tensor],
    input: torch.Tensor,
    dim: Dims,
    keepdim: bool,
    dtype: torch.dtype | None = None,
    scalars: tuple[float, ...] = (),
) -> None:
    """Launch `row` into outputs of a call with out=; `dtype` is what the first must have."""
    dims = canonical_dims(dim, input.dim())
    shape = reduced_shape(input.shape, dims, keepdim)
    for output in outputs:
        check_out(output, shape, dtype if output is outputs[0] else None)
    if row.converts and input.is_complex() and not outputs[0].is_complex():
        input = input.to(outputs[0].dtype)
    if outputs[0].is_complex() and row in (_sum, _mean):  # by parts
        input = torch.view_as_real(input.to(outputs[0].dtype).resolve_conj())
        outputs = [torch.view_as_real(outputs[0])]
    row(outputs, (input,), dims, scalars)


def _sum_dtype(input: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """What a sum or a product of `input` has: integers and bool become int64."""
    if dtype is not None:
        return dtype
    return input.dtype if input.is_floating_point() or input.is_complex() else torch.int64


# Sums, products, means -------------------------------------------------------------------------------


@implements("sum.IntList_out")
def sum_out(
    self: torch.Tensor, dim: Dims, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: torch.Tensor
) -> torch.Tensor:
    """The sum along `dim`, in `dtype` or, of integers, int64."""
    _into(_sum, (out,), self, dim, keepdim, dtype)
    return out


@implements("nansum.out")
def nansum_out(
    self: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: torch.Tensor
) -> torch.Tensor:
    """`sum_out` with NaN taken as 0. RuntimeError for complex numbers."""
    if self.is_complex():
        raise RuntimeError("nansum does not support complex inputs")
    if not self.is_floating_point():
        return sum_out(self, dim, keepdim, dtype=dtype, out=out)
    if dtype is not None and dtype != out.dtype:
        got = f"Got {scalar_type(out.dtype)} and {scalar_type(dtype)}."
        raise RuntimeError(f"nansum: provided dtype must match dtype of result. {got}")
    if out.is_floating_point():
        _into(_nansum, (out,), self, dim, keepdim)
    elif dtype is None or out.is_complex():
        raise NotImplementedError(f"\"nansum_mps\" not implemented for '{scalar_type(out.dtype)}'")
    else:  # which have no NaN: it is left out before the conversion
        _into(_sum, (out,), self.masked_fill(self.isnan(), 0), dim, keepdim)
    return out


@implements("nansum")
def nansum(
    self: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """`nansum_out` into a new tensor."""
    out = torch.empty((0,), dtype=_sum_dtype(self, dtype), device=self.device)
    return nansum_out(self, dim, keepdim, dtype=dtype, out=out)


@implements("prod.int_out")
def prod_out(
    self: torch.Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: torch.Tensor
) -> torch.Tensor:
    """The product along one dimension."""
    _into(_prod, (out,), self, dim, keepdim, dtype)
    return out


@implements("prod")
def prod(self: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The product of all elements."""
    out = torch.empty((), dtype=_sum_dtype(self, dtype), device=self.device)
    _into(_prod, (out,), self, None, False)
    return out


@implements("mean.out")
def mean_out(
    self: torch.Tensor, dim: Dims, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: torch.Tensor
) -> torch.Tensor:
    """The mean along `dim`. RuntimeError for integers without a floating-point `dtype`."""
    given, subject = (self.dtype, "Input") if dtype is None else (dtype, "Optional")
    if not (given.is_floating_point or given.is_complex):
        raise RuntimeError(
            f"mean(): could not infer output dtype. {subject} dtype must be either a floating point or complex dtype. "
            f"Got: {scalar_type(given)}"
        )
    if not (out.is_floating_point() or out.is_complex()):
        refuse_as_cpu("sum.IntList_out", self.dtype, out=(out.dtype,))
        castable(out, given)
    if self.is_complex() and not out.is_complex():
        self = self.to(summed_in(out.dtype))
    _into(_mean, (out,), self, dim, keepdim, dtype)
    return out


# Extrema ---------------------------------------------------------------------------------------------


def _require_elements(name: str, input: torch.Tensor, dim: Dims) -> None:
    """torch's errors for extrema of nothing, which have no identity."""
    if dim is None or dim == []:
        if input.numel() == 0:
            raise RuntimeError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )
        return
    for d in canonical_dims(dim, input.dim()):
        if input.shape[d] == 0:
            raise IndexError(f"{name}(): Expected reduction dim {d} to have non-zero size.")


def _register_extrema(name: str, row: Reduction, with_index: Reduction, index: Reduction) -> None:
    """amax, max, max.dim and argmax, or those of min."""

    def along(self: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
        _require_elements(f"a{name}", self, dim)
        if out.dtype != self.dtype:
            raise RuntimeError(
                f"Expected the dtype for input and out to match, but got {scalar_type(self.dtype)} for input's dtype "
                f"and {scalar_type(out.dtype)} for out's dtype."
            )
        _into(row, (out,), self, dim, keepdim)
        return out

    def whole_out(self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        _require_elements(name, self, None)
        castable(out, self.dtype)
        if out.dtype != self.dtype:
            return resized(out, ()).copy_(whole(self))
        _into(row, (out,), self, None, False)
        return out

    def whole(self: torch.Tensor) -> torch.Tensor:
        return whole_out(self, out=torch.empty((), dtype=self.dtype, device=self.device))

    def ranked(
        self: torch.Tensor, dim: int, keepdim: bool = False, *, values: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _require_elements(name, self, dim)
        check_out(indices, reduced_shape(self.shape, canonical_dims(dim, self.dim()), keepdim), torch.int64)
        _into(with_index, (values, indices), self, dim, keepdim, self.dtype)
        return values, indices

    def place(self: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
        _require_elements(f"arg{name}", self, dim)
        _into(index, (out,), self, dim, keepdim, torch.int64)
        return out

    register(f"a{name}.out", along)
    register(f"{name}.unary_out", whole_out)
    register(name, whole)
    register(f"arg{name}.out", place)
    if name == "max":  # the schemas call the outputs differently
        register("max.dim_max", lambda self, dim, keepdim=False, *, max, max_values: ranked(
            self, dim, keepdim, values=max, indices=max_values))  # fmt: skip
    else:
        register("min.dim_min", lambda self, dim, keepdim=False, *, min, min_indices: ranked(
            self, dim, keepdim, values=min, indices=min_indices))  # fmt: skip


_register_extrema("max", _max, _max_dim, _argmax)
_register_extrema("min", _min, _min_dim, _argmin)


@implements("aminmax.out")
def aminmax_out(
    self: torch.Tensor, *, dim: int | None = None, keepdim: bool = False, min: torch.Tensor, max: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum along `dim`, or of all."""
    _require_elements("aminmax", self, dim)
    written(max, self.dtype)
    _into(_range, (min, max), self, dim, keepdim, self.dtype)
    return min, max


@implements("_aminmax")
def aminmax_of_all(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum of all elements."""
    return torch.aminmax(self)


@implements("_aminmax.dim")
def aminmax_along(self: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum along `dim`."""
    return torch.aminmax(self, dim=dim, keepdim=keepdim)


# Truth -----------------------------------------------------------------------------------------------


def _truth_dtype(input: torch.Tensor) -> torch.dtype:
    return torch.uint8 if input.dtype == torch.uint8 else torch.bool


def _register_truth(name: str, row: Reduction) -> None:
    def along(self: torch.Tensor, dim: Dims = None, keepdim: bool = False, *, out: torch.Tensor) -> torch.Tensor:
        if out.dtype not in (torch.bool, torch.uint8):
            raise RuntimeError(f"{name} only supports bool tensor for result, got: {scalar_type(out.dtype)}")
        _into(row, (out,), self != 0 if self.is_complex() else self, dim, keepdim)
        return out

    def whole(self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return along(self, out=out)

    register(f"{name}.out", along)
    register(f"{name}.dims_out", along)
    register(f"{name}.all_out", whole)


_register_truth("any", _any)
_register_truth("all", _all)


@implements("count_nonzero.dim_IntList")
def count_nonzero(self: torch.Tensor, dim: Dims) -> torch.Tensor:
    """How many elements along `dim` are not zero, int64."""
    dims = canonical_dims(dim, self.dim())
    out = torch.empty(reduced_shape(self.shape, dims, False), dtype=torch.int64, device=self.device)
    _count((out,), (self != 0 if self.is_complex() else self,), dims)
    return out


@implements("hash_tensor.out")
def hash_tensor_out(
    self: torch.Tensor, dim: Dims = (), *, keepdim: bool = False, mode: int = 0, out: torch.Tensor
) -> torch.Tensor:
    """The exclusive or of the elements' bits as float64 or int64."""
    if mode != 0:
        raise RuntimeError(f"Unknown hash_tensor mode: {mode}")
    refuse_as_cpu("hash_tensor", self.dtype)
    _require_elements("hash_tensor", self, list(dim) if isinstance(dim, Sequence) else dim)
    _into(_hash, (out,), self, dim, keepdim, torch.uint64)
    return out


@implements("equal")
def equal(self: torch.Tensor, other: torch.Tensor) -> bool:
    """The one reduction whose result the host must see: it waits for the device."""
    on_device(self, other)
    if self.dtype != other.dtype:
        raise RuntimeError(f"Expected object of data type {self.dtype} but got data type {other.dtype} for argument #2")
    if self.shape != other.shape:
        return False
    return bool((self == other).all())


@implements("is_set_to")
def is_set_to(self: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether both are the same part of the same storage."""
    return (
        self.untyped_storage()._cdata == tensor.untyped_storage()._cdata
        and self.storage_offset() == tensor.storage_offset()
        and self.shape == tensor.shape
        and self.stride() == tensor.stride()
    )


# Norms and moments -----------------------------------------------------------------------------------


def _norm_into(
    self: torch.Tensor, ord: float, dim: Dims, keepdim: bool, dtype: torch.dtype | None, out: torch.Tensor
) -> None:
    if dtype is not None and self.dtype != dtype:
        self = self.to(dtype)
    if self.is_complex():
        self, dtype = self.abs(), dtype and dtype.to_real()
    row = _norms.get(float(ord))
    if ord != 0 and self.numel() and all(self.size(d) == 1 for d in canonical_dims(dim, self.dim())):
        row = _norms[math.inf]  # of one element: no power of it overflows on the way
    _into(row or _norm, (out,), self, dim, keepdim, dtype, () if row else (float(ord),))


@implements("linalg_vector_norm.out")
def linalg_vector_norm_out(
    self: torch.Tensor,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor,
) -> torch.Tensor:
    """The norm of order `ord` along `dim`, as of one vector. RuntimeError for integers."""
    if not (self.is_floating_point() or self.is_complex()):
        raise RuntimeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {self.dtype}"
        )
    _norm_into(self, ord, dim, keepdim, dtype or self.dtype, out)
    return out


@implements("linalg__powsum")
def linalg_powsum(
    self: torch.Tensor, ord: float = 2, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """What a vector norm takes the root of."""
    sizes = self.abs() if dtype is None else self.to(dtype).abs()
    powers = (sizes != 0).to(sizes.dtype) if ord == 0 else sizes.pow(ord)
    return powers.sum(canonical_dims(dim, self.dim()), keepdim)


@implements("norm.out")
def norm_out(
    self: torch.Tensor, p: float | None, dim: Dims, keepdim: bool = False, *, out: torch.Tensor
) -> torch.Tensor:
    """The norm of order `p` (2 for None) along `dim`."""
    _norm_into(self, 2.0 if p is None else p, dim, keepdim, self.dtype, out)
    return out


@implements("norm.dtype_out")
def norm_dtype_out(
    self: torch.Tensor, p: float | None, dim: Dims, keepdim: bool, *, dtype: torch.dtype, out: torch.Tensor
) -> torch.Tensor:
    """`norm_out` in `dtype`."""
    if torch.promote_types(self.dtype, dtype) != dtype:
        raise RuntimeError(
            f"linalg.vector_norm: the dtype of the input ({scalar_type(self.dtype)}) should be convertible without "
            f"narrowing to the specified dtype ({scalar_type(dtype)})"
        )
    _norm_into(self, 2.0 if p is None else p, dim, keepdim, dtype, out)
    return out


def renorm(self: torch.Tensor, p: float, dim: int, maxnorm: float) -> torch.Tensor:
    """torch's gradient of it takes the norms of doubles in float32 on `mps`; this one follows from the parts."""
    if self.dim() < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {self.dim()} dimensions")
    if isinstance(p, complex) or isinstance(maxnorm, complex):
        raise RuntimeError("renorm: p and maxnorm must be real-valued")
    if p <= 0:
        raise RuntimeError("non-positive-norm not supported")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    if not (self.is_floating_point() or self.is_complex()):
        raise RuntimeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {scalar_type(self.dtype)}"
        )
    kept = canonical_dims(dim, self.dim())
    others = [d for d in range(self.dim()) if d not in kept]
    wide = self.to(torch.promote_types(self.dtype, torch.float32))  # or terms of the gradient would be half types
    norms = torch.linalg.vector_norm(wide, p, others, keepdim=True)
    factors = torch.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)
    return (wide * factors).to(self.dtype).contiguous()


register_composite("renorm", renorm)


@implements("renorm.out")
def renorm_out(self: torch.Tensor, p: float, dim: int, maxnorm: float, *, out: torch.Tensor) -> torch.Tensor:
    """self with each slice along `dim` scaled down to a norm of at most `maxnorm`."""
    written(out, self.dtype)
    apart_or_same(out, self)
    return resized(out, self.shape).copy_(renorm(self, p, dim, maxnorm))


def _register_moments(name: str, row: Reduction, with_mean: Reduction) -> None:
    def prepare(input: torch.Tensor, correction: float | None) -> tuple[float, ...]:
        if not input.is_floating_point():
            raise RuntimeError(f"{name} only support floating point and complex dtypes")
        return (1.0 if correction is None else float(correction),)

    def of_complex(input: torch.Tensor, **options: Any) -> torch.Tensor:
        """The variance of a complex number is that of its parts together."""
        total = torch.var(input.real, **options) + torch.var(input.imag, **options)
        return total.sqrt() if name == "std" else total

    def out(
        self: torch.Tensor,
        dim: Dims = None,
        *,
        correction: float | None = None,
        keepdim: bool = False,
        out: torch.Tensor,
    ) -> torch.Tensor:
        if self.is_complex():
            result = of_complex(self, dim=dim, correction=correction, keepdim=keepdim)
            castable(out, result.dtype)
            check_out(out, result.shape)
            return out.copy_(result)
        castable(out, self.dtype)
        if out.is_complex():
            result = one(self, dim, correction=correction, keepdim=keepdim)
            return resized(out, result.shape).copy_(result)
        _into(row, (out,), self, dim, keepdim, None, prepare(self, correction))
        return out

    def one(
        self: torch.Tensor, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
    ) -> torch.Tensor:
        if self.is_complex():
            return of_complex(self, dim=dim, correction=correction, keepdim=keepdim)
        result = self.new_empty((0,))
        _into(row, (result,), self, dim, keepdim, None, prepare(self, correction))
        return result

    def both(
        self: torch.Tensor, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_complex():
            spread = of_complex(self, dim=dim, correction=correction, keepdim=keepdim)
            return spread, self.mean(canonical_dims(dim, self.dim()), keepdim)
        results = (self.new_empty((0,)), self.new_empty((0,)))
        _into(with_mean, results, self, dim, keepdim, None, prepare(self, correction))
        return results

    register(f"{name}.correction", one)
    register(f"{name}.correction_out", out)
    register(f"{name}_mean.correction", both)


_register_moments("var", _var, _var_mean)
_register_moments("std", _std, _std_mean)
