"""Reductions against torch on the CPU."""

import math

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, to_mps

ALL = (*FLOATS, *INTEGERS, torch.bool)


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Values that suit the dtype: normal floats, small integers."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.3
    return torch.randint(0 if dtype == torch.uint8 else -5, 6, shape, generator=generator).to(dtype)


# Shape, dimensions: rows short and long, columns, several dimensions, scalars, sizes around the workgroup's.
CASES = [
    ((), None),
    ((1,), 0),
    ((7,), 0),
    ((3, 5), 0),
    ((3, 5), 1),
    ((3, 5), None),
    ((2, 257), -1),
    ((257, 2), 0),
    ((300, 70), 0),
    ((70, 300), 1),
    ((9, 64), 1),
    ((4, 3, 6, 5), (1, 3)),
    ((4, 3, 6, 5), (0, 2, 3)),
    ((4, 3, 6, 5), (0, 2)),
    ((1, 4, 1), (0, 2)),
    ((2, 20000), 1),
    ((40000,), None),
]


@pytest.mark.parametrize("shape,dim", CASES)
@pytest.mark.parametrize("keepdim", [False, True])
def test_shapes(shape, dim, keepdim):
    x = sample(*shape)
    dims = tuple(range(x.dim())) if dim is None else dim
    compare(lambda t: t.sum(dims, keepdim=keepdim), x, rtol=1e-5, atol=1e-4)
    compare(lambda t: t.amax(dims, keepdim=keepdim), x)
    compare(lambda t: t.mean(dims, keepdim=keepdim), x)


# Vectors fit the innermost reduced dimension, or its length, its place or its neighbours' places forbid it.
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64, torch.uint8])
@pytest.mark.parametrize("start", [0, 1, 4])
@pytest.mark.parametrize(
    "shape,dims", [((6, 5, 32), (0, 2)), ((6, 5, 18), (0, 2)), ((3, 4, 2, 16), (0, 2)), ((3, 2100), (1,))]
)
def test_vectors(shape, dims, start, dtype):
    x = sample(math.prod(shape) + 2 * start, dtype=dtype)
    loose = {"rtol": 1e-2, "atol": 1e-2} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-5}
    for length in (shape[-1], shape[-1] - 2):  # rows that are a part of longer ones
        compare(lambda t, n=length: t[start : start + math.prod(shape)].view(shape)[..., :n].sum(dims), x, **loose)
    compare(lambda t: t[start : start + math.prod(shape)].view(shape).amax(dims), x)


def test_every_size():
    # What is left over after loads of four, with fewer threads than that.
    for size in range(1, 70):
        assert torch.ones(size, device="mps").sum().item() == size
        assert torch.ones(3, size, device="mps").sum(1).tolist() == [size] * 3


@pytest.mark.parametrize("dtype", ALL)
def test_sum_prod_dtypes(dtype):
    x = sample(6, 33, dtype=dtype)
    loose = {"rtol": 1e-2, "atol": 1e-2} if dtype in FLOATS[1:] else {}
    compare(lambda t: t.sum(), x, **loose)
    compare(lambda t: t.sum(0), x, **loose)
    compare(lambda t: t.sum(1, dtype=torch.float32), x)
    compare(lambda t: t.sum(1, dtype=torch.int32), x)
    compare(lambda t: t[:, :5].prod(1), x, **loose)
    compare(lambda t: t[:, :5].prod(), x, **loose)
    compare(lambda t: t.nansum(), x, **loose)
    compare(lambda t: t.any(1), x)
    compare(lambda t: t.all(0), x)
    compare(lambda t: (t.any(), t.all(), t.any((0, 1))), x)
    compare(lambda t: (t.count_nonzero(), t.count_nonzero(1)), x)


@pytest.mark.parametrize("dtype", ALL)
def test_extrema_dtypes(dtype):
    x = sample(5, 40, dtype=dtype)
    compare(lambda t: (t.max(), t.min()), x)
    compare(lambda t: (t.amax(0), t.amin(1)), x)
    compare(lambda t: (*t.max(0), *t.min(1, keepdim=True)), x)
    compare(lambda t: tuple(t.aminmax(dim=1)), x)
    compare(lambda t: tuple(t.aminmax()), x)
    if dtype != torch.bool:
        compare(lambda t: (t.argmax(), t.argmin(), t.argmax(0), t.argmin(1, keepdim=True)), x)


