"""flex_attention compiled, with gradients, against eager's."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

LENGTH, HEADS = 48, 4


def _bias() -> torch.Tensor:
    return torch.randn(2, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)).to("mps")


def _captured(bias):
    return lambda s, b, h, i, j: s + bias[b, i, j]


SCORES = {
    "plain": lambda: lambda s, b, h, i, j: s,
    "causal": lambda: lambda s, b, h, i, j: torch.where(i >= j, s, -float("inf")),
    "distance": lambda: lambda s, b, h, i, j: s - (i - j).abs() * 0.1 * (h + 1),
    "captured": lambda: _captured(_bias()),
    "capped": lambda: lambda s, b, h, i, j: 20 * torch.tanh(s / 20),
}
MASKS = {"causal": lambda b, h, i, j: i >= j, "window": lambda b, h, i, j: (i - j).abs() < 8}


def _as_eager(dynamic, key_heads, score_mod=None, block_mask=None):
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, HEADS, LENGTH, 16), (2, key_heads, LENGTH, 16), (2, key_heads, LENGTH, 16))
    tensors = [torch.randn(shape, generator=generator).to("mps").requires_grad_() for shape in shapes]

    def attend(q, k, v):
        return flex_attention(q, k, v, score_mod, block_mask, enable_gqa=key_heads != HEADS)

    results = []
    for function in (attend, torch.compile(attend, dynamic=dynamic)):
        output = function(*tensors)
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    torch.testing.assert_close(*reversed(results), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("score", SCORES)
def test_scores(score, dynamic):
    _as_eager(dynamic, HEADS if score == "plain" else 2, score_mod=SCORES[score]())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", MASKS)
def test_block_masks(mask):
    block_mask = create_block_mask(MASKS[mask], 2, HEADS, LENGTH, LENGTH, device="mps", BLOCK_SIZE=16)
    _as_eager(False, HEADS, block_mask=block_mask)
