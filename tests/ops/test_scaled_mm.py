"""Products of 8-bit floats under scales against torch on the CPU."""

import pytest
import torch
from support import compare

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
ONE = torch.tensor(0.75)
TENSORWISE, ROWWISE = 0, 1
needs_the_cpu = pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_scaled_mm_v2", "CPU"),
    reason="torch 2.11's CPU has no _scaled_mm_v2, and its _scaled_mm takes few dtypes and writes no empty sums",
)


@pytest.fixture(autouse=True)
def without_onednn():
    """Where the processor multiplies 8-bit floats, torch hands them to oneDNN, which takes fewer dtypes."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def sample(*shape, dtype=torch.float8_e4m3fn, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def scales(*shape):
    return torch.linspace(0.5, 2, max(shape)).view(shape)


@needs_the_cpu
@pytest.mark.parametrize("a", FLOAT8)
@pytest.mark.parametrize("b", FLOAT8)
def test_dtypes(a, b):
    arguments = sample(5, 24, dtype=a), sample(24, 7, dtype=b, seed=1), ONE, ONE * 2
    compare(lambda *x: torch._scaled_mm(*x, out_dtype=torch.float32), *arguments, rtol=1e-5, atol=1e-5)


@needs_the_cpu
@pytest.mark.parametrize("dtype", [None, *FLOAT8, torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_results(dtype):
    arguments = sample(4, 16), sample(16, 8, seed=1), ONE, ONE
    compare(lambda *x: torch._scaled_mm(*x, out_dtype=dtype), *arguments)
    compare(lambda *x: torch._scaled_mm(*x[:4], x[4], x[5], dtype), *arguments, scales(8), torch.tensor(3.0))


@needs_the_cpu
@pytest.mark.parametrize("m,k,n", [(1, 1, 1), (70, 33, 66), (64, 64, 64), (3, 0, 2), (0, 3, 2)])
@pytest.mark.parametrize("layout", ["plain", "transposed", "sliced"])
def test_sizes(m, k, n, layout):
    a, b = sample(m, k), sample(k, n, seed=1)
    if layout == "transposed":
        a, b = sample(k, m).t(), sample(n, k, seed=1).t()
    if layout == "sliced":
        a, b = sample(m, 2 * k)[:, ::2], sample(k, 2 * n, seed=1)[:, ::2]
    compare(lambda *x: torch._scaled_mm(*x, out_dtype=torch.float32), a, b, ONE, ONE, rtol=1e-5, atol=1e-5)


@needs_the_cpu
def test_all_numbers():
    """Every code of a format times one, NaN and infinities included."""
    codes = torch.arange(256, dtype=torch.uint8).view(256, 1)
    for dtype in FLOAT8:
        one = torch.ones(1, 1).to(dtype)
        compare(lambda *x: torch._scaled_mm(*x, out_dtype=torch.float32), codes.view(dtype), one, ONE, ONE)


@needs_the_cpu
def test_rows():
    a, b, bias = sample(6, 20), sample(20, 9, seed=1), scales(9)
    arguments = a, b, scales(6, 1), scales(1, 9), bias
    compare(lambda *x: torch._scaled_mm(*x, out_dtype=torch.float32), *arguments, rtol=1e-5, atol=1e-5)

    def named(a, b, scale_a, scale_b, bias, recipe=ROWWISE):
        return torch._scaled_mm_v2(a, b, [scale_a], [recipe], [0], [scale_b], [recipe], [0], bias, torch.float32)

    compare(named, *arguments, rtol=1e-5, atol=1e-5)
    compare(lambda *x: named(*x, recipe=TENSORWISE), a, b, ONE, ONE.view(1, 1), bias, rtol=1e-5, atol=1e-5)


def first(a, b, scale_a=ONE, scale_b=ONE, **options):
    return lambda d: torch._scaled_mm(*(t.to(d) for t in (a, b, scale_a, scale_b)), **_moved(options, d))


def _moved(options, device):
    return {name: o.to(device) if isinstance(o, torch.Tensor) else o for name, o in options.items()}


def second(a, b, scale_a=ONE, scale_b=ONE, recipe=0, swizzle=0, bias=None, out_dtype=None, contraction_dim=()):
    def call(device):
        scale = [scale_a.to(device)], [recipe], [swizzle], [scale_b.to(device)], [recipe], [0]
        moved = None if bias is None else bias.to(device)
        return torch._scaled_mm_v2(a.to(device), b.to(device), *scale, moved, out_dtype, contraction_dim)

    return call


A, B = sample(4, 6), sample(6, 5)
ERRORS = {
    "shapes": first(A, B.t()),
    "dimensions": first(A[0], B),
    "dtype": first(A.float(), B),
    "scales' dtype": first(A, B, ONE.double()),
    "scales' number": first(A, B, torch.ones(4), torch.ones(5)),
    "bias": first(A, B, bias=torch.ones(3)),
    "result's scale": first(A, B, scale_result=torch.ones(2)),
    "out": first(A, B, out_dtype=torch.float32, out=torch.empty(0, dtype=torch.float16)),
    "named: shapes": second(A, B.t()),
    "named: contraction": second(A, B, contraction_dim=[1]),
    "named: contracted shapes": second(A, B, contraction_dim=[0, 1]),
    "named: dimensions": second(A[0], B),
    "named: dtype": second(A, B.float()),
    "named: bias": second(A, B, bias=torch.ones(4)),
    "named: bias' dtype": second(A, B, bias=torch.ones(5).double()),
    "named: recipe": second(A, B, recipe=3),
    "named: swizzle": second(A, B, swizzle=1),
    "named: one scale": second(A, B, torch.ones(4, 2)),
    "named: rows": second(A, B, torch.ones(3, 1), torch.ones(1, 5), ROWWISE),
    "named: columns": second(A, B, torch.ones(4, 1), torch.ones(1, 4), ROWWISE),
    "named: scale along rows": second(A, B, torch.ones(4, 1), torch.ones(5, 1), ROWWISE),
}


@needs_the_cpu
@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    with pytest.raises(Exception) as on_cpu:
        ERRORS[name]("cpu")
    with pytest.raises(on_cpu.type):
        ERRORS[name]("mps")