def test_argmax_keeps_logical_order():
    x = torch.tensor([[1.0, 3.0, 3.0], [3.0, 0.0, 3.0]])
    compare(lambda t: (t.argmax(), t.t().argmax(), t.argmax(1), t.t().max(0)[1]), x)
    compare(lambda t: t.permute(2, 0, 1).argmin(), sample(4, 5, 6, dtype=torch.int32))


def test_integers_wrap_and_do_not_lose_bits():
    big = torch.tensor([2**53 + 1, 2, -(2**40)])
    compare(lambda t: (t.sum(), t.max(), t.min(), t.prod()), big)
    compare(lambda t: t.sum(), torch.full((300,), 2**31 - 1, dtype=torch.int32))


@pytest.mark.parametrize("place", [0, 17, 99])
def test_nan_and_infinity(place):
    x = sample(3, 100)
    x[1, place] = math.nan
    x[2, place] = math.inf
    compare(lambda t: (t.sum(1), t.amax(1), t.amin(1), t.argmax(1), t.argmin(1), *t.max(1), *t.min(1)), x)
    compare(lambda t: (t.nansum(1), t.mean(1), t.max(), t.argmax(), *t.aminmax(dim=1)), x)
    compare(lambda t: (t.norm(), t.norm(dim=1), t.any(1), t.std(1)), x)


def test_all_lowest():
    compare(lambda t: (*t.max(1), *t.min(1)), torch.full((2, 3), -math.inf))
    compare(lambda t: (*t.min(1), t.argmin()), torch.full((2, 3), math.inf))


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[::2, 1::3],
        lambda t: t.expand(3, *t.shape),
        lambda t: t.view(2, 10, 4, 9).permute(2, 0, 3, 1),
        lambda t: t.reshape(-1)[1:],
        lambda t: t[3:4],
    ],
)
def test_strides(view):
    x = sample(20, 36)
    compare(lambda t: view(t).sum(0), x, rtol=1e-5, atol=1e-5)
    compare(lambda t: view(t).sum(), x, rtol=1e-5, atol=1e-5)
    compare(lambda t: view(t).amax(-1, keepdim=True), x)
    compare(lambda t: tuple(view(t).max(0)), x)


def test_many_dimensions():
    x = sample(2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2)
    compare(lambda t: t.sum((0, 2, 4, 6, 8, 10)), x, rtol=1e-5, atol=1e-5)
    compare(lambda t: t.permute(10, 3, 5, 1, 0, 2, 4, 6, 8, 9, 7).amax((1, 3, 5, 7, 9), keepdim=True), x)


@pytest.mark.parametrize("correction", [0, 1, 2.5, 100])
def test_moments(correction):
    x = sample(6, 45) * 3 + 100
    for dim in (None, 0, 1, (0, 1)):
        compare(lambda t, d=dim: t.var(d, correction=correction), x, rtol=1e-4, atol=1e-5)
        compare(lambda t, d=dim: torch.std_mean(t, d, correction=correction, keepdim=True), x, rtol=1e-4, atol=1e-5)
    compare(lambda t: torch.var_mean(t.half(), 1, correction=correction), x, rtol=2e-3, atol=1e-3)


def test_moments_are_stable():
    x = sample(100000) + 1000
    compare(lambda t: (t.var(), t.std()), x, rtol=1e-4, atol=0)
    compare(lambda t: t.var(), torch.full((5000,), 0.1))


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, -1, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_norms(order, dtype):
    x = sample(7, 30, dtype=dtype)
    x[2, 3] = 0
    loose = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-3}
    compare(lambda t: torch.linalg.vector_norm(t, order, dim=1), x, **loose)
    compare(lambda t: t.norm(order, dim=0, keepdim=True), x, **loose)
    compare(lambda t: torch.linalg.vector_norm(t, order, dtype=torch.float32), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3, math.inf, -math.inf])
def test_norms_of_one_number_do_not_overflow(order):
    for value in (3e38, -3e38, 1e-30, 0.0, math.nan):
        x = torch.tensor([value])
        compare(torch.linalg.vector_norm, x, order)
        compare(torch.dist, x, torch.zeros(1), order)
        compare(lambda t: torch.linalg.vector_norm(t, order, dim=-1, keepdim=True), x.expand(2, 3, 1))


