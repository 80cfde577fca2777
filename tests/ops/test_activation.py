"""Activation functions and their gradients against torch on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import compare, to_mps

FUNCTIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0.5, -2.0),
    "hardtanh": lambda x: F.hardtanh(x, -0.7, 1.3),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.5),
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "softplus": lambda x: F.softplus(x, 2.0, 3.0),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardshrink": lambda x: F.hardshrink(x, 0.6),
    "softshrink": lambda x: F.softshrink(x, 0.6),
    "glu": F.glu,
    "glu_first": lambda x: F.glu(x, 0),
    "logit": lambda x: torch.logit(torch.sigmoid(x), 1e-3),
}
IN_PLACE = ["relu", "relu6", "threshold", "hardtanh", "leaky_relu", "elu", "selu", "celu", "silu", "mish", "hardswish"]


def sample(dtype=torch.float32):
    return (torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * 2).to(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients(name):
    compare(FUNCTIONS[name], sample(), grad=True, rtol=1e-4, atol=1e-5)
    # The CPU multiplies by a sixth in float32, whatever the dtype.
    tolerance = 1e-6 if name in ("hardsigmoid", "hardswish") else 1e-9
    compare(FUNCTIONS[name], sample(torch.float64), grad=True, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_types(name):
    compare(FUNCTIONS[name], sample(torch.float16), grad=True, rtol=4e-3, atol=4e-3)
    compare(FUNCTIONS[name], sample(torch.bfloat16), grad=True, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "logit"])
def test_special_values(name):
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 30.0, -30.0, 100.0, -100.0])
    if name == "gelu":
        x = x[~x.isinf()]  # the CPU has NaN
    compare(FUNCTIONS[name], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name):
    function = getattr(F, name)
    options = {"threshold": (0.5, -2.0)}.get(name, ())
    compare(lambda x: function(x.clone(), *options, inplace=True), sample(), rtol=1e-4, atol=1e-5)


def test_prelu():
    compare(F.prelu, sample(), torch.tensor([0.25]), grad=True)
    compare(F.prelu, sample(), torch.linspace(0, 1, 8), grad=True)


def test_second_derivatives():
    x = sample(torch.float64).to("mps").requires_grad_()
    for function in (F.silu, F.gelu, F.softplus, torch.tanh, F.mish):
        assert torch.autograd.gradgradcheck(function, x[:2, :3])


def test_layouts():
    compare(lambda x: F.gelu(x.t()[::2]), sample(), grad=True, rtol=1e-4, atol=1e-5)
    compare(F.silu, sample()[:0], grad=True)
    compare(F.relu, torch.tensor(-1.0), grad=True)


def test_relu_of_integers():
    compare(F.relu, sample().mul(3).to(torch.int64))


@pytest.mark.parametrize(
    "call",
    [
        lambda d: F.glu(torch.ones(3, device=d)),
        lambda d: F.gelu(torch.ones(3, device=d), approximate="best"),
        lambda d: F.gelu(torch.ones(3, dtype=torch.int64, device=d)),
        lambda d: F.softshrink(torch.ones(3, device=d), -1),
        lambda d: F.prelu(torch.ones(2, 3, device=d), torch.ones(2, device=d)),
    ],
)
def test_errors(call):
    with pytest.raises(Exception) as expected:
        call("cpu")
    with pytest.raises(expected.type):
        call("mps")


def test_gate_in_forward_mode():
    aten = torch.ops.aten
    x, dx = torch.randn(4, 6), torch.randn(4, 6)
    half, other = torch.randn(4, 3), torch.randn(4, 3)
    compare(lambda a, b: aten.glu_jvp(torch.nn.functional.glu(a, 1), a, b, 1), x, dx)
    compare(lambda g, a, d, b: aten.glu_backward_jvp(aten.glu_backward(g, a, 1), g, a, d, b, 1), half, x, other, dx)


def normal_probability(x):
    return 0.5 * torch.special.erfc(-x / math.sqrt(2))


def gelu_tanh_inner(x):
    return torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


HALF_VALUES = {
    "sigmoid": (torch.sigmoid, torch.sigmoid),
    "tanh": (torch.tanh, torch.tanh),
    "silu": (F.silu, lambda x: x * torch.sigmoid(x)),
    "gelu": (F.gelu, lambda x: x * normal_probability(x)),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: x * gelu_tanh_inner(x)),
}


@pytest.mark.parametrize("dtype,bits", [(torch.float16, 11), (torch.bfloat16, 8)], ids=str)
@pytest.mark.parametrize("name", HALF_VALUES)
def test_every_value_of_half_types(name, dtype, bits):
    """To hardly more than half a unit in the last place: lib.rounded, whose exponentials are the driver's."""
    function, exact = HALF_VALUES[name]
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[torch.isfinite(x)]
    ours = to_mps(x).requires_grad_()
    wide = x.double().requires_grad_()
    values, references = function(ours), exact(wide)
    pairs = [(values, references, 0)]
    if name not in ("sigmoid", "tanh"):  # whose slopes are made of their rounded values
        pairs.append((*(torch.autograd.grad(y.sum(), t)[0] for y, t in ((values, ours), (references, wide))), 2e-6))
    least = torch.finfo(dtype).tiny
    # e^x overflows before x e^-x is nothing, as on the CPU.
    edge = 300 * least if dtype == torch.bfloat16 else 0
    for have, want, slack in pairs:
        want = want.detach()
        unit = torch.exp2(torch.floor(torch.log2(want.abs().clamp(min=least))) + 1 - bits)
        error = (have.detach().cpu().double() - want).abs()
        assert bool((error <= 0.52 * unit + slack + edge)[torch.isfinite(want)].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_small_powers_are_products(dtype):
    x = torch.randn(200, generator=torch.Generator().manual_seed(3)).to(dtype)
    wide = x.float()
    assert torch.equal((to_mps(x) ** 2).cpu(), (wide * wide).to(dtype))
    assert torch.equal((to_mps(x) ** 3.0).cpu(), (wide * wide * wide).to(dtype))
