"""Sweeps the functions of kernels/lib against mpmath and writes docs/numerics.md's table: `make numerics`.

Each function is called at points spread evenly over the bit patterns of its range, so that every binade counts alike,
and next to the ends. An error is counted in units in the last place (ULP) of the exact result, rounded to the dtype.
torch's CPU is measured at the same points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath
import torch

mpmath.mp.prec = 160
BEGIN, END = "<!-- begin: make numerics -->", "<!-- end: make numerics -->"
PRECISION = {torch.float32: (24, -149), torch.float64: (53, -1074)}  # bits of a significand, exponent of the smallest


@dataclass(frozen=True)
class Function:
    """call: on a tensor; exact: in mpmath; ranges: where it is swept.

    near_zeros: where the function has zeros inside, an error counts in ULP of this size at least. near: poles, zeros
    and ends, on both sides of which it is called at the nearest numbers.
    """

    name: str
    call: Callable[[torch.Tensor], torch.Tensor]
    exact: Callable[[mpmath.mpf], mpmath.mpf]
    ranges: tuple[tuple[float, float], ...]
    near_zeros: float = 0.0
    near: tuple[float, ...] = ()


def _both(low: float, high: float) -> tuple[tuple[float, float], ...]:
    return ((-high, -low), (low, high))


def _erfcx(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.exp(x * x) * mpmath.erfc(x)


_SPECIAL = torch.special
TINY, HUGE = 1e-37, 3e38
_POLES = tuple(float(-k) for k in range(21))
_PI = tuple(k * math.pi for k in (1, 2, 3, 10, 1000))
_HALF_PI = tuple((k + 0.5) * math.pi for k in (0, 1, 2, 10, 1000))
FUNCTIONS = (
    Function("acos", torch.acos, mpmath.acos, _both(TINY, 1), near=(-1, 1)),
    Function("acosh", torch.acosh, mpmath.acosh, ((1, HUGE),), near=(1,)),
    Function("asin", torch.asin, mpmath.asin, _both(TINY, 1), near=(-1, 1)),
    Function("asinh", torch.asinh, mpmath.asinh, _both(TINY, HUGE)),
    Function("atan", torch.atan, mpmath.atan, _both(TINY, HUGE)),
    Function("atanh", torch.atanh, mpmath.atanh, _both(TINY, 1 - 2**-24), near=(-1, 1)),
    Function("cos", torch.cos, mpmath.cos, _both(TINY, HUGE), near=_HALF_PI),
    Function("cosh", torch.cosh, mpmath.cosh, _both(TINY, 88)),
    Function("exp", torch.exp, mpmath.exp, ((-87, -TINY), (TINY, 88))),
    Function("exp2", torch.exp2, lambda x: mpmath.power(2, x), ((-126, -TINY), (TINY, 127))),
    Function("expm1", torch.expm1, mpmath.expm1, ((-80, -TINY), (TINY, 88))),
    Function("log", torch.log, mpmath.log, ((TINY, HUGE),), near=(1,)),
    Function("log10", torch.log10, mpmath.log10, ((TINY, HUGE),), near=(1,)),
    Function("log1p", torch.log1p, mpmath.log1p, ((-1 + 2**-53, -TINY), (TINY, HUGE)), near=(-1,)),
    Function("log2", torch.log2, lambda x: mpmath.log(x, 2), ((TINY, HUGE),), near=(1,)),
    Function("reciprocal", torch.reciprocal, lambda x: 1 / x, _both(1e-37, 1e37)),
    Function("rsqrt", torch.rsqrt, lambda x: 1 / mpmath.sqrt(x), ((TINY, HUGE),)),
    Function("sigmoid", torch.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), ((-87, -TINY), (TINY, HUGE))),
    Function("sin", torch.sin, mpmath.sin, _both(TINY, HUGE), near=_PI),
    Function("sinh", torch.sinh, mpmath.sinh, _both(TINY, 88)),
    Function("sqrt", torch.sqrt, mpmath.sqrt, ((TINY, HUGE),)),
    Function("tan", torch.tan, mpmath.tan, _both(TINY, HUGE), near=(*_PI, *_HALF_PI)),
    Function("tanh", torch.tanh, mpmath.tanh, _both(TINY, HUGE)),
    Function(
        "pow(x, 2.75)", lambda x: torch.pow(x, 2.75), lambda x: mpmath.power(x, mpmath.mpf(2.75)), ((1e-12, 1e12),)
    ),
    Function("erf", torch.erf, mpmath.erf, _both(TINY, 10)),
    Function("erfc", torch.erfc, mpmath.erfc, ((-10, -TINY), (TINY, 9))),
    Function("erfcx", _SPECIAL.erfcx, _erfcx, ((-9, -TINY), (TINY, 1000))),
    Function("erfinv", torch.erfinv, mpmath.erfinv, _both(1e-30, 1 - 2**-24), near=(-1, 1)),
    Function("log_ndtr", _SPECIAL.log_ndtr, lambda x: mpmath.log(mpmath.ncdf(x)), ((-30, -TINY), (TINY, 5))),
    Function(
        "ndtri",
        _SPECIAL.ndtri,
        lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1),
        ((1e-30, 1 - 2**-24),),
        0.125,
        (0.5, 1),
    ),
    Function("entr", _SPECIAL.entr, lambda x: -x * mpmath.log(x), ((TINY, 1e30),), 0.125),
    Function(
        "lgamma",
        torch.lgamma,
        lambda x: mpmath.log(abs(mpmath.gamma(x))),
        ((TINY, 1e5), (-20.7, -TINY)),
        0.125,
        (1, 2, *_POLES),
    ),
    Function("digamma", torch.digamma, mpmath.digamma, ((1e-30, 1e30), (-20.7, -1e-30)), 0.125, _POLES),
    Function(
        "polygamma(1, x)",
        lambda x: torch.polygamma(1, x),
        lambda x: mpmath.polygamma(1, x),
        ((1e-15, 1e15), (-20.7, -1e-15)),
        near=_POLES,
    ),
    Function(
        "polygamma(2, x)",
        lambda x: torch.polygamma(2, x),
        lambda x: mpmath.polygamma(2, x),
        ((1e-10, 1e10), (-8.7, -1e-10)),
        0.125,
        _POLES,
    ),
    Function("zeta(x, 1)", lambda x: _SPECIAL.zeta(x, 1.0), lambda x: mpmath.zeta(x), ((1 + 2**-20, 100),)),
    Function("logit", torch.logit, lambda x: mpmath.log(x / (1 - x)), ((TINY, 1 - 2**-24),), 0.125, (0.5, 1)),
    Function("sinc", torch.sinc, mpmath.sincpi, _both(1e-10, 1000), 0.125, (1, 2, 3, -1, -5, 100)),
    Function("i0", torch.i0, lambda x: mpmath.besseli(0, x), _both(TINY, 85)),
    Function("i0e", _SPECIAL.i0e, lambda x: mpmath.besseli(0, x) * mpmath.exp(-abs(x)), _both(TINY, 500)),
    Function("i1", _SPECIAL.i1, lambda x: mpmath.besseli(1, x), _both(TINY, 85)),
    Function("i1e", _SPECIAL.i1e, lambda x: mpmath.besseli(1, x) * mpmath.exp(-abs(x)), _both(TINY, 500)),
    Function("bessel_j0", _SPECIAL.bessel_j0, lambda x: mpmath.besselj(0, x), _both(TINY, 1000), 0.125),
    Function("bessel_j1", _SPECIAL.bessel_j1, lambda x: mpmath.besselj(1, x), _both(TINY, 1000), 0.125),
    Function("bessel_y0", _SPECIAL.bessel_y0, lambda x: mpmath.bessely(0, x), ((TINY, 1000),), 0.125),
    Function("bessel_y1", _SPECIAL.bessel_y1, lambda x: mpmath.bessely(1, x), ((TINY, 1000),), 0.125),
    Function("modified_bessel_k0", _SPECIAL.modified_bessel_k0, lambda x: mpmath.besselk(0, x), ((TINY, 80),)),
    Function("modified_bessel_k1", _SPECIAL.modified_bessel_k1, lambda x: mpmath.besselk(1, x), ((TINY, 80),)),
    Function("airy_ai", _SPECIAL.airy_ai, mpmath.airyai, ((-20, -TINY), (TINY, 12)), 0.125),
)


def neighbours(places: tuple[float, ...], dtype: torch.dtype) -> torch.Tensor:
    """Numbers that are 1, 2, 3, 20, 300 and 5,000 steps away from each place, on both sides."""
    parts = []
    for sign in (math.inf, -math.inf):
        x = torch.tensor(places, dtype=torch.float64).to(dtype)
        for step in range(1, 5001):
            x = torch.nextafter(x, torch.full_like(x, sign))
            if step in (1, 2, 3, 20, 300, 5000):
                parts.append(x)
    return torch.cat(parts)


def points(ranges: tuple[tuple[float, float], ...], dtype: torch.dtype, count: int) -> torch.Tensor:
    """About `count` numbers, evenly spread over the bit patterns between the ends of each range."""
    integer = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    parts = []
    for low, high in ranges:
        ends = torch.tensor([low, high], dtype=torch.float64).abs().sort().values.to(dtype).view(integer)
        first, last = (int(end) for end in ends)
        steps = max(2, count // len(ranges))
        patterns = torch.tensor([first + (last - first) * k // (steps - 1) for k in range(steps)], dtype=integer)
        parts.append(patterns.view(dtype) * (-1 if low < 0 else 1))
    return torch.cat(parts)


def ulps(actual: float, exact: mpmath.mpf, dtype: torch.dtype, at_least: float) -> float:
    """The error of `actual` in units in the last place of `exact`, or of `at_least` where that is larger."""
    bits, smallest = PRECISION[dtype]
    largest = torch.finfo(dtype).max
    if abs(exact) > largest:
        return 0.0 if math.isinf(actual) or abs(actual) == largest else math.inf
    if not math.isfinite(actual):
        return math.inf
    size = max(abs(exact), mpmath.mpf(at_least))
    exponent = mpmath.frexp(size)[1] if size else smallest
    return float(abs(mpmath.mpf(actual) - exact) / mpmath.ldexp(1, max(exponent - bits, smallest)))


def largest_error(function: Function, dtype: torch.dtype, count: int, devices: list[str]) -> list[float]:
    """The largest error on each device, in ULP."""
    x = points(function.ranges, dtype, count)
    if function.near:
        close = neighbours(function.near, dtype)
        low, high = min(r[0] for r in function.ranges), max(r[1] for r in function.ranges)
        x = torch.cat([x, close[(close >= low) & (close <= high)]])
    exact = [mpmath.re(function.exact(mpmath.mpf(value))) for value in x.tolist()]
    results = []
    for device in devices:
        actual = function.call(x.to(device)).cpu().tolist()
        errors = (ulps(a, e, dtype, function.near_zeros) for a, e in zip(actual, exact, strict=True))
        results.append(max(errors))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="points of a function")
    parser.add_argument("--functions", nargs="+", help="names; all by default")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    options = parser.parse_args()

    lines = [
        "| function | float32, here | float32, CPU | float64, here | float64, CPU |",
        "| --- | --- | --- | --- | --- |",
    ]
    for function in FUNCTIONS:
        if options.functions and function.name not in options.functions:
            continue
        cells = []
        for dtype in (torch.float32, torch.float64):
            cells += [f"{error:.3g}" for error in largest_error(function, dtype, options.count, ["mps", "cpu"])]
        mark = " (*)" if function.near_zeros else ""
        lines.append(f"| {function.name}{mark} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.write:
        page = options.write.read_text()
        head, rest = page.split(BEGIN)
        about = f"Adapter: {torch.backends.mps.get_name()}; torch {torch.__version__}; {options.count} points of each."
        table = "\n".join([BEGIN, "", about, "", *lines, "", END])
        options.write.write_text(head + table + rest.split(END)[1])


if __name__ == "__main__":
    main()
