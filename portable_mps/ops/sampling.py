"""Samples of distributions given by tensors: Poisson, binomial, gamma, Dirichlet, multinomial, and their gradients."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.checks import raise_where
from portable_mps.dispatch.launch import draw
from portable_mps.dispatch.pointwise import Pointwise, register
from portable_mps.dispatch.promotion import Promotion, scalar_type
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import Linear, dtype_defines, resized
from portable_mps.runtime import device

_COUNTERS = 1 << 15  # more than the samplers' last attempt draws
_MAX_CATEGORIES = 2**24

_sample = Linear("sampling", "sample", "QQQxQQ")

register(
    Pointwise(
        "standard_gamma_grad",
        ("standard_gamma_grad(a, b)",),
        2,
        promotion=Promotion.SAME,
        modules=("lib.samplers",),
        unroll=False,
    ),
    "_standard_gamma_grad",
)
_dirichlet = Pointwise("dirichlet_grad", ("dirichlet_grad(a, b, c)",), 3, modules=("lib.samplers",), unroll=False)


@implements("_dirichlet_grad")
def _dirichlet_grad(x: torch.Tensor, alpha: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    # An expansion for large parameters cancels badly: in double where there is one, as on the CPU.
    if x.dtype != torch.float64 and device.current().adapter.features["float64"]:
        return _dirichlet((None,), (x.double(), alpha.double(), total.double()))[0].to(x.dtype)
    return _dirichlet((None,), (x, alpha, total))[0]


def _sampled(name: str, sample: str, generator: Any, *parameters: torch.Tensor) -> torch.Tensor:
    if not parameters[0].is_floating_point():
        dtype = str(parameters[0].dtype).removeprefix("torch.")
        raise NotImplementedError(f'"{name}" not implemented for {dtype}')
    first, second = parameters[0].contiguous(), parameters[-1].contiguous()
    out = torch.empty_like(first)
    if out.numel():
        seed, offset = draw(generator, _COUNTERS)
        arguments = (out, first, second, out.numel(), seed, offset)
        _sample(out.numel(), arguments, (first, second), (out,), SAMPLE=sample, **dtype_defines("T", out.dtype))
    return out


@implements("poisson")
def poisson(self: torch.Tensor, generator: Any = None) -> torch.Tensor:
    """A negative rate raises at the next synchronisation."""
    raise_where(~(self >= 0), "invalid Poisson rate, expected rate to be non-negative")
    return _sampled("poisson", "sample_poisson(a, stream)", generator, self)


@implements("binomial")
def binomial(count: torch.Tensor, prob: torch.Tensor, generator: Any = None) -> torch.Tensor:
    """How many of `count` tries succeed, each with probability `prob`. RuntimeError for different dtypes."""
    if count.dtype != prob.dtype:
        raise RuntimeError(
            f"Found dtype {str(prob.dtype).removeprefix('torch.')} but expected "
            f"{str(count.dtype).removeprefix('torch.')}"
        )
    count, prob = torch.broadcast_tensors(count, prob)
    return _sampled("binomial", "sample_binomial(a, b, stream)", generator, count, prob)


@implements("_standard_gamma")
def _standard_gamma(self: torch.Tensor, generator: Any = None) -> torch.Tensor:
    """Samples of gamma(self, 1), at least the smallest normal number as in ATen."""
    return _sampled("gamma", "sample_gamma(a, stream)", generator, self).clamp_(min=torch.finfo(self.dtype).tiny)


@implements("_sample_dirichlet")
def _sample_dirichlet(self: torch.Tensor, generator: Any = None) -> torch.Tensor:
    """Gamma samples over their sum along the last dimension, kept inside (0, 1)."""
    wide = self if self.dtype == torch.float64 else self.float()
    gamma = _standard_gamma(wide, generator)
    limits = torch.finfo(self.dtype)
    return (gamma / gamma.sum(-1, keepdim=True)).to(self.dtype).clamp_min_(limits.tiny).clamp_max_(1 - limits.eps / 2)


# Multinomial ------------------------------------------------------------------------------------------------------


def _check_multinomial(self: torch.Tensor, num_samples: int, replacement: bool) -> None:
    if not 1 <= self.dim() <= 2:
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not self.is_floating_point():
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {scalar_type(self.dtype)}")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > self.size(-1):
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if self.size(-1) > _MAX_CATEGORIES:
        raise RuntimeError("number of categories cannot exceed 2^24")


@implements("multinomial")
def multinomial(
    self: torch.Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None
) -> torch.Tensor:
    """int64 categories [..., num_samples] for weights [..., categories].

    Without replacement: the largest of weight / exponential (Efraimidis and Spirakis, "Weighted random sampling with a
    reservoir", 2006). With: the inverse of the cumulative weights. Invalid weights raise at the next synchronisation.
    """
    _check_multinomial(self, num_samples, replacement)
    if self.numel() == 0:
        return torch.empty((*self.shape[:-1], num_samples), dtype=torch.int64, device=self.device)
    weights = self if self.dtype == torch.float64 else self.float()
    wrong = "probability tensor contains either `inf`, `nan` or element < 0"
    if replacement and num_samples > 1:
        wrong = "invalid multinomial distribution (encountering probability entry < 0, infinity or NaN)"
    raise_where(~((weights >= 0) & (weights < torch.inf)), wrong)
    raise_where(weights.sum(-1) == 0, "invalid multinomial distribution (sum of probabilities <= 0)")
    if replacement and num_samples > 1:
        cumulative = weights.cumsum(-1)
        total = cumulative[..., -1:]
        drawn = torch.rand(
            (*self.shape[:-1], num_samples), dtype=weights.dtype, device=self.device, generator=generator
        ).mul_(total)
        # A category of weight 0 is never drawn, not even where rounding reaches the total.
        last = (weights > 0).mul(torch.arange(self.size(-1), device=self.device)).amax(-1, keepdim=True)
        return torch.minimum(torch.searchsorted(cumulative, drawn, right=True), last)
    scores = weights / torch.empty_like(weights).exponential_(generator=generator)
    if num_samples == 1:
        return scores.argmax(-1, keepdim=True)
    return scores.topk(num_samples)[1]


@implements("multinomial.out")
def multinomial_out(
    self: torch.Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None, out: torch.Tensor
) -> torch.Tensor:
    """Indices (rows, num_samples), int64, drawn by the weights of each row, with or without replacement."""
    if out.dtype != torch.int64:
        raise RuntimeError(f"multinomial expects Long tensor out, got: {scalar_type(out.dtype)}")
    result = multinomial(self, num_samples, replacement, generator=generator)
    return resized(out, result.shape).copy_(result)
