"""Fake quantisation: codes, masks, gradients of learned scales and zero points, observers, and training with them."""

import pytest
import torch
from support import assert_same, compare
from torch.ao import quantization

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


def observed(x, observe=1, quantise=1, low=torch.inf, high=-torch.inf, elements=1, limits=(0, 255), axis=0, **options):
    """A function of a device: results and state of an observer that has seen [low, high], or nothing yet."""

    def on(device):
        ends = torch.full((elements,), low), torch.full((elements,), high)
        state = [*ends, torch.ones(elements), torch.zeros(elements, dtype=torch.int32)]
        state = [t.to(device) for t in state]
        switches = (torch.tensor([s], device=device) for s in (observe, quantise))
        results = aten._fused_moving_avg_obs_fq_helper(x.to(device), *switches, *state, 0.01, *limits, axis, **options)
        return *results, *state

    return on


SIGNED = (-128, 127)
OBSERVERS = {
    "first": {},
    "later": {"low": -1.0, "high": 2.0},
    "not observing": {"observe": 0, "low": -1.0, "high": 2.0},
    "not quantising": {"quantise": 0},
    "nothing seen": {"observe": 0},
    "symmetric": {"symmetric_quant": True},
    "symmetric, signed": {"symmetric_quant": True, "limits": SIGNED},
    "symmetric, odd": {"symmetric_quant": True, "limits": (0, 61)},
    "16 bits": {"limits": (-32768, 32767)},
    "rows": {"elements": 6, "per_row_fake_quant": True, "symmetric_quant": True, "limits": SIGNED},
    "new rows": {"elements": 0, "per_row_fake_quant": True},
    "columns": {"elements": 5, "per_row_fake_quant": True, "axis": 1, "observe": 0, "low": -1.0, "high": 2.0},
}
RANGES = {
    "both signs": sample(6, 5),
    "positive": sample(6, 5).abs() + 3,
    "negative": sample(6, 5).abs().neg() - 3,
    "zero": torch.zeros(6, 5),
    "tiny": sample(6, 5) * 1e-30,
    "small": sample(6, 5) * 1e-4,
    "denormal": torch.linspace(0, 1e-39, 30).view(6, 5),
}


@pytest.mark.parametrize("options", OBSERVERS)
@pytest.mark.parametrize("range", RANGES)
def test_observer(options, range):
    on = observed(RANGES[range], **OBSERVERS[options])
    assert_same(on("mps"), on("cpu"), rtol=1e-6, atol=1e-6)


WRONG = {
    "half": observed(sample(3, 4).half()),
    "axis": observed(sample(3, 4), elements=4, axis=1, per_row_fake_quant=True),
    "rows": observed(sample(3, 4), elements=2, per_row_fake_quant=True),
    "vector": observed(sample(3), elements=3, per_row_fake_quant=True),
    "limits": observed(sample(3, 4), limits=(5, 2)),
    "empty": observed(sample(0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_observer_errors(name):
    with pytest.raises(Exception) as on_cpu:
        WRONG[name]("cpu")
    with pytest.raises(on_cpu.type):
        WRONG[name]("mps")


@pytest.mark.parametrize("backend", ["x86", "qnnpack"])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*reduce_range")
def test_quantisation_aware_training(backend):
    def train(device):
        torch.manual_seed(0)
        convolution = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
        head = torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5), quantization.DeQuantStub()
        model = torch.nn.Sequential(quantization.QuantStub(), *convolution, *head)
        model.qconfig = quantization.get_default_qat_qconfig(backend)
        model = quantization.prepare_qat(quantization.fuse_modules_qat(model.train(), [["1", "2", "3"]])).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        x, y = torch.randn(8, 1, 8, 8).to(device), torch.randint(0, 5, (8,)).to(device)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses), list(model.state_dict().values())

    # A value whose code is the next one moves what comes behind it by a step of the scale.
    assert_same(train("mps"), train("cpu"), rtol=1e-3, atol=1e-3)
