"""The parts of torch.nn.SyncBatchNorm, put together as it does: two shares of a batch against all of it on the CPU."""

import pytest
import torch
import torch.nn.functional as F

EPS, MOMENTUM, FIRST = 1e-5, 0.1, 2  # the last: elements of the batch in the first share


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.float16, 2e-3)])
def test_two_shares_are_one_batch(dtype, tolerance, format, affine):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, gradient = (torch.randn(6, 3, 4, 5).to(dtype).contiguous(memory_format=format) for _ in range(2))
    parameters = [torch.randn(3, dtype=wide) for _ in range(2)] if affine else [None, None]
    leaves = [t if t is None else t.double().requires_grad_() for t in (x, *parameters)]
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    expected = F.batch_norm(leaves[0], *running, *leaves[1:], True, MOMENTUM, EPS)
    expected.backward(gradient.double())

    x, gradient = x.to("mps"), gradient.to("mps")
    weight, bias = (t if t is None else t.to("mps") for t in parameters)
    ours = torch.zeros(3, dtype=wide, device="mps"), torch.ones(3, dtype=wide, device="mps")
    shares = [torch.batch_norm_stats(share, EPS) for share in (x[:FIRST], x[FIRST:])]
    counts = torch.tensor([FIRST * 20, (6 - FIRST) * 20], dtype=wide, device="mps")
    means, invstds = (torch.stack(all) for all in zip(*shares, strict=True))
    mean, invstd = torch.batch_norm_gather_stats_with_counts(x, means, invstds, *ours, MOMENTUM, EPS, counts)
    result = torch.batch_norm_elemt(x, weight, bias, mean, invstd, EPS)
    reduced = torch.batch_norm_backward_reduce(gradient, x, mean, invstd, weight, True, affine, affine)
    of_input = torch.batch_norm_backward_elemt(gradient, x, mean, invstd, weight, *reduced[:2], counts.int())

    pairs = [(result, expected), (of_input, leaves[0].grad), *zip(ours, running, strict=True)]
    if affine:
        pairs += [(reduced[2], leaves[1].grad), (reduced[3], leaves[2].grad)]
    for have, want in pairs:
        torch.testing.assert_close(have.cpu().double(), want.detach(), rtol=tolerance, atol=tolerance)
    assert result.dtype == of_input.dtype == dtype and result.is_contiguous(memory_format=format)


def test_equal_counts():
    x = torch.randn(4, 3, 2, device="mps")
    means, invstds = (
        torch.stack(all) for all in zip(*(torch.batch_norm_stats(s, EPS) for s in x.split(2)), strict=True)
    )
    found = torch.batch_norm_gather_stats(x, means, invstds, None, None, MOMENTUM, EPS, 4)
    for have, want in zip(found, torch.batch_norm_stats(x, EPS), strict=True):
        torch.testing.assert_close(have, want)
