"""Instances of subclasses of torch.Tensor: what they override is not for the kernels that get them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def _refuse(self, *_, **__):
    raise AssertionError("a kernel asked the subclass")


class Guarded(torch.Tensor):
    """Refuses what kernels in Python ask of a tensor."""

    shape = property(_refuse)
    numel = dim = size = stride = _refuse
    to = contiguous = clone = view = reshape = expand = transpose = sum = __getitem__ = _refuse


def guarded(device, *shape):
    values = torch.randn(shape or (4, 4), generator=torch.Generator().manual_seed(0))
    return values.to(device).as_subclass(Guarded)


def plain(tensor):
    return torch.Tensor.as_subclass(tensor, torch.Tensor)


CALLS = {
    "mm": lambda x: torch.mm(x, x),
    "softmax": lambda x: F.softmax(x, 1),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "sum": lambda x: torch.sum(x, 1),
    "sort": lambda x: torch.sort(x)[0],
    "cat": lambda x: torch.cat([x, x]),
    "index": lambda x: torch.ops.aten.index(x, [None, torch.tensor([1], device=x.device)]),
    "cumsum": lambda x: torch.cumsum(x, 0),
    "inv": lambda x: torch.linalg.inv(x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "half": lambda x: torch.Tensor.half(x),
    "fill": lambda x: torch.Tensor.fill_(x, 2),
    "addmm_": lambda x: torch.Tensor.addmm_(x, *[torch.eye(4, device=x.device)] * 2),
    "scatter": lambda x: torch.scatter(x, 0, torch.zeros(1, 4, dtype=torch.int64, device=x.device), 1.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_kernels_ask_no_subclass(name):
    for _ in range(3):  # replayed in the end
        mine, expected = CALLS[name](guarded("mps")), CALLS[name](guarded("cpu"))
        assert type(mine) is type(expected)
        torch.testing.assert_close(torch.Tensor.cpu(plain(mine)), plain(expected), rtol=1e-4, atol=1e-5)


def test_the_instance_is_what_is_written():
    x = guarded("mps")
    version = x._version
    assert torch.Tensor.fill_(x, 3) is x
    assert plain(x).eq(3).all()
    assert x._version > version
    factors = torch.ones(2, 3, device="mps"), torch.ones(3, 5, device="mps")
    out = guarded("mps", 0)
    assert torch.mm(*factors, out=out) is out
    assert plain(out).tolist() == [[3.0] * 5] * 2


def test_gradients():
    class Weight(nn.Parameter):
        shape = property(_refuse)
        dim = size = stride = transpose = _refuse

    def run(device):
        torch.manual_seed(0)
        weight, x = Weight(torch.randn(2, 3, 3).to(device)), torch.randn(1, 3, 8).to(device)
        q = Weight(torch.randn(1, 2, 4, 8).to(device))
        F.conv1d(x, weight).square().sum().backward()
        F.scaled_dot_product_attention(q, q, q).square().sum().backward()
        return weight.grad, q.grad

    for mine, expected in zip(run("mps"), run("cpu"), strict=True):
        torch.testing.assert_close(mine.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_lazy_modules_move_to_the_device():
    module = nn.Sequential(nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4)).to("mps")
    assert module(torch.ones(2, 1, 4, 4, device="mps")).shape == (2, 4)
    assert all(p.is_mps for p in module.parameters())