def test_empty():
    x = torch.empty(0, 3)
    compare(lambda t: (t.sum(), t.sum(0), t.sum(1), t.prod(0), t.mean(), t.any(), t.all(0), t.nansum()), x)
    compare(lambda t: (t.var(0), t.std(), *torch.var_mean(t, 0), t.norm(), t.norm(1, dim=0)), x)
    compare(lambda t: (t.amax(1), *t.max(1), t.argmax(1), t.count_nonzero()), x)
    compare(lambda t: t.sum(1), torch.empty(2, 0, dtype=torch.int32))


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t.max(),
        lambda t: t.amax(0),
        lambda t: t.max(0),
        lambda t: t.argmax(),
        lambda t: t.argmin(0),
        lambda t: t.aminmax(),
        lambda t: t.sum(2),
        lambda t: t.sum((0, 0)),
        lambda t: t.long().mean(),
        lambda t: t.long().std(),
        lambda t: torch.sum(t, 0, out=t.new_empty(3, dtype=torch.int32), dtype=torch.float32),
        lambda t: torch.amax(t, 1, out=t.new_empty(0, dtype=torch.int32)),
        lambda t: torch.linalg.vector_norm(t.int()),
    ],
)
def test_errors(function):
    x = torch.empty(0, 3)
    with pytest.raises(Exception) as expected:
        function(x)
    with pytest.raises(expected.type):
        function(x.to("mps"))


def test_out():
    x = sample(4, 5)
    on_device = x.to("mps")
    out = torch.empty(0, device="mps")
    assert torch.sum(on_device, 1, out=out) is out
    assert_same(out, x.sum(1))
    strided = torch.empty(5, 2, device="mps")
    torch.amax(on_device, 0, out=strided[:, 1])
    assert_same(strided[:, 1], x.amax(0))
    values, indices = torch.empty(5, 2, device="mps")[:, 0], torch.empty(5, dtype=torch.int64, device="mps")
    torch.max(on_device, 0, out=(values, indices))
    assert_same((values, indices), tuple(x.max(0)))
    torch.mean(on_device, 1, dtype=torch.float16, out=(half := torch.empty(4, dtype=torch.float16, device="mps")))
    assert_same(half, x.mean(1, dtype=torch.float16), rtol=2e-3)
    with pytest.warns(UserWarning, match="resized"):
        torch.sum(on_device, 0, out=torch.empty(3, device="mps"))
    with pytest.raises(RuntimeError, match="same device"):
        torch.sum(on_device, 0, out=torch.empty(5))


def test_equal():
    x = sample(5, 5)
    on_device = x.to("mps")
    assert torch.equal(on_device, on_device.clone())
    assert not torch.equal(on_device, on_device + 1)
    assert not torch.equal(on_device, on_device[0])


def test_gradients():
    x = sample(4, 6)
    for function in (
        lambda t: t.sum(1),
        lambda t: t.mean(),
        lambda t: t.amax(0),
        lambda t: t.max(1)[0],
        lambda t: t.var(1),
        lambda t: torch.std_mean(t, 0),
        lambda t: t.norm(dim=1),
        lambda t: t.logsumexp(1),
    ):
        compare(function, x, grad=True, rtol=1e-4, atol=1e-5)


def test_logsumexp():
    x = sample(3, 50) * 30
    x[1] = -math.inf
    compare(lambda t: (t.logsumexp(1), t.logsumexp((0, 1)), t.logsumexp(0, keepdim=True)), x)


def test_large_sum_is_accurate():
    x = torch.rand(1 << 20, generator=torch.Generator().manual_seed(3))
    actual = to_mps(x).sum().item()
    assert abs(actual - x.double().sum().item()) < 0.1
    assert_same(to_mps(x)[1:].sum(), x[1:].sum(), rtol=1e-6, atol=0)


def test_whether_set_to():
    compare(lambda x: [x.is_set_to(y) for y in (x.view(-1), x[:], x[1:], x.t(), x.clone())], torch.ones(3, 4))


