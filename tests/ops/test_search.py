"""searchsorted, bucketize, isin, bincount and histograms against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare

DTYPES = (*FLOATS, torch.float64, *INTEGERS)


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 20).round().to(dtype)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_searchsorted(dtype, right):
    edges, values = sample(3, 15, dtype=dtype).sort(-1)[0], sample(3, 8, dtype=dtype)
    compare(lambda e, v: torch.searchsorted(e, v, right=right), edges, values)
    compare(lambda e, v: torch.searchsorted(e[0], v, right=right, out_int32=True), edges, values)
    compare(lambda e, v: torch.searchsorted(e[0], 7, right=right), edges, values)
    compare(lambda e, v: torch.bucketize(v, e[1], right=right), edges, values)
    compare(lambda e, v: torch.bucketize(3, e[1], right=right, out_int32=True), edges, values)
    unsorted = sample(3, 15, dtype=dtype)
    compare(lambda e, v, s: torch.searchsorted(e, v, sorter=s, right=right), unsorted, values, unsorted.argsort(-1))


def test_searchsorted_special():
    edges = torch.tensor([-torch.inf, 0.0, 1.0, torch.inf])
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 0.5])
    for side in ("left", "right"):
        compare(lambda e, v, s=side: torch.searchsorted(e, v, side=s), edges, values)
    compare(lambda e, v: torch.searchsorted(e[:0], v), edges, values)
    compare(lambda e, v: torch.searchsorted(e, v[:0]), edges, values)
    compare(lambda e, v: torch.searchsorted(e, v[0]), edges, values)
    compare(lambda e, v: torch.searchsorted(e, v.double()), edges, values)
    compare(lambda e, v: torch.searchsorted(e.t(), v.t()), sample(6, 3).sort(0)[0], sample(6, 3))
    out = torch.empty(0, dtype=torch.int64, device="mps")
    torch.searchsorted(edges.to("mps"), values.to("mps"), out=out)
    assert_same(out, torch.searchsorted(edges, values))


def test_searchsorted_errors():
    edges, values = sample(3, 5).to("mps"), sample(2, 5).to("mps")
    calls = [
        lambda: torch.searchsorted(edges, values),
        lambda: torch.searchsorted(edges, 3.0),
        lambda: torch.searchsorted(edges[0], values, side="middle"),
        lambda: torch.searchsorted(edges[0], values, right=True, side="left"),
        lambda: torch.searchsorted(edges[0], values, sorter=torch.zeros(4, dtype=torch.int64, device="mps")),
        lambda: torch.searchsorted(edges[0], values, sorter=torch.full((5,), 9, device="mps")).cpu(),
        lambda: torch.bucketize(values, edges),
    ]
    for call in calls:
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("count", [0, 5, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_isin(dtype, count):
    elements, tests = sample(4, 9, dtype=dtype), sample(count, dtype=dtype)
    for invert in (False, True):
        compare(lambda e, t, i=invert: torch.isin(e, t, invert=i), elements, tests)
        compare(lambda e, t, i=invert: torch.isin(e.t(), 3, invert=i), elements, tests)
        compare(lambda e, t, i=invert: torch.isin(3, t, invert=i), elements, tests)


def test_isin_mixed():
    compare(lambda e, t: torch.isin(e, t), sample(9, dtype=torch.int64), sample(40) + 0.5)
    compare(lambda e, t: torch.isin(e, t), torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 1.0] * 20))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bincount(dtype):
    x = sample(300, dtype=dtype)
    compare(torch.bincount, x)
    compare(lambda t: t.bincount(minlength=40), x)
    compare(lambda t, w: t.bincount(w), x, sample(300))
    compare(lambda t, w: t.bincount(w, minlength=3), x, sample(300, dtype=torch.int64))
    compare(lambda t: t[:0].bincount(minlength=2), x)


def test_bincount_errors():
    for x in (torch.tensor([1, -1]), torch.ones(2, 2, dtype=torch.int64), torch.ones(2)):
        with pytest.raises(RuntimeError):
            torch.bincount(x.to("mps"))
    with pytest.raises(RuntimeError):
        torch.bincount(torch.tensor([1], device="mps"), torch.ones(2, device="mps"))
    with pytest.raises(RuntimeError):
        torch.bincount(torch.tensor([1], device="mps"), minlength=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_histograms(dtype):
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(6)).to(dtype)
    compare(lambda t: t.histc(10), x)
    compare(lambda t: t.histc(8, -1, 1), x)
    compare(lambda t: t.histc(8, 0, 0), torch.ones(5, dtype=dtype))
    compare(lambda t: t.histc(4, min=0, max=3), torch.tensor([0, 1, 2, 3, 3, 4, -1, torch.nan], dtype=dtype))
    for density in (False, True):
        compare(lambda t, d=density: t.histogram(10, density=d), x)
        compare(lambda t, d=density: t.t().histogram(7, range=(-1.0, 2.0), density=d), x)
        compare(lambda t, w, d=density: t.histogram(7, weight=w, density=d), x, x.abs(), rtol=1e-5)
        compare(lambda t, b, d=density: t.histogram(b, density=d), x, torch.tensor([-2, -0.5, 0, 3], dtype=dtype))
    compare(lambda t: t.histogram(3), torch.ones(4, dtype=dtype))
    compare(lambda t: t[:0].histogram(3), x)


@pytest.mark.parametrize("density", [False, True])
def test_histogramdd(density):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(7))
    compare(lambda t: torch.histogramdd(t, [3, 4], density=density), x)
    compare(lambda t: torch.histogramdd(t, 3, range=[-1.0, 1.0, 0.0, 2.0], density=density), x)
    edges = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0])
    compare(lambda t, e, w: torch.histogramdd(t, e, weight=w, density=density), x, edges, x[:, 0].abs(), rtol=1e-5)
    with pytest.raises(RuntimeError):
        torch.histogramdd(x.to("mps"), [3])


def test_histogram_errors():
    x = torch.randn(5, device="mps")
    calls = [
        lambda: x.histc(0),
        lambda: x.histc(3, 2, 1),
        lambda: torch.full((3,), torch.inf, device="mps").histc(3),
        lambda: x.histogram(0),
        lambda: x.histogram(3, weight=torch.ones(4, device="mps")),
        lambda: x.histogram(3, range=(2.0, 1.0)),
        lambda: x.histogram(torch.ones(2, 2, device="mps")),
    ]
    for call in calls:
        with pytest.raises(RuntimeError):
            call()
    out = torch.empty(0, device="mps"), torch.empty(0, device="mps")
    torch.histogram(x, 4, out=out)
    assert out[0].shape == (4,) and out[1].shape == (5,)
