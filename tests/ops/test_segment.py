"""Reductions of segments and their gradients."""

import pytest
import torch
from support import assert_same, compare

KINDS = ("sum", "mean", "max", "min", "prod", "amax", "amin")


def data(*shape, dtype=torch.float32):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[3] = x[4]  # equal extrema share the gradient
    x[2] = 0
    return x


@pytest.mark.parametrize("initial", [None, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths(kind, initial):
    lengths = torch.tensor([3, 0, 4, 3])
    for shape in ((10,), (10, 3), (10, 2, 2)):
        compare(
            lambda x, n: torch.segment_reduce(x, kind, lengths=n, axis=0, initial=initial, unsafe=True),
            data(*shape),
            lengths,
            grad=True,
        )
    compare(
        lambda x, n: torch.segment_reduce(x, kind, lengths=n, axis=0, initial=initial),
        data(10, 2, dtype=torch.float64),
        lengths.int(),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_types_are_rounded_once(kind, dtype):
    x, lengths = data(10, 20).to(dtype), torch.tensor([3, 0, 4, 3])
    actual = torch.segment_reduce(x.to("mps"), kind, lengths=lengths.to("mps"), axis=0, initial=2.0)
    # The CPU rounds after each element; in float32 it shows what we accumulate in.
    assert_same(actual, torch.segment_reduce(x.float(), kind, lengths=lengths, axis=0, initial=2.0).to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_their_own_segments(kind):
    x = data(6, 5, 3, dtype=torch.float64)[:2]
    offsets = torch.tensor([[0, 2, 5], [0, 0, 5]])
    compare(lambda t, o: torch.segment_reduce(t, kind, offsets=o, axis=1, unsafe=True), x, offsets, grad=True)
    lengths = torch.tensor([[2, 3], [5, 0]])
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    compare(lambda t, n: torch.segment_reduce(t, kind, lengths=n, axis=1), strided, lengths)


def test_not_a_number():
    x = torch.tensor([1.0, float("nan"), 3, 4])
    for kind in KINDS:
        compare(lambda t, n: torch.segment_reduce(t, kind, lengths=n), x, torch.tensor([3, 1]))  # noqa: B023


ERRORS = {
    "lengths": lambda x, n: torch.segment_reduce(x, "sum", lengths=n[:2]),
    "negative": lambda x, n: torch.segment_reduce(x, "sum", lengths=n - 1),
    "kind": lambda x, n: torch.segment_reduce(x, "median", lengths=n),
    "neither": lambda x, n: torch.segment_reduce(x, "sum"),
    "axis": lambda x, n: torch.segment_reduce(x, "sum", lengths=n, axis=1),
    "dtype": lambda x, n: torch.segment_reduce(x.int(), "sum", lengths=n),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    arguments = data(10, 3), torch.tensor([3, 0, 4, 3])
    with pytest.raises(Exception) as on_cpu:
        ERRORS[name](*arguments)
    with pytest.raises(on_cpu.type):
        ERRORS[name](*(a.to("mps") for a in arguments))
