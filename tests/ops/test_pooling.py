"""Pooling against torch on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, assert_same, compare, to_mps


def sample(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


SHAPES = {1: (2, 3, 13), 2: (2, 3, 9, 11), 3: (1, 2, 5, 7, 6)}
OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
]
AVERAGES = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": c, "count_include_pad": False} for c in (False, True)
]
AVERAGES += [{"kernel_size": 3, "stride": 2, "padding": 1, "divisor_override": 5}]


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_max(dims, options):
    pool = getattr(F, f"max_pool{dims}d")
    compare(lambda x: pool(x, **options), sample(*SHAPES[dims]), grad=True)
    compare(lambda x: pool(x, return_indices=True, **options), sample(*SHAPES[dims]))


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("options", OPTIONS + AVERAGES, ids=str)
def test_average(dims, options):
    if dims == 1 and "divisor_override" in options:
        pytest.skip("avg_pool1d has no divisor_override")
    pool = getattr(F, f"avg_pool{dims}d")
    compare(lambda x: pool(x, **options), sample(*SHAPES[dims]), grad=True)


def test_windows_far_larger_than_the_input():
    # A thread's turns are those of the clipped window: 1280 * 1280 would be refused on the software driver.
    compare(lambda x: F.avg_pool2d(x, 1280, ceil_mode=True), torch.randn(2, 3, 5, 4), grad=True)
    compare(lambda x: F.max_pool2d(x, 1280, ceil_mode=True), torch.randn(2, 3, 5, 4), grad=True)


def test_dilation_and_uneven_windows():
    x = sample(2, 2, 12, 15)
    compare(lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2), x, grad=True)
    compare(lambda x: F.max_pool2d(x, (2, 3), (3, 1), (1, 0), dilation=(1, 3)), x, grad=True)
    compare(lambda x: F.avg_pool2d(x, (2, 5), (3, 1), (1, 2)), x, grad=True)


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_adaptive(dims, size):
    x = sample(*SHAPES[dims])
    compare(lambda x: getattr(F, f"adaptive_avg_pool{dims}d")(x, size), x, grad=True)
    compare(lambda x: getattr(F, f"adaptive_max_pool{dims}d")(x, size), x, grad=True)
    compare(lambda x: getattr(F, f"adaptive_max_pool{dims}d")(x, size, return_indices=True), x)


def test_adaptive_to_larger_sizes():
    compare(lambda x: F.adaptive_avg_pool2d(x, (13, 4)), sample(1, 2, 5, 6), grad=True)
    compare(lambda x: F.adaptive_avg_pool2d(x, (None, 1)), sample(1, 2, 5, 6), grad=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(dtype):
    x = sample(2, 3, 8, 8, dtype=dtype)
    loose = {} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    compare(lambda x: F.max_pool2d(x, 2), x, grad=True, **loose)
    compare(lambda x: F.avg_pool2d(x, 3, 2, 1), x, grad=True, **loose)
    compare(lambda x: F.adaptive_avg_pool2d(x, 3), x, grad=True, **loose)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_maximum_of_integers(dtype):
    x = (torch.arange(2 * 6 * 6) * 7 % 100).to(dtype).view(1, 2, 6, 6)
    compare(lambda x: torch.ops.aten.max_pool2d_with_indices(x, [2, 2]), x)


def test_special_values():
    x = sample(1, 1, 6, 6)
    x[0, 0, 1, 1], x[0, 0, 3, 3], x[0, 0, 4:, 4:] = math.nan, math.inf, -math.inf
    compare(lambda x: F.max_pool2d(x, 2, return_indices=True), x)
    compare(lambda x: F.avg_pool2d(x, 2), x)


def test_unbatched_empty_and_strided():
    compare(lambda x: F.max_pool2d(x, 2), sample(3, 6, 6), grad=True)
    compare(lambda x: F.avg_pool3d(x, 2), sample(3, 4, 4, 4), grad=True)
    compare(lambda x: F.max_pool2d(x, 2), sample(0, 3, 6, 6))
    compare(lambda x: F.max_pool2d(x.transpose(2, 3)[:, ::2], 2), sample(2, 4, 6, 8), grad=True)


@pytest.mark.parametrize("pool", [lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2)])
def test_channels_last_stays(pool):
    x = sample(2, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    compare(pool, x, grad=True)
    assert pool(to_mps(x)).is_contiguous(memory_format=torch.channels_last)


def test_unpool():
    def both(x):
        values, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(values, places, 2)

    compare(both, sample(2, 3, 6, 8), grad=True)


@pytest.mark.parametrize("dims", [2, 3])
def test_fractional(dims):
    x = sample(*SHAPES[dims])
    samples = torch.rand(*x.shape[:2], dims, generator=torch.Generator().manual_seed(0))
    pool = getattr(F, f"fractional_max_pool{dims}d")
    compare(lambda x, s: pool(x, 2, output_size=3, _random_samples=s.detach()), x, samples.requires_grad_(False))
    on_device = to_mps(x).requires_grad_()
    pool(on_device, 2, output_size=3, _random_samples=samples.to("mps")).sum().backward()
    on_host = x.clone().requires_grad_()
    pool(on_host, 2, output_size=3, _random_samples=samples).sum().backward()
    assert_same(on_device.grad, on_host.grad)
    compare(lambda x, s: pool(x, 2, output_size=3, _random_samples=s), x[0], samples)  # more samples than needed
    for wrong in (samples[:0], samples[:, :1], samples[..., :1], samples[0]):
        with pytest.raises(RuntimeError, match=r"Expect _random.samples"):
            pool(on_device, 2, output_size=3, _random_samples=wrong.to("mps"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_fractional_windows_start_where_the_dtype_puts_them(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 200, (4, 8, 17, 23), generator=generator).to(dtype)
    samples = torch.rand(4, 8, 2, dtype=torch.float64, generator=generator).to(dtype)
    for size in ([3, 5], [9, 11], [15, 16]):
        compare(
            lambda x, s, o=size: F.fractional_max_pool2d(x, 2, output_size=o, _random_samples=s, return_indices=True),
            *(x, samples),
        )


def test_lp_pool():
    compare(lambda x: F.lp_pool2d(x, 2, 3, stride=2), sample(1, 2, 7, 7).abs(), grad=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.max_pool2d(x, 2, padding=2),
        lambda x: F.max_pool2d(x, 0),
        lambda x: F.avg_pool2d(x, 2, divisor_override=0),
        lambda x: F.avg_pool2d(x, 20),
        lambda x: F.max_pool2d(x[0, 0], 2),
        lambda x: F.max_pool3d(x[0], 2),
        lambda x: F.adaptive_avg_pool2d(x[0, 0], 2),
    ],
)
def test_errors(call):
    x = sample(1, 2, 6, 6)
    with pytest.raises(Exception) as expected:
        call(x)
    with pytest.raises(expected.type):
        call(to_mps(x))


def test_given_tensors_are_resized_and_checked():
    x = sample(2, 3, 6, 6)
    aten = torch.ops.aten
    cases = (
        (aten.max_pool2d_with_indices.out, ([3, 2], [2, 2], [1, 0]), ("out", "indices")),
        (aten.adaptive_max_pool2d.out, ([4, 3],), ("out", "indices")),
        (aten.avg_pool2d.out, ([3, 2],), ("out",)),
        (aten.adaptive_avg_pool2d.out, ([4, 3],), ("out",)),
    )
    for function, arguments, names in cases:
        results = []
        for device in ("cpu", "mps"):
            dtypes = {"out": x.dtype, "indices": torch.int64}
            outputs = {name: torch.empty(0, dtype=dtypes[name], device=device) for name in names}
            function(x.to(device), *arguments, **outputs)
            results.append([outputs[name] for name in names])
        assert_same(results[1], results[0])
    on_device = x.to("mps")
    with pytest.raises(RuntimeError):
        aten.max_pool2d_with_indices.out(
            on_device, [2, 2], [2, 2], [5, 5], out=on_device.new_empty(0), indices=on_device.new_empty(0).long()
        )
    pooled, indices = aten.max_pool2d_with_indices(on_device, [2, 2])
    with pytest.raises(RuntimeError):
        aten.max_pool2d_with_indices_backward.grad_input(
            pooled,
            on_device,
            [2, 2],
            [2, 2],
            [0, 0],
            [1, 1],
            False,
            indices[:1],
            grad_input=torch.empty_like(on_device),
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.adaptive_max_pool2d(x, 3),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        lambda x: F.interpolate(x, scale_factor=2, mode="area"),
    ],
    ids=["adaptive_avg", "adaptive_max", "max", "unpool", "area"],
)
def test_layouts_are_the_cpus(function):
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    expected = function(x)
    actual = function(x.to("mps"))
    assert actual.stride() == expected.stride()
    torch.testing.assert_close(actual.cpu(), expected)


def test_channels_last_stays_in_three_dimensions():
    x = torch.randn(2, 4, 6, 6, 6).contiguous(memory_format=torch.channels_last_3d)
    expected, actual = (F.max_pool3d(t, 2, return_indices=True) for t in (x, x.to("mps")))
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.stride() == theirs.stride() and torch.equal(mine.cpu(), theirs)
