"""Elementwise operators of two or three tensors: arithmetic, comparison, logic."""

from __future__ import annotations

import math
import warnings

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.pointwise import Check, Pointwise, register
from portable_mps.dispatch.promotion import Promotion, scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import castable, on_device, resized, resized_like

# Arithmetic. `alpha` is 1 in nearly every call, and IEEE makes a + 1 * b exactly a + b. The commonest operators are
# registered in all forms: their structured form would plan each call twice.
register(Pointwise("rsub", ("b - s0 * a",), 2, "c", complex=True, check=Check.SUBTRACTION), "rsub.Tensor")
register(Pointwise("mul", ("a * b",), 2, complex=True), "mul.out", "mul.Tensor", "mul_.Tensor")
_true_divide = register(
    Pointwise("div", ("maths::div(a, b)",), 2, promotion=Promotion.FLOAT, complex=True),
    "div.out",
    "div.Tensor",
    "div_.Tensor",
)


register(
    Pointwise("add", ("a + s0 * b",), 2, "c", complex=True, check=Check.ALPHA), "add.out", "add.Tensor", "add_.Tensor"
)
register(
    Pointwise("sub", ("a - s0 * b",), 2, "c", complex=True, check=Check.SUBTRACTION),
    "sub.out",
    "sub.Tensor",
    "sub_.Tensor",
)
_floor_divide = register(
    Pointwise("floor_divide", ("maths::floor_divide(a, b)",), 2, check=Check.DIVISOR),
    "floor_divide",
    "floor_divide.out",
    "floor_divide_.Tensor",
)
_trunc_divide = Pointwise(
    "trunc_divide",
    ("maths::trunc(maths::div(a, b))",),
    2,
    by_type={"int": "a / b", "int64_t": "a / b"},
    check=Check.DIVISOR,
    like="fmod.Tensor",
)


@implements("div.out_mode")
def div_out_mode(
    self: torch.Tensor, other: torch.Tensor, *, rounding_mode: str | None, out: torch.Tensor
) -> torch.Tensor:
    """A quotient, rounded "floor" or "trunc", or not (None)."""
    rows = {None: _true_divide, "floor": _floor_divide, "trunc": _trunc_divide}
    if rounding_mode not in rows:
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
        )
    return rows[rounding_mode]((out,), (self, other))[0]


register(Pointwise("fmod", ("maths::fmod(a, b)",), 2, check=Check.DIVISOR), "fmod.Tensor_out")
register(
    Pointwise("remainder", ("maths::remainder(a, b)",), 2, check=Check.DIVISOR),
    "remainder.Tensor_out",
    "remainder.Scalar_Tensor",
)
# The product of exponent and logarithm is large, and its rounding becomes a relative error of the power.
_IN_DOUBLE = {"Complex": "cast_Complex(maths::pow(cast_ComplexDouble(a), cast_ComplexDouble(b)))"}
# As on the CPU, small powers are products.
_POWERS = {kind: "b == C(2) ? a * a : b == C(3) ? a * a * a : maths::pow(a, b)" for kind in ("float", "double")}
register(
    Pointwise(
        "pow", ("maths::pow(a, b)",), 2, complex=True, by_type=_POWERS, in_double=_IN_DOUBLE, check=Check.EXPONENT
    ),
    "pow.Tensor_Tensor_out",
    "pow.Tensor_Scalar_out",
    "pow.Scalar_out",
)
register(Pointwise("maximum", ("maths::maximum(a, b)",), 2), "maximum.out")
register(Pointwise("minimum", ("maths::minimum(a, b)",), 2), "minimum.out")
register(Pointwise("fmax", ("maths::fmax(a, b)",), 2), "fmax.out")
register(Pointwise("fmin", ("maths::fmin(a, b)",), 2), "fmin.out")
register(Pointwise("gcd", ("maths::gcd(a, b)",), 2, only="integral"), "gcd.out")
register(Pointwise("lcm", ("maths::lcm(a, b)",), 2, only="integral"), "lcm.out")
_heaviside = Pointwise("heaviside", ("a == C(0) ? b : (a > C(0) ? C(1) : C(0))",), 2, like="heaviside")


