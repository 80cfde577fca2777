"""Cross entropy over many classes, which keeps no probabilities, against torch on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from support import assert_same, to_mps

from portable_mps.runtime import device


def sample(rows=7, classes=600, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((rows, classes), generator=generator) * 4
    return scores.to(dtype), torch.randint(classes, (rows,), generator=generator)


def close(have, want, rtol=0.0, atol=0.0):
    torch.testing.assert_close(have, want, rtol=rtol, atol=atol, equal_nan=True)


def both(scores, target, call=F.cross_entropy, **options):
    """(ours, the CPU's in float64) of the loss and its gradient."""
    results = []
    for x, y in ((to_mps(scores), to_mps(target)), (scores.double(), target)):
        x.requires_grad_()
        loss = call(x, y, **options)
        slope = torch.ones_like(loss) * 0.7
        results.append((loss.detach().cpu().double(), torch.autograd.grad(loss, x, slope)[0].cpu().double()))
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("classes", [600, 2048, 5001])
def test_against_float64(dtype, reduction, classes):
    scores, target = sample(classes=classes, dtype=dtype)
    target[2] = target[5] = -100
    unit = torch.finfo(dtype).eps
    (loss, slope), (exact, exact_slope) = both(scores, target, reduction=reduction)
    close(loss, exact, rtol=max(2 * unit, 1e-6), atol=1e-6)
    close(slope, exact_slope, rtol=max(2 * unit, 2e-5), atol=1e-7)


# Rows, and those of their gradient, begin at a vector or beside one, and are as long as some vectors or not.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("classes", [512, 513, 4096, 4099])
def test_parts_of_rows(dtype, start, classes):
    scores, target = sample(classes=classes + 6, dtype=dtype)
    target %= classes
    unit = torch.finfo(dtype).eps
    (loss, slope), (exact, exact_slope) = both(
        scores, target, call=lambda x, y: F.cross_entropy(x[:, start : start + classes], y)
    )
    close(loss, exact, rtol=max(2 * unit, 1e-6), atol=1e-6)
    close(slope, exact_slope, rtol=max(2 * unit, 2e-5), atol=1e-7)


def test_other_numbers_are_ignored_and_none_counts():
    scores, target = sample()
    target[1] = 3
    (loss, slope), (exact, exact_slope) = both(scores, target, ignore_index=3)
    close(loss, exact, rtol=1e-6, atol=1e-6)
    close(slope, exact_slope, rtol=1e-5, atol=1e-7)
    (loss, slope), (exact, exact_slope) = both(scores, torch.full_like(target, -100))
    assert torch.isnan(loss) and torch.isnan(exact)
    close(slope, exact_slope)


def test_special_values():
    scores, target = sample(rows=6)
    inf, nan = torch.inf, torch.nan
    scores[0, 3], scores[1, 5], scores[2], scores[3, target[3]], scores[4, :590] = inf, nan, -inf, -inf, -inf
    for reduction in ("none", "sum"):
        (loss, slope), (exact, exact_slope) = both(scores, target, reduction=reduction)
        close(loss, exact, rtol=1e-6, atol=1e-6)
        close(slope, exact_slope, rtol=1e-5, atol=1e-7)


def test_layouts():
    scores, target = sample(rows=6, classes=700)
    for view in (lambda t: t[::2, 50:], lambda t: t.t().contiguous().t(), lambda t: t.expand(6, 700)):
        x, y = to_mps(scores), to_mps(target)
        want = F.cross_entropy(view(scores), (target % 600)[: len(view(scores))])
        assert_same(F.cross_entropy(view(x), (y % 600)[: len(view(x))]), want, rtol=1e-5, atol=1e-6)


def test_gradients_of_gradients():
    scores, target = sample(rows=3)
    results = []
    for x, y in ((to_mps(scores), to_mps(target)), (scores, target)):
        x.requires_grad_()
        slope = torch.autograd.grad(F.cross_entropy(x, y), x, create_graph=True)[0]
        results.append(torch.autograd.grad(slope.square().sum(), x)[0])
    close(*(t.cpu() for t in results), rtol=1e-4, atol=1e-8)


def test_transforms():
    scores, target = sample(rows=4)
    x, y = to_mps(scores), to_mps(target)
    assert_same(
        torch.func.grad(F.cross_entropy)(x, y), torch.func.grad(F.cross_entropy)(scores, target), rtol=1e-4, atol=1e-7
    )
    each = torch.vmap(lambda a, b: F.cross_entropy(a[None], b[None]))
    assert_same(each(x, y), each(scores, target), rtol=1e-5, atol=1e-6)
    tangent = torch.func.jvp(lambda t: F.cross_entropy(t, y), (x,), (torch.ones_like(x),))[1]
    assert_same(tangent, torch.zeros(()), atol=1e-5, rtol=0)


def test_what_torch_composes():
    scores, target = sample()
    weight = torch.rand(600)
    for options in ({"weight": weight}, {"label_smoothing": 0.1}):
        ours = {k: to_mps(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        want = F.cross_entropy(scores, target, **options)
        assert_same(F.cross_entropy(to_mps(scores), to_mps(target), **ours), want, rtol=1e-5, atol=1e-6)
    probabilities = torch.rand(7, 600)
    want = F.cross_entropy(scores, probabilities)
    assert_same(F.cross_entropy(to_mps(scores), to_mps(probabilities)), want, rtol=1e-4, atol=1e-4)


def test_labels_out_of_range():
    scores, target = sample()
    target[3] = 600
    with pytest.raises(IndexError, match="Target 600 is out of bounds"):
        F.cross_entropy(to_mps(scores), to_mps(target))
        torch.mps.synchronize()


def test_memory_holds_no_probabilities():
    scores, target = sample(rows=512, classes=4096)
    x, y = to_mps(scores).requires_grad_(), to_mps(target)
    recorder = device.current().stream.recorder
    before, dispatched = torch.mps.current_allocated_memory(), recorder.dispatched
    loss = F.cross_entropy(x, y)
    assert torch.mps.current_allocated_memory() - before < x.nbytes // 100
    assert recorder.dispatched - dispatched <= 3
    loss.backward()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_autocast_takes_the_loss_in_float32(dtype, reduction):
    scores, target = torch.randn(9, 700).to(dtype), torch.randint(700, (9,))
    target[3] = -100
    results = []
    for kind in ("cpu", "mps"):
        x = scores.to(kind).requires_grad_()
        with torch.autocast(kind, dtype=torch.bfloat16):
            loss = F.cross_entropy(x, target.to(kind), reduction=reduction)
        (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.float().square().sum(), x)
        results.append((loss, gradient, second))
    for expected, actual in zip(*results, strict=True):
        rtol = 2e-2 if actual.dtype != torch.float32 else 1e-5
        torch.testing.assert_close(actual.cpu(), expected, rtol=rtol, atol=1e-5)
