"""Accuracy of lib.special against scipy, as an absolute plus a relative error: torch tests these functions so."""

import harness
import numpy as np
import pytest
import scipy.special as special

SPECIALS = np.array(
    [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.5, -2.0, -3.0, np.inf, -np.inf, np.nan, 1e-30, 1e30], np.float32
)

# name: (reference, intervals, error in float, error in double). Each error is relative to max(|value|, 1): near
# a zero of the function the error is absolute. erfc, erfcx, i0e and i1e are held to the relative error.
FUNCTIONS = {
    "erf": (special.erf, [(-6, 6)], 3e-7, 1e-15),
    "erfc": (special.erfc, [(-4, 9)], 1e-6, 1e-14),
    "erfcx": (special.erfcx, [(-9, 60)], 1e-6, 1e-14),
    "erfinv": (special.erfinv, [(-1, 1)], 1e-6, 1e-14),
    "ndtr": (special.ndtr, [(-10, 10)], 3e-7, 1e-15),
    "log_ndtr": (special.log_ndtr, [(-30, 8)], 1e-6, 1e-14),
    "ndtri": (special.ndtri, [(0, 1)], 2e-6, 1e-14),
    "gelu": (lambda x: x * special.ndtr(x), [(-10, 10)], 5e-7, 1e-15),
    "i0": (special.i0, [(-80, 80)], 2e-6, 1e-14),
    "i0e": (special.i0e, [(-80, 80)], 2e-6, 1e-14),
    "i1": (special.i1, [(-80, 80)], 2e-6, 1e-14),
    "i1e": (special.i1e, [(-80, 80)], 2e-6, 1e-14),
    "lgamma": (special.gammaln, [(0, 40), (-20, 0)], 2e-6, 1e-13),
    "digamma": (special.digamma, [(0.01, 40), (-9, -0.01)], 1e-5, 1e-12),
    "trigamma": (lambda x: special.polygamma(1, x), [(0.01, 40)], 2e-6, 1e-13),
}
RELATIVE = {"erfc", "erfcx", "i0e", "i1e"}


def distance(name: str, got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        floor = np.finfo(got.dtype).tiny / np.finfo(got.dtype).eps if name in RELATIVE else 1.0
        error = np.where(got == expected, 0, np.abs(got - expected) / np.maximum(np.abs(expected), floor))
    error[np.isnan(got) & np.isnan(expected)] = 0
    error[np.isnan(got) != np.isnan(expected)] = np.inf
    return error


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special(name, dtype):
    reference, intervals, single, double = FUNCTIONS[name]
    random = np.random.default_rng(1)
    x = np.concatenate([SPECIALS, *(random.uniform(low, high, 4000) for low, high in intervals)]).astype(dtype)
    if name in ("lgamma", "i0", "i1", "trigamma"):  # scipy and C differ at infinity
        x = x[np.isfinite(x)]
    if name == "digamma":  # near its poles the argument's own rounding decides
        x = x[(x > 0) | (np.abs(np.mod(x, 1) - 0.5) < 0.45)]
    with np.errstate(all="ignore"):
        expected = reference(x.astype(np.float64)).astype(dtype)
    got = harness.evaluate(["lib.special"], f"maths::{name}(a)", [x], dtype)
    error = distance(name, got, expected)
    worst = int(np.argmax(error))
    print(f"{name} {dtype}: {error[worst]:.2g} at {x[worst]!r}: {got[worst]!r}, not {expected[worst]!r}")
    assert error[worst] <= (single if dtype == "float32" else double)


@pytest.mark.parametrize("dtype, bound", [("float32", 5e-6), ("float64", 1e-13)])
def test_zeta(dtype, bound):
    random = np.random.default_rng(2)
    x, q = random.uniform(1.1, 12, 3000).astype(dtype), random.uniform(0.2, 30, 3000).astype(dtype)
    expected = special.zeta(x.astype(np.float64), q.astype(np.float64))
    got = harness.evaluate(["lib.special"], "maths::zeta(a, b)", [x, q], dtype)
    error = np.abs(got - expected) / expected
    print(f"zeta {dtype}: {error.max():.2g}")
    assert error.max() < bound


# name: (reference, interval, absolute error in float and in double, for values of order one)
BESSEL = {
    "bessel_j0": (special.j0, (-60, 60), 1e-6, 1e-14),
    "bessel_j1": (special.j1, (-60, 60), 1e-6, 1e-14),
    "bessel_y0": (special.y0, (0.01, 60), 1e-6, 1e-14),
    "bessel_y1": (special.y1, (0.01, 60), 1e-6, 1e-14),
    "modified_bessel_k0": (special.k0, (0.01, 20), 1e-6, 1e-14),
    "modified_bessel_k1": (special.k1, (0.01, 20), 1e-6, 1e-14),
    "scaled_modified_bessel_k0": (special.k0e, (0.01, 60), 1e-6, 1e-14),
    "scaled_modified_bessel_k1": (special.k1e, (0.01, 60), 1e-6, 1e-14),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BESSEL)
def test_bessel(name, dtype):
    reference, interval, single, double = BESSEL[name]
    x = np.concatenate([[0.0, np.nan, 1.0], np.random.default_rng(3).uniform(*interval, 5000)]).astype(dtype)
    expected = reference(x.astype(np.float64)).astype(dtype)
    got = harness.evaluate(["lib.bessel"], f"maths::{name}(a)", [x], dtype)
    error = distance(name, got, expected)
    print(f"{name} {dtype}: {error.max():.2g} at {x[np.argmax(error)]!r}")
    assert error.max() <= (single if dtype == "float32" else double)
