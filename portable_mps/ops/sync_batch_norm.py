"""The parts of batch normalisation over several processes, as torch.nn.SyncBatchNorm calls them between collectives.

Statistics and sums of half types are float32. torch has these operators for CUDA alone, and no other reference: they
follow S. Ioffe and C. Szegedy, "Batch Normalization", 2015; statistics are combined after T. Chan et al., "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
"""

from __future__ import annotations

import torch
from torch._prims_common import suggest_memory_format

from portable_mps.dispatch.promotion import summed_in
from portable_mps.dispatch.registry import implements
from portable_mps.ops.normalization import (
    all_but_channels,
    channels_of,
    gradient_sums,
    input_gradient,
    normalize,
    statistics,
)


@implements("batch_norm_stats")
def batch_norm_stats(input: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and reciprocal standard deviation of each channel, (C,) both."""
    mean, rstd, variance = torch.empty(3, input.size(1), dtype=summed_in(input.dtype), device=input.device)
    statistics((mean, rstd, variance), (input,), all_but_channels(input), (eps,))
    return mean, rstd


@implements("batch_norm_gather_stats_with_counts")
def batch_norm_gather_stats_with_counts(
    input: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
    counts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of (processes, C) statistics of `counts` elements, (processes,), those of all together; (C,) both."""
    shares = counts.to(mean.dtype).unsqueeze(1)
    total = shares.sum()
    whole = (mean * shares).sum(0) / total
    deviations = ((invstd.pow(-2) - eps + (mean - whole).square()) * shares).sum(0)
    if running_mean is not None:
        running_mean.lerp_(whole.to(running_mean.dtype), momentum)
    if running_var is not None:
        unbiased = deviations / (total - 1).clamp(min=1)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return whole, (deviations / total + eps).rsqrt()


@implements("batch_norm_gather_stats")
def batch_norm_gather_stats(
    input: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the above, of `count` elements each."""
    counts = torch.full((mean.size(0),), count, dtype=mean.dtype, device=mean.device)
    return batch_norm_gather_stats_with_counts(input, mean, invstd, running_mean, running_var, momentum, eps, counts)


@implements("batch_norm_elemt")
def batch_norm_elemt(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """(input - mean) * invstd * weight + bias, in the input's dtype and layout."""
    out = torch.empty_like(input, memory_format=suggest_memory_format(input))
    weight, bias = (None if t is None else channels_of(t, input) for t in (weight, bias))
    normalize(out, input, channels_of(mean, input), channels_of(invstd, input), weight, bias)
    return out


@implements("batch_norm_backward_reduce")
def batch_norm_backward_reduce(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    weight: torch.Tensor | None,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Sums of the gradient and of its products with the deviations, and this process's gradients of weight and bias."""
    products, sums = torch.empty(2, input.size(1), dtype=mean.dtype, device=input.device)
    wide_mean, wide_rstd = (channels_of(t, input).expand(input.shape) for t in (mean, invstd))
    gradient_sums((products, sums), (grad_out, input, wide_mean, wide_rstd), all_but_channels(input))
    of_weight = _as(products, weight) if weight_g else None
    of_bias = _as(sums, weight) if bias_g else None
    return (sums, products / invstd, of_weight, of_bias) if input_g else (None, None, of_weight, of_bias)


def _as(gradient: torch.Tensor, parameter: torch.Tensor | None) -> torch.Tensor:
    return gradient if parameter is None else gradient.to(parameter.dtype)


@implements("batch_norm_backward_elemt")
def batch_norm_backward_elemt(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    invstd: torch.Tensor,
    weight: torch.Tensor | None,
    sum_dy: torch.Tensor,
    sum_dy_xmu: torch.Tensor,
    count: torch.Tensor,
) -> torch.Tensor:
    """The input's gradient, from both sums over all processes and the counts of each, (processes,)."""
    scale = count.sum().to(mean.dtype).reciprocal()
    if weight is not None:
        scale = scale * weight
    result = torch.empty_like(input, memory_format=suggest_memory_format(input))
    shares = (channels_of(sum_dy * scale, input), channels_of(sum_dy_xmu * invstd * scale, input))
    wide_weight = 1.0 if weight is None else channels_of(weight, input)
    parts = (grad_out, input, channels_of(mean, input), channels_of(invstd, input), wide_weight, *shares)
    input_gradient((result,), parts)
    return result
