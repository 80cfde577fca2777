"""Fake quantisation: codes, masks, and gradients of learned scales and zero points."""

import pytest
import torch
from support import compare

aten = torch.ops.aten
LIMITS = (-20, 30)


def sample(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_per_tensor(dtype):
    x = torch.cat([sample(200), torch.tensor([0.05, 0.15, -0.25, 1e4, float("nan")])]).to(dtype)
    compare(lambda t: aten.fake_quantize_per_tensor_affine_cachemask(t, 0.1, 3, *LIMITS), x)
    compare(lambda t: torch.fake_quantize_per_tensor_affine(t[::2], 0.1, 0, 0, 255), x, grad=dtype == torch.float32)


@pytest.mark.parametrize("zero_point", [torch.tensor([1, -2, 0], dtype=torch.int32), torch.tensor([0.4, -1.5, 2.0])])
def test_per_channel(zero_point):
    scale = torch.tensor([0.1, 0.5, 1.0])
    compare(
        lambda t, s, z: aten.fake_quantize_per_channel_affine_cachemask(t, s, z, 1, *LIMITS),
        sample(4, 3, 5),
        scale,
        zero_point,
    )
    compare(
        lambda t, s, z: torch.fake_quantize_per_channel_affine(t, s, z, 0, *LIMITS), sample(3, 4), scale, zero_point
    )


@pytest.mark.parametrize("on", [0, 1])
def test_switched_on_the_device(on):
    compare(
        lambda t, s, z, e: aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(t, s, z, e, *LIMITS),
        sample(3, 4),
        torch.tensor([0.3]),
        torch.tensor([2], dtype=torch.int32),
        torch.tensor([on]),
    )


@pytest.mark.parametrize("zero_point", [0.5, 1.5, -2.3, 100.0])
def test_learned_per_tensor(zero_point):
    arguments = sample(40), torch.tensor([0.3]), torch.tensor([zero_point])
    compare(lambda *a: aten._fake_quantize_learnable_per_tensor_affine(*a, *LIMITS, 0.5), *arguments)
    compare(
        lambda g, *a: aten._fake_quantize_learnable_per_tensor_affine_backward(g, *a, *LIMITS, 0.5),
        sample(40, seed=1),
        *arguments,
        rtol=1e-4,
        atol=1e-4,
    )


def test_learned_per_channel():
    arguments = sample(6, 4, 3), torch.tensor([0.3, 0.1, 1.0, 0.05]), torch.tensor([0.5, -3.4, 100.0, 1.5])
    compare(lambda *a: aten._fake_quantize_learnable_per_channel_affine(*a, 1, *LIMITS, 0.5), *arguments)
    compare(
        lambda g, *a: aten._fake_quantize_learnable_per_channel_affine_backward(g, *a, 1, *LIMITS, 0.5),
        sample(6, 4, 3, seed=1),
        *arguments,
        rtol=1e-4,
        atol=1e-4,
    )


def channels(device, scale=torch.float32, zero_point=torch.int32, axis=1, size=3):
    scales, points = torch.ones(size, dtype=scale), torch.zeros(size, dtype=zero_point)
    x = torch.ones(2, 3).to(device)
    return aten.fake_quantize_per_channel_affine_cachemask(x, scales.to(device), points.to(device), axis, *LIMITS)


ERRORS = {
    "zero point": lambda d: torch.fake_quantize_per_tensor_affine(torch.ones(3, device=d), 0.1, 40, *LIMITS),
    "range": lambda d: torch.fake_quantize_per_tensor_affine(torch.ones(3, device=d), 0.1, 0, 3, 2),
    "scale dtype": lambda d: channels(d, scale=torch.float64),
    "zero point dtype": lambda d: channels(d, zero_point=torch.int64),
    "channels": lambda d: channels(d, axis=0),
    "axis": lambda d: channels(d, axis=5),
    "sizes": lambda d: channels(d, size=2),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    with pytest.raises(Exception) as on_cpu:
        ERRORS[name]("cpu")
    with pytest.raises(on_cpu.type):
        ERRORS[name]("mps")
