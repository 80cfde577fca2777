"""Elementwise operators of two and three tensors against torch on the CPU: promotion, broadcasting, calling forms."""

import functools
import math
import operator

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, denormal, to_mps

ARITHMETIC = [torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.fmax, torch.fmin]
FLOATING = [torch.atan2, torch.copysign, torch.hypot, torch.nextafter, torch.logaddexp, torch.logaddexp2, torch.xlogy]
FLOATING += [torch.special.xlog1py, torch.special.zeta]
INTEGRAL = [torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor, torch.gcd, torch.lcm]
COMPARISONS = [torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge]
LOGIC = [torch.logical_and, torch.logical_or, torch.logical_xor]
DIVISIONS = [torch.floor_divide, torch.remainder, torch.fmod]


@functools.cache
def special() -> torch.Tensor:
    return torch.tensor([0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, math.nan, denormal(), 3e38])


def pair(dtype, other=None):
    generator = torch.Generator().manual_seed(0)
    low = 0 if dtype in (torch.uint8, torch.bool) else -9
    high = 2 if dtype == torch.bool else 10
    a, b = (torch.randint(low, high, (4, 7), generator=generator) for _ in range(2))
    if dtype.is_floating_point:
        a, b = a + torch.rand(4, 7, generator=generator), b + torch.rand(4, 7, generator=generator)
    return a.to(dtype), b.to(other or dtype)


@pytest.mark.parametrize("function", ARITHMETIC)
def test_arithmetic(function):
    for dtype in (*FLOATS, *INTEGERS, torch.float64):
        compare(function, *pair(dtype))
    compare(function, special().view(-1, 1), special())
    compare(function, *pair(torch.float32), grad=True)


