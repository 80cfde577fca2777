"""sort, topk, kthvalue, median and mode against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)
# Rows that share a tile, fill one, and need two, some and many merges; along each dimension.
CASES = [((), 0), ((1,), 0), ((5,), -1), ((3, 4, 5), 0), ((3, 4, 5), 1), ((3, 4, 5), 2), ((2, 1024), 1), ((2, 1025), 1)]
CASES += [((2050, 2), 0), ((2, 3000, 3), 1), ((20_001,), 0), ((300, 2), 1), ((0, 3), 1), ((3, 0), 1), ((0, 3), 0)]


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Many equal elements; among floats NaN, infinities and both zeros."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 20).round() / 4
    if dtype.is_floating_point and x.numel() > 4:
        flat = x.view(-1)
        flat[::7], flat[1::11], flat[2::11] = torch.nan, 0.0, -0.0
        flat[3], flat[4] = torch.inf, -torch.inf
    return x.to(dtype)


def assert_picks(function, x: torch.Tensor, dim: int, keepdim: bool = True) -> None:
    """Values equal torch's; which of equal elements is picked is free, so indices must lead to the values."""
    expected, actual = function(x), function(x.to("mps"))
    assert_same(actual[0], expected[0])
    indices = actual[1].cpu()
    assert indices.dtype == torch.int64 and indices.shape == expected[1].shape
    if x.dim():
        found = x.gather(dim, indices if keepdim else indices.unsqueeze(dim))
        torch.testing.assert_close(found if keepdim else found.squeeze(dim), expected[0], equal_nan=True)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("shape,dim", CASES)
def test_sort_shapes(shape, dim, descending):
    compare(lambda t: torch.sort(t, dim=dim, descending=descending, stable=True), sample(*shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sort_dtypes(dtype):
    for shape, dim in (((7, 33), 0), ((7, 33), 1), ((2, 2500), 1)):
        for descending in (False, True):
            compare(
                lambda t, d=dim, b=descending: t.sort(dim=d, descending=b, stable=True), sample(*shape, dtype=dtype)
            )


def test_sort_extremes():
    for dtype in INTEGERS:
        limits = torch.iinfo(dtype)
        compare(torch.sort, torch.tensor([3, limits.max, limits.min, 0, limits.max - 1], dtype=dtype))
    tiny = torch.tensor([1e-45, -1e-45, 0.0, -3e-39, 2e-38, -torch.inf, 3e38])
    compare(torch.sort, tiny)
    compare(torch.sort, tiny.double() * 1e-200)
    compare(lambda t: t.sort(stable=True), torch.tensor([0.0, -0.0, 0.0, -0.0]))


def test_sort_layouts_and_outputs():
    x = sample(12, 20)
    compare(lambda t: t.t().sort(dim=0, stable=True), x)
    compare(lambda t: t[::2, 3:].sort(dim=-1, stable=True), x)
    compare(lambda t: t.argsort(dim=1, stable=True), x)
    compare(lambda t: torch.msort(t), x)
    values = torch.empty(20, 12, device="mps").t()
    indices = torch.empty(0, dtype=torch.int64, device="mps")
    torch.sort(x.to("mps"), dim=0, stable=True, out=(values, indices))
    assert_same((values, indices), tuple(x.sort(dim=0, stable=True)))
    place = x.to("mps")
    torch.sort(place, out=(place, torch.empty(12, 20, dtype=torch.int64, device="mps")))
    assert_same(place, x.sort()[0])
    with pytest.raises(IndexError):
        x.to("mps").sort(2)
    compare(lambda t: t.sort(1)[0], torch.randn(4, 9), grad=True)


@pytest.mark.parametrize("shape,dim", [c for c in CASES if 0 not in c[0]])
def test_topk_shapes(shape, dim):
    x = sample(*shape)
    size = x.size(dim) if x.dim() else 1
    for k in {1, min(size, 5), size // 2, size}:
        for largest in (False, True):
            assert_picks(lambda t, k=k, b=largest: t.topk(k, dim, b), x, dim)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool])
def test_topk_dtypes(dtype):
    for k in (3, 600):
        assert_picks(lambda t, k=k: t.topk(k, sorted=True), sample(2, 2500, dtype=dtype), 1)


def test_topk_outputs_and_errors():
    x = torch.randn(4, 9)
    compare(lambda t: t.topk(3, 1)[0], x, grad=True)
    compare(lambda t: t.topk(0, 1)[0], x)
    out = torch.empty(3, 9, device="mps"), torch.empty(3, 9, dtype=torch.int64, device="mps")
    torch.topk(x.to("mps"), 3, 0, out=out)
    assert_same(out, tuple(x.topk(3, 0)))
    with pytest.raises(RuntimeError):
        x.to("mps").topk(10)
    with pytest.raises(IndexError):
        x.to("mps").topk(1, 2)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool])
def test_kthvalue_and_medians(dtype):
    for shape, dim in (((), 0), ((7, 33), 0), ((7, 34), 1), ((2, 1501), 1), ((2, 2100), 1)):
        x = sample(*shape, dtype=dtype)
        size = x.size(dim) if x.dim() else 1
        for keepdim in (False, True):
            for function in (
                lambda t, d=dim, k=keepdim: t.median(d, k),
                lambda t, d=dim, k=keepdim: t.nanmedian(d, k),
                lambda t, d=dim, k=keepdim, n=size: t.kthvalue((n + 2) // 3, d, k),
            ):
                assert_picks(function, x, dim, keepdim)
        compare(torch.median, x)
        compare(torch.nanmedian, x)


def test_median_of_nan():
    x = torch.randn(4, 7)
    x[0, 3] = x[1] = torch.nan
    compare(lambda t: (t.median(1)[0], t.nanmedian(1)[0]), x)
    compare(lambda t: t.median(1)[0], torch.randn(4, 7), grad=True)
    compare(torch.median, torch.randn(9), grad=True)
    compare(torch.median, torch.empty(0))
    compare(torch.quantile, torch.randn(40), torch.tensor([0.1, 0.5]))
    for call in (torch.quantile, torch.nanquantile):
        for fraction in (2.0, -0.1, float("nan")):
            for device in ("cpu", "mps"):
                with pytest.raises(RuntimeError, match=r"q values must be in the range \[0, 1\]"):
                    call(torch.randn(4, device=device), torch.tensor([0.5, fraction], device=device))
                    torch.mps.synchronize()
    for call in (lambda t: t.median(0), lambda t: t.kthvalue(1, 0), lambda t: t.mode(0)):
        with pytest.raises(IndexError):
            call(torch.empty(0, 3, device="mps"))
    for k in (0, 8):
        with pytest.raises(RuntimeError):
            x.to("mps").kthvalue(k, 1)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool])
def test_mode(dtype):
    x = torch.randint(0, 6, (5, 40), generator=torch.Generator().manual_seed(3)).to(dtype)
    for dim in (0, 1):
        for keepdim in (False, True):
            assert_picks(lambda t, d=dim, k=keepdim: t.mode(d, k), x, dim, keepdim)
    compare(lambda t: t.mode(0), torch.tensor(3, dtype=dtype))
    compare(lambda t: t.mode(), torch.tensor([4, 4, 1, 1, 1, 9], dtype=dtype))
