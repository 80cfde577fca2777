"""Losses against torch on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, assert_same, compare

REDUCTIONS = ("none", "mean", "sum")
PROBABILITIES = (F.binary_cross_entropy,)
PAIRS = [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy]
PAIRS += [F.binary_cross_entropy_with_logits, F.kl_div, F.poisson_nll_loss]


def sample(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 5) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(2))


def pair(function, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 70)):
    x, y = sample(*shape).to(dtype), sample(*shape, seed=2).to(dtype)
    return (x.sigmoid() if function in PROBABILITIES else x), y.sigmoid()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("function", PAIRS)
def test_elementwise(function, reduction):
    inputs = pair(function)
    compare(lambda x, y: function(x, y, reduction=reduction), *inputs, grad=True, rtol=1e-5)
    compare(lambda x, y: function(x[:, ::2].t(), y[:, ::2].t(), reduction=reduction), *inputs, grad=True, rtol=1e-5)
    compare(lambda x, y: function(x[:0], y[:0], reduction=reduction), *inputs, grad=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", PAIRS[:6])
def test_dtypes(function, dtype):
    loose = {} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 1e-2}
    compare(lambda x, y: function(x, y, reduction="none"), *pair(function, dtype), grad=True, **loose)
    compare(lambda x, y: function(x, y), *pair(function, dtype), grad=True, **loose)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_parameters(reduction):
    x, y = sample(4, 9), sample(4, 9, seed=2)
    for size in (0.3, 2.0):
        compare(lambda x, y, s=size: F.smooth_l1_loss(x, y, reduction=reduction, beta=s), x, y, grad=True)
        compare(lambda x, y, s=size: F.huber_loss(x, y, reduction=reduction, delta=s), x, y, grad=True)
    compare(lambda x, y: F.smooth_l1_loss(x, y, reduction=reduction, beta=0.0), x, y, grad=True)
    weight, positive = torch.rand(4, 1), torch.rand(9) * 3
    p, q = x.sigmoid(), y.sigmoid()
    compare(lambda p, q, w: F.binary_cross_entropy(p, q, w, reduction=reduction), p.detach(), q, weight)
    for w, s in ((weight, None), (None, positive), (weight, positive)):
        compare(
            lambda x, q, w=w, s=s: F.binary_cross_entropy_with_logits(
                x, q, to(w, x), reduction=reduction, pos_weight=to(s, x)
            ),
            x,
            q,
            grad=True,
        )


def to(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(other.device)


def test_broadcasting_promotion_and_out():
    with pytest.warns(UserWarning, match="target size"):
        compare(F.mse_loss, sample(3, 4), sample(4), grad=True)
    compare(lambda x, y: F.mse_loss(x, y.half()), sample(3, 4), sample(3, 4, seed=2), rtol=1e-5)
    out = torch.empty(3, 1, device="mps")
    x, y = sample(2, 3), sample(2, 3, seed=2)
    torch.ops.aten.huber_loss.out(x.to("mps"), y.to("mps"), 0, out=out.resize_(0))
    assert_same(out, F.huber_loss(x, y, reduction="none"))


def test_extreme_probabilities():
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5])
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5])
    compare(lambda p, y: F.binary_cross_entropy(p, y, reduction="none"), p, y)
    x = torch.tensor([1e4, -1e4, 80.0, -80.0, float("inf")])
    compare(lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"), x, y)
    for wrong in (-0.1, 1.5, float("nan")):
        F.binary_cross_entropy(torch.tensor([0.5, wrong], device="mps"), torch.ones(2, device="mps"))
        with pytest.raises(RuntimeError, match="between 0 and 1"):
            torch.mps.synchronize()


# Class labels


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(6,), (2, 3, 4), (2, 7), (2, 2, 3, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_nll(shape, reduction, weighted):
    target = labels(*shape)
    target.view(-1)[::4] = -100
    x = sample(shape[0], 5, *shape[1:])
    weight = torch.rand(5) + 0.1 if weighted else None
    compare(lambda x: F.nll_loss(x, to(target, x), to(weight, x), reduction=reduction, ignore_index=-100), x, grad=True)
    compare(lambda x: F.cross_entropy(x, to(target, x), to(weight, x), reduction=reduction), x, grad=True)
    compare(
        lambda x: F.cross_entropy(x, to(target, x), to(weight, x), reduction=reduction, label_smoothing=0.2),
        x,
        grad=True,
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_nll_dtypes(dtype):
    loose = {} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 2e-2}
    x = sample(300, 5).to(dtype)
    target = labels(300)
    for reduction in REDUCTIONS:
        compare(lambda x, t, r=reduction: F.cross_entropy(x, t, reduction=r), x, target, grad=True, **loose)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_of_one_sample_of_none_and_of_nothing_counted(reduction):
    compare(lambda x, t: F.nll_loss(x, t, reduction=reduction), sample(5), labels(), grad=True)
    compare(lambda x, t: F.nll_loss(x, t, reduction=reduction), sample(0, 5), labels(0), grad=True)
    compare(lambda x, t: F.nll_loss(x, t, reduction=reduction), sample(2, 5), torch.full((2,), -100))


def test_layouts_of_scores():
    x, target = sample(2, 3, 4, 5), labels(2, 3, 4, classes=5)
    compare(lambda x: F.cross_entropy(x.permute(0, 3, 1, 2), to(target, x)), x, grad=True)
    compare(lambda x: F.cross_entropy(x.t(), to(labels(3), x)), sample(5, 3), grad=True)


@pytest.mark.parametrize("wrong", [-1, 5])
@pytest.mark.parametrize("shape", [(3,), (3, 2, 2)])
def test_targets_out_of_bounds(wrong, shape):
    target = labels(*shape)
    target.view(-1)[1] = wrong
    x = sample(3, 5, *shape[1:]).to("mps").requires_grad_()
    loss = F.nll_loss(x, target.to("mps"))
    with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
        torch.mps.synchronize()
    loss.backward()  # touches nothing outside
    torch.mps.synchronize()


def test_errors():
    for device in ("cpu", "mps"):
        with pytest.raises(ValueError):
            F.nll_loss(sample(3, 5).to(device), labels(4).to(device))
        with pytest.raises(RuntimeError):
            F.nll_loss(sample(3, 5).to(device), labels(3).to(device), torch.ones(4, device=device))
        with pytest.raises(RuntimeError):
            F.cross_entropy(sample(3, 5, 2, 2).to(device), labels(3, 2, 2).to(device), torch.ones(4, device=device))
        with pytest.raises(NotImplementedError):
            F.mse_loss(torch.ones(2, dtype=torch.int64, device=device), torch.ones(2, dtype=torch.int64, device=device))
        with pytest.raises(RuntimeError):
            F.huber_loss(torch.ones(2, device=device), torch.ones(2, device=device), delta=-1.0)


@pytest.mark.parametrize("position", ["input", "target"])
def test_binary_cross_entropy_refuses_nan(position):
    tensors = {"input": torch.tensor([0.5]), "target": torch.tensor([0.5])}
    tensors[position] = torch.tensor([torch.nan])
    with pytest.raises(RuntimeError, match=f"all elements of {position} should be between 0 and 1"):
        F.binary_cross_entropy(*(t.to("mps") for t in tensors.values())).item()


@pytest.mark.parametrize("name", ["huber_loss", "mse_loss", "binary_cross_entropy_with_logits", "soft_margin_loss"])
def test_unreduced_losses_lie_as_the_cpus(name):
    x, y = torch.rand(4, 5).t(), torch.rand(4, 5).t()
    function = getattr(F, name)
    expected, actual = function(x, y, reduction="none"), function(x.to("mps"), y.to("mps"), reduction="none")
    assert actual.stride() == expected.stride()
    torch.testing.assert_close(actual.cpu(), expected)


def test_functional_gradient_of_ctc_loss():
    """With the lengths on the device: torch divides the losses by them there."""
    scores, targets = torch.randn(6, 2, 5).log_softmax(2), torch.tensor([[1, 2], [3, 4]])
    lengths = torch.tensor([6, 5]), torch.tensor([2, 1])
    compare(torch.func.grad(torch.nn.functional.ctc_loss), scores, targets, *lengths, rtol=1e-4, atol=1e-5)
