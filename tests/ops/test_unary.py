"""Elementwise operators of one tensor against torch on the CPU, over all dtypes and calling forms."""

import functools
import math

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, denormal, to_mps

FLOAT = "acos acosh asin asinh atan atanh cos cosh exp exp2 expm1 log log10 log1p log2 rsqrt sigmoid sin sinc sinh"
FLOAT = [*FLOAT.split(), "sqrt", "tan", "tanh", "reciprocal", "digamma", "erf", "erfc", "erfinv", "i0", "lgamma"]
SPECIAL = "entr erfcx i0e i1 i1e log_ndtr ndtri bessel_j0 bessel_j1 bessel_y0 bessel_y1 modified_bessel_k0"
SPECIAL = [*SPECIAL.split(), "modified_bessel_k1", "scaled_modified_bessel_k0", "scaled_modified_bessel_k1"]
KEEPING = ["abs", "neg", "ceil", "floor", "trunc", "round", "sign", "sgn", "square", "positive"]
BOOLEAN = ["logical_not", "signbit", "isnan", "isinf", "isfinite", "isposinf", "isneginf", "isreal"]


def values(dtype=torch.float32):
    x = torch.linspace(-3, 3, 61)
    if dtype.is_floating_point:
        return x.to(dtype)
    return x.abs().to(dtype) if dtype == torch.uint8 else x.to(dtype)


@functools.cache
def special_values() -> torch.Tensor:
    tiny = denormal()
    return torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, tiny, -tiny, 3e38, 1e-8, 88.0, 1e4])


@pytest.mark.parametrize("name", FLOAT)
def test_float_functions(name):
    function = getattr(torch, name)
    compare(function, values(), rtol=1e-5, atol=1e-6)
    special = special_values()
    # The CPU's i0 of an infinity is NaN; it is infinite.
    compare(function, special if name != "i0" else special[special.isfinite()], rtol=1e-5, atol=1e-6)
    for dtype in (*INTEGERS, torch.bool):
        compare(function, values(dtype), rtol=1e-5, atol=1e-6)
    compare(function, values(torch.float16), rtol=2e-3, atol=2e-3)
    compare(function, values(torch.bfloat16), rtol=1.6e-2, atol=1e-2)
    compare(function, values(torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions(name):
    compare(getattr(torch.special, name), values(), rtol=1e-4, atol=1e-5)
    compare(getattr(torch.special, name), values(torch.int64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KEEPING)
def test_functions_that_keep_the_dtype(name):
    function = getattr(torch, name)
    for dtype in (*FLOATS, *INTEGERS):
        compare(function, values(dtype))
    compare(function, special_values())


@pytest.mark.parametrize("name", BOOLEAN)
def test_predicates(name):
    for dtype in (*FLOATS, *INTEGERS, torch.bool):
        if dtype == torch.bool and name == "isreal":
            continue  # nothing to see in a bool
        compare(getattr(torch, name), values(dtype))
    compare(getattr(torch, name), special_values())


DIFFERENTIABLE = [name for name in FLOAT if name not in ("acosh", "atanh", "erfinv", "lgamma", "digamma", "log1p")]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name):
    compare(getattr(torch, name), values().abs().add(0.1).div(4), grad=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["exp", "sqrt", "neg", "sigmoid", "ceil", "logical_not", "erf"])
def test_calling_forms(name):
    x = values().abs()
    compare(lambda t: getattr(t.clone(), f"{name}_")(), x)
    out = torch.empty(0, device="mps")
    assert getattr(torch, name)(to_mps(x), out=out) is out
    assert_same(out, getattr(torch, name)(x, out=torch.empty(0)))
    compare(getattr(torch, name), x.view(1, 61).expand(3, 61))
    compare(lambda t: getattr(torch, name)(t.view(61)[::3].flip(0)), x)
    compare(getattr(torch, name), x[:0])
    compare(getattr(torch, name), x[5])


def test_round_to_decimals():
    x = torch.tensor([1.005, -2.345, 1234.5, 0.5, 1.5])
    for decimals in (2, 0, -2):
        compare(lambda t, d=decimals: torch.round(t, decimals=d), x)


def test_nan_to_num():
    compare(torch.nan_to_num, special_values())
    compare(lambda t: torch.nan_to_num(t, 1.0, 2.0, -2.0), special_values())
    compare(torch.nan_to_num, special_values().half())
    compare(torch.nan_to_num, values(torch.int32))


def test_functions_with_arguments():
    x = values().sigmoid()
    compare(torch.logit, x, grad=True, rtol=1e-4, atol=1e-5)
    compare(lambda t: torch.logit(t, 0.2), x, grad=True, rtol=1e-4, atol=1e-5)
    compare(lambda t: torch.polygamma(1, t), x + 0.5, rtol=1e-4, atol=1e-5)
    compare(lambda t: torch.polygamma(0, t), x + 0.5, rtol=1e-4, atol=1e-5)
    compare(torch.frexp, values())
    compare(torch.angle, values())
    compare(torch.deg2rad, values())


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.neg(torch.ones(2, dtype=torch.bool, device=d)),
        lambda d: torch.ones(2, dtype=torch.int64, device=d).exp_(),
        lambda d: torch.exp(torch.ones(2, device=d), out=torch.ones(2, dtype=torch.int64, device=d)),
        lambda d: torch.bitwise_not(torch.ones(2, device=d)),
        lambda d: torch.frac(torch.ones(2, dtype=torch.int64, device=d)),
        lambda d: torch.ones(1, device=d).expand(4).sqrt_(),
    ],
)
def test_errors(call):
    with pytest.raises(Exception) as expected:
        call("cpu")
    with pytest.raises(expected.type):
        call("mps")


@pytest.mark.parametrize("eps", [None, 0.1])
def test_logit_keeps_nan(eps):
    compare(lambda t: torch.logit(t, eps), torch.tensor([math.nan, 0.5, -1.0, 2.0]))


@pytest.mark.parametrize(
    "name", ["ceil", "floor", "trunc", "round", "neg", "sign", "sgn", "frac", "abs", "bitwise_not"]
)
def test_outputs_keep_the_dtype(name):
    x = torch.arange(3) if name == "bitwise_not" else torch.arange(3.0)
    with pytest.raises(RuntimeError, match="Found dtype Double but expected"):
        getattr(torch, name)(to_mps(x), out=torch.empty(3, dtype=torch.float64, device="mps"))


@pytest.mark.parametrize("name", ["signbit", "isposinf", "isneginf"])
def test_properties_go_into_bool_alone(name):
    with pytest.raises(RuntimeError, match="does not support non-boolean outputs"):
        getattr(torch, name)(torch.ones(2, device="mps"), out=torch.empty(2, device="mps"))
