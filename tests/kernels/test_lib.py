"""Integers, conversions, random numbers, index helpers and atomics of kernels/lib, against torch and numpy."""

import harness
import numpy as np
import pytest
import torch

INTEGER_DTYPES = ["int8", "uint8", "int16", "int32", "int64"]


def integers(dtype: str, seed: int, count: int = 3000) -> np.ndarray:
    """Random values over the whole range, small ones, and both ends."""
    limits = np.iinfo(dtype)
    random = np.random.default_rng(seed)
    return random.permutation(
        np.concatenate(
            [
                random.integers(limits.min, limits.max, count, dtype, endpoint=True),
                random.integers(0 if limits.min == 0 else -9, 9, count).astype(dtype),
                np.full(50, limits.min, dtype),
                np.full(50, limits.max, dtype),
            ]
        )
    )


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
@pytest.mark.parametrize(
    "name, reference",
    [
        ("floor_divide", lambda a, b: torch.div(a, b, rounding_mode="floor")),
        ("div", lambda a, b: torch.div(a, b, rounding_mode="trunc")),
        ("remainder", torch.remainder),
        ("fmod", torch.fmod),
        ("gcd", torch.gcd),
    ],
)
def test_integers(name, reference, dtype):
    a, b = integers(dtype, 1), integers(dtype, 2)
    keep = (b != 0) & ~((b.astype(np.int64) == -1) & (a == np.iinfo(dtype).min))  # torch raises or traps
    if name == "gcd":
        keep &= (a != np.iinfo(dtype).min) & (b != np.iinfo(dtype).min)
    a, b = a[keep], b[keep]
    expected = reference(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(harness.evaluate(["lib.maths"], f"maths::{name}(a, b)", [a, b], dtype), expected)


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_integer_pow(dtype):
    a, b = integers(dtype, 3), np.abs(integers(dtype, 4).astype(np.int64) % 70).astype(dtype)
    expected = torch.pow(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(harness.evaluate(["lib.maths"], "maths::pow(a, b)", [a, b], dtype), expected)


def test_integer_zero_divisor():
    zero = np.zeros(4, np.int32)
    for name in ("div", "remainder", "fmod", "floor_divide", "gcd", "lcm"):
        harness.evaluate(["lib.maths"], f"maths::{name}(a, b)", [np.arange(4, dtype=np.int32), zero], "int32")


def floats(seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    words = random.integers(0, 2**32, 30_000, np.uint32).view(np.float32)
    ties = random.integers(0, 0x7C00, 20_000).astype(np.uint16).view(np.float16).astype(np.float32)
    halfway = (ties.view(np.uint32) + (random.integers(0, 3, ties.size, np.uint32) << 12)).view(np.float32)
    return np.concatenate(
        [
            words,
            ties,
            halfway,
            np.float32([65504, 65519.99, 65520, 65536, np.inf, -np.inf, np.nan, 0.0, -0.0, 2**-24, 2**-25, 2**-26]),
        ]
    )


def test_bfloat16():
    x = floats()
    got = harness.evaluate(["lib.dtypes"], "f32_to_bf16(a)", [x], "uint16")
    expected = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got[number], expected[number])
    assert np.all((got[~number] & 0x7FFF) > 0x7F80)
    every = np.arange(65536, dtype=np.uint16)
    wide = harness.evaluate(["lib.dtypes"], "bf16_to_f32(a)", [every], "float32")
    np.testing.assert_array_equal(wide.view(np.uint32) >> 16, every)


def test_float16():
    x = floats()
    got = harness.evaluate(["lib.dtypes"], "f32_to_f16(a)", [x], "float16")
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got[number].view(np.uint16), expected[number].view(np.uint16))
    assert np.isnan(got[~number]).all()


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_float_to_integer(dtype):
    x = np.concatenate(
        [
            np.random.default_rng(6).uniform(np.iinfo(dtype).min, float(np.iinfo(dtype).max) * 0.999, 5000),
            np.random.default_rng(7).uniform(0, 100, 1000),
        ]
    ).astype(np.float32)
    np.testing.assert_array_equal(
        harness.evaluate(["lib.dtypes"], f"to_{dtype}(a)", [x], dtype),
        torch.from_numpy(x).to(getattr(torch, dtype)).numpy(),
    )


def test_float_to_bool():
    x = np.float32([0, -0.0, 1e-45, np.nan, np.inf, -1])
    np.testing.assert_array_equal(harness.evaluate(["lib.dtypes"], "to_bool(a)", [x], "bool"), x.astype(bool))


def test_philox_known_answers():
    """The three vectors of Random123's kat_vectors for philox4x32-10."""
    ones = (1 << 64) - 1
    seed = np.array([0, ones, 0x299F31D0A4093822], np.uint64)
    subsequence = np.array([0, ones, 0x0370734413198A2E], np.uint64)
    offset = np.array([0, ones, 0x85A308D3243F6A88], np.uint64)
    expected = [
        [0x6627E8D5, 0x408F276D, 0xD16CFE09],
        [0xE169C58D, 0x41C83B0E, 0x94FDCCEB],
        [0xBC57AC4C, 0xA20BC7C6, 0x5001E420],
        [0x9B00DBD8, 0x6D5451FD, 0x24126EA1],
    ]
    for word, values in zip("xyzw", expected, strict=True):
        got = harness.evaluate(["lib.random"], f"philox(a, b, c).{word}", [seed, subsequence, offset], "uint32")
        assert got.tolist() == values


def moments(expression: str) -> tuple[float, float]:
    index = np.arange(200_000, dtype=np.uint64)
    got = harness.evaluate(["lib.random"], expression, [index], "float32").astype(np.float64)
    assert np.isfinite(got).all()
    return got.mean(), got.std()


@pytest.mark.parametrize(
    "expression, mean, deviation",
    [
        ("uniform_float(philox(1, a, 0).x)", 0.5, 12**-0.5),
        ("normal_pair(philox(1, a, 0).x, philox(1, a, 0).y).x", 0, 1),
        ("normal_pair(philox(1, a, 0).x, philox(1, a, 0).y).y", 0, 1),
        ("exponential(uniform_float(philox(1, a, 0).x), 2.0f)", 0.5, 0.5),
        ("geometric(uniform_positive(philox(1, a, 0).x), 0.25f)", 4, 12**0.5),
        ("float(random_from_to(philox(1, a, 0).x, 0u, 10ull, 5ll))", 9.5, 8.25**0.5),
    ],
)
def test_distributions(expression, mean, deviation):
    got_mean, got_deviation = moments(expression)
    assert abs(got_mean - mean) < 4 * deviation / 200_000**0.5 + 1e-3
    assert abs(got_deviation / deviation - 1) < 0.02


def test_linear_to_offset():
    linear = np.arange(24, dtype=np.int32)
    got = harness.evaluate(["lib.indexing"], "linear_to_offset<3>(a, { 2, 3, 4 }, { 1, 2, 6 })", [linear], "int32")
    np.testing.assert_array_equal(
        got, np.lib.stride_tricks.as_strided(np.arange(24, dtype=np.int32), (2, 3, 4), (4, 8, 24)).reshape(-1)
    )


def run_on_buffer(modules: list[str], field: str, body: str, initial: np.ndarray, count: int) -> np.ndarray:
    """`body` for `count` invocations with `p.r` pointing at a copy of `initial`; returns what is left there."""
    source = "\n".join(
        [
            *(f"import {module};" for module in modules),
            f"struct Params {{ {field}* r; }};",
            f'[shader("compute")] [numthreads({harness.WORKGROUP}, 1, 1)]',
            f"void main(uint3 id : SV_DispatchThreadID, uniform Params p) {{ {body} }}",
        ]
    )
    buffer = harness.upload(initial)
    harness.launch(source, {"r": buffer.device_address}, count)
    return harness.download(buffer, initial.dtype, initial.size)


def test_check_index_reports_the_first_error():
    left = run_on_buffer(
        ["lib.indexing"], "ErrorWord", "check_index(int64_t(id.x), 60, p.r, 7u, 2u);", np.zeros(4, np.uint32), 64
    )
    assert left[0] == 7 and left[1] == 2 and 60 <= left[2] < 64
    fine = run_on_buffer(
        ["lib.indexing"], "ErrorWord", "check_index(-int64_t(id.x), 64, p.r, 7u, 2u);", np.zeros(4, np.uint32), 64
    )
    assert not fine.any()


@pytest.mark.parametrize(
    "field, dtype, body, expected",
    [
        ("float", "float32", "atomic_apply<AtomicAdd>(p.r + id.x % 2, 1.0f);", [512, 512]),
        ("double", "float64", "atomic_apply<AtomicAdd>(p.r + id.x % 2, 1.0lf);", [512, 512]),
        ("half", "float16", "atomic_apply<AtomicAdd>(p.r + id.x % 2, 1.0f);", [512, 512]),
        ("int8_t", "int8", "atomic_apply<AtomicAdd>(p.r + id.x % 4, -1);", [0, 0, 0, 0]),
        ("uint8_t", "uint8", "atomic_apply<AtomicMax>(p.r + id.x % 3, int(id.x % 201));", [198, 199, 200]),
        ("int16_t", "int16", "atomic_apply<AtomicMin>(p.r + id.x % 2, -int(id.x));", [-1022, -1023]),
        ("int", "int32", "atomic_apply<AtomicMax>(p.r + id.x % 2, int(id.x));", [1022, 1023]),
        ("int64_t", "int64", "atomic_apply<AtomicAdd>(p.r + id.x % 2, 1ll << 40);", [1 << 49, 1 << 49]),
        ("uint16_t", "uint16", "atomic_apply<AtomicMax>(p.r + id.x % 2, float(id.x % 256));", [0x437E, 0x437F]),
    ],
)
def test_atomics(field, dtype, body, expected):
    left = run_on_buffer(["lib.atomics"], field, body, np.zeros(len(expected), dtype), 1024)
    np.testing.assert_array_equal(left, expected)
