"""Tensors of more than 2^31 elements, and loops that are longer than a software driver lets them be."""

import pytest
import torch
import torch.nn.functional as F
from support import compare

from portable_mps.runtime import device

FAR = 2**31 + 2**20


@pytest.fixture(scope="module")
def large():
    """More than 2^31 bytes of ones; memory that nobody looks at is never touched."""
    tensor = torch.ones(FAR + 1000, dtype=torch.uint8, device="mps")
    yield tensor
    del tensor
    torch.mps.empty_cache()


def test_reductions_over_2_31_elements(large):
    assert large.sum().item() == large.numel()
    large[-3:] = torch.tensor([7, 8, 9], dtype=torch.uint8)
    assert large.argmax().item() == large.numel() - 1
    large[-3:] = 1


def test_addresses_past_2_31(large):
    places = torch.tensor([large.numel() - 1, 0, 2**31 + 5], device="mps")
    large.index_fill_(0, places, 3)
    assert large[places].tolist() == large.take(places).tolist() == [3, 3, 3]
    assert large[-2:].tolist() == [1, 3]
    assert large.index_select(0, places - 1 + 2 * (places == 0)).tolist() == [1, 1, 1]
    large[places] = 1
    far = large.as_strided((3, 4), (2**30 + 7, 1))
    far.copy_(torch.arange(12, dtype=torch.uint8).view(3, 4))
    assert far.tolist() == torch.arange(12).view(3, 4).tolist()
    assert (far + 1).sum().item() == far.sum().item() + 12
    assert torch.cat([far, far])[3:].tolist() == far.tolist()
    assert far.float().softmax(1).sum().item() == pytest.approx(3)
    far.fill_(1)


def test_products_with_a_long_inner_dimension():
    a = torch.randn(2, 150_000, generator=torch.Generator().manual_seed(1))
    compare(lambda x: x @ x.t(), a, rtol=1e-4)
    compare(lambda x: torch.addmm(torch.ones(2, 2, device=x.device), x, x.t(), alpha=0.5, beta=2), a, rtol=1e-4)
    image, grad = a[:1].reshape(1, 1, 375, 400), a[1:, : 373 * 398].reshape(1, 1, 373, 398)
    compare(lambda x, g: torch.nn.grad.conv2d_weight(x, (1, 1, 3, 3), g), image, grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.adaptive_max_pool1d(x, 1),
        lambda x: F.avg_pool1d(x, x.shape[-1]),
        lambda x: torch.cdist(x, x, p=1.0),
        lambda x: F.embedding_bag(
            torch.zeros(x.shape, dtype=torch.int64, device=x.device), x[0, :6].view(2, 3), mode="sum"
        ),
        lambda x: torch.segment_reduce(x[0], "sum", lengths=torch.tensor([x.shape[-1]], device=x.device)),
    ],
)
def test_longer_loops_are_computed_or_refused(call):
    x = torch.rand(1, 100_000, generator=torch.Generator().manual_seed(1))
    if device.current().adapter.is_software:
        with pytest.raises(RuntimeError, match="software driver"):
            call(x.to("mps"))
    else:
        compare(call, x, rtol=1e-3)
