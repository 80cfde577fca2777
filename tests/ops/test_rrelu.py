"""The randomised leaky rectifier: against torch on the CPU where it is not random, by its slopes where it is."""

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, compare


def sample(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(50, 7, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_without_training(dtype):
    compare(F.rrelu, sample(dtype), grad=True)
    compare(lambda x: F.rrelu(x.t()[1:], 0.1, 0.5), sample(dtype), grad=True)
    compare(lambda x: F.rrelu_(x.clone(), 0.3, 0.3), sample(dtype))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_training(dtype, inplace):
    torch.manual_seed(3)
    x = sample(dtype).to("mps").requires_grad_()
    y = F.rrelu(x * 1, 0.2, 0.6, training=True, inplace=inplace)
    y.sum().backward()
    negative = x.detach() <= 0
    slopes = (y.detach() / x.detach())[negative].float().cpu()
    assert 0.19 < slopes.min() < 0.25 and 0.55 < slopes.max() < 0.61 and 0.37 < slopes.mean() < 0.43
    assert torch.equal(y[~negative], x[~negative])
    assert torch.all(x.grad[~negative] == 1)
    torch.testing.assert_close(x.grad[negative].float().cpu(), slopes, rtol=1e-2, atol=1e-3)


def test_equal_bounds_are_a_slope():
    compare(lambda x: F.rrelu(x, 0.25, 0.25, training=True), sample(), grad=True)


def test_errors():
    for device in ("cpu", "mps"):
        x = torch.ones(3, device=device)
        with pytest.raises(RuntimeError):
            F.rrelu(x, 0.5, 0.1, training=True)
        with pytest.raises(RuntimeError):
            torch.ops.aten.rrelu_with_noise(x, torch.ones(4, device=device), 0.1, 0.5, True)
        with pytest.raises(NotImplementedError):
            F.rrelu(x.long(), training=True)
