"""Assertions about values on the device raise at the next synchronisation."""

import pytest
import torch


def test_holds():
    torch._assert_async(torch.ones((), device="mps"))
    torch._assert_async(torch.tensor([True], device="mps"), "not so")
    torch.mps.synchronize()


def test_fails_later_with_its_message():
    torch._assert_async(torch.zeros((), device="mps"), "the sum {of weights} is zero")
    with pytest.raises(RuntimeError, match=r"the sum \{of weights\} is zero"):
        torch.mps.synchronize()
    torch.mps.synchronize()


@pytest.mark.parametrize("count", [0, 2])
def test_takes_one_value(count):
    with pytest.raises(RuntimeError, match="ambiguous"):
        torch._assert_async(torch.ones(count, device="mps"))
