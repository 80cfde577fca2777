"""What each of Inductor's operators on one element is in Slang.

Values are in their dtype's compute type (dispatch/promotion.py): half types are float, and as on CUDA rounded only in
memory; narrow integers are int, wrapped to their width after each operation by the kernel.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch._inductor import config
from torch._inductor.codegen.common import CSEVariable, OpOverrides, pointwise_overrides_data
from torch._inductor.utils import IndentedBuffer, get_bounds_index_expr
from torch._inductor.virtualized import V, ops

from portable_mps.dispatch.promotion import storage
from portable_mps.runtime import device

_HALF = (torch.float16, torch.bfloat16)

# Of one floating-point number, by the name of both sides.
_UNARY = "acos acosh asin asinh atan atanh cos cosh exp exp2 expm1 log log10 log1p log2 rsqrt sigmoid sin sinh sqrt tan"
_UNARY += " tanh"
_SPECIAL = "digamma erf erfc erfcx erfinv i0 i0e i1 i1e lgamma log_ndtr ndtr ndtri"
_BESSEL = "bessel_j0 bessel_j1 bessel_y0 bessel_y1 modified_bessel_k0 modified_bessel_k1"
_BESSEL += " scaled_modified_bessel_k0 scaled_modified_bessel_k1"
_CHEBYSHEV = ("chebyshev_t", "chebyshev_u", "chebyshev_v", "chebyshev_w")
_OTHER_POLYNOMIALS = ("hermite_h", "hermite_he", "laguerre_l", "legendre_p")


def compute_type(dtype: torch.dtype) -> str:
    """What a value of `dtype` is in a kernel; NotImplementedError for a complex one, as Inductor keeps these apart.

    Without float64 in the adapter there are no such tensors, but Inductor computes with the host's numbers in it.
    """
    if dtype == torch.float64 and not device.current().adapter.features["float64"]:
        return "float"
    return storage(dtype, float8=True).compute


def rounded_through(value: str, dtype: torch.dtype) -> str:
    """`value`, as it comes back from memory of this dtype."""
    row = storage(dtype, float8=True)
    if row.module:
        V.kernel.modules.add(row.module)
    return row.load.format(row.store.format(value))


def literal(value: float | int | bool, dtype: torch.dtype) -> str:
    """A constant in the dtype's compute type."""
    kind = compute_type(dtype)
    if kind == "bool":
        return "true" if value else "false"
    if kind not in ("float", "double"):
        whole = int(value)
        if kind == "uint64_t":
            return f"{whole & (2**64 - 1)}ull"
        wide = kind == "int64_t"
        if whole == (-(2**63) if wide else -(2**31)):
            return "int64_t(0x8000000000000000ull)" if wide else "int(0x80000000u)"
        return f"{whole}ll" if wide else f"{whole}"
    number = float(value)
    if not math.isfinite(number):
        sign = "-" if number < 0 else ""
        if kind == "double":
            return "maths::nan_of(0.0lf)" if math.isnan(number) else f"({sign}maths::inf_of(0.0lf))"
        return f"asfloat(0x{'7fc' if math.isnan(number) else 'ff8' if sign else '7f8'}00000u)"
    suffix = "lf" if kind == "double" else "f"
    if (kind == "float" and number != 0 and abs(number) < 2.0**-126) or (
        abs(number) > 3.4028234e38 and kind == "float"
    ):
        import numpy as np

        return f"asfloat({int(np.float32(number).view(np.uint32))}u)"
    return f"{number!r}{suffix}"


def _alike(*arguments: Any) -> list[Any]:
    """The arguments in one compute type: Inductor mixes int32 and int64, and Slang's own conversion may go wrong."""
    types = [a.dtype for a in arguments if isinstance(a, CSEVariable) and a.dtype is not None]
    common = functools.reduce(torch.promote_types, types) if types else None
    if common is None or len({compute_type(dtype) for dtype in types}) == 1:
        return list(arguments)
    kind = compute_type(common)
    return [f"cast_{kind}({a})" if isinstance(a, CSEVariable) else literal(a, common) for a in arguments]


