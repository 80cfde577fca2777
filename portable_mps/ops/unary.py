"""Elementwise operators of one tensor, the activations apart (activation.py)."""

from __future__ import annotations

import torch

from portable_mps.dispatch.pointwise import Pointwise, register
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import Promotion, scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import castable, resized, resized_like

# Results are floating point: integers are promoted to the default dtype first.
_ELEMENTARY = "acos acosh asin asinh atan atanh cos cosh exp exp2 expm1 log log10 log1p log2 rsqrt sigmoid sin sinc"
_ELEMENTARY += " sinh sqrt tan tanh"
_ERROR = "erf erfc"
_SPECIAL = "digamma erfinv i0 lgamma"
_SPECIAL_NAMESPACE = "erfcx i0e i1 i1e log_ndtr ndtri"
_ROUNDED = {"sigmoid", "tanh"}  # of which lib.rounded has shorter ones
_BESSEL = "bessel_j0 bessel_j1 bessel_y0 bessel_y1 modified_bessel_k0 modified_bessel_k1"
_BESSEL += " scaled_modified_bessel_k0 scaled_modified_bessel_k1"


def _register_float(
    names: str,
    module: str | None,
    prefix: str = "",
    forms: tuple[str, ...] = (),
    complex: bool = False,
    unroll: bool = True,
) -> None:
    """Rows for functions of the shader library that carry the operator's name; `forms` are other overloads of it."""
    for name in names.split():
        modules = () if module is None else (module,)
        row = Pointwise(
            name,
            (f"maths::{name}(a)",),
            1,
            promotion=Promotion.FLOAT,
            modules=modules,
            complex=complex,
            unroll=unroll,
            in_half=f"rounded::{name}(a)" if name in _ROUNDED else "",
        )
        register(row, f"{prefix}{name}.out", *(form.format(prefix + name) for form in forms))


_register_float(_ELEMENTARY, None, forms=("{}", "{}_"), complex=True)
_register_float("entr", None, "special_")
_register_float(_ERROR, "lib.special")
_register_float(_SPECIAL, "lib.special", unroll=False)
_register_float(_SPECIAL_NAMESPACE, "lib.special", "special_", unroll=False)
_register_float(_BESSEL, "lib.bessel", "special_", unroll=False)
register(
    Pointwise("reciprocal", ("maths::div(C(1), a)",), 1, promotion=Promotion.FLOAT, complex=True), "reciprocal.out"
)

# Results keep the dtype.
_WHOLE = {"int": "a", "int64_t": "a"}
_ABS = {k: "a < C(0) ? -a : a" for k in ("int", "int64_t")}
_abs = Pointwise("abs", ("maths::abs(a)",), 1, promotion=Promotion.SAME, by_type=_ABS, like="abs")
_modulus = Pointwise("modulus", ("maths::abs(a)",), 1, promotion=Promotion.NONE, complex=True)


