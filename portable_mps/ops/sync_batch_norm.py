"""The parts of batch normalisation over several processes, as torch.nn.SyncBatchNorm calls them between collectives.

Statistics and sums of half types are float32. torch has these operators for CUDA alone, and no other reference: they
follow S. Ioffe and C. Szegedy, "Batch Normalization", 2015; statistics are combined after T. Chan et al., "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
"""

from __future__ import annotations

import torch

from portable_mps.dispatch.promotion import summed_in
from portable_mps.dispatch.registry import implements


def _over(input: torch.Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [0, *range(2, input.dim())]


def _along(statistic: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """(C,) as it meets (N, C, ...)."""
    return statistic.view(-1, *[1] * (input.dim() - 2))


@implements("batch_norm_stats")
def batch_norm_stats(input: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and reciprocal standard deviation of each channel, (C,) both."""
    variance, mean = torch.var_mean(input.to(summed_in(input.dtype)), _over(input), correction=0)
    return mean, (variance + eps).rsqrt()


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
    result = (input - _along(mean, input)) * _along(invstd, input)
    if weight is not None:
        result = result * _along(weight, input)
    if bias is not None:
        result = result + _along(bias, input)
    return result.to(input.dtype)


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
    gradient = grad_out.to(mean.dtype)
    total = gradient.sum(_over(input))
    products = (gradient * (input - _along(mean, input))).sum(_over(input))
    of_weight = _as(products * invstd, weight) if weight_g else None
    of_bias = _as(total, weight) if bias_g else None
    return (total, products, of_weight, of_bias) if input_g else (None, None, of_weight, of_bias)


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
    total = count.sum().to(mean.dtype)
    slope = sum_dy_xmu / total * invstd.square()
    scale = invstd if weight is None else invstd * weight
    centred = grad_out - _along(sum_dy / total, input) - (input - _along(mean, input)) * _along(slope, input)
    return (centred * _along(scale, input)).to(input.dtype)
