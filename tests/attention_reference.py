"""Attention by separate operators in double, and checks of the device's against it."""

import math

import torch
import torch.nn.functional as F

attend = F.scaled_dot_product_attention


def reference(q, k, v, mask=None, causal=False, scale=None, kept=None, dropout=0.0):
    """Attention in double by separate operators; kept: (batch, heads, rows, columns), what dropout leaves."""
    group = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.mT * (1 / math.sqrt(q.size(-1)) if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    nothing = (scores == -math.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    return (weights if kept is None else weights * kept / (1 - dropout)) @ v


def check(q, k, v, mask=None, rtol=1e-4, atol=2e-5, wide=None, **options):
    """Output and gradients, a float mask's too, against `reference`; `wide` makes the device's inputs of ours."""
    inputs = [t for t in (q, k, v, mask) if t is not None]
    ours = [t.double().requires_grad_() if t.is_floating_point() else t for t in inputs]
    theirs = [(wide or (lambda t: t.to("mps")))(t) for t in inputs]
    theirs = [t.requires_grad_() if t.is_floating_point() else t for t in theirs]
    expected = reference(*ours, **options)
    names = {"causal": "is_causal", "scale": "scale"}
    passed = {names[name]: value for name, value in options.items()}
    actual = attend(*theirs[:3], *theirs[3:], enable_gqa=k.size(1) != q.size(1), **passed)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = torch.autograd.grad(expected, [t for t in ours if t.is_floating_point()], cotangent)
    mine = torch.autograd.grad(actual, [t for t in theirs if t.is_floating_point()], cotangent.to("mps", q.dtype))
    for have, want in zip((actual, *mine), (expected, *gradients), strict=True):
        assert have.shape == want.shape
        torch.testing.assert_close(have.detach().cpu().double(), want.detach(), rtol=rtol, atol=atol)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def halves(problem, tiles, step, turns):
    """Splits of two tiles of keys each."""
    return 2 * step, -(-problem.columns // (2 * step))
