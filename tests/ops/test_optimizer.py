"""torch.optim on the device against the CPU: every optimiser, its loops over tensors and its fused steps."""

import pytest
import torch
from support import assert_same

SHAPES = [(6, 5), (5,), (2, 3, 3, 3), (), (70, 70)]
OPTIMIZERS = ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax"]
OPTIMIZERS += ["ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]


def train(device: str, optimizer: str, dtype: torch.dtype = torch.float32, steps: int = 3, **options) -> list:
    """The parameters after a few steps with fixed gradients; channels_last for one of them."""
    generator = torch.Generator().manual_seed(0)

    def numbers(shape):
        return torch.randn(shape, generator=generator).to(dtype)

    params = [torch.nn.Parameter(numbers(s).to(device)) for s in SHAPES]
    params[2].data = params[2].data.contiguous(memory_format=torch.channels_last)
    if optimizer == "Adafactor":
        params[2].data = params[2].data.contiguous()
    stepper = getattr(torch.optim, optimizer)(params, **options)
    for _ in range(steps):
        for p in params:
            p.grad = numbers(p.shape).to(device)
        stepper.step()
    return [p.detach() for p in params]


def check(optimizer: str, dtype: torch.dtype = torch.float32, **options) -> None:
    reference = {k: v for k, v in options.items() if k not in ("fused", "foreach")}
    reference = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in reference.items()}
    assert_same(train("mps", optimizer, dtype, **options), train("cpu", optimizer, dtype, **reference))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("foreach", [None, False, True])
def test_all(optimizer, foreach):
    check(optimizer, lr=0.01, foreach=foreach)


ADAM = [{}, {"amsgrad": True}, {"maximize": True, "weight_decay": 0.1}, {"betas": (0.0, 0.5), "eps": 1e-3}]
SGD = [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}]
SGD += [{"momentum": 0.5, "dampening": 0.2, "maximize": True}]
FUSED = [("Adam", o) for o in ADAM] + [("AdamW", o) for o in ADAM] + [("SGD", o) for o in SGD]
FUSED += [("Adagrad", {}), ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "maximize": True})]


@pytest.mark.parametrize("optimizer,options", FUSED)
def test_fused(optimizer, options):
    check(optimizer, lr=0.01, fused=True, **options)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fused_with_learning_rate_in_a_tensor(optimizer, device):
    check(optimizer, lr=torch.tensor(0.01, device=device), fused=True)


# Not AdamW in float16, whose second moments underflow wherever they are rounded.
DTYPES = [("SGD", torch.float16), ("SGD", torch.bfloat16), ("SGD", torch.float64)]
DTYPES += [("AdamW", torch.bfloat16), ("AdamW", torch.float64)]


@pytest.mark.parametrize("optimizer,dtype", DTYPES)
def test_fused_dtypes(optimizer, dtype):
    tolerance = {} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 1e-2}
    actual, expected = (train(d, optimizer, dtype, lr=0.01, fused=d == "mps" or None) for d in ("mps", "cpu"))
    assert_same(actual, expected, **tolerance)


def test_fused_takes_few_dispatches():
    from portable_mps.runtime import device

    params = [torch.nn.Parameter(torch.ones(3, 5, device="mps")) for _ in range(100)]
    stepper = torch.optim.AdamW(params, fused=True)
    for p in params:
        p.grad = torch.ones_like(p)
    stepper.step()
    before = device.current().stream.recorder.dispatched
    stepper.step()
    assert device.current().stream.recorder.dispatched - before <= 3


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_fused_unscales_and_skips(optimizer):
    param = torch.nn.Parameter(torch.ones(5, device="mps"))
    stepper = getattr(torch.optim, optimizer)([param], lr=0.1, fused=True)
    expected = torch.nn.Parameter(torch.ones(5))
    reference = getattr(torch.optim, optimizer)([expected], lr=0.1)
    scaler = torch.amp.GradScaler("mps", init_scale=8.0)
    param.grad = torch.full((5,), float("inf"), device="mps")
    scaler.scale(torch.ones((), device="mps"))
    scaler.step(stepper)
    scaler.update()
    assert_same(param, torch.ones(5))
    assert scaler.get_scale() == 4.0
    param.grad, expected.grad = torch.full((5,), 2.0, device="mps"), torch.full((5,), 0.5)
    scaler.step(stepper)
    reference.step()
    assert_same(param, expected)
    assert_same(param.grad, expected.grad)


def test_errors():
    a, b = torch.ones(3, device="mps"), torch.ones(4, device="mps")
    options = {"weight_decay": 0.0, "momentum": 0.0, "lr": 0.1, "dampening": 0.0, "nesterov": False}
    options |= {"maximize": False, "is_first_step": True}
    for params, grads in (([a], [b]), ([a], [a.half()]), ([a, b], [a]), ([a], [a.cpu()])):
        with pytest.raises(RuntimeError):
            torch._fused_sgd_(params, grads, [], **options)


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("norm", [2.0, 1.0, float("inf"), 3.0])
def test_clip_grad_norm(foreach, norm):
    def clipped(device):
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.zeros(s, device=device)) for s in SHAPES]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(device)
        total = torch.nn.utils.clip_grad_norm_(params, 0.7, norm, foreach=foreach)
        return [total, *(p.grad for p in params)]

    assert_same(clipped("mps"), clipped("cpu"), rtol=1e-5)


def test_averaged_model():
    def averaged(device):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2).to(device)
        average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn())
        for _ in range(2):
            with torch.no_grad():
                model.weight.add_(1)
            average.update_parameters(model)
        return [p.detach() for p in average.parameters()]

    assert_same(averaged("mps"), averaged("cpu"))
