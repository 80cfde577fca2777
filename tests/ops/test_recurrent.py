"""LSTM, GRU and RNN against torch on the CPU: forms of the layers, gradients, and what is left to torch."""

import copy

import pytest
import torch
from support import assert_same
from torch import nn

from portable_mps.runtime import device

CELLS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layers(cell, *sizes, dtype=torch.float32, **options):
    torch.manual_seed(1)
    theirs = CELLS[cell](*sizes, **options).to(dtype)
    return theirs, copy.deepcopy(theirs).to("mps")


def check(cell, theirs, ours, x, states=None, **tolerance):
    """Outputs, last states, and all gradients."""
    tolerance = tolerance or CLOSE
    results = []
    for module, where in ((theirs, "cpu"), (ours, "mps")):
        inputs = [x.to(where).requires_grad_(), *(s.to(where).requires_grad_() for s in states or ())]
        hx = tuple(inputs[1:]) if cell == "lstm" else inputs[1] if states else None
        output, last = module(inputs[0], hx) if states else module(inputs[0])
        last = last if isinstance(last, tuple) else (last,)
        weights = [sample(*t.shape, seed=7 + i).to(t) for i, t in enumerate((output, *last))]
        loss = sum((t * w).sum() for t, w in zip((output, *last), weights, strict=True))
        gradients = torch.autograd.grad(loss, [*inputs, *module.parameters()])
        results.append([output, *last, *gradients])
    for have, want in zip(results[1], results[0], strict=True):
        assert_same(have, want, **tolerance)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("count,bias,batch_first", [(1, True, False), (2, False, True), (3, True, True)])
def test_layers(cell, bidirectional, count, bias, batch_first):
    options = {"num_layers": count, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    theirs, ours = layers(cell, 5, 7, **options)
    x = sample(3, 4, 5) if batch_first else sample(4, 3, 5)
    check(cell, theirs, ours, x)
    states = [sample(count * (1 + bidirectional), 3, 7, seed=i) for i in range(2 if cell == "lstm" else 1)]
    check(cell, theirs, ours, x, states)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types(cell, dtype):
    theirs, ours = layers(cell, 6, 8, num_layers=2, dtype=dtype)
    unit = torch.finfo(dtype).eps
    check(cell, theirs, ours, sample(5, 3, 6, dtype=dtype), rtol=16 * unit, atol=16 * unit)


@pytest.mark.parametrize("cell", CELLS)
def test_without_batch_and_one_step(cell):
    theirs, ours = layers(cell, 5, 7)
    check(cell, theirs, ours, sample(6, 5))
    check(cell, theirs, ours, sample(1, 2, 5))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_gradients(cell):
    theirs, ours = layers(cell, 3, 4, bidirectional=True)
    results = []
    for module, where in ((theirs, "cpu"), (ours, "mps")):
        x = sample(3, 2, 3).to(where).requires_grad_()
        output = module(x)[0]
        slope = torch.autograd.grad(output.square().sum(), [x, *module.parameters()], create_graph=True)
        penalty = sum(s.square().sum() for s in slope)
        results.append([*slope, *torch.autograd.grad(penalty, [x, *module.parameters()])])
    for have, want in zip(results[1], results[0], strict=True):
        assert_same(have, want, **CLOSE)


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_two_dispatches(cell):
    _, ours = layers(cell, 5, 7)
    recorder = device.current().stream.recorder
    counts = []
    for steps in (4, 24):
        x = sample(steps, 3, 5).to("mps").requires_grad_()
        for _ in range(2):
            before = recorder.dispatched
            output = ours(x)[0]
            between = recorder.dispatched
            output.backward(torch.ones_like(output))
            done = recorder.dispatched
        counts.append((between - before, done - between))
    assert [(b - a) / 20 for a, b in zip(*counts, strict=True)] == [2, 2]


def test_what_torch_composes():
    """Packed sequences, projections, autocast and transforms."""
    theirs, ours = layers("lstm", 5, 7, proj_size=3)
    check("lstm", theirs, ours, sample(4, 2, 5))
    theirs, ours = layers("gru", 5, 7)
    x = sample(4, 2, 5)
    packed = [nn.utils.rnn.pack_padded_sequence(t, [4, 2]) for t in (x, x.to("mps"))]
    assert_same(ours(packed[1])[0].data, theirs(packed[0])[0].data, **CLOSE)
    with torch.autocast("mps", torch.bfloat16):
        assert_same(ours(x.to("mps"))[0].float(), theirs(x)[0], rtol=2e-2, atol=2e-2)
    slopes = [
        torch.func.grad(lambda t, m=m: m(t)[0].square().sum())(x.to(w)) for m, w in ((theirs, "cpu"), (ours, "mps"))
    ]
    assert_same(slopes[1], slopes[0], **CLOSE)
    x = x.to("mps")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(ours(dual)[0]).tangent
    difference = (ours(x + 1e-2)[0] - ours(x - 1e-2)[0]) / 2e-2
    assert_same(tangent, difference.cpu(), rtol=1e-2, atol=1e-3)


def test_dropout_between_layers():
    _, ours = layers("lstm", 5, 32, num_layers=2, dropout=0.5)
    x = sample(4, 2, 5).to("mps")
    results = [ours(x)[0] for _ in range(2)]
    assert not torch.equal(*results)
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_mistakes(cell):
    theirs, ours = layers(cell, 5, 7)
    for shape in ((4, 2, 6), (0, 2, 5), (4, 2, 5, 1)):
        messages = []
        for module, where in ((theirs, "cpu"), (ours, "mps")):
            with pytest.raises((RuntimeError, ValueError)) as caught:
                module(torch.zeros(shape, device=where))
            messages.append(f"{caught.type.__name__}: {caught.value}")
        assert messages[0] == messages[1]
