"""Every module of torch.nn on the device against the CPU, with the inputs of torch's own module database."""

import copy
import io
import warnings

import pytest
import torch
from opinfo import compare, failures
from opinfo.samples import Mover, reseeded
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import noncontiguous_like
from torch.utils import _pytree as pytree

as_listed = failures.marks("info")
IDS = [info.name for info in module_db]
every_module = pytest.mark.parametrize("info", module_db, ids=IDS)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the modules' own arguments
        yield


# Some losses have hundreds of inputs, which cost a kernel each; `--opinfo=full` takes them all.
QUICK = 6


@pytest.fixture
def limit(request):
    return None if request.config.getoption("opinfo") == "full" else QUICK


def cases(info, training, limit, dtype=torch.float32):
    """A module on the CPU and the arguments of its forward, for each of torch's inputs or an even choice of them."""
    torch.manual_seed(0)
    inputs = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=training)
    inputs = [case for case in inputs if case.forward_input is not None]
    step = 1 if limit is None else -(-len(inputs) // limit)
    for case in inputs[::step]:
        torch.manual_seed(0)
        module = info.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs)
        module.to(dtype).train(training)
        arguments = (tuple(case.forward_input.args), dict(case.forward_input.kwargs))
        if info.is_lazy:
            module(*Mover("cpu")(arguments)[0], **Mover("cpu")(arguments)[1])  # it learns its shapes
        yield module, arguments


def run(module, arguments, device):
    """Outputs, gradients of inputs and parameters, and buffers of a copy of the module on the device."""
    module = copy.deepcopy(module).to(device)
    args, kwargs = Mover(device)(arguments)
    torch.manual_seed(0)
    outputs = module(*args, **kwargs)
    differentiable = [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves += [p for p in module.parameters() if p.requires_grad]
    gradients = ()
    if differentiable and leaves:
        generator = torch.Generator().manual_seed(0)
        cotangents = [torch.randn(t.shape, generator=generator).to(t.dtype).to(device) for t in differentiable]
        gradients = torch.autograd.grad(differentiable, leaves, cotangents, allow_unused=True)
    return outputs, gradients, list(module.buffers())


def assert_like_cpu(info, module, arguments, dtype=torch.float32):
    def again(state):
        with reseeded(state):
            return run(module, arguments, "cpu")

    compare.assert_agree(
        run(module, arguments, "mps"),
        run(module, arguments, "cpu"),
        compare.tolerance(info, dtype, gradient=True),
        again=again,
        reference=lambda: run(copy.deepcopy(module).double(), compare.exact(arguments), "cpu"),
    )


@every_module
@every_mode
def test_forward_and_backward(info, training, limit):
    for module, arguments in cases(info, training, limit):
        assert_like_cpu(info, module, arguments)


@every_module
def test_noncontiguous(info, limit):
    def strided(value):
        return noncontiguous_like(value) if isinstance(value, torch.Tensor) else value

    for module, arguments in cases(info, training=True, limit=limit):
        assert_like_cpu(info, module, pytree.tree_map(strided, arguments))


@every_module
def test_state_dict(info, limit):
    """What the device's module saves, a module on the CPU loads, and the other way round."""
    for module, arguments in cases(info, training=False, limit=limit):
        on_device = copy.deepcopy(module).to("mps")
        saved = io.BytesIO()
        torch.save(on_device.state_dict(), saved)
        saved.seek(0)
        state = torch.load(saved)
        assert all(t.device.type == "mps" for t in state.values() if isinstance(t, torch.Tensor))
        fresh = copy.deepcopy(module)
        with torch.no_grad():
            for tensor in (*fresh.parameters(), *fresh.buffers()):
                tensor.zero_()
        fresh.load_state_dict(state)
        for name, tensor in module.state_dict().items():
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(fresh.state_dict()[name], tensor), name
        on_device.load_state_dict(module.state_dict())
        assert_like_cpu(info, fresh, arguments)
