"""Accuracy of kernels/lib over the whole float range, in ULP against mpmath and scipy in double precision."""

import harness
import mpmath
import numpy as np
import pytest
import scipy.special as special

POINTS = 60_000
SPECIALS = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        0.5,
        -0.5,
        3.0,
        np.inf,
        -np.inf,
        np.nan,
        np.finfo(np.float32).tiny,
        1e-45,
        -1e-45,
        3.4028235e38,
        -3.4028235e38,
        0.99999994,
        1.0000001,
        np.pi,
        np.pi / 2,
        1e10,
        88.72284,
        -103.97208,
        -87.33655,
    ],
    np.float32,
)


def every_magnitude(seed: int = 0) -> np.ndarray:
    """Specials and random bit patterns: log-uniform over all of float32, denormals and NaN included."""
    words = np.random.default_rng(seed).integers(0, 2**32, POINTS // 2, np.uint32)
    return np.concatenate([SPECIALS, words.view(np.float32)])


def interval(low: float, high: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, POINTS // 2).astype(np.float32)


def ordered(x: np.ndarray) -> np.ndarray:
    """Floats as integers in the same order, one apart for neighbours."""
    word = x.view(np.int32 if x.dtype == np.float32 else np.int64).astype(object if x.dtype == np.float64 else np.int64)
    return np.where(word < 0, -(word & (0x7FFFFFFF if x.dtype == np.float32 else 0x7FFFFFFFFFFFFFFF)), word)


def ulps(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distance in ULP; NaN against a number, or an infinity against any other value but its neighbour, is huge."""
    distance = np.abs(ordered(got) - ordered(expected)).astype(np.float64)
    distance[np.isnan(got) & np.isnan(expected)] = 0
    distance[np.isnan(got) != np.isnan(expected)] = np.inf
    return distance


def report(name: str, got: np.ndarray, expected: np.ndarray, inputs: list[np.ndarray], floor: float = 0.0) -> float:
    distance = ulps(got, expected)
    with np.errstate(all="ignore"):
        distance[np.abs(got - expected) <= floor] = 0  # near a zero of the function, an absolute error
    worst = int(np.argmax(distance))
    print(f"{name}: {distance[worst]:g} ULP at {[x[worst] for x in inputs]}: {got[worst]!r}, not {expected[worst]!r}")
    return float(distance[worst])


# name: (reference in float64, extra dense interval, most ULP). Measured on llvmpipe; one more is allowed for drivers
# that contract.
UNARY = {
    "exp": (np.exp, (-104, 89), 2),
    "exp2": (np.exp2, (-150, 128), 2),
    "expm1": (np.expm1, (-20, 20), 3),
    "log": (np.log, (0.2, 3), 2),
    "log2": (np.log2, (0.2, 3), 3),
    "log10": (np.log10, (0.2, 3), 3),
    "log1p": (np.log1p, (-1, 3), 3),
    "sin": (np.sin, (-3000, 3000), 2),
    "cos": (np.cos, (-3000, 3000), 2),
    "tan": (np.tan, (-3000, 3000), 3),
    "asin": (np.arcsin, (-1, 1), 2),
    "acos": (np.arccos, (-1, 1), 2),
    "atan": (np.arctan, (-4, 4), 2),
    "sinh": (np.sinh, (-10, 10), 4),
    "cosh": (np.cosh, (-10, 10), 3),
    "tanh": (np.tanh, (-10, 10), 3),
    "asinh": (np.arcsinh, (-10, 10), 3),
    "acosh": (np.arccosh, (1, 10), 3),
    "atanh": (np.arctanh, (-1, 1), 3),
    "sqrt": (np.sqrt, (0, 10), 1),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (0, 10), 1),
    "rcp": (lambda x: 1 / x, (-4, 4), 1),
    "round": (np.rint, (-100, 100), 0),
    "floor": (np.floor, (-100, 100), 0),
    "ceil": (np.ceil, (-100, 100), 0),
    "trunc": (np.trunc, (-100, 100), 0),
    "sigmoid": (special.expit, (-20, 20), 3),
    "log_sigmoid": (special.log_expit, (-20, 20), 3),
    "silu": (lambda x: np.where(x == -np.inf, np.nan, x * special.expit(x)), (-20, 20), 4),
    "entr": (special.entr, (0, 3), 3),
}

BINARY = {
    "div": (np.divide, 1),
    "fmod": (np.fmod, 0),
    "remainder": (np.remainder, 0),
    "pow": (np.power, 1),
    "atan2": (np.arctan2, 3),
    "hypot": (np.hypot, 2),
    "minimum": (np.minimum, 0),
    "maximum": (np.maximum, 0),
    "fmin": (np.fmin, 0),
    "fmax": (np.fmax, 0),
    "copysign": (np.copysign, 0),
    "logaddexp": (np.logaddexp, 4),
    "logaddexp2": (np.logaddexp2, 4),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    reference, dense, bound = UNARY[name]
    x = np.concatenate([every_magnitude(), interval(*dense)])
    with np.errstate(all="ignore"):
        expected = reference(x.astype(np.float64)).astype(np.float32)
    floor = 1e-36 if name == "silu" else 0.0  # torch's x / (1 + exp(-x)) gives 0 once exp(-x) overflows
    got = harness.evaluate(["lib.maths"], f"maths::{name}(a)", [x], "float32")
    assert report(name, got, expected, [x], floor) <= bound


def pairs() -> tuple[np.ndarray, np.ndarray]:
    a = np.concatenate(
        [np.repeat(SPECIALS, SPECIALS.size), every_magnitude(2), interval(-20, 20, 3), interval(0.001, 50, 4)]
    )
    b = np.concatenate([np.tile(SPECIALS, SPECIALS.size), every_magnitude(5), interval(-5, 5, 6), interval(-20, 20, 7)])
    return a, b


@pytest.mark.parametrize("name", BINARY)
def test_binary(name):
    reference, bound = BINARY[name]
    a, b = pairs()
    with np.errstate(all="ignore"):
        if name in ("fmod", "remainder"):
            expected = reference(a, b)  # float32 in numpy is exact, the sum of remainder rounded once as in torch
        else:
            expected = reference(a.astype(np.float64), b.astype(np.float64)).astype(np.float32)
    floor = 1e-6 if name.startswith("logaddexp") else 0.0
    got = harness.evaluate(["lib.maths"], f"maths::{name}(a, b)", [a, b], "float32")
    assert report(name, got, expected, [a, b], floor) <= bound


def test_sinc():
    x = np.concatenate([interval(-30, 30), np.arange(-9, 10, dtype=np.float32)])
    got = harness.evaluate(["lib.maths"], "maths::sinc(a)", [x], "float32")
    np.testing.assert_allclose(got, np.sinc(x.astype(np.float64)), rtol=1e-6, atol=1e-7)


# Double: name, interval, reference in mpmath, largest relative error in units of 1e-16.
DOUBLE = {
    "exp": ((-745, 709), mpmath.exp),
    "exp2": ((-1000, 1000), lambda x: mpmath.mpf(2) ** x),
    "expm1": ((-3, 3), mpmath.expm1),
    "log": ((0.2, 30), mpmath.log),
    "log2": ((0.2, 30), lambda x: mpmath.log(x, 2)),
    "log10": ((0.2, 30), mpmath.log10),
    "log1p": ((-0.99, 3), mpmath.log1p),
    "sin": ((-1e5, 1e5), mpmath.sin),
    "cos": ((-1e5, 1e5), mpmath.cos),
    "tan": ((-1e5, 1e5), mpmath.tan),
    "asin": ((-1, 1), mpmath.asin),
    "acos": ((-1, 1), mpmath.acos),
    "atan": ((-9, 9), mpmath.atan),
    "sinh": ((-30, 30), mpmath.sinh),
    "cosh": ((-30, 30), mpmath.cosh),
    "tanh": ((-10, 10), mpmath.tanh),
    "asinh": ((-10, 10), mpmath.asinh),
    "acosh": ((1, 10), mpmath.acosh),
    "atanh": ((-1, 1), mpmath.atanh),
    "sigmoid": ((-30, 30), lambda x: 1 / (1 + mpmath.exp(-x))),
}


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        error = np.where(got == expected, 0, np.abs(got - expected) / np.abs(expected))
    error[np.isnan(got) & np.isnan(expected)] = 0
    error[np.isnan(got) != np.isnan(expected)] = np.inf
    return float(np.max(error))


@pytest.mark.parametrize("name", DOUBLE)
def test_double(name):
    (low, high), reference = DOUBLE[name]
    random = np.random.default_rng(8)
    x = random.uniform(low, high, 1500)
    if name in ("sin", "cos", "tan"):
        x = np.concatenate([x, np.exp(random.uniform(0, 700, 500)), np.arange(1, 200) * np.pi / 2])
    with mpmath.workprec(1200 if name in ("sin", "cos", "tan") else 100):
        expected = np.array([float(reference(mpmath.mpf(float(value)))) for value in x])
    got = harness.evaluate(["lib.maths"], f"maths::{name}(a)", [x], "float64")
    error = relative(got, expected)
    print(f"{name}: relative error {error:.2g}")
    assert error < 1e-14


@pytest.mark.parametrize(
    "name, reference",
    [
        ("exp", np.exp),
        ("log", np.log),
        ("sin", np.sin),
        ("log1p", np.log1p),
        ("atan", np.arctan),
        ("sqrt", np.sqrt),
        ("tanh", np.tanh),
    ],
)
def test_double_every_magnitude(name, reference):
    x = np.concatenate(
        [SPECIALS.astype(np.float64), np.random.default_rng(9).integers(0, 2**64, 20_000, np.uint64).view(np.float64)]
    )
    with np.errstate(all="ignore"):
        expected = reference(x)
    got = harness.evaluate(["lib.maths"], f"maths::{name}(a)", [x], "float64")
    normal = ~(np.abs(expected) < 1e-307)  # a denormal result is off by a ULP, which is not small
    assert np.array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(expected[~np.isnan(got)]))
    assert relative(got[normal], expected[normal]) < 1e-14


@pytest.mark.parametrize(
    "name, reference",
    [("pow", np.power), ("fmod", np.fmod), ("atan2", np.arctan2), ("remainder", np.remainder), ("hypot", np.hypot)],
)
def test_double_binary(name, reference):
    with np.errstate(all="ignore"):
        a, b = (x.astype(np.float64) for x in pairs())
        expected = reference(a, b)
    got = harness.evaluate(["lib.maths"], f"maths::{name}(a, b)", [a, b], "float64")
    normal = ~(np.abs(expected) < 1e-307)
    error = relative(got[normal], expected[normal])
    print(f"{name}: relative error {error:.2g}")
    assert error < 1e-14
