"""Packed rows of unequal lengths to padded tensors and back."""

import pytest
import torch
from support import assert_same, compare

from portable_mps.ops.jagged import jagged_to_padded_dense, padded_dense_to_jagged

aten = torch.ops.aten
OFFSETS = torch.tensor([0, 3, 3, 7, 9])


def test_to_dense():
    for values in (torch.randn(9, 2), torch.randn(9), torch.arange(9), torch.randn(9, 2, 3).half()):
        for longest in (2, 4, 6):
            compare(lambda v, o: aten._jagged_to_padded_dense_forward(v, [o], [longest], -1.0), values, OFFSETS)  # noqa: B023


def test_to_jagged():
    for dense in (torch.randn(4, 5, 2), torch.randn(4, 4)):
        compare(lambda d, o: aten._padded_dense_to_jagged_forward(d, [o]), dense, OFFSETS)
        compare(lambda d, o: aten._padded_dense_to_jagged_forward(d, [o], 9), dense, OFFSETS)


def test_two_levels():
    """Against a loop: the CPU takes one level."""
    outer, inner = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 3, 5])
    values = torch.arange(1, 6)
    expected = torch.tensor([[[1, 2], [3, 0]], [[4, 5], [0, 0]]])
    offsets = [outer.to("mps"), inner.to("mps")]
    dense = jagged_to_padded_dense(values.to("mps"), offsets, [2, 2])
    assert_same(dense, expected)
    assert_same(padded_dense_to_jagged(dense, offsets), values)


def test_of_a_nested_tensor():
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    nested = torch.nested.nested_tensor([p.to("mps") for p in parts], layout=torch.jagged)
    expected = torch.nested.to_padded_tensor(torch.nested.nested_tensor(parts, layout=torch.jagged), 0.5)
    assert_same(torch.nested.to_padded_tensor(nested, 0.5), expected)


def test_the_strided_layout_says_what_to_do():
    rows = [torch.randn(2, 3, device="mps"), torch.randn(4, 3, device="mps")]
    with pytest.raises(NotImplementedError, match=r"layout=torch\.jagged"):
        torch.nested.nested_tensor(rows)
