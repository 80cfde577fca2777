"""Filling, ranges, the identity and triangles against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants(dtype):
    for make in (torch.zeros, torch.ones, torch.eye, lambda n, **k: torch.full((n, 2), 3, **k)):
        for size in (0, 1, 5):
            assert_same(make(size, dtype=dtype, device="mps"), make(size, dtype=dtype))
    x = torch.zeros(3, 4, dtype=dtype)
    compare(lambda t: t.clone().fill_(1), x)
    compare(lambda t: t.clone().fill_(torch.ones((), dtype=t.dtype, device=t.device)), x)
    compare(lambda t: t.clone().t().fill_(1), x)
    compare(lambda t: (t + 1).zero_(), x)
    compare(lambda t: (torch.ones_like(t), torch.zeros_like(t), torch.full_like(t, 1), t.new_full((2,), 1)), x)


def test_fill_checks_its_value():
    x = torch.zeros(3, device="mps")
    with pytest.raises(RuntimeError):
        x.fill_(torch.ones(2, device="mps"))
    with pytest.raises(RuntimeError):
        x.to(torch.uint8).fill_(300)
    for dtype, value in (
        (torch.float16, 65510),
        (torch.float16, -1e9),
        (torch.bfloat16, 3.394e38),
        (torch.float32, 1e39),
        (torch.complex64, complex(0, 1e39)),
        (torch.float8_e5m2, 1e6),
    ):
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError, match="without overflow"):
                torch.full((2,), value, dtype=dtype, device=device)
    half, first = x.half(), torch.zeros(1, dtype=torch.int64, device="mps")
    for call in (
        lambda: half.index_fill(0, first, 1e9),
        lambda: half.scatter(0, first, 1e9),
        lambda: half.masked_fill(half == 0, 1e9),
        lambda: torch.nn.functional.pad(half, (1, 1), value=-1e9),
        lambda: torch.linspace(0, 1e9, 3, dtype=torch.float16, device="mps"),
    ):
        with pytest.raises(RuntimeError, match="without overflow"):
            call()
    compare(lambda t: t.clone().fill_(-torch.inf), torch.zeros(2, dtype=torch.float16))
    compare(lambda t: t.clone().fill_(-65504), torch.zeros(2, dtype=torch.float16))
    compare(lambda t: t.clone().fill_(torch.nan), torch.zeros(2))
    compare(lambda t: t.clone().fill_(2.9), torch.zeros(2, dtype=torch.int32))
    compare(lambda t: t.clone().fill_(2**62 + 1), torch.zeros(2, dtype=torch.int64))
    compare(lambda t: t.clone()[1:].fill_(7), torch.zeros(3))
    compare(lambda t, v: t.clone().fill_(v), torch.zeros(2), torch.tensor(2.0), grad=True)


RANGES = [(5,), (0,), (2, 9), (2, 9, 3), (9, 2, -2), (0.5, 3), (1, 2, 0.1), (-3, 3, 0.7), (0, 1e-3, 1e-4)]


@pytest.mark.parametrize("arguments", RANGES)
def test_arange(arguments):
    assert_same(torch.arange(*arguments, device="mps"), torch.arange(*arguments))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool])
def test_arange_dtypes(dtype):
    for arguments in ((7,), (1, 20, 3), (20, 1, -4)):
        assert_same(torch.arange(*arguments, dtype=dtype, device="mps"), torch.arange(*arguments, dtype=dtype))
    assert_same(torch.arange(2**53, 2**53 + 4, device="mps"), torch.arange(2**53, 2**53 + 4))
    out = torch.empty(8, device="mps")[::2]
    torch.arange(4, out=out)
    assert_same(out, torch.arange(4.0))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool])
def test_linspace(dtype):
    for steps in (0, 1, 2, 5, 100):
        assert_same(torch.linspace(1, 9, steps, dtype=dtype, device="mps"), torch.linspace(1, 9, steps, dtype=dtype))
        assert_same(
            torch.logspace(0, 2, steps, base=3, dtype=dtype, device="mps"),
            torch.logspace(0, 2, steps, base=3, dtype=dtype),
            **({"rtol": 2e-2, "atol": 0} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 0}),
        )
    if dtype.is_floating_point:
        assert_same(
            torch.linspace(-0.3, 0.7, 33, dtype=dtype, device="mps"), torch.linspace(-0.3, 0.7, 33, dtype=dtype)
        )


def test_errors():
    calls = [
        lambda: torch.arange(0, 5, 0, device="mps"),
        lambda: torch.arange(5, 0, 1, device="mps"),
        lambda: torch.arange(0, float("inf"), device="mps"),
        lambda: torch.linspace(0, 1, -1, device="mps"),
        lambda: torch.eye(-1, device="mps"),
        lambda: torch.tril_indices(-1, 2, device="mps"),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, ValueError)):
            call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_triangles(dtype):
    x = torch.arange(1, 25).view(2, 3, 4).to(dtype)
    for diagonal in (-9, -1, 0, 1, 9):
        compare(lambda t, d=diagonal: (t.tril(d), t.triu(d), t.mT.tril(d), t[:, ::2].triu(d)), x)
    compare(lambda t: t.clone().tril_(), x)
    compare(lambda t: t[:0].tril(), x)
    if dtype == torch.float32:
        compare(lambda t: t.tril(1), x, grad=True)
        with pytest.raises(RuntimeError):
            x[0, 0].to("mps").tril()


@pytest.mark.parametrize("size", [(0, 3), (3, 4), (4, 3), (5, 1)])
def test_triangle_indices(size):
    for offset in (-6, -1, 0, 2, 7):
        for function in (torch.tril_indices, torch.triu_indices):
            assert_same(function(*size, offset, device="mps"), function(*size, offset))
    assert_same(torch.eye(*size, device="mps"), torch.eye(*size))


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("periodic", [True, False])
def test_kaiser_window(length, periodic):
    for dtype in (torch.float32, torch.float64, torch.float16):
        expected = torch.kaiser_window(length, periodic, 8.0, dtype=dtype)
        actual = torch.kaiser_window(length, periodic, 8.0, dtype=dtype, device="mps")
        torch.testing.assert_close(actual.cpu(), expected, rtol=2e-3 if dtype == torch.float16 else 1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match="floating point"):
        torch.kaiser_window(length, dtype=torch.int64, device="mps")
    with pytest.raises(RuntimeError, match="non-negative"):
        torch.kaiser_window(-1, device="mps")


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.fill_(2.0),
        lambda t: t.zero_(),
        lambda t: torch.nn.functional.threshold_(t, 2.0, 5.0),
        lambda t: t.masked_fill_(torch.tensor([True, False, True], device=t.device), 2.0),
        lambda t: t.index_fill_(0, torch.tensor([1], device=t.device), 3.0),
        lambda t: t.index_put_((torch.tensor([1], device=t.device),), torch.tensor(3.0, device=t.device)),
        lambda t: t.conj_physical_(),
    ],
)
@pytest.mark.filterwarnings("ignore:Use of:UserWarning")
def test_expanded_tensors_that_may_be_written(call):
    compare(lambda t: call(t.expand(3, 3)), torch.ones(3, 1))
    compare(lambda t: call(t.expand(3)), torch.ones(1))


@pytest.mark.parametrize("diagonal", [-2, 0, 1, 3])
@pytest.mark.parametrize("name", ["tril_", "triu_"])
def test_triangles_of_expanded_tensors(name, diagonal):
    for column in (torch.arange(1.0, 4).view(3, 1), torch.arange(1, 4).view(1, 3), torch.ones(1, 1)):
        compare(lambda t: getattr(t.expand(3, 3), name)(diagonal), column)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.add_(1.0),
        lambda t: t.fill_(torch.tensor(3.0, device=t.device)),
        lambda t: t.relu_(),
        lambda t: t.copy_(torch.ones(3, 3, device=t.device)),
        lambda t: t.normal_(),
        lambda t: t.scatter_(0, torch.zeros(1, 3, dtype=torch.int64, device=t.device), 1.0),
        lambda t: t.index_add_(0, torch.tensor([0], device=t.device), torch.ones(1, 3, device=t.device)),
        lambda t: t.masked_scatter_(
            torch.ones(3, 3, dtype=torch.bool, device=t.device), torch.ones(9, device=t.device)
        ),
        lambda t: torch.mm(torch.ones(3, 3, device=t.device), torch.ones(3, 3, device=t.device), out=t),
        lambda t: torch.cumsum(torch.ones(3, 3, device=t.device), 0, out=t),
        lambda t: torch.cat([torch.ones(2, 3, device=t.device), torch.ones(1, 3, device=t.device)], out=t),
        lambda t: torch.sort(
            torch.ones(3, 3, device=t.device), out=(t, torch.zeros(3, 3, dtype=torch.int64, device=t.device))
        ),
    ],
)
def test_expanded_tensors_that_may_not(call):
    for device in ("cpu", "mps"):
        target = torch.zeros(3, 1, device=device)
        with pytest.raises(RuntimeError, match="single memory location"):
            call(target.expand(3, 3))
        assert not target.any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: torch.arange(3, **options),
        lambda **options: torch.linspace(0, 1, 3, **options),
        lambda **options: torch.tril_indices(3, 3, **options),
        lambda **options: torch.eye(3, **options),
        lambda **options: torch.ones(3, 3, **options).tril(),
        lambda **options: torch.ones(2, 2, **options) @ torch.ones(2, 2, **options),
        lambda **options: torch.nn.functional.max_pool2d(torch.ones(1, 4, 4, **options), 2),
        lambda **options: torch.nn.functional.adaptive_avg_pool2d(torch.ones(1, 4, 4, **options), 2),
        lambda **options: torch.nn.functional.conv2d(
            torch.ones(1, 1, 4, 4, **options), torch.ones(1, 1, 2, 2, **options)
        ),
    ],
    ids=["arange", "linspace", "tril_indices", "eye", "tril", "mm", "max_pool2d", "adaptive_avg_pool2d", "conv2d"],
)
def test_dtypes_that_the_cpu_lacks(make, dtype):
    try:
        expected = make(dtype=dtype)
    except (RuntimeError, NotImplementedError) as refusal:
        with pytest.raises(type(refusal)):
            make(dtype=dtype, device="mps")
    else:
        torch.testing.assert_close(make(dtype=dtype, device="mps").cpu(), expected)