class SlangOverrides(OpOverrides):
    """Expressions of arguments in their compute types, and the modules of kernels/lib that they need."""

    @staticmethod
    def constant(value: Any, dtype: torch.dtype) -> Any:
        """A literal."""
        return literal(value, dtype)

    @staticmethod
    def to_dtype(
        x: Any, dtype: torch.dtype, src_dtype: torch.dtype | None = None, use_compute_types: bool = True
    ) -> Any:
        """A conversion; to narrow integers, and to half types that are not merely computed in, it rounds."""
        if x.dtype == dtype and (dtype not in _HALF or use_compute_types):
            return x
        kind = compute_type(dtype)
        value = str(x) if x.dtype is not None and compute_type(x.dtype) == kind else f"cast_{kind}({x})"
        is_rounded = not use_compute_types or config.emulate_precision_casts if dtype in _HALF else dtype.itemsize < 4
        return rounded_through(value, dtype) if is_rounded and dtype != torch.bool else value

    @staticmethod
    def to_dtype_bitcast(x: Any, dtype: torch.dtype, src_dtype: torch.dtype) -> Any:
        """The same bits as another dtype."""
        source, target = storage(src_dtype, float8=True), storage(dtype, float8=True)
        return target.load.format(f"bit_cast<{target.type}>({source.store.format(x)})")

    @staticmethod
    def index_expr(expr: sympy.Expr, dtype: torch.dtype) -> Any:
        """The value of an expression of indices."""
        kernel = V.kernel
        is_whole = not dtype.is_floating_point if expr.is_integer is None else expr.is_integer
        var = kernel.cse.generate(
            kernel.compute,
            kernel.index_to_str(kernel.prepare_indexing(expr)),
            bounds=get_bounds_index_expr(expr),
            dtype=kernel.get_index_dtype_as_torch_dtype() if is_whole else torch.float32,
        )
        return ops.to_dtype(var, dtype)

    value_expr = index_expr

    @staticmethod
    def masked(mask: Any, body: Callable[[], Any], other: Any) -> Any:
        """What `body` loads is touched where the mask holds alone."""
        kernel = V.kernel
        inner = IndentedBuffer()
        with kernel.swap_buffers(inner), inner.indent():
            kernel.cse.iter_buffer_ids = itertools.count()  # equal bodies have equal texts
            kernel.cse.name_prefix += "_masked"
            result = body()
        otherwise = other if isinstance(other, CSEVariable) else literal(other, result.dtype)
        key = f"{mask}:{inner.getvalue()}:{otherwise}"
        var = kernel.cse.try_get(key)
        if not var:
            var = kernel.cse.newvar(dtype=result.dtype)
            kernel.cse.put(key, var)
            kernel.compute.writeline(f"{compute_type(result.dtype)} {var} = {otherwise};")
            kernel.compute.writeline(f"if ({mask})")
            kernel.compute.writeline("{")
            kernel.compute.splice(inner)
            with kernel.compute.indent():
                kernel.compute.writeline(f"{var} = {result};")
            kernel.compute.writeline("}")
        return var

    # Selection and logic.

    @staticmethod
    def where(condition: Any, x: Any, y: Any) -> Any:
        """One of two values."""
        x, y = _alike(x, y)
        return f"{condition} ? {x} : {y}"

    @staticmethod
    def logical_not(a: Any) -> Any:
        """Of the truth of a value."""
        return f"!cast_bool({a})"

    @staticmethod
    def logical_and(a: Any, b: Any) -> Any:
        """Of the truth of both values."""
        return f"cast_bool({a}) && cast_bool({b})"

    and_ = logical_and  # type: ignore[assignment]

    @staticmethod
    def logical_or(a: Any, b: Any) -> Any:
        """Of the truth of both values."""
        return f"cast_bool({a}) || cast_bool({b})"

    or_ = logical_or  # type: ignore[assignment]

    @staticmethod
    def logical_xor(a: Any, b: Any) -> Any:
        """Of the truth of both values."""
        return f"cast_bool({a}) != cast_bool({b})"

    xor = logical_xor  # type: ignore[assignment]

    @staticmethod
    def bitwise_not(x: Any) -> Any:
        """Of each bit; logical for bool."""
        return f"!{x}" if x.dtype == torch.bool else f"~{x}"

    @staticmethod
    def bitwise_and(x: Any, y: Any) -> Any:
        """Of each bit; logical for bool."""
        return f"{x} && {y}" if x.dtype == torch.bool else " & ".join(map(str, _alike(x, y)))

    @staticmethod
    def bitwise_or(x: Any, y: Any) -> Any:
        """Of each bit; logical for bool."""
        return f"{x} || {y}" if x.dtype == torch.bool else " | ".join(map(str, _alike(x, y)))

    @staticmethod
    def bitwise_xor(x: Any, y: Any) -> Any:
        """Of each bit; logical for bool."""
        return f"{x} != {y}" if x.dtype == torch.bool else " ^ ".join(map(str, _alike(x, y)))

    @staticmethod
    def bitwise_left_shift(x: Any, y: Any) -> Any:
        """Past the width zero, as in ops/binary.py; a narrow integer's is that of its dtype on wrapping."""
        kind = compute_type(x.dtype)
        return f"({y} < {kind}(0) || {y} >= {kind}({8 * x.dtype.itemsize})) ? {kind}(0) : {x} << {y}"

    lshift = bitwise_left_shift  # type: ignore[assignment]

    @staticmethod
    def bitwise_right_shift(x: Any, y: Any) -> Any:
        """By as many bits as the dtype has or more, or by a negative number, only the sign is left."""
        kind = compute_type(x.dtype)
        past = f"({x} < {kind}(0) ? {kind}(-1) : {kind}(0))"
        return f"({y} < {kind}(0) || {y} >= {kind}({8 * x.dtype.itemsize})) ? {past} : {x} >> {y}"

    rshift = bitwise_right_shift  # type: ignore[assignment]

    # Arithmetic.

    @staticmethod
    def neg(x: Any) -> Any:
        """The negative."""
        return f"-{x}"

    @staticmethod
    def abs(x: Any) -> Any:
        """The absolute value."""
        if x.dtype == torch.bool:
            return str(x)
        return f"maths::abs({x})" if x.dtype.is_floating_point else f"({x} < 0 ? -{x} : {x})"

    @staticmethod
    def sign(x: Any) -> Any:
        """-1, 0 or 1."""
        kind = compute_type(x.dtype)
        if kind == "bool":
            return str(x)
        sign = f"({x} > {kind}(0) ? {kind}(1) : {kind}(0)) - ({x} < {kind}(0) ? {kind}(1) : {kind}(0))"
        return f"maths::isnan({x}) ? {kind}(0) : {sign}" if x.dtype.is_floating_point else sign

    @staticmethod
    def truediv(a: Any, b: Any) -> Any:
        """A quotient in floating point."""
        return "maths::div({}, {})".format(*_alike(a, b))

    div_rn = truediv  # type: ignore[assignment]

    @staticmethod
    def int_truediv(a: Any, b: Any) -> Any:
        """The quotient of integers in floating point."""
        return f"maths::div(float({a}), float({b}))"

    @staticmethod
    def reciprocal(x: Any) -> Any:
        """1 / x."""
        return f"maths::rcp({x})"

    @staticmethod
    def floordiv(a: Any, b: Any) -> Any:
        """A quotient rounded down."""
        return "maths::floor_divide({}, {})".format(*_alike(a, b))

    @staticmethod
    def truncdiv(a: Any, b: Any) -> Any:
        """A quotient rounded towards zero."""
        quotient = "maths::div({}, {})".format(*_alike(a, b))
        return f"maths::trunc({quotient})" if a.dtype.is_floating_point else quotient

    @staticmethod
    def fma(x: Any, y: Any, z: Any) -> Any:
        """x * y + z, which is not fused."""
        return "{} * {} + {}".format(*_alike(x, y, z))

    @staticmethod
    def pow(a: Any, b: Any) -> Any:
        """A power."""
        return "maths::pow({}, {})".format(*_alike(a, b))

    @staticmethod
    def ldexp(x: Any, n: Any) -> Any:
        """x * 2^n."""
        return f"maths::ldexp({x}, int({n}))"

    @staticmethod
    def frexp(x: Any) -> tuple[Any, Any]:
        """(mantissa, exponent)."""
        kernel = V.kernel
        mantissa = kernel.cse.generate(kernel.compute, f"maths::frexp_mantissa({x})", dtype=x.dtype)
        exponent = kernel.cse.generate(kernel.compute, f"maths::frexp_exponent({x})", dtype=torch.int32)
        return mantissa, exponent

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        """The larger one, or NaN."""
        return f"{a} || {b}" if a.dtype == torch.bool else "maths::maximum({}, {})".format(*_alike(a, b))

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        """The smaller one, or NaN."""
        return f"{a} && {b}" if a.dtype == torch.bool else "maths::minimum({}, {})".format(*_alike(a, b))

    @staticmethod
    def relu(x: Any) -> Any:
        """x where it is positive, else 0; NaN stays."""
        zero = literal(0, x.dtype)
        return f"maths::maximum({x}, {zero})"

    @staticmethod
    def identity(x: Any) -> Any:
        """The value itself."""
        return x

    @staticmethod
    def square(x: Any) -> Any:
        """x * x."""
        return f"{x} * {x}"

    @staticmethod
    def signbit(x: Any) -> Any:
        """Whether the sign is negative, also of zeros."""
        if x.dtype.is_floating_point:
            return f"maths::signbit({x})"
        return "false" if x.dtype == torch.bool else f"{x} < 0"

    # Random numbers are eager's kernels (`fallback_random`), with eager's seeds.

    @staticmethod
    def _drawn_by_eager(*arguments: Any) -> Any:
        raise NotImplementedError("torch.compile on mps draws random numbers with config.fallback_random = True alone")

    rand = randn = randint64 = rand_eager = load_seed = _drawn_by_eager  # type: ignore[assignment]


