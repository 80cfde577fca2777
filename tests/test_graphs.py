"""torch.accelerator.Graph: what is dispatched within is kept, and run by each replay."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytestmark = pytest.mark.skipif(not hasattr(torch.accelerator, "Graph"), reason="this torch has no graphs")


def _capture(function, *arguments):
    """The graph of a call, and its results; the call before has compiled what is needed."""
    function(*arguments)
    graph = torch.accelerator.Graph()
    with graph:
        results = function(*arguments)
    return graph, results


def _ones(*shape):
    return torch.ones(shape, device="mps")


def test_nothing_runs_before_the_replay():
    x = _ones(1000)
    graph = torch.accelerator.Graph()
    with torch.Stream(), graph:
        x += 1
    assert x.sum().item() == 1000
    graph.replay()
    graph.replay()
    x += 1
    graph.replay()
    assert x.unique().tolist() == [5]


def test_replays_read_their_inputs_anew():
    x = _ones(3, 4)
    graph, result = _capture(lambda: F.softmax(x @ x.T + 1, -1).cumsum(1))
    for seed in range(3):
        x.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        torch.testing.assert_close(result, F.softmax(x @ x.T + 1, -1).cumsum(1))


def test_memory_stays_the_graphs():
    x = _ones(5000)

    def chain():
        y = x * 2
        z = y + 1
        del y
        return z.sqrt(), z.exp()

    graph, results = _capture(chain)
    others = [_ones(5000) for _ in range(20)]  # would take what was freed within
    graph.replay()
    assert all(bool((other == 1).all()) for other in others)
    torch.testing.assert_close(results, chain())


def test_reset_frees_memory():
    before = torch.mps.current_allocated_memory()
    graph = torch.accelerator.Graph()
    with graph:
        kept = [_ones(100_000) for _ in range(3)]
        _ones(200_000)
    assert torch.mps.current_allocated_memory() > before
    graph.reset()
    del kept
    assert torch.mps.current_allocated_memory() == before
    with pytest.raises(RuntimeError, match="has not been captured"):
        graph.replay()
    with graph:  # again
        result = _ones(3) + 1
    graph.replay()
    assert result.tolist() == [2, 2, 2]


def test_tensors_outlive_their_graph():
    graph, result = _capture(lambda: _ones(4) * 3)
    graph.replay()
    graph.reset()
    others = [_ones(4) for _ in range(20)]
    assert result.tolist() == [3] * 4 and len(others) == 20


def test_graphs_share_a_pool():
    first = torch.accelerator.Graph()
    with first:
        a = _ones(10) + 1
    second = torch.accelerator.Graph(pool=first.pool())
    with second:
        b = a * 2
    assert second.pool() == first.pool()
    first.reset()
    with pytest.raises(RuntimeError, match="memory pool"):
        first.pool()
    second.replay()
    assert b.shape == (10,)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_training_step(dropout):
    def make():
        torch.manual_seed(1)
        layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 4)
        model = nn.Sequential(*layers).to("mps")
        return model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).to("mps")
    y = torch.arange(16, device="mps") % 4

    def step(model, optimizer):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def train(warm, captured):
        model, optimizer = make()
        torch.manual_seed(2)
        losses = []
        for _ in range(warm):
            optimizer.zero_grad()
            losses.append(step(model, optimizer).item())
        if captured:
            optimizer.zero_grad()
            graph = torch.accelerator.Graph()
            with graph:
                loss = step(model, optimizer)
            for _ in range(captured):
                graph.replay()
                losses.append(loss.item())
        return losses

    assert train(2, 4) == pytest.approx(train(6, 0), abs=1e-6)


def test_random_numbers_are_others_in_each_replay():
    torch.manual_seed(3)
    state = torch.mps.get_rng_state()
    graph = torch.accelerator.Graph()
    with graph:
        a, b = torch.rand(100, device="mps"), torch.randn(100, device="mps")
    assert torch.equal(torch.mps.get_rng_state(), state)  # nothing is drawn yet
    drawn = []
    for _ in range(2):
        graph.replay()
        drawn += [a.tolist(), b.tolist()]
    torch.mps.set_rng_state(state)
    assert drawn == [draw(100, device="mps").tolist() for _ in range(2) for draw in (torch.rand, torch.randn)]


def test_attention_with_dropout_and_its_gradient():
    q, k, v = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0)).to("mps").requires_grad_()

    def step():
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        return out, *torch.autograd.grad(out.square().sum(), (q, k, v))

    torch.manual_seed(4)
    expected = [step() for _ in range(2)]
    torch.manual_seed(4)
    state = torch.mps.get_rng_state()
    graph, results = _capture(step)
    torch.mps.set_rng_state(state)
    for wanted in expected:
        graph.replay()
        torch.testing.assert_close(results, wanted)


def test_values_of_the_host_are_those_of_the_capture():
    values = [1.0, 2.0]
    x = _ones(2)
    graph, result = _capture(lambda: x + torch.tensor(values, device="mps"))
    values[0] = 5.0
    x.fill_(10)
    graph.replay()
    assert result.tolist() == [11, 12]


def test_indices_are_checked_by_replays():
    table, places = _ones(4, 2), torch.tensor([0, 3], device="mps")
    graph, _ = _capture(lambda: table[places])
    graph.replay()
    torch.mps.synchronize()
    places.fill_(7)
    graph.replay()
    with pytest.raises(IndexError):
        torch.mps.synchronize()


def test_a_large_copy():
    x = _ones(1 << 19)
    graph, result = _capture(lambda: x.clone())
    x.fill_(2)
    graph.replay()
    assert result.unique().tolist() == [2]


@pytest.mark.parametrize(
    "function",
    [lambda x: x.sum().item(), lambda x: x.cpu(), lambda x: torch.mps.synchronize(), lambda x: torch.nonzero(x)],
    ids=["item", "cpu", "synchronize", "nonzero"],
)
def test_the_host_cannot_wait(function):
    x = _ones(3)
    function(x)
    graph = torch.accelerator.Graph()
    with pytest.raises(RuntimeError, match="while a graph is captured"), graph:
        function(x)
    assert (x + 1).tolist() == [2, 2, 2]


def test_a_generator_of_ones_own_is_refused():
    generator = torch.Generator("mps")
    with pytest.raises(RuntimeError, match="default generator"), torch.accelerator.Graph():
        torch.rand(3, device="mps", generator=generator)


def test_misuse():
    graph = torch.accelerator.Graph()
    with pytest.raises(RuntimeError, match="has not been captured"):
        graph.replay()
    with pytest.raises(RuntimeError, match=r"without a capture_begin"):
        graph.capture_end()
    with graph:
        _ones(1)
        with pytest.raises(RuntimeError, match="one at a time"):
            torch.accelerator.Graph().capture_begin()
        with pytest.raises(RuntimeError, match="has not been captured"):
            graph.replay()
    with pytest.raises(RuntimeError, match=r"Call reset\(\)"):
        graph.capture_begin()


def test_lists_seen_first_in_a_graph():
    """The table of their addresses is the graph's, which has not run yet."""
    lists = [[_ones(300), _ones(7)], [_ones(300), _ones(7)]]
    torch._foreach_add_([t.clone() for t in lists[0]], lists[1])  # compiles
    graph = torch.accelerator.Graph()
    with graph:
        torch._foreach_add_(*lists)
    torch._foreach_add_(*lists)
    assert [t.unique().tolist() for t in lists[0]] == [[2], [2]]
    graph.replay()
    del graph
    torch._foreach_add_(*lists)
    assert [t.unique().tolist() for t in lists[0]] == [[4], [4]]


def test_dump(tmp_path):
    graph, _ = _capture(lambda x: (x + 1) @ x, _ones(4, 4))
    path = tmp_path / "graph.txt"
    graph.debug_dump(str(path))
    first, second = path.read_text().splitlines()
    assert first.startswith("add in 1 x 1 x 1") and second.startswith("barrier, then matmul")


def test_a_captured_module_keeps_up_with_its_weights():
    model = nn.LSTM(4, 6, batch_first=True).to("mps")
    other = copy.deepcopy(model)
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).to("mps")
    with torch.no_grad():
        graph, (result, _) = _capture(model, x)
        for parameter in (*model.parameters(), *other.parameters()):
            parameter.mul_(0.5)
        graph.replay()
        torch.testing.assert_close(result, other(x)[0])