@implements("abs.out")
def abs_out(self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """The absolute value; of complex numbers, a real one."""
    if not self.is_complex():
        return _abs((out,), (self,))[0]
    castable(out, self.dtype.to_real())
    return _modulus((resized_like(out, self),), (self,))[0]


register(Pointwise("neg", ("-a",), 1, promotion=Promotion.SAME, complex=True), "neg.out")
_conjugate = register(
    Pointwise("conj_physical", ("a",), 1, promotion=Promotion.SAME, by_type={"Complex": "maths::conj(a)"}),
    "conj_physical.out",
)


@implements("conj_physical_")
def conj_physical_(self: torch.Tensor) -> torch.Tensor:
    """Conjugate in place."""
    return _conjugate((self,), (self,))[0] if self.is_complex() else self


register(Pointwise("ceil", ("maths::ceil(a)",), 1, promotion=Promotion.SAME, by_type=_WHOLE), "ceil.out")
register(Pointwise("floor", ("maths::floor(a)",), 1, promotion=Promotion.SAME, by_type=_WHOLE), "floor.out")
register(Pointwise("trunc", ("maths::trunc(a)",), 1, promotion=Promotion.SAME, by_type=_WHOLE), "trunc.out")
register(Pointwise("round", ("maths::round(a)",), 1, promotion=Promotion.SAME, by_type=_WHOLE), "round.out")
register(Pointwise("frac", ("a - maths::trunc(a)",), 1, promotion=Promotion.SAME, only="floating"), "frac.out")
_SIGN = "(a > C(0) ? C(1) : C(0)) - (a < C(0) ? C(1) : C(0))"
register(
    Pointwise(
        "sign",
        (f"maths::isnan(a) ? C(0) : {_SIGN}",),
        1,
        promotion=Promotion.SAME,
        by_type={k: _SIGN for k in ("int", "int64_t", "bool")},
    ),
    "sign.out",
)
register(
    Pointwise(
        "sgn",
        (f"maths::isnan(a) ? C(0) : {_SIGN}",),
        1,
        promotion=Promotion.SAME,
        by_type={**{k: _SIGN for k in ("int", "int64_t", "bool")}, "Complex": "maths::sgn(a)"},
    ),
    "sgn.out",
)
register(
    Pointwise("bitwise_not", ("~a",), 1, promotion=Promotion.SAME, only="integral", by_type={"bool": "a == 0"}),
    "bitwise_not.out",
)

# Results are bool, or what out= says.
_NEVER = {k: "false" for k in ("int", "int64_t", "bool")}
register(Pointwise("logical_not", ("!cast_bool(a)",), 1, promotion=Promotion.BOOL, complex=True), "logical_not.out")
register(Pointwise("isnan", ("maths::isnan(a)",), 1, promotion=Promotion.BOOL, by_type=_NEVER, complex=True), "isnan")


def _register_truth(name: str, expression: str, of_integers: dict[str, str]) -> None:
    """A property of real numbers, into bool alone."""
    row = Pointwise(name, (expression,), 1, promotion=Promotion.BOOL, by_type=of_integers, like=name)

    @implements(f"{name}.out")
    def into(self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        if self.is_complex():
            raise RuntimeError(f"{name} does not support complex inputs.")
        if out.dtype != torch.bool:
            raise RuntimeError(f"{name} does not support non-boolean outputs.")
        return row((out,), (self,))[0]


_register_truth("signbit", "maths::signbit(a)", {"int": "a < 0", "int64_t": "a < 0", "bool": "false"})
_register_truth("isposinf", "maths::isinf(a) && a > C(0)", _NEVER)
_register_truth("isneginf", "maths::isinf(a) && a < C(0)", _NEVER)

_round_decimals = Pointwise(
    "round_decimals", ("maths::div(maths::round(a * s0), s0)",), 1, "c", Promotion.SAME, like="round.decimals"
)
_round_tens = Pointwise(
    "round_tens", ("maths::round(maths::div(a, s0)) * s0",), 1, "c", Promotion.SAME, like="round.decimals"
)


@implements("round.decimals_out")
def round_decimals_out(self: torch.Tensor, *, decimals: int, out: torch.Tensor) -> torch.Tensor:
    """Rounded, half to even, to `decimals` digits behind the point, or tens before it where that is negative."""
    row = _round_decimals if decimals >= 0 else _round_tens
    return row((out,), (self,), (10.0 ** abs(decimals),))[0]


_nan_to_num = Pointwise(
    "nan_to_num",
    ("maths::isnan(a) ? s0 : maths::isinf(a) ? (a > C(0) ? s1 : s2) : a",),
    1,
    "ccc",
    by_type={k: "a" for k in ("int", "int64_t", "bool")},
    like="nan_to_num",
)


@implements("nan_to_num.out")
def nan_to_num_out(
    self: torch.Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """self with NaN and the infinities replaced."""
    if self.dtype != out.dtype:
        kinds = scalar_type(out.dtype), scalar_type(self.dtype)
        raise RuntimeError(f"nan_to_num: dtype of out: {kinds[0]} should be same as input: {kinds[1]}")
    limits = torch.finfo(self.dtype) if self.is_floating_point() else torch.iinfo(torch.int32)
    values = (nan or 0.0, limits.max if posinf is None else posinf, limits.min if neginf is None else neginf)
    return _nan_to_num((out,), (self,), values if self.is_floating_point() else (0, 0, 0))[0]


_frexp = Pointwise(
    "frexp",
    ("maths::frexp_mantissa(a)", "maths::frexp_exponent(a)"),
    1,
    promotion=Promotion.NONE,
)


@implements("frexp.Tensor_out")
def frexp_out(
    self: torch.Tensor, *, mantissa: torch.Tensor, exponent: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mantissas in [0.5, 1) and exponents, int32, of floating-point numbers."""
    refuse_as_cpu("frexp.Tensor", self.dtype)
    for out, dtype, name in ((mantissa, self.dtype, "mantissa"), (exponent, torch.int32, "exponent")):
        if out.dtype != dtype:
            raise RuntimeError(f"torch.frexp() expects {name} to have dtype {dtype} but got {out.dtype}")
        resized(out, self.shape)
    _frexp((mantissa, exponent), (self,))
    return mantissa, exponent


_angle = Pointwise(
    "angle", ("maths::isnan(a) ? a : (a < C(0) ? K(3.14159265358979323846) : C(0))",), 1, promotion=Promotion.FLOAT
)
_argument = Pointwise("argument", ("maths::angle(a)",), 1, promotion=Promotion.NONE, complex=True)


@implements("angle")
def angle(self: torch.Tensor) -> torch.Tensor:
    """The angle of complex numbers; of real ones 0 or pi, and NaN of NaN."""
    if not self.is_complex():
        return _angle((None,), (self,))[0]
    return angle_out(self, out=torch.empty_like(self, dtype=self.dtype.to_real()))


@implements("angle.out")
def angle_out(self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`angle` into `out`."""
    if not self.is_complex():
        return _angle((out,), (self,))[0]
    castable(out, self.dtype.to_real())
    return _argument((resized_like(out, self),), (self,))[0]


_logit = Pointwise("logit", ("maths::log(maths::div(a, C(1) - a))",), 1, promotion=Promotion.FLOAT)
_INSIDE = "maths::minimum(maths::maximum(a, s0), C(1) - s0)"  # a NaN stays one
_logit_clamped = Pointwise(
    "logit_clamped",
    (f"maths::log(maths::div({_INSIDE}, C(1) - {_INSIDE}))",),
    1,
    "c",
    promotion=Promotion.FLOAT,
)


@implements("logit.out")
def logit_out(self: torch.Tensor, eps: float | None = None, *, out: torch.Tensor) -> torch.Tensor:
    """`logit` into `out`."""
    return (_logit((out,), (self,)) if eps is None else _logit_clamped((out,), (self,), (eps,)))[0]


@implements("logit")
def logit(self: torch.Tensor, eps: float | None = None) -> torch.Tensor:
    """log(x / (1 - x)); with `eps`, of x clamped to [eps, 1 - eps]."""
    return (_logit((None,), (self,)) if eps is None else _logit_clamped((None,), (self,), (eps,)))[0]


@implements("logit_")
def logit_(self: torch.Tensor, eps: float | None = None) -> torch.Tensor:
    """`logit` into self."""
    return logit_out(self, eps, out=self)


_polygamma = Pointwise(
    "polygamma", ("maths::polygamma(s0, a)",), 1, "i", promotion=Promotion.FLOAT, modules=("lib.special",), unroll=False
)


@implements("polygamma.out")
def polygamma_out(n: int, self: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """The n-th derivative of the digamma function."""
    if n == 0:
        return torch.digamma(self, out=out)
    return _polygamma((out,), (self,), (n,))[0]
