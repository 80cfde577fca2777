"""Special functions that unary.py has not: orthogonal polynomials, incomplete gamma and rarer Bessel functions."""

from __future__ import annotations

import torch

from portable_mps.dispatch.pointwise import Pointwise, register
from portable_mps.dispatch.promotion import Promotion

_POLYNOMIALS = ("chebyshev_t", "chebyshev_u", "chebyshev_v", "chebyshev_w")
_DEGREE = "cast_int64(b)"

for _name in _POLYNOMIALS:
    _kind = _name.replace("_", "_polynomial_")
    for _prefix, _argument in {"": "a", "shifted_": "a + a - C(1)"}.items():
        _expression = f"maths::{_name}({_argument}, {_DEGREE})"
        register(
            Pointwise(
                _prefix + _kind,
                (_expression,),
                2,
                promotion=Promotion.FLOAT,
                modules=("lib.polynomials",),
                unroll=False,
            ),
            f"special_{_prefix}{_kind}.out",
        )
for _name in ("hermite_h", "hermite_he", "laguerre_l", "legendre_p"):
    _kind = _name.replace("_", "_polynomial_")
    _expression = f"maths::{_name}(a, {_DEGREE})"
    _in_double = {"float": f"maths::{_name}_in_double(a, {_DEGREE})"} if _name.startswith("hermite") else {}
    register(
        Pointwise(
            _kind,
            (_expression,),
            2,
            promotion=Promotion.FLOAT,
            modules=("lib.polynomials",),
            unroll=False,
            in_double=_in_double,
        ),
        f"special_{_kind}.out",
    )

for _name in ("igamma", "igammac"):
    register(
        Pointwise(_name, (f"maths::{_name}(a, b)",), 2, modules=("lib.incomplete",), unroll=False, only="floating"),
        f"{_name}.out",
    )

for _name in ("i0", "i1"):
    register(
        Pointwise(
            f"modified_bessel_{_name}",
            (f"maths::{_name}(a)",),
            1,
            promotion=Promotion.FLOAT,
            modules=("lib.special",),
            unroll=False,
        ),
        f"special_modified_bessel_{_name}.out",
    )
_SPHERICAL = "maths::iszero(a) ? C(1) : (maths::isinf(a) ? C(0) : maths::div(maths::sin(a), a))"
register(
    Pointwise("spherical_bessel_j0", (_SPHERICAL,), 1, promotion=Promotion.FLOAT), "special_spherical_bessel_j0.out"
)

register(
    Pointwise("airy_ai", ("maths::airy_ai(a)",), 1, promotion=Promotion.FLOAT, modules=("lib.airy",), unroll=False),
    "special_airy_ai.out",
)

# torch 2.11 composes it of others, with gradients; later versions call a kernel of the CPU.
if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::ldexp.Tensor", "CompositeImplicitAutograd"):
    _WHOLE = "b == maths::round(b) && maths::abs(b) < C(1000)"
    register(
        Pointwise(
            "ldexp",
            (f"{_WHOLE} ? maths::ldexp(a, int(b)) : a * maths::exp2(b)",),
            2,
            promotion=Promotion.FLOAT,
            by_type={"Complex": "a * maths::pow(C(2), b)"},
        ),
        "ldexp.Tensor",
        "ldexp_",
        "ldexp.out",
    )
