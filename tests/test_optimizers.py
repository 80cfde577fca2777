"""Every optimiser of torch.optim on the device against the CPU, in each configuration of torch's own database.

torch offers `capturable` on no device without graphs to capture, so not here.
"""

import copy
import io

import pytest
import torch
from opinfo import failures
from support import assert_same
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    _get_optim_inputs_including_global_cliquey_kwargs,
    optim_db,
)

STEPS = 4
as_listed = failures.marks("info")
every_optimizer = pytest.mark.parametrize("info", optim_db, ids=[info.name for info in optim_db])


def configurations():
    for info in optim_db:
        for case in _get_optim_inputs_including_global_cliquey_kwargs(
            "mps", torch.float32, info, skip=("differentiable",)
        ):
            if isinstance(case.kwargs.get("lr"), torch.Tensor) and case.kwargs.get("foreach"):
                continue  # torch refuses it, but for `capturable`
            yield pytest.param(info, case.kwargs, id=f"{info.name}-{case.desc.replace(' ', '_')}")


def numbers(shape, generator, dtype, device):
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)


def parameters(info, device, dtype=torch.float32):
    shapes = [(6, 5), (5,), (), (2, 3, 4), (0,)]
    if info.name == "Muon":
        shapes = [(6, 5), (5, 40)]  # it takes matrices
    elif info.name == "Adafactor":
        shapes.remove((0,))  # it divides by the number of elements
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(numbers(shape, generator, dtype, device)) for shape in shapes]


def train(optimizer, steps=STEPS, sparse=False):
    """Steps towards the minimum of a quadratic function."""
    generator = torch.Generator().manual_seed(1)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    minimum = [numbers(p.shape, generator, p.dtype, p.device) for p in params]

    @torch.no_grad()
    def closure():
        for p, at in zip(params, minimum, strict=True):
            p.grad = 2 * (p - at)
            if sparse:
                p.grad = p.grad.to_sparse()
        return sum((p - at).abs().square().sum() for p, at in zip(params, minimum, strict=True))

    for _ in range(steps):
        closure()
        optimizer.step(closure)
    return [p.detach() for p in params]


def make(info, device, options, dtype=torch.float32):
    return info.optim_cls(parameters(info, device, dtype), **copy.deepcopy(options))


def check(info, options, dtype=torch.float32):
    one_by_one = {k: v for k, v in options.items() if k not in ("foreach", "fused")}
    sparse = info.only_supports_sparse_grads
    mine = train(make(info, "mps", options, dtype), sparse=sparse)
    assert_same(mine, train(make(info, "cpu", one_by_one, dtype), sparse=sparse), **tolerance(info))


def tolerance(info):
    # Muon orthogonalises in bfloat16, whose products round differently: a step of lr times an entry of at most 1.
    return {"rtol": 1e-5, "atol": 1e-6} if info.name != "Muon" else {"rtol": 1e-5, "atol": 1e-3}


@pytest.mark.parametrize("info,options", list(configurations()))
def test_steps(info, options):
    check(info, options)


@every_optimizer
def test_complex(info):
    if not info.supports_complex or info.only_supports_sparse_grads:
        pytest.skip("torch has no complex parameters for it")
    check(info, {}, torch.complex64)


@every_optimizer
def test_parameter_groups(info):
    if not info.supports_param_groups:
        pytest.skip("it takes one group")

    def steps(device):
        first, *others = parameters(info, device)
        groups = [{"params": [first], "lr": 0.1}, {"params": others}]
        return train(info.optim_cls(groups, lr=0.01), sparse=info.only_supports_sparse_grads)

    assert_same(steps("mps"), steps("cpu"), **tolerance(info))


@every_optimizer
def test_state_dict(info):
    """Steps on the CPU, saved and loaded on the device, and more steps there, are steps on the CPU all the way."""
    sparse = info.only_supports_sparse_grads
    on_cpu = make(info, "cpu", {})
    train(on_cpu, steps=2, sparse=sparse)
    saved = io.BytesIO()
    torch.save(on_cpu.state_dict(), saved)
    saved.seek(0)

    on_device = make(info, "mps", {})
    params = [[p for group in o.param_groups for p in group["params"]] for o in (on_cpu, on_device)]
    with torch.no_grad():
        for theirs, mine in zip(*params, strict=True):
            mine.copy_(theirs)
    on_device.load_state_dict(torch.load(saved))
    expected = train(on_cpu, sparse=sparse)
    assert_same(train(on_device, sparse=sparse), expected, **tolerance(info))
    for name, value in _tensors(on_device.state_dict()):
        assert torch.isfinite(value).all(), name


def _tensors(state):
    return [(k, v) for one in state["state"].values() for k, v in one.items() if isinstance(v, torch.Tensor)]


@every_optimizer
def test_errors(info):
    """The same types as on the CPU, when it is made or when it steps."""
    for error in info.optim_error_inputs_func(device="mps", dtype=torch.float32):
        case = error.optimizer_error_input
        with pytest.raises(error.error_type, match=error.error_regex):
            optimizer = info.optim_cls(case.params, **case.kwargs)
            assert error.error_on is OptimizerErrorEnum.STEP_ERROR
            optimizer.step()
