"""Margin losses against torch on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from support import compare, to_mps


def sample(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int) -> torch.Tensor:
    return torch.randint(5, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_margins(reduction):
    x, target = sample(6, 5), labels(6)
    for p, margin in ((1, 1.0), (2, 0.5)):
        compare(lambda x, t, p=p, m=margin: F.multi_margin_loss(x, t, p, m, reduction=reduction), x, target, grad=True)
    weight = torch.rand(5)
    compare(
        lambda x: F.multi_margin_loss(x, target.to(x.device), weight=weight.to(x.device), reduction=reduction),
        x,
        grad=True,
    )
    compare(lambda x, t: F.multi_margin_loss(x, t, reduction=reduction), sample(5), labels(), grad=True)
    listed = torch.tensor([[3, 0, -1, 1], [-1, 2, 2, 2], [0, 1, 2, 3], [2, 2, -1, -1]])
    compare(lambda x, t: F.multilabel_margin_loss(x, t, reduction=reduction), sample(4, 4), listed, grad=True)
    compare(lambda x, t: F.multilabel_margin_loss(x, t, reduction=reduction), sample(4), listed[0], grad=True)
    compare(lambda x, t: F.multilabel_soft_margin_loss(x, t, reduction=reduction), x, x.sigmoid().round(), grad=True)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    y = sample(6, 5, seed=3)
    compare(lambda x: F.soft_margin_loss(x, signs[:5].to(x.device), reduction=reduction), x[0], grad=True, rtol=1e-5)
    compare(lambda x, y, s: F.cosine_embedding_loss(x, y, s, 0.1, reduction=reduction), x, y, signs, rtol=1e-5)
    compare(lambda x, y, s: F.margin_ranking_loss(x, y, s, 0.1, reduction=reduction), x[:, 0], y[:, 0], signs)
    compare(lambda x, y, z: F.triplet_margin_loss(x, y, z, reduction=reduction), x, y, sample(6, 5, seed=4), grad=True)
    compare(lambda x, y: F.gaussian_nll_loss(x, y, x * x, reduction=reduction), x, y, grad=True, rtol=1e-5)


def test_margin_targets_out_of_range():
    x, target = to_mps((sample(2, 4), torch.tensor([1, 7])))
    F.multi_margin_loss(x, target)
    with pytest.raises(RuntimeError, match="target out of range"):
        torch.mps.synchronize()
    F.multilabel_margin_loss(x, torch.tensor([[0, 9, -1, -1]] * 2, device="mps"))
    with pytest.raises(RuntimeError, match=r"argument #2 .target. is out of range"):
        torch.mps.synchronize()


@pytest.mark.parametrize("weight", [torch.inf, -torch.inf])
def test_an_infinite_weight_of_no_excess_is_no_loss(weight):
    scores, target = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.5, 0.2]]), torch.tensor([0, 1])
    weights = torch.tensor([weight, 1.0, 1.0])
    expected = F.multi_margin_loss(scores, target, weight=weights)
    assert torch.equal(
        F.multi_margin_loss(*(t.to("mps") for t in (scores, target)), weight=weights.to("mps")).cpu(), expected
    )