@implements("heaviside.out")
def heaviside_out(self: torch.Tensor, values: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """0 where self is negative, 1 where it is positive, `values` where it is zero. RuntimeError for complex numbers."""
    if self.is_complex() or values.is_complex():
        raise RuntimeError("heaviside is not yet implemented for complex tensors.")
    if not self.dtype == values.dtype == out.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    return _heaviside((out,), (self, values))[0]


for _name in ["atan2", "copysign"]:
    register(Pointwise(_name, (f"maths::{_name}(a, b)",), 2, promotion=Promotion.FLOAT), f"{_name}.out")
for _name in ["hypot", "logaddexp", "logaddexp2"]:
    by_type = {"Complex": "maths::logaddexp(a, b)"} if _name == "logaddexp" else {}
    register(Pointwise(_name, (f"maths::{_name}(a, b)",), 2, only="floating", by_type=by_type), f"{_name}.out")
_nextafter = Pointwise("nextafter", ("maths::nextafter(a, b)",), 2, only="floating")


@implements("nextafter.out")
def nextafter_out(self: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """The next number after self towards `other`."""
    dtype = torch.result_type(self, other)
    if dtype not in (torch.float16, torch.bfloat16):
        return _nextafter((out,), (self, other))[0]
    castable(out, dtype)
    # Half types are computed with in float32, whose neighbours lie closer: step in their own bits.
    start, end = (t.to(device="mps", dtype=dtype) for t in (self, other))
    bits = start.view(torch.int16)
    away_from_zero = (bits >= 0) == (start < end)
    stepped = torch.where(start == 0, torch.where(end < 0, -(2**15) + 1, 1), bits + torch.where(away_from_zero, 1, -1))
    result = torch.where(start == end, end, stepped.to(torch.int16).view(dtype))
    return resized(out, result.shape).copy_(result.masked_fill_(start.isnan() | end.isnan(), math.nan))


register(Pointwise("xlogy", ("maths::xlogy(a, b)",), 2, promotion=Promotion.FLOAT), "xlogy.OutTensor")
register(Pointwise("xlog1py", ("maths::xlog1py(a, b)",), 2, promotion=Promotion.FLOAT), "special_xlog1py.out")
_zeta = Pointwise("zeta", ("maths::zeta(a, b)",), 2, promotion=Promotion.FLOAT, modules=("lib.special",), unroll=False)
register(_zeta, "special_zeta.out")

# Bits.
for _name, _sign in {"and": "&", "or": "|", "xor": "^"}.items():
    register(Pointwise(f"bitwise_{_name}", (f"a {_sign} b",), 2, only="integral"), f"bitwise_{_name}.Tensor_out")
# Shifts past the width, as torch's CPU has them: zero, or the sign for a right shift.
_WIDTH = "(b < C(0) || b >= C(8 * sizeof(C)))"
_shift_left = Pointwise("shift_left", (f"{_WIDTH} ? C(0) : a << b",), 2, only="integral")
_shift_right = Pointwise("shift_right", (f"{_WIDTH} ? (a < C(0) ? C(-1) : C(0)) : a >> b",), 2, only="integral")
register(_shift_left, "bitwise_left_shift.Tensor_out", "__lshift__.Tensor", "__lshift__.Scalar")
register(_shift_left, "__ilshift__.Tensor", "__ilshift__.Scalar")
register(_shift_right, "bitwise_right_shift.Tensor_out", "__rshift__.Tensor", "__rshift__.Scalar")
register(_shift_right, "__irshift__.Tensor", "__irshift__.Scalar")

# Comparison and logic: results are bool, or what out= says.
for _name, _sign in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    row = Pointwise(_name, (f"a {_sign} b",), 2, promotion=Promotion.BOOL, complex=_name in ("eq", "ne"))
    register(row, *(f"{_name}.{form}" for form in ("Tensor_out", "Scalar_out", "Tensor", "Scalar")))
for _name, _sign in {"and": "&&", "or": "||", "xor": "!="}.items():
    expression = f"cast_bool(a) {_sign} cast_bool(b)"
    register(
        Pointwise(f"logical_{_name}", (expression,), 2, promotion=Promotion.BOOL, complex=True), f"logical_{_name}.out"
    )

register(
    Pointwise("add_relu", ("maths::maximum(a + s0 * b, C(0))",), 2, "c"),
    "_add_relu.Tensor",
    "_add_relu_.Tensor",
    "_add_relu.out",
    "_add_relu.Scalar",
    "_add_relu_.Scalar",
)

# Three tensors.
register(Pointwise("addcmul", ("a + s0 * b * c",), 3, "o", complex=True), "addcmul.out")
register(Pointwise("addcdiv", ("a + s0 * maths::div(b, c)",), 3, "o", complex=True), "addcdiv.out")
# The form that is exact at both ends, as ATen's lerp.
_lerp = "maths::abs({0}) < K(0.5) ? a + {0} * (b - a) : b - (b - a) * (C(1) - {0})"
register(
    Pointwise("lerp_scalar", (_lerp.format("s0"),), 2, "o", promotion=Promotion.SAME, complex=True), "lerp.Scalar_out"
)
register(Pointwise("lerp", (_lerp.format("c"),), 3, promotion=Promotion.SAME, complex=True), "lerp.Tensor_out")


def _register_complex(name: str, function: str) -> None:
    """A complex number of two real ones, whose dtype decides that of the result."""
    row = Pointwise(name, (f"maths::{function}(a, b)",), 2, promotion=Promotion.NONE, modules=("lib.complex",))

    @implements(f"{name}.out")
    def into(first: torch.Tensor, second: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        kinds = scalar_type(first.dtype), scalar_type(second.dtype)
        if not all(t.dtype in (torch.float16, torch.float32, torch.float64) for t in (first, second)):
            raise RuntimeError(
                f"Expected both inputs to be Half, Float or Double tensors but got {kinds[0]} and {kinds[1]}"
            )
        if kinds[0] != kinds[1]:
            raise RuntimeError(
                f"Expected object of scalar type {kinds[0]} but got scalar type {kinds[1]} for second argument"
            )
        on_device(out)
        if out.dtype != first.dtype.to_complex():
            raise RuntimeError(
                f"Expected object of scalar type {scalar_type(first.dtype.to_complex())} but got scalar type "
                f"{scalar_type(out.dtype)} for argument 'out'"
            )
        return row((resized_like(out, first, second),), (first, second))[0]


_register_complex("complex", "of_parts")
_register_complex("polar", "polar")


_where = Pointwise("where", ("a ? C(b) : c",), 3, promotion=Promotion.NONE, by_type={"Complex": "a ? b : c"})


def _where_operands(
    condition: torch.Tensor, self: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if condition.dtype not in (torch.bool, torch.uint8):
        raise RuntimeError(
            f"where expected condition to be a boolean tensor, but got a tensor with dtype {condition.dtype}"
        )
    if condition.dtype == torch.uint8:
        warnings.warn(
            "where received a uint8 condition tensor. This behavior is deprecated and will be removed in a future "
            "version of PyTorch. Use a boolean condition instead.",
            UserWarning,
            stacklevel=3,
        )
        condition = condition != 0
    dtype = torch.result_type(self, other)
    self, other = (
        torch.as_tensor(t, dtype=dtype) if not isinstance(t, torch.Tensor) else t.to(dtype) for t in (self, other)
    )
    if self.dim() == 0 and not self.is_mps:  # a kernel takes one number from the host
        self = self.to("mps")
    if condition.dim() == 0 and not condition.is_mps:
        condition = condition.to("mps")
    return condition, self, other


@implements("where.self")
def where(condition: torch.Tensor, self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """self where the condition holds, else `other`, in their common dtype."""
    return _where((None,), _where_operands(condition, self, other))[0]


@implements("where.self_out")
def where_out(condition: torch.Tensor, self: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`where` into `out`."""
    operands = _where_operands(condition, self, other)
    if out.dtype != operands[1].dtype:
        raise RuntimeError(f"Expected out type to be {operands[1].dtype} but got {out.dtype}")
    resized(out, torch.broadcast_shapes(*(t.shape for t in operands)))
    return _where((out,), operands)[0]


_clamp = Pointwise("clamp", ("maths::minimum(maths::maximum(a, b), c)",), 3, like="clamp.Tensor")
_clamp_numbers = Pointwise("clamp_numbers", ("maths::minimum(maths::maximum(a, s0), s1)",), 1, "ss", like="clamp")
_clamp_min = Pointwise("clamp_min", ("maths::maximum(a, b)",), 2, check=Check.NUMBER)
_clamp_max = Pointwise("clamp_max", ("maths::minimum(a, b)",), 2, check=Check.NUMBER)
register(_clamp_min, "clamp_min.out", "clamp_min.Tensor_out")
register(_clamp_max, "clamp_max.out", "clamp_max.Tensor_out")


@implements("clamp.out")
def clamp_out(
    self: torch.Tensor, min: float | None = None, max: float | None = None, *, out: torch.Tensor
) -> torch.Tensor:
    """self within numbers `min` and `max`, either of which may be None."""
    dtype = self.dtype
    for bound in (min, max):
        if bound is not None:
            dtype = torch.promote_types(dtype, torch.result_type(self, bound))
    if out.dtype != dtype:
        raise RuntimeError(f"Found dtype {scalar_type(out.dtype)} but expected {scalar_type(dtype)}")
    if min is None or max is None:
        return clamp_tensor_out(self, min, max, out=out)
    return _clamp_numbers((out,), (self.to(dtype),), (min, max))[0]


@implements("clamp.Tensor_out")
def clamp_tensor_out(
    self: torch.Tensor,
    min: float | torch.Tensor | None = None,
    max: float | torch.Tensor | None = None,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """self within tensors `min` and `max`, either of which may be None; they broadcast."""
    if min is not None and max is not None:
        if out.dtype == torch.promote_types(torch.result_type(self, min), torch.result_type(self, max)):
            require_dtype("clamp_cpu", out, FLOATS | INTEGERS)
        if isinstance(min, torch.Tensor) and min.dim() == 0 and not min.is_mps:
            min = min.to("mps")
        return _clamp((out,), (self, min, max))[0]
    if min is not None:
        return _clamp_min((out,), (self, min))[0]
    if max is not None:
        return _clamp_max((out,), (self, max))[0]
    raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
