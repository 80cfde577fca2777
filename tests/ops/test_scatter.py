"""gather, scatter and their reductions against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)
REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")
INDEX = torch.tensor([[0, 2, 1, 0], [2, 2, 0, 1]])


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)


def raises_later(call, kind: type[Exception] = RuntimeError) -> None:
    with pytest.raises(kind, match="out of bounds"):
        call()
        torch.mps.synchronize()
    torch.mps.synchronize()


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 2e-2, "atol": 2e-2} if dtype.itemsize == 2 and dtype.is_floating_point else {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x, source = sample(3, 5, dtype=dtype), sample(3, 4, dtype=dtype)
    compare(lambda t, i: t.gather(0, i), x, INDEX)
    unique = torch.tensor([[0, 2, 1, 0], [2, 1, 0, 1]])
    compare(lambda t, i, s: t.scatter(0, i, s), x, unique, source)
    compare(lambda t, i: t.scatter(0, i, 1), x, INDEX)
    compare(lambda t, i, s: t.scatter_add(0, i, s), x, INDEX, source, **tolerance(dtype))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.bool])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_reductions(reduce, dtype):
    x, source = sample(3, 5, dtype=dtype), sample(3, 4, dtype=dtype)
    for include_self in (True, False):
        compare(
            lambda t, i, s, b=include_self: t.scatter_reduce(0, i, s, reduce, include_self=b),
            x, INDEX, source, **tolerance(dtype),
        )  # fmt: skip
        if reduce != "sum":
            compare(
                lambda t, i, s, b=include_self: t.index_reduce(1, i, s, reduce, include_self=b),
                x, torch.tensor([4, 0, 0, 4]), source, **tolerance(dtype),
            )  # fmt: skip
    if reduce in ("sum", "prod"):
        name = {"sum": "add", "prod": "multiply"}[reduce]
        compare(lambda t, i, s: t.scatter(0, i, s, reduce=name), x, INDEX, source, **tolerance(dtype))
        compare(lambda t, i: t.scatter(0, i, 2, reduce=name), x, INDEX, **tolerance(dtype))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gradients_and_dimensions(dim):
    x = sample(3, 4, 3)
    index = torch.randint(0, 3, (2, 3, 3), generator=torch.Generator().manual_seed(2))
    distinct = torch.argsort(sample(3, 4, 3), dim=dim)[:3, :3, :3].clamp(max=2 if dim != 1 else 3)
    source = sample(2, 3, 3) + 1
    compare(lambda t, i: t.gather(dim, i), x, index, grad=True)
    compare(lambda t, i: t.transpose(0, 2).gather(dim, i.transpose(0, 2)[:3, :3, :2]), x, index)
    compare(lambda t, i, s: t.scatter_add(dim, i, s), x, index, source, grad=True)
    compare(lambda t, i, s: t.scatter(dim, i[:, :3], s), x, distinct[:1, :1, :1], source[:1, :1, :1], grad=True)
    for reduce in REDUCTIONS:
        compare(lambda t, i, s, r=reduce: t.scatter_reduce(dim, i, s, r), x, index, source, grad=True, rtol=1e-4)
    compare(lambda t, i, s: t.scatter_add(dim, i, s), x, index[:1], source)  # a corner of the source
    compare(lambda t, i: torch.take_along_dim(t, i, dim), x, x.argsort(dim))


def test_special_values():
    x = torch.tensor([1.0, torch.nan, torch.inf, -0.0])
    index, source = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([torch.nan, 3.0, -torch.inf, 5.0, 2.0])
    for reduce in ("sum", "amax", "amin"):
        compare(lambda t, i, s, r=reduce: t.scatter_reduce(0, i, s, r), x, index, source)


def test_scalars_empty_and_outputs():
    zero = torch.tensor([0])
    compare(lambda t, i: t.gather(0, i), torch.tensor(2.0), zero)
    compare(lambda t, i: t.gather(0, i[0]), torch.tensor([2.0]), zero)
    compare(lambda t, i: t.scatter(0, i, 5.0), torch.tensor(2.0), zero)
    compare(lambda t, i, s: t.scatter_add(0, i, s), torch.tensor(2.0), zero, torch.tensor([1.0]))
    x = sample(3, 4)
    compare(lambda t, i: (t.gather(0, i[:0]), t.scatter(0, i[:0], 1.0)), x, INDEX)
    compare(lambda t, i: t.gather(1, i.int()), x, INDEX)
    out = torch.empty(4, 2, device="mps").t()
    torch.gather(x.to("mps"), 0, INDEX.to("mps"), out=out)
    assert_same(out, x.gather(0, INDEX))
    out = torch.empty(0, device="mps")
    torch.scatter_add(x.to("mps"), 0, INDEX.to("mps"), torch.ones(2, 4, device="mps"), out=out)
    assert_same(out, x.scatter_add(0, INDEX, torch.ones(2, 4)))
    place = x.to("mps").t()
    place.scatter_(1, INDEX.t().to("mps"), 9.0)
    assert_same(place, x.t().clone().scatter_(1, INDEX.t(), 9.0))


@pytest.mark.parametrize("bad", [3, 1000, -1, -4])
def test_out_of_range_raises_and_writes_nothing(bad):
    guard = torch.zeros(20, 4, device="mps")
    inside, index = guard[8:11], torch.full((1, 4), bad, device="mps")
    ones = torch.ones(1, 4, device="mps")
    raises_later(lambda: inside.gather(0, index))
    raises_later(lambda: inside.scatter_(0, index, ones))
    raises_later(lambda: inside.scatter_(0, index, 1.0))
    raises_later(lambda: inside.scatter_add_(0, index, ones))
    for reduce in REDUCTIONS:
        raises_later(lambda r=reduce: inside.scatter_reduce_(0, index, ones, r))
    assert guard.eq(0).all().item()


def test_errors():
    x, index = sample(3, 4).to("mps"), INDEX.to("mps")
    calls = [
        lambda: x.gather(2, index),
        lambda: x.gather(0, index.float()),
        lambda: x.gather(0, index[0]),
        lambda: x.gather(1, torch.zeros(4, 1, dtype=torch.int64, device="mps")),
        lambda: x.scatter(0, index, torch.ones(1, 4, device="mps")),
        lambda: x.scatter(0, index, torch.ones(2, 4, dtype=torch.int64, device="mps")),
        lambda: x.scatter(0, index, 1.0, reduce="mean"),
        lambda: x.scatter_reduce(0, index, x, "median"),
        lambda: torch.gather(x, 0, index, out=torch.empty(0, dtype=torch.int64, device="mps")),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, IndexError)):
            call()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex(dtype):
    generator = torch.Generator().manual_seed(2)
    x, values = (torch.randn(n, 3, dtype=dtype, generator=generator) for n in (4, 20))
    index = torch.randint(0, 4, (20, 3), generator=generator)
    for reduce in ("sum", "prod", "mean"):
        for include in (True, False):
            compare(
                lambda t, i, v, r=reduce, inc=include: t.scatter_reduce(0, i, v, r, include_self=inc), x, index, values
            )
    compare(lambda t, i, v: t.scatter(0, i, v, reduce="multiply"), x, index, values)
    compare(lambda t, i, v: t.scatter(0, i, 2j, reduce="multiply"), x, index, values)
