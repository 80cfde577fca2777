"""torch.jit.trace over code on the device: what it records is what it records of the CPU's."""

import warnings

import pytest
import torch

warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)


def kinds(graph):
    return [node.kind() for node in graph.nodes() if not node.kind().startswith("prim::")]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum().item() * x,
        lambda x: x * int(x.sum()),
        lambda x: x + (1 if torch.equal(x, x) else 2),
    ],
    ids=["item", "int", "equal"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_what_a_trace_records(function):
    x = torch.arange(6.0).reshape(2, 3)
    expected = torch.jit.trace(function, (x,), check_trace=False)
    actual = torch.jit.trace(function, (x.to("mps"),), check_trace=False)
    assert kinds(actual.graph) == kinds(expected.graph)
    assert torch.equal(actual(x.to("mps") + 1).cpu(), expected(x + 1))