def _add(name: str, template: str, module: str = "", of_integers: str | None = None) -> None:
    """An operator whose arguments fill the template; integers may have another one."""

    def operator(*arguments: Any) -> str:
        if module:
            V.kernel.modules.add(module)
        dtype = getattr(arguments[0], "dtype", None)
        is_whole = dtype is not None and not dtype.is_floating_point
        text = of_integers if of_integers is not None and is_whole else template
        return text.format(*_alike(*arguments))

    operator.__name__ = name
    setattr(SlangOverrides, name, staticmethod(operator))


def _add_rounding(name: str) -> None:
    """To a whole number of the dtype that is given."""

    def operator(a: Any, dtype: torch.dtype) -> str:
        return f"cast_{compute_type(dtype)}(maths::{name}({a}))"

    operator.__name__ = f"{name}_to_int"
    setattr(SlangOverrides, operator.__name__, staticmethod(operator))


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "mul_rn": "*"}.items():
    _add(_name, f"{{0}} {_sign} {{1}}")


def _add_comparison(name: str, sign: str) -> None:
    """Of bools as integers: Slang compares them in SPIR-V that has no such instruction for bools."""

    def operator(a: Any, b: Any) -> str:
        a, b = _alike(a, b)
        is_bool = getattr(a, "dtype", None) == torch.bool
        return f"int({a}) {sign} int({b})" if is_bool else f"{a} {sign} {b}"

    operator.__name__ = name
    setattr(SlangOverrides, name, staticmethod(operator))