def test_hashes():
    for dtype in (*FLOATS, *INTEGERS, torch.float64, torch.bool):
        x = (torch.randn(5, 70, 3) * 10).to(dtype)
        compare(
            lambda t: (torch.hash_tensor(t), torch.hash_tensor(t, dim=1), torch.hash_tensor(t, (0, 2), keepdim=True)), x
        )
    for value in (0.0, -0.0, 1e-45, -3e-39, 1e38, float("inf"), -float("inf"), float("nan")):
        compare(torch.hash_tensor, torch.tensor([value]))
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError):
            torch.hash_tensor(torch.ones(2, device=device), mode=1)
        with pytest.raises(IndexError):
            torch.hash_tensor(torch.ones(2, 0, device=device), dim=1)
        with pytest.raises(NotImplementedError):
            torch.hash_tensor(torch.ones(2, dtype=torch.complex64, device=device))


@pytest.mark.parametrize("p", [1, 2, 0.7, float("inf")])
def test_renorm(p):
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(4, 3, 5, dtype=dtype)
        x[1] = 0
        compare(lambda t: (torch.renorm(t, p, 0, 2.0), torch.renorm(t, p, -1, 3)), x, grad=True)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    leaves = [x.double().requires_grad_(), x.to("mps").requires_grad_()]
    for leaf in leaves:
        (torch.renorm(leaf, p, 1, 1.5) * torch.arange(-3, 9, device=leaf.device).view(4, 3)).sum().backward()
    assert_same(leaves[1].grad, leaves[0].grad.bfloat16())  # rounded once
    compare(lambda t: torch.renorm(t, p, 1, 1.5), torch.randn(4, 3).half())
    for arguments in ((0, 0, 1), (2, 0, -1)):
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError):
                torch.renorm(torch.ones(2, 2, device=device), *arguments)


def test_sums_of_powers():
    call = torch.ops.aten.linalg__powsum
    for dtype in (torch.float32, torch.float64, torch.complex64):
        x = torch.randn(3, 4, dtype=dtype)
        for order in (0, 1, 2, 3, 0.5):
            compare(lambda t, p=order: (call(t, p), call(t, p, [1], True)), x, rtol=1e-5, atol=1e-5)


DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool, torch.complex64)


@pytest.mark.parametrize("name", ["sum", "prod", "nansum", "mean"])
@pytest.mark.parametrize("source", DTYPES)
def test_elements_are_converted_before_they_are_reduced(name, source):
    """dtype= and out= of every dtype: the result, or the exception, of the CPU."""
    x = torch.tensor([[0.5, 0.3, -1.5], [2.0, 1e5, -99000.0]])
    x = torch.complex(x, -x) if source.is_complex else x
    x = x.to(source) if source.is_floating_point or source.is_complex else x.clamp(-100, 100).to(source)
    function = getattr(torch, name)
    for dtype in (*DTYPES, torch.uint16, torch.complex128):
        for call in (
            lambda t, d=dtype: function(t, dtype=d),
            lambda t, d=dtype: function(t, 1, dtype=d),
            lambda t, d=dtype: function(t, 1, out=torch.empty(2, dtype=d, device=t.device)),
        ):
            try:
                expected = call(x)
            except RuntimeError as error:
                with pytest.raises(type(error)) as raised:
                    call(to_mps(x))
                assert raised.type is type(error), (dtype, str(raised.value))
            else:
                assert_same(call(to_mps(x)), expected, rtol=1e-2, atol=1e-3)


def test_sums_of_fractions_as_bool():
    x = torch.tensor([0.5, 0.3])
    compare(lambda t: (t.sum(dtype=torch.bool), t.prod(dtype=torch.bool), t.nansum(dtype=torch.bool)), x)
    compare(lambda t: t.nansum(dtype=torch.int64), torch.tensor([float("nan"), 2.5]))


@pytest.mark.parametrize("name", ["any", "all"])
def test_truth_goes_into_bool_or_bytes(name):
    function = getattr(torch, name)
    for dtype in (torch.bool, torch.uint8):
        compare(
            lambda t, d=dtype: getattr(torch, name)(t, 0, out=torch.empty(3, dtype=d, device=t.device)), torch.eye(3)
        )
    with pytest.raises(RuntimeError, match="only supports bool tensor for result, got: Float"):
        function(torch.eye(3, device="mps"), 0, out=torch.empty(3, device="mps"))


def test_deviations_into_complex():
    compare(lambda t: torch.std(t, 0, out=torch.empty((), dtype=torch.complex64, device=t.device)), torch.rand(4))
