"""mode="reduce-overhead": calls of a compiled graph are recorded once and replayed (csrc/replay.h)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from portable_mps import _C

CALLS = 3  # that are not replayed: under a mode of Dynamo's, to warm up, and the recorded one


class Watched:
    """A _C.ReplayedGraph that counts the calls of the graph itself."""

    def __init__(self, function, refused):
        self.calls = 0

        def counted(inputs):
            self.calls += 1
            return function(inputs)

        self.replayed = _replayed_graph(counted, refused)

    def __call__(self, inputs):
        return self.replayed(inputs)


_replayed_graph = _C.ReplayedGraph


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled."""
    made = []

    def watched(function, refused):
        made.append(Watched(function, refused))
        return made[-1]

    monkeypatch.setattr(_C, "ReplayedGraph", watched)
    torch.zeros((), device="mps")  # the first tensor has the operators registered, which sets the mode
    _C.set_replay_mode(1)
    torch._dynamo.reset()
    yield made
    _C.set_replay_mode(2)


def _normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("mps")


def _compiled(function, **options):
    return torch.compile(function, mode="reduce-overhead", **options)


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.dropout = dropout

    def forward(self, x):
        return self.last(F.dropout(F.gelu(self.norm(self.first(x))), self.dropout, self.training))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_training(graphs, dropout):
    """With eager's losses, running statistics and random numbers."""

    def train(wrap):
        torch.manual_seed(0)
        model = Net(dropout).to("mps")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        call = wrap(model)
        torch.manual_seed(1)
        losses = []
        for seed in range(7):
            optimizer.zero_grad()
            loss = call(_normal(12, 8, seed=seed)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, model.norm.running_mean.cpu()

    torch.testing.assert_close(train(_compiled), train(lambda model: model))
    forward, backward = graphs
    assert forward.calls <= CALLS and backward.calls <= CALLS


def test_results_that_share_memory_and_views_of_arguments(graphs):
    def function(x, y):
        z = x * 2
        return z[0], z[1], y.t(), y

    compiled = _compiled(function)
    for seed in range(4):
        x, y = _normal(2, 5, seed=seed), _normal(3, 4, seed=seed)
        with torch.no_grad():
            first, second, turned, same = compiled(x, y)
        torch.testing.assert_close((first, second, turned), (x[0] * 2, x[1] * 2, y.t()))
        assert turned.data_ptr() == y.data_ptr() and same is y
    assert graphs[0].calls <= CALLS


def test_arguments_are_written_in_place(graphs):
    def function(x, step):
        x.mul_(step)
        return x.sum()

    compiled = _compiled(function)
    x = torch.ones(6, device="mps")
    for step in range(1, 6):
        compiled(x, torch.full((), 2.0, device="mps"))
        assert x.unique().tolist() == [2.0**step]
    assert graphs[0].calls <= CALLS


def test_sizes_that_change(graphs):
    compiled = _compiled(lambda x: F.softmax(x * x.shape[0], -1), dynamic=True)
    for _ in range(4):
        for rows in (2, 3, 5):
            x = _normal(rows, 7, seed=rows)
            torch.testing.assert_close(compiled(x), F.softmax(x * rows, -1))
    (graph,) = graphs
    assert graph.calls <= 3 * CALLS


def test_indices_are_checked(graphs):
    compiled = _compiled(lambda table, places: table[places] * 2)
    table, places = _normal(5, 3), torch.tensor([4, 0], device="mps")
    for _ in range(3):
        torch.testing.assert_close(compiled(table, places), table[places] * 2)
    compiled(table, places + 9)
    with pytest.raises(IndexError):
        torch.mps.synchronize()
    assert graphs[0].calls <= CALLS


def test_memory_is_let_go_of_as_ever(graphs):
    """Neither arguments nor temporaries live longer than without replays."""

    class Chain(nn.Module):
        def forward(self, x):
            for _ in range(4):
                x = torch.sin(x @ x)
            return x

    def peak(wrap):
        torch._dynamo.reset()
        call = wrap(Chain())
        for seed in range(4):
            torch.mps.synchronize()
            torch.accelerator.reset_peak_memory_stats()
            before = torch.mps.current_allocated_memory()
            x = _normal(128, 128, seed=seed).requires_grad_()
            call(x).sum().backward()
            del x
            highest = torch.accelerator.max_memory_allocated() - before
        return highest

    assert peak(_compiled) <= peak(torch.compile)


def test_what_is_not_replayed_is_said(graphs):
    """A number that the host may change between calls."""
    counters.clear()
    compiled = _compiled(lambda x, factor: x * factor)
    x = _normal(4, 8)
    for i in range(6):
        torch.testing.assert_close(compiled(x, torch.tensor(float(i))), x * i)
    assert counters["inductor"]["cudagraph_skips"] >= 1
    assert graphs[0].calls == 6


def test_a_result_that_is_kept_for_the_gradient(graphs):
    """It must not be changed before that."""
    compiled = _compiled(torch.exp)
    for _ in range(5):
        x = _normal(3, 4).requires_grad_()
        out = compiled(x)
        out.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()
    assert graphs[0].calls <= CALLS


def test_attention_with_dropout(graphs):
    """Its seeds are numbers of the host, which pass from the forward graph to the backward one."""

    def train(wrap):
        call = wrap(lambda q, k, v: F.scaled_dot_product_attention(torch.sin(q), k, v, dropout_p=0.4))
        torch.manual_seed(0)  # where seed and counter are zero, too
        results = []
        for seed in range(6):
            q, k, v = (t.requires_grad_() for t in _normal(3, 1, 2, 5, 8, seed=seed).unbind())
            out = call(q, k, v)
            results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
        return results

    torch.testing.assert_close(train(_compiled), train(lambda function: function))
    forward, backward = graphs
    assert forward.calls <= CALLS and backward.calls <= CALLS
