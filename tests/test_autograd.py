"""The autograd engine over the device: graphs, hooks, checkpointing, functional transforms."""

import pytest
import torch
from support import assert_same, compare
from torch.utils.checkpoint import checkpoint


def test_a_model_against_the_cpu():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    x, target = torch.randn(10, 6), torch.randint(3, (10,))

    def gradients(device):
        model.to(device).zero_grad()
        torch.nn.functional.cross_entropy(model(x.to(device)), target.to(device)).backward()
        return [p.grad.cpu() for p in model.parameters()]

    for mine, expected in zip(gradients("mps"), gradients("cpu"), strict=True):
        torch.testing.assert_close(mine, expected)


def test_gradients_accumulate_and_reach_shared_leaves():
    compare(lambda a, b: (a * b + a.sum(0) * b).exp().mean(), torch.randn(3, 4), torch.randn(3, 4), grad=True)


def test_second_derivatives():
    x = torch.linspace(-1, 1, 5)

    def second(x):
        x = x.requires_grad_()
        (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    torch.testing.assert_close(second(x.to("mps")).cpu(), second(x.clone()))


def test_numeric_gradients_in_float64():
    x = torch.randn(3, 4, dtype=torch.float64, device="mps", requires_grad=True)
    w = torch.randn(4, 2, dtype=torch.float64, device="mps", requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: torch.softmax(x @ w, 1).log().sum(), (x, w))


def test_hooks_and_retained_gradients():
    x = torch.ones(3, device="mps", requires_grad=True)
    y = x * 2
    y.retain_grad()
    seen = []
    x.register_hook(lambda grad: seen.append(grad.device.type) or grad * 10)
    (y * y).sum().backward()
    assert seen == ["mps"] and y.grad.tolist() == [4.0] * 3 and x.grad.tolist() == [80.0] * 3


def test_custom_function():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, grad):
            return 3 * ctx.saved_tensors[0] ** 2 * grad

    compare(Cube.apply, torch.randn(5), grad=True)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_with_dropout(reentrant):
    torch.manual_seed(3)
    x = torch.randn(16, 16, device="mps", requires_grad=True)
    layer = torch.nn.Dropout(0.5)
    checkpoint(lambda t: layer(t) * t, x, use_reentrant=reentrant).sum().backward()
    # Where an element was dropped its gradient is 0, elsewhere 2 * 2 x: the mask must be the same twice.
    kept = x.grad != 0
    torch.testing.assert_close(x.grad[kept].cpu(), (4 * x.detach())[kept].cpu())
    assert 0.2 < kept.float().mean().item() < 0.8


def test_anomaly_mode_names_the_operator():
    x = torch.zeros(2, device="mps", requires_grad=True)
    with pytest.raises(RuntimeError, match=r"SqrtBackward0.*nan"), torch.autograd.detect_anomaly(check_nan=True):
        (x.sqrt() * 0).sum().backward()


def test_functional_transforms():
    x, w = torch.randn(5, 3), torch.randn(3, 2)
    compare(lambda x, w: torch.func.vmap(lambda row: (row @ w).tanh())(x), x, w)
    compare(lambda x: torch.func.grad(lambda t: (t**2).sum())(x), x)
    compare(lambda x: torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),))[1], x)


def test_in_place_modification_is_noticed():
    x = torch.ones(3, device="mps", requires_grad=True)
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_clip_grad_norm():
    model = torch.nn.Linear(4, 4).to("mps")
    model(torch.ones(2, 4, device="mps")).square().sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.5, rel=1e-3)


def test_zeros_without_memory():
    """sgn's derivative and forward mode are made of them."""
    x = torch.tensor([1.0, -2.0], device="mps", requires_grad=True)
    x.sgn().sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
    zeros = torch._efficientzerotensor((2,), device="mps")
    assert (zeros + x.detach()).tolist() == [1.0, -2.0]
    assert (zeros * x.detach()).cpu().tolist() == [0.0, 0.0]
    value, tangent = torch.func.jvp(lambda t: (t * 2).sin().sum(), (x.detach(),), (torch.ones_like(x),))
    assert_same((value, tangent), torch.func.jvp(lambda t: (t * 2).sin().sum(), (x.detach().cpu(),), (torch.ones(2),)))