for _name, _sign in {"eq": "==", "ne": "!="}.items():
    _add(_name, f"{{0}} {_sign} {{1}}")
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    _add_comparison(_name, _sign)
for _name in _UNARY.split():
    _add(_name, f"maths::{_name}({{0}})")
for _name in ("ceil", "floor", "trunc", "round"):
    _add(_name, f"maths::{_name}({{0}})", of_integers="{0}")
for _name in ("floor", "ceil", "trunc", "round"):
    _add_rounding(_name)
for _name in ("isnan", "isinf"):
    _add(_name, f"maths::{_name}({{0}})", of_integers="false")
for _name in ("atan2", "copysign", "hypot", "nextafter", "fmod", "remainder"):
    _add(_name, f"maths::{_name}({{0}}, {{1}})")
_add("mod", "maths::fmod({0}, {1})")
for _name in _SPECIAL.split():
    _add(_name, f"maths::{_name}({{0}})", "lib.special")
for _name in ("i0", "i1"):
    _add(f"modified_bessel_{_name}", f"maths::{_name}({{0}})", "lib.special")
for _name in _BESSEL.split():
    _add(_name, f"maths::{_name}({{0}})", "lib.bessel")
_add("airy_ai", "maths::airy_ai({0})", "lib.airy")
_add(
    "spherical_bessel_j0",
    "maths::iszero({0}) ? 1.0f : (maths::isinf({0}) ? 0.0f : maths::div(maths::sin({0}), {0}))",
)
_add("zeta", "maths::zeta({0}, {1})", "lib.special")
_add("polygamma", "maths::polygamma(int({0}), {1})", "lib.special")
for _name in ("igamma", "igammac"):
    _add(_name, f"maths::{_name}({{0}}, {{1}})", "lib.incomplete")
_add("gammainc", "maths::igamma({0}, {1})", "lib.incomplete")
_add("gammaincc", "maths::igammac({0}, {1})", "lib.incomplete")
for _name in (*_CHEBYSHEV, *_OTHER_POLYNOMIALS):
    _kind, _letter = _name.split("_")
    _add(f"{_kind}_polynomial_{_letter}", f"maths::{_name}({{0}}, cast_int64({{1}}))", "lib.polynomials")
    if _name in _CHEBYSHEV:
        _shifted = f"maths::{_name}({{0}} + {{0}} - 1.0f, cast_int64({{1}}))"
        _add(f"shifted_{_kind}_polynomial_{_letter}", _shifted, "lib.polynomials")

_MISSING = [name for name in pointwise_overrides_data if SlangOverrides._is_unimplemented(name)]
for _name in _MISSING:
    setattr(SlangOverrides, _name, SlangOverrides._unimplemented(_name))
