"""Batch, layer, group, instance, RMS and weight normalisation against torch on the CPU."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, assert_same, compare, compare_with_float64, to_mps
from torch import nn


def sample(*shape, dtype=torch.float32):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 2 + 1).to(dtype)


CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LOOSE = {"rtol": 3e-2, "atol": 3e-2}


def train_both(module, x, steps=2, **tolerance):
    """Outputs, gradients and buffers of `module` on both devices, over some steps and then in eval mode."""
    mine, theirs = copy.deepcopy(module).to("mps"), module
    for step in range(steps + 1):
        if step == steps:
            mine.eval()
            theirs.eval()
        a, b = to_mps(x + step).requires_grad_(), (x + step).requires_grad_()
        out, expected = mine(a), theirs(b)
        assert_same(out, expected, **tolerance)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(x.dtype)
        (out * weights.to("mps")).sum().backward()
        (expected * weights).sum().backward()
        assert_same(a.grad, b.grad, **tolerance)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_same(one.grad, other.grad, **tolerance)
    for one, other in zip(mine.buffers(), theirs.buffers(), strict=True):
        assert_same(one, other, **tolerance)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}], ids=str
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch(dims, options):
    module = getattr(nn, f"BatchNorm{dims}d")(5, **options)
    train_both(module, sample(6, 5, *(4, 3, 2)[:dims]), **CLOSE)


# Vectors fit a channel's part of a sample, or its length or its place forbids it.
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("size", [(4, 4), (3, 7), (70, 60)])
def test_planes(size, start, dtype):
    shape = (3, 4, *size)
    x, w = sample(12 * size[0] * size[1] + start, dtype=dtype), sample(4, dtype=dtype)
    for norm in (lambda x, w: F.batch_norm(x, None, None, w, w, training=True), lambda x, w: F.group_norm(x, 2, w, w)):
        compare_with_float64(lambda x, w, n=norm: n(x[start:].view(shape), w), x, w, units=16)


def test_batch_of_vectors_and_channels_last():
    train_both(nn.BatchNorm1d(7), sample(9, 7), **CLOSE)
    train_both(nn.BatchNorm2d(4), sample(3, 4, 5, 6).contiguous(memory_format=torch.channels_last), **CLOSE)


def test_batch_variance_of_large_means():
    x = sample(8, 3, 16, 16) + 1000
    compare(lambda x: F.batch_norm(x, None, None, training=True), x, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_of_half_inputs_with_float_parameters(dtype):
    x = sample(8, 4, 6, 6)
    module = nn.BatchNorm2d(4)
    mine = copy.deepcopy(module).to("mps")
    out = mine(x.to("mps", dtype))
    assert out.dtype == dtype and mine.running_mean.dtype == torch.float32
    torch.testing.assert_close(out.cpu().float(), module(x), rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(mine.running_var.cpu(), module.running_var, rtol=2e-2, atol=2e-2)


def test_batch_update_stats():
    x, mean, var = sample(6, 3, 4), torch.zeros(3), torch.ones(3)
    compare(lambda x, m, v: (torch.batch_norm_update_stats(x, m, v, 0.1), m, v), x, mean, var, **CLOSE)


@pytest.mark.parametrize(
    "shape,normalized", [((4, 10), (10,)), ((2, 3, 4, 5), (4, 5)), ((7, 300), (300,)), ((3, 5000), (5000,))]
)
@pytest.mark.parametrize("parameters", [(True, True), (True, False), (False, False)])
def test_layer(shape, normalized, parameters):
    weight, bias = (sample(*normalized) if there else None for there in parameters)
    compare(
        lambda x, w, b: F.layer_norm(x, normalized, w, b), sample(*shape), weight, bias, grad=True, rtol=1e-3, atol=1e-4
    )


# As of softmax; the parameters may lie beside a vector, too, and have another dtype.
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("size", [4, 7, 64, 1000, 1001, 1028, 4096, 4100, 9001])
@pytest.mark.parametrize("start,beside", [(0, 0), (1, 0), (0, 1)])
def test_lengths_and_alignment(size, start, beside, dtype):
    x, w = sample(3 * size + start, dtype=dtype), sample(size + beside, dtype=dtype)
    for norm in (lambda x, w: F.layer_norm(x, (size,), w, w), lambda x, w: F.rms_norm(x, (size,), w, eps=1e-5)):
        compare_with_float64(lambda x, w, n=norm: n(x[start:].view(3, size), w[beside:]), x, w, units=8)


@pytest.mark.parametrize("start", [0, 1])
def test_float_parameters_of_half_rows(start):
    x, w = sample(3 * 64 + start, dtype=torch.bfloat16), sample(64)
    compare(lambda x, w: torch.native_layer_norm(x[start:].view(3, 64), (64,), w, w, 1e-5)[0], x, w, **LOOSE)


def test_layer_of_strided_and_empty():
    compare(lambda x: F.layer_norm(x.t()[::2], (6,)), sample(6, 8), grad=True, **CLOSE)
    compare(lambda x: F.layer_norm(x, (6,)), sample(0, 6), grad=True)
    train_both(nn.LayerNorm(6, bias=False), sample(4, 6), **CLOSE)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("norm", ["layer", "rms", "group"])
def test_dtypes(norm, dtype):
    x, w = sample(4, 8, 6, dtype=dtype), sample(8, dtype=dtype)
    functions = {
        "layer": lambda x, w: F.layer_norm(x.transpose(1, 2), (8,), w, w),
        "rms": lambda x, w: F.rms_norm(x.transpose(1, 2), (8,), w, eps=1e-5),
        "group": lambda x, w: F.group_norm(x, 4, w, w),
    }
    compare(functions[norm], x, w, grad=True, **(CLOSE if dtype == torch.float32 else {"rtol": 4e-2, "atol": 6e-2}))


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_rms(eps):
    compare(lambda x, w: F.rms_norm(x, (9,), w, eps), sample(5, 9), sample(9), grad=True, **CLOSE)
    compare(lambda x: F.rms_norm(x, (3, 9), None, eps), sample(5, 3, 9), grad=True, **CLOSE)
    train_both(nn.RMSNorm(9), sample(5, 9), **CLOSE)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 7), (2, 6, 3, 5)])
def test_group(groups, shape):
    if groups == 6 and len(shape) == 2:
        shape = (3, 6, 2)  # one element a group has no variance
    train_both(nn.GroupNorm(groups, 6), sample(*shape), **CLOSE)


@pytest.mark.parametrize("options", [{}, {"affine": True}, {"affine": True, "track_running_stats": True}], ids=str)
@pytest.mark.parametrize("dims", [1, 2])
def test_instance(dims, options):
    train_both(getattr(nn, f"InstanceNorm{dims}d")(3, **options), sample(2, 3, *(6, 5)[:dims]), **CLOSE)


def test_local_response():
    compare(lambda x: F.local_response_norm(x, 3), sample(2, 6, 4), grad=True, **CLOSE)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight(dim):
    module = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4), dim=dim)
    x = sample(3, 5)
    mine = copy.deepcopy(module).to("mps")
    module(x).square().sum().backward()
    mine(x.to("mps")).square().sum().backward()
    for one, other in zip(mine.parameters(), module.parameters(), strict=True):
        assert_same(one.grad, other.grad, **CLOSE)


def test_second_derivatives():
    x = sample(4, 5, dtype=torch.float64).to("mps").requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: F.layer_norm(x, (5,)), x)
    assert torch.autograd.gradcheck(lambda x: F.batch_norm(x, None, None, training=True), x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.layer_norm(x, (7,)),
        lambda x: F.layer_norm(x, (6,), torch.ones(5, device=x.device)),
        lambda x: F.group_norm(x, 4),
        lambda x: F.batch_norm(x[:1], None, None, training=True),
        lambda x: F.batch_norm(x, None, None, training=False),
        lambda x: F.batch_norm(x, torch.ones(3, device=x.device), torch.ones(3, device=x.device), training=False),
        lambda x: F.layer_norm(x.long(), (6,)),
    ],
)
def test_errors(call):
    x = sample(4, 6)
    with pytest.raises(Exception) as expected:
        call(x)
    with pytest.raises(expected.type):
        call(to_mps(x))


def test_batch_norm_into_given_tensors():
    x, mean, variance = sample(3, 4, 5), torch.zeros(4), torch.ones(4)
    for function, rest in (
        (torch.ops.aten.native_batch_norm.out, (True, 0.1, 1e-5)),
        (torch.ops.aten._native_batch_norm_legit.out, (True, 0.1, 1e-5)),
    ):
        expected = [torch.empty(0) for _ in range(3)]
        actual = to_mps(expected)
        for arguments, outputs in (
            ((x, mean.clone(), variance.clone()), expected),
            (to_mps((x, mean, variance)), actual),
        ):
            given = dict(zip(("out", "save_mean", "save_invstd"), outputs, strict=True))
            function(arguments[0], None, None, *arguments[1:], *rest, **given)
        assert_same(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.group_norm(x, 2),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.batch_norm(x, torch.zeros(4, device=x.device), torch.ones(4, device=x.device)),
        lambda x: F.instance_norm(x),
        lambda x: F.layer_norm(x, x.shape[1:]),
    ],
    ids=["group", "batch", "batch_eval", "instance", "layer"],
)
def test_memory_formats_are_the_cpus(function, layout):
    x = torch.randn(2, 4, 5, 6)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    expected, actual = function(x), function(x.to("mps"))
    assert actual.stride() == expected.stride()
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_group_norm_refuses_what_torch_refuses():
    x = torch.randn(2, 6, 3, device="mps")
    with pytest.raises(RuntimeError, match="divisible by num_groups"):
        F.group_norm(x, 4)
    with pytest.raises(RuntimeError, match="vector of size equal to the number of channels"):
        torch.group_norm(x, 2, torch.ones(5, device="mps"))
