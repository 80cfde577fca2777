"""Convolution against torch on the CPU: dimensions, groups, strides, paddings, transposed, layouts, gradients."""

import random

import pytest
import torch
import torch.nn.functional as F
from support import compare, to_mps

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
SIZES = {1: (13,), 2: (9, 8), 3: (5, 6, 4)}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride,padding,dilation", [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 1, 2)])
def test_plain(dims, groups, stride, padding, dilation):
    function = getattr(F, f"conv{dims}d")
    weight = sample(6, 4 // groups, *[3 if padding else 2] * dims, seed=1)
    compare(
        lambda x, w, b: function(x, w, b, stride, padding, dilation, groups),
        sample(2, 4, *SIZES[dims]), weight, sample(6, seed=2), grad=True, **CLOSE,
    )  # fmt: skip


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride,padding,output_padding,dilation", [(1, 0, 0, 1), (2, 1, 1, 1), (3, 0, 2, 2)])
def test_transposed(dims, groups, stride, padding, output_padding, dilation):
    function = getattr(F, f"conv_transpose{dims}d")
    weight = sample(4, 6 // groups, *[3] * dims, seed=1)
    compare(
        lambda x, w, b: function(x, w, b, stride, padding, output_padding, groups, dilation),
        sample(2, 4, *[size // 2 for size in SIZES[dims]]), weight, sample(6, seed=2), grad=True, **CLOSE,
    )  # fmt: skip


def test_depthwise_and_pointwise():
    x = sample(2, 6, 7, 8)
    compare(lambda x, w: F.conv2d(x, w, padding=1, groups=6), x, sample(12, 1, 3, 3), grad=True, **CLOSE)
    compare(lambda x, w: F.conv2d(x, w), x, sample(5, 6, 1, 1), grad=True, **CLOSE)
    compare(lambda x, w: F.conv2d(x, w, stride=2), x, sample(5, 6, 1, 1), grad=True, **CLOSE)


@pytest.mark.parametrize("stride,padding,dilation", [(1, 0, 1), (2, 1, 1), (3, 2, 2), ((1, 2), (2, 0), (1, 3))])
@pytest.mark.parametrize("transposed", [False, True])
def test_wide_groups(transposed, stride, padding, dilation):
    x = sample(2, 16, 9, 11)
    if transposed:
        run = lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding, 0, 2, dilation)  # noqa: E731
        compare(run, x, sample(16, 16, 2, 3), sample(32), grad=True, **CLOSE)
    else:
        run = lambda x, w, b: F.conv2d(x, w, b, stride, padding, dilation, 2)  # noqa: E731
        compare(run, x, sample(32, 8, 2, 3), sample(32), grad=True, **CLOSE)


def test_window_smaller_than_the_stride():
    """Pixels that no tap reaches have no gradient, and transposed, the bias alone."""
    compare(lambda x, w: F.conv2d(x, w, stride=4), sample(2, 3, 11, 13), sample(4, 3, 2, 3), grad=True, **CLOSE)
    run = lambda x, w, b: F.conv_transpose2d(x, w, b, stride=4, output_padding=2)  # noqa: E731
    compare(run, sample(2, 3, 4, 5), sample(3, 4, 2, 3), sample(4), grad=True, **CLOSE)
    wider = lambda x, w, b: F.conv_transpose1d(x, w, b, dilation=2, output_padding=1)  # noqa: E731
    compare(wider, sample(2, 3, 4), sample(3, 4, 1), sample(4), grad=True, **CLOSE)


@pytest.mark.parametrize("groups", [1, 2])
def test_many_positions(groups):
    """Whose number is rounded up where they are summed, for a weight's gradient."""
    weight = sample(16, 16 // groups, 3, 3)
    compare(lambda x, w: F.conv2d(x, w, padding=1, groups=groups), sample(2, 16, 47, 45), weight, grad=True, **CLOSE)


@pytest.mark.parametrize("layout", ["sliced", "channels_last", "expanded"])
def test_strides_of_the_image(layout):
    x = {
        "sliced": lambda: sample(4, 12, 9, 20)[::2, ::3, 1:, ::2],
        "channels_last": lambda: sample(2, 8, 9, 10).contiguous(memory_format=torch.channels_last),
        "expanded": lambda: sample(1, 4, 8, 1).expand(2, 4, 8, 9),
    }[layout]()
    w = sample(5, x.shape[1], 3, 3, seed=1)
    compare(lambda x, w: F.conv2d(x, w, padding=1), x, w, grad=layout != "expanded", **CLOSE)
    compare(lambda x, w: F.conv2d(x, w), x, w, grad=layout != "expanded", **CLOSE)


@pytest.mark.parametrize("seed", range(40))
def test_windows_of_any_kind(seed):
    """Each dimension with a kernel, stride, padding, dilation and output padding of its own."""
    pick = random.Random(seed)
    dims, transposed, groups = pick.choice([1, 2, 2, 3]), seed % 3 == 0, pick.choice([1, 1, 2])
    channels, filters = groups * pick.choice([1, 3, 8, 11]), groups * pick.choice([2, 5, 8])
    kernel, stride, dilation = (
        [pick.choice(of) for _ in range(dims)] for of in ([1, 1, 2, 3], [1, 2, 2, 3], [1, 1, 2])
    )
    padding = [pick.choice([0, 0, 1]) for _ in range(dims)]
    more = [pick.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True)]
    image = sample(pick.choice([1, 2, 3]), channels, *(pick.choice([6, 7, 8]) for _ in range(dims)))
    if dims > 1 and pick.random() < 0.4:
        image = image.contiguous(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[dims])
    bias = sample(filters, seed=3)
    if transposed:
        weight = sample(channels, filters // groups, *kernel, seed=2)
        function = getattr(F, f"conv_transpose{dims}d")
        run = lambda x, w, b: function(x, w, b, stride, padding, more, groups, dilation)  # noqa: E731
    else:
        weight = sample(filters, channels // groups, *kernel, seed=2)
        function = getattr(F, f"conv{dims}d")
        run = lambda x, w, b: function(x, w, b, stride, padding, dilation, groups)  # noqa: E731
    compare(run, image, weight, bias, grad=True, **CLOSE)


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("transposed", [False, True])
def test_complex(dims, transposed):
    """torch takes them apart into real ones."""
    function = getattr(F, f"conv_transpose{dims}d" if transposed else f"conv{dims}d")
    x, w, b = (
        torch.complex(sample(*shape, seed=1), sample(*shape, seed=2))
        for shape in ((2, 4, *SIZES[dims]), (4, 4, *[2] * dims), (4,))
    )
    compare(lambda x, w, b: function(x, w, b, stride=2, padding=1), x, w, b, **CLOSE)


def test_too_deep_for_a_driver_that_ends_loops():
    """Its result would be wrong in silence."""
    from portable_mps.runtime import device

    if not device.current().adapter.is_software:
        pytest.skip("the adapter's driver ends no loops")
    x, w = torch.zeros(1, 12000, 3, 3, device="mps"), torch.zeros(9, 12000, 3, 3, device="mps")
    with pytest.raises(RuntimeError, match="convolution: a thread would take 67,500 turns"):
        F.conv2d(x, w)


def test_uneven_windows():
    compare(
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        sample(1, 3, 10, 9), sample(4, 3, 2, 3), grad=True, **CLOSE,
    )  # fmt: skip


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_padding_by_name(padding, kernel):
    compare(
        lambda x, w: F.conv2d(x, w, padding=padding),
        sample(1, 2, 6, 7),
        sample(3, 2, kernel, kernel),
        grad=True,
        **CLOSE,
    )


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_of_the_module(mode):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, 3, padding=2, padding_mode=mode)
    x = sample(1, 2, 6, 7)
    expected = layer(x)
    torch.testing.assert_close(layer.to("mps")(x.to("mps")).cpu(), expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    tolerance = {"rtol": 1e-7, "atol": 1e-7} if dtype == torch.float64 else {"rtol": 3e-2, "atol": 6e-2}
    x, w = sample(2, 4, 7, 6, dtype=dtype), sample(4, 4, 3, 3, dtype=dtype, seed=1)
    compare(lambda x, w: F.conv2d(x, w, padding=1), x, w, grad=True, **tolerance)
    compare(lambda x, w: F.conv2d(x, w[:, :2], padding=1, groups=2), x, w, grad=True, **tolerance)


def test_unbatched_strided_and_empty():
    w = sample(4, 3, 3, 3)
    compare(lambda x, w: F.conv2d(x, w), sample(3, 6, 6), w, grad=True, **CLOSE)
    compare(lambda x, w: F.conv2d(x.transpose(2, 3)[:, :, ::2], w), sample(2, 3, 6, 12), w, grad=True, **CLOSE)
    compare(lambda x, w: F.conv2d(x, w), sample(0, 3, 6, 6), w)


def test_channels_last():
    x = sample(2, 3, 6, 7).contiguous(memory_format=torch.channels_last)
    compare(lambda x, w: F.conv2d(x, w, padding=1), x, sample(4, 3, 3, 3), grad=True, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("which", ["input", "weight", "neither"])
def test_memory_formats_are_the_cpus(dtype, dims, transposed, which):
    function = getattr(F, f"conv_transpose{dims}d" if transposed else f"conv{dims}d")
    last = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    tensors = {"input": sample(2, 4, *[5] * dims, dtype=dtype), "weight": sample(4, 4, *[3] * dims, dtype=dtype)}
    if which in tensors:
        tensors[which] = tensors[which].contiguous(memory_format=last)
    strides = []
    for device in ("cpu", "mps"):
        input, weight = (t.to(device).requires_grad_() for t in tensors.values())
        result = function(input, weight)
        gradients = torch.autograd.grad(result, (input, weight), torch.ones_like(result))
        strides.append([t.stride() for t in (result, *gradients)])
    assert strides[0] == strides[1]


def test_output_padding_is_below_stride_or_dilation():
    x, w = sample(1, 2, 3, 3).to("mps"), sample(2, 2, 3, 3).to("mps")
    with pytest.raises(RuntimeError, match="output padding must be smaller"):
        F.conv_transpose2d(x, w, output_padding=1)
    compare(lambda x, w: F.conv_transpose2d(x, w, output_padding=1, dilation=2), x.cpu(), w.cpu(), **CLOSE)


@pytest.mark.parametrize("shape", [(0, 2, 1, 1), (0, 2, 3, 3), (1, 2, 0, 3)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_empty_inputs(shape, padding, transposed):
    function = F.conv_transpose2d if transposed else F.conv2d
    x, w = torch.empty(shape), sample(2, 2, 1, 1)
    try:
        expected = function(x, w, padding=padding, stride=2)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            function(x.to("mps"), w.to("mps"), padding=padding, stride=2)
    else:
        assert function(x.to("mps"), w.to("mps"), padding=padding, stride=2).shape == expected.shape


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("transposed", [False, True])
def test_trace(dims, transposed):
    layer = getattr(torch.nn, f"ConvTranspose{dims}d" if transposed else f"Conv{dims}d")(4, 6, 3).to("mps")
    x, other = sample(2, 4, *SIZES[dims]).to("mps"), sample(3, 4, *SIZES[dims], seed=1).to("mps")
    traced = torch.jit.trace(layer, x)
    assert "aten::_convolution" in str(traced.graph)
    torch.testing.assert_close(traced(other), layer(other))


def test_second_derivatives():
    x = sample(1, 2, 4, 4, dtype=torch.float64).to("mps").requires_grad_()
    w = sample(2, 2, 2, 2, dtype=torch.float64).to("mps").requires_grad_()
    assert torch.autograd.gradgradcheck(F.conv2d, (x, w))


@pytest.mark.parametrize(
    "call",
    [
        lambda d: F.conv2d(torch.ones(1, 2, 5, 5, device=d), torch.ones(3, 3, 3, 3, device=d)),
        lambda d: F.conv2d(torch.ones(1, 2, 2, 2, device=d), torch.ones(3, 2, 3, 3, device=d)),
        lambda d: F.conv2d(torch.ones(1, 2, 5, 5, device=d), torch.ones(3, 2, 3, 3, device=d), torch.ones(4, device=d)),
        lambda d: F.conv2d(torch.ones(1, 3, 5, 5, device=d), torch.ones(4, 1, 3, 3, device=d), groups=2),
        lambda d: F.conv2d(torch.ones(1, 2, 5, 5, device=d), torch.ones(3, 2, 3, 3, device=d), stride=0),
        lambda d: F.conv2d(torch.ones(1, 2, 5, 5, device=d).half(), torch.ones(3, 2, 3, 3, device=d)),
        lambda d: F.conv2d(torch.ones(2, device=d), torch.ones(3, 2, 3, 3, device=d)),
    ],
)
def test_errors(call):
    with pytest.raises(Exception) as expected:
        call("cpu")
    with pytest.raises(expected.type):
        call("mps")


def test_an_operand_on_the_cpu_is_refused():
    with pytest.raises(RuntimeError, match="device"):
        F.conv2d(to_mps(sample(1, 2, 5, 5)), sample(3, 2, 3, 3))


SLOW = {
    "_slow_conv2d_forward": lambda b: ([3, 3], b, [2, 1], [1, 0]),
    "slow_conv_dilated2d": lambda b: ([3, 3], b, [2, 1], [1, 2], [2, 1]),
    "slow_conv_transpose2d": lambda b: ([3, 3], b, [2, 2], [1, 0], [1, 1], [1, 1]),
    "slow_conv3d_forward": lambda b: ([3, 3, 3], b, [2, 1, 1], [1, 0, 1]),
    "slow_conv_dilated3d": lambda b: ([3, 3, 3], b, [1, 1, 1], [1, 1, 1], [2, 2, 2]),
    "slow_conv_transpose3d": lambda b: ([3, 3, 3], b),
}


@pytest.mark.parametrize("name", SLOW)
def test_named_for_the_cpu(name):
    """What autograd records on the CPU, called directly."""
    call, rank = getattr(torch.ops.aten, name), 3 if "3d" in name else 2
    shape = (3, 4) if "transpose" in name else (4, 3)
    image, weight, bias = torch.randn(2, 3, *(6,) * rank), torch.randn(*shape, *(3,) * rank), torch.randn(4)
    compare(lambda i, w, b: call(i, w, *SLOW[name](b)), image, weight, bias, rtol=1e-4, atol=1e-4)


def test_gradient_named_for_the_cpu():
    call, geometry = torch.ops.aten._slow_conv2d_backward, ([3, 3], [1, 1], [0, 0])
    tensors = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 7, 7), torch.randn(4, 3, 3, 3)
    compare(lambda g, i, w: call(g, i, w, *geometry, [True, False, True]), *tensors, rtol=1e-4, atol=1e-4)

    def into(g, i, w):
        outputs = {"grad_input": g.new_empty(0), "grad_weight": torch.empty_like(w), "grad_bias": g.new_empty(4)}
        return call(g, i, w, *geometry, **outputs)

    compare(into, *tensors, rtol=1e-4, atol=1e-4)