@pytest.mark.parametrize("function", FLOATING)
def test_floating(function):
    a, b = pair(torch.float32)
    if function in (torch.xlogy, torch.special.xlog1py, torch.special.zeta):
        a, b = a.abs() + 1.1, b.abs() + 0.1
    compare(function, a, b, rtol=1e-4, atol=1e-5)
    if function is not torch.special.zeta:
        compare(function, special().view(-1, 1), special(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", INTEGRAL)
def test_integral(function):
    for dtype in INTEGERS:
        compare(function, *pair(dtype))
    if function not in (torch.gcd, torch.lcm):
        compare(function, *pair(torch.bool))


def test_shifts():
    for dtype in INTEGERS:
        a, b = pair(dtype)
        compare(torch.bitwise_left_shift, a, b.abs())
        compare(torch.bitwise_right_shift, a, b.abs())
    compare(lambda a: (a << 2, a >> 1), pair(torch.int32)[0])


@pytest.mark.parametrize("function", [*COMPARISONS, *LOGIC])
def test_comparisons(function):
    for dtype in (*FLOATS, *INTEGERS, torch.bool):
        compare(function, *pair(dtype))
    compare(function, *pair(torch.int64, torch.float32))
    compare(function, special().view(-1, 1), special())
    out = torch.empty(4, 7, dtype=torch.float32, device="mps")
    a, b = pair(torch.int32)
    assert_same(function(to_mps(a), to_mps(b), out=out), function(a, b).float())


@pytest.mark.parametrize("function", DIVISIONS)
def test_divisions(function):
    for dtype in (*FLOATS, *INTEGERS):
        a, b = pair(dtype)
        b[b == 0] = 3
        tolerance = {} if dtype in (torch.float32, *INTEGERS) else {"rtol": 2e-2, "atol": 1e-1}
        compare(function, a, b, **tolerance)
        compare(lambda a, f=function: f(a, 3), a, **tolerance)
    compare(function, special().view(-1, 1), special())


@pytest.mark.parametrize("mode", [None, "floor", "trunc"])
def test_rounding_of_quotients(mode):
    for dtype in (torch.float32, torch.int64, torch.uint8):
        a, b = pair(dtype)
        b[b == 0] = 3
        compare(lambda a, b: torch.div(a, b, rounding_mode=mode), a, b)


def test_quotients_are_rounded_correctly():
    """No driver may fold the corrections of its own quotient: a number divided by itself is one."""
    x = torch.rand(20000, generator=torch.Generator().manual_seed(0)) * 18 - 9
    compare(torch.div, x, x.flip(0), rtol=0, atol=0)
    for mode in (None, "trunc", "floor"):
        compare(lambda t, mode=mode: torch.div(t, t, rounding_mode=mode), x, rtol=0, atol=0)
    compare(torch.reciprocal, x, rtol=0, atol=0)
    root = x.abs().to("mps").sqrt().cpu()
    assert torch.equal(root, x.abs().double().sqrt().float())


def test_powers_round_once():
    """All roundings but the last are made up for; what is left is the logarithm's, times the exponent."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50_000, generator=generator) * 9 + 0.1
    y = torch.randn(50_000, generator=generator) * 6
    exact = x.double() ** y.double()
    unit = torch.exp2(exact.log2().floor() - 23)
    assert ((torch.pow(x.to("mps"), y.to("mps")).cpu().double() - exact).abs() / unit).max() < 0.85


def test_powers():
    a, b = pair(torch.float32)
    compare(torch.pow, a.abs(), b, rtol=1e-4, atol=1e-5, grad=True)
    compare(torch.pow, special().view(-1, 1), special(), rtol=1e-5)
    for exponent in (0, 1, 2, 3, -1, -2, 0.5, -0.5, 2.5):
        compare(lambda a, e=exponent: a.abs() ** e, a, rtol=1e-4, atol=1e-6, grad=True)
        compare(lambda a, e=exponent: e ** (a / 4) if e > 0 else a, a, rtol=1e-4, atol=1e-6)
    whole, exponents = pair(torch.int64)
    compare(torch.pow, whole, exponents.abs())
    compare(lambda a: a**2, whole)


DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("first", DTYPES)
def test_promotion(first):
    for second in DTYPES:
        a, b = pair(first)[0], pair(second)[1]
        loose = {} if {first, second}.isdisjoint({torch.float16, torch.bfloat16}) else {"rtol": 2e-2, "atol": 1e-2}
        compare(torch.add, a, b, **loose)
        compare(lambda a, b: a * b[0, 0], a, b, **loose)  # a 0-dim operand promotes less
        b = torch.where(b == 0, torch.ones((), dtype=b.dtype), b)
        compare(torch.div, a, b, **loose)


@pytest.mark.parametrize("number", [2, 2.5, True])
def test_python_numbers(number):
    for dtype in DTYPES:
        a = pair(dtype)[0]
        loose = {"rtol": 2e-2, "atol": 1e-2} if dtype in (torch.float16, torch.bfloat16) else {}
        for function in (operator.add, operator.mul, operator.truediv):
            compare(lambda a, f=function: f(a, number), a, **loose)
            if function is not operator.truediv:
                compare(lambda a, f=function: f(number, a), a, **loose)
        compare(lambda a: a > number, a)


def test_scalars_on_the_cpu():
    a = pair(torch.float32)[0]
    for scalar in (torch.tensor(2.5), torch.tensor(3), torch.tensor(1.5, dtype=torch.float64)):
        torch.testing.assert_close((a.to("mps") * scalar).cpu(), a * scalar)
        torch.testing.assert_close((scalar - a.to("mps")).cpu(), scalar - a)


def test_broadcasting_and_strides():
    a, b = torch.randn(3, 1, 5), torch.randn(4, 1)
    compare(torch.add, a, b, grad=True)
    compare(torch.mul, a.expand(3, 4, 5), b, grad=True)
    compare(torch.sub, torch.randn(6, 8).t()[::2], torch.randn(4, 6), grad=True)
    compare(torch.add, torch.randn(0, 3), torch.randn(3))
    compare(torch.add, torch.tensor(1.0), torch.tensor(2.0))
    compare(torch.mul, torch.randn(2, 3, 2, 3, 2, 3, 2)[..., ::2], torch.randn(3, 1, 3, 1, 3, 1))


def test_in_place_and_out():
    a, b = pair(torch.float32)
    for name in ("add_", "sub_", "mul_", "div_", "pow_", "remainder_", "fmod_", "copysign_", "lt_", "logical_and_"):
        compare(lambda a, b, n=name: getattr(a.clone().abs(), n)(b), a, b)
    compare(lambda a, b: a.clone().add_(b, alpha=2.5), a, b)
    compare(lambda a: a.clone()[:, ::2].add_(1), a)
    out = torch.empty(7, 4, device="mps").t()
    assert torch.add(to_mps(a), to_mps(b), out=out) is out
    assert_same(out, a + b)
    half = torch.empty(4, 7, dtype=torch.float16, device="mps")
    torch.mul(to_mps(a), to_mps(b), out=half)
    assert_same(half, (a * b).half())


def test_alpha():
    a, b = pair(torch.float32)
    compare(
        lambda a, b: (torch.add(a, b, alpha=3), torch.sub(a, b, alpha=0.5), torch.rsub(a, b, alpha=2)), a, b, grad=True
    )
    compare(lambda a, b: torch.add(a, b, alpha=2), *pair(torch.int32))


def test_three_tensors():
    a, b = pair(torch.float32)
    c = b.abs() + 1
    compare(lambda a, b, c: torch.addcmul(a, b, c, value=0.5), a, b, c, grad=True)
    compare(lambda a, b, c: torch.addcdiv(a, b, c, value=2), a, b, c, grad=True)
    compare(lambda a, b: torch.lerp(a, b, 0.3), a, b, grad=True)
    compare(torch.lerp, a, b, c / 10, grad=True)
    compare(lambda a, b, c: torch.where(a > 0, b, c), a, b, c, grad=True)
    compare(lambda a: torch.where(a > 0, a, 0.0), a)
    compare(lambda a: torch.where(a > 0, 1.0, 2.0), a)
    compare(lambda a, b: torch.where(a > 0, a, b), a, pair(torch.int64)[1])


def test_clamp():
    a = pair(torch.float32)[0]
    compare(lambda a: torch.clamp(a, -1, 2.5), a, grad=True)
    compare(lambda a: (torch.clamp(a, min=0), torch.clamp(a, max=0), a.clamp_min(1), a.clamp_max(1)), a, grad=True)
    compare(lambda a, b: torch.clamp(a, b, b + 1), a, pair(torch.float32)[1])
    compare(lambda a: torch.clamp(a, 0, 3), pair(torch.int32)[0])
    compare(lambda a: torch.clamp(a, 0.5, 3), pair(torch.int32)[0])
    compare(lambda a: torch.clamp(a, -1, 1), special())


def test_close():
    a = special()
    compare(lambda a, b: (torch.isclose(a, b), torch.isclose(a, b, equal_nan=True)), a, a + 1e-9)
    assert torch.equal(to_mps(a[:3]), to_mps(a[:3])) and not torch.equal(to_mps(a[:3]), to_mps(a[1:4]))
    assert torch.allclose(to_mps(a[:3]), to_mps(a[:3] + 1e-9))


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.ones(2, 3, device=d) * torch.ones(2, device=d),
        lambda d: torch.ones(2, device=d).mul_(torch.ones(3, 2, device=d)),
        lambda d: torch.ones(2, dtype=torch.int64, device=d).div_(2),
        lambda d: torch.pow(torch.ones(2, dtype=torch.int64, device=d), -1),
        lambda d: torch.clamp(torch.ones(2, device=d)),
        lambda d: torch.div(torch.ones(2, device=d), 2, rounding_mode="up"),
        lambda d: torch.where(torch.ones(2, device=d), 1.0, 2.0),
        lambda d: torch.lerp(torch.ones(2, device=d), torch.ones(2, dtype=torch.float64, device=d), 0.5),
        lambda d: torch.add(torch.ones(2, device=d), torch.ones(2, device=d), alpha="x"),
        lambda d: torch.gcd(torch.ones(2, device=d), torch.ones(2, device=d)),
    ],
)
def test_errors(call):
    with pytest.raises(Exception) as expected:
        call("cpu")
    with pytest.raises(expected.type):
        call("mps")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.bool])
def test_integers_of_two_widths(dtype):
    """The narrower ones are widened to 64 bits, where a driver once compared them wrongly with constants."""
    a, b = torch.arange(-2, 4), torch.tensor([3, 2, 1, 0, 5, 6]).to(dtype)
    for function in (torch.bitwise_left_shift, torch.bitwise_right_shift, torch.gcd, torch.pow):
        compare(function, a, b)
    if dtype != torch.uint8 and dtype != torch.bool:
        compare(torch.bitwise_left_shift, a, -b)
        compare(torch.pow, a, -b)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
def test_nextafter(dtype):
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, 6e-8, math.inf, -math.inf, math.nan, 100.0]).to(dtype)
    compare(torch.nextafter, x[:, None], x, rtol=0, atol=0)


def test_functions_of_floats_alone():
    integers = torch.arange(3, device="mps")
    for function in (torch.hypot, torch.logaddexp, torch.nextafter):
        with pytest.raises(NotImplementedError):
            function(integers, integers)


def test_add_and_rectify():
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    compare(
        lambda x, y: (torch._add_relu(x, y, alpha=2), torch._add_relu(x, 0.5), torch._add_relu(x, y, out=x.clone())),
        a,
        b,
    )
    compare(lambda x, y: (torch._add_relu_(x.clone(), y), torch._add_relu_(x.clone(), 0.5)), a, b)
    compare(torch._add_relu, torch.arange(-3, 3), torch.arange(6))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_ends_of_integers(dtype):
    """Numbers and results wrap around to the common dtype, also where out= is wider."""
    limits = torch.iinfo(dtype)
    x = torch.tensor([limits.min, limits.max, 0, 1, 5], dtype=dtype)
    for number in (-3, 300, 70_000, limits.min, limits.max):
        for function in (torch.add, torch.sub, torch.mul, torch.gt, torch.eq, torch.bitwise_and):
            compare(function, x, number)
            compare(function, x, torch.tensor(number))
    compare(lambda a, out: torch.add(a, a, out=out.clone()), torch.tensor([True, False]), torch.zeros(2))
    wide = torch.empty(5, dtype=torch.int64)
    for function in (torch.add, torch.mul):
        compare(lambda a, out, f=function: f(a, a, out=out.clone()), x, wide)
    for number in (300, 2.5, 2**40):
        if number != 300 or dtype in (torch.uint8, torch.int8):
            for device in ("cpu", "mps"):
                with pytest.raises(RuntimeError):
                    torch.add(x.to(device), x.to(device), alpha=number)


@pytest.mark.parametrize("mode", ["trunc", "floor", "fmod", "remainder"])
def test_integers_are_not_divided_by_zero(mode):
    def divide(a, b):
        return getattr(torch, mode)(a, b) if mode in ("fmod", "remainder") else torch.div(a, b, rounding_mode=mode)

    x = torch.arange(4, device="mps")
    for divisor in (0, torch.tensor(0), x):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            divide(x, divisor).cpu()
    with pytest.raises(NotImplementedError, match="not implemented for 'Bool'"):
        divide(x > 1, x > 1)
    assert divide(x.float(), 0).cpu().isfinite().sum() == 0
    assert divide(x, x + 1).cpu().tolist() == divide(x.cpu(), x.cpu() + 1).tolist()


WIDE = torch.tensor([2**63 + 100, 5, 2**64 - 1], dtype=torch.uint64)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: torch.full((1,), 2**63 + 100, dtype=torch.uint64, device=t.device),
        lambda t: torch.full_like(t, 2**64 - 1),
        lambda t: t.clone().fill_(2**63 + 100),
        lambda t: t == 2**63 + 100,
        lambda t: torch.where(t == 5, 2**63 + 7, t),
        lambda t: t / 3,
        lambda t: (t.float(), t.double(), t.bfloat16(), t.bool()),
        lambda t: t.tolist(),
    ],
)
def test_the_upper_half_of_uint64(call):
    compare(call, WIDE)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t + t,
        lambda t: t.clamp(2**63),
        lambda t: t // 3,
        lambda t: t % 7,
        lambda t: t > 5,
        lambda t: torch.maximum(t, t),
        lambda t: t >> 1,
        lambda t: t.max(),
        lambda t: t.argmax(),
        lambda t: t.abs(),
        lambda t: t.sign(),
        lambda t: t.masked_fill(t == 5, 1),
    ],
)
def test_dtypes_that_the_cpu_lacks(call):
    for t in (WIDE, WIDE.to("mps")):
        with pytest.raises(NotImplementedError, match="not implemented for 'UInt64'"):
            call(t)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.abs(torch.ones(2, dtype=torch.bool, device=d)),
        lambda d: torch.round(torch.ones(2, dtype=torch.bool, device=d)),
        lambda d: torch.ceil(torch.ones(2, dtype=torch.bool, device=d)),
        lambda d: torch.lerp(*torch.ones(3, 2, dtype=torch.uint8, device=d)),
        lambda d: torch.lerp(*torch.ones(2, 2, dtype=torch.int64, device=d), 0.5),
        lambda d: torch.softmax(torch.ones(2, dtype=torch.int64, device=d), 0),
        lambda d: torch.log_softmax(torch.ones(2, dtype=torch.uint8, device=d), 0),
        lambda d: torch.cumsum(torch.ones(2, device=d), 0, dtype=torch.bool),
        lambda d: torch.ones(2, device=d) & torch.ones(2, device=d),
        lambda d: torch.gcd(*torch.ones(2, 2, device=d)),
        lambda d: torch.hypot(*torch.ones(2, 2, dtype=torch.int32, device=d)),
        lambda d: torch.nn.functional.gelu(torch.ones(2, dtype=torch.int32, device=d)),
        lambda d: torch.maximum(*torch.ones(2, 2, dtype=torch.complex64, device=d)),
        lambda d: torch.clamp(*torch.ones(3, 2, dtype=torch.bool, device=d)),
        lambda d: torch.igamma(*torch.ones(2, 2, dtype=torch.int64, device=d)),
        lambda d: torch.kthvalue(torch.ones(2, dtype=torch.bool, device=d), 1),
        lambda d: torch.bincount(torch.ones(2, device=d)),
        lambda d: torch.bucketize(*torch.ones(2, 2, dtype=torch.bool, device=d)),
        lambda d: torch.ones(2, dtype=torch.bool, device=d).geometric_(0.5),
        lambda d: torch.bernoulli(torch.ones(2, dtype=torch.int64, device=d)),
        lambda d: torch.nn.functional.pad(torch.ones(1, 3, dtype=torch.bool, device=d), (1, 1), mode="reflect"),
    ],
)
def test_the_cpu_s_exception_for_other_dtypes(call):
    with pytest.raises(RuntimeError) as expected:
        call("cpu")
    with pytest.raises(RuntimeError) as raised:
        call("mps")
    assert raised.type is expected.type


def test_subtraction_of_bools_either_way_round():
    for function in (torch.sub, torch.rsub):
        with pytest.raises(RuntimeError, match="two bool tensors"):
            function(*torch.ones(2, 3, dtype=torch.bool, device="mps"))


def test_clamp_and_heaviside_into_their_own_dtype():
    x = torch.arange(3.0, device="mps")
    with pytest.raises(RuntimeError, match="Found dtype Long but expected Float"):
        torch.clamp(x, 1, 2, out=torch.empty(3, dtype=torch.int64, device="mps"))
    with pytest.raises(RuntimeError, match="different dtypes"):
        torch.heaviside(x, x, out=torch.empty(3, dtype=torch.float64, device="mps"))
    compare(lambda t: torch.clamp(t, 1.5, 2), torch.arange(4))


def test_where_keeps_the_layout():
    x = torch.rand(3, 4).t()
    compare(lambda t: torch.where(t > 0.5, t, 0.0).stride(), x)
    compare(
        lambda t: torch.where(t > 0.5, t, -t).stride(), torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    )
    compare(lambda t: (torch.complex(t, t).stride(), torch.complex(t, t).abs().stride()), x)


def test_bytes_as_a_condition_warn():
    with pytest.warns(UserWarning, match="uint8 condition"):
        result = torch.where(*to_mps((torch.tensor([1, 0], dtype=torch.uint8), torch.ones(2), torch.zeros(2))))
    assert result.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.relu(torch.ones(2, dtype=torch.bool, device=d)),
        lambda d: torch.nn.functional.hardtanh(torch.ones(2, dtype=torch.bool, device=d)),
        lambda d: torch.frexp(torch.ones(2, dtype=torch.int64, device=d)),
        lambda d: torch.renorm(torch.ones(2, 2, dtype=torch.int64, device=d), 2, 0, 1),
        lambda d: torch.norm(torch.ones(2, device=d), 2, dim=0, dtype=torch.float16),
        lambda d: torch.stft(torch.ones(20, dtype=torch.bfloat16, device=d), 4, return_complex=True),
        lambda d: torch.ormqr(torch.eye(2, device=d), torch.ones(2, device=d), torch.eye(2, device=d),
                              out=torch.empty(2, 2, dtype=torch.float64, device=d)),
    ],
)  # fmt: skip
def test_dtypes_that_the_cpu_refuses_in_other_ways(call):
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError) as caught:
            call(device)
        assert type(caught.value) is RuntimeError
