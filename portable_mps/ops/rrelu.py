"""The randomised leaky rectifier (Xu et al., "Empirical Evaluation of Rectified Activations", 2015)."""

from __future__ import annotations

import math

import torch

from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import resized

# The output, and the slope that the gradient takes: the drawn one where the input is not positive.
_drawn = Pointwise("rrelu", ("a <= C(0) ? a * b : a", "a <= C(0) ? b : C(1)"), 2)


def _into(
    out: torch.Tensor | None,
    self: torch.Tensor,
    noise: torch.Tensor,
    lower: float,
    upper: float,
    training: bool,
    generator: torch.Generator | None,
) -> torch.Tensor:
    if not (math.isfinite(lower) and math.isfinite(upper)):
        raise RuntimeError(f"rrelu: bounds must be finite, but got lower={lower:g} and upper={upper:g}")
    if lower > upper:
        raise RuntimeError(f"Lower bound should be less than or equal to the upper bound, got {lower:g} and {upper:g}")
    if self.shape != noise.shape:
        raise RuntimeError(
            f"noise tensor shape must match self tensor shape. Got self.shape = {list(self.shape)} noise.shape = "
            f"{list(noise.shape)}"
        )
    if not self.is_floating_point():
        raise NotImplementedError(f'"rrelu_with_noise" not implemented for {self.dtype}')
    out = torch.empty_like(self, memory_format=torch.contiguous_format) if out is None and training else out
    out = torch.empty_like(self) if out is None else out
    if not training:
        return torch.ops.aten.leaky_relu.out(self, (lower + upper) / 2, out=out)
    noise.uniform_(lower, upper, generator=generator)
    _drawn((out, noise), (self, noise))
    return out


@implements("rrelu_with_noise")
def rrelu_with_noise(
    self: torch.Tensor,
    noise: torch.Tensor,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """noise, of self's shape, takes the slopes."""
    return _into(None, self, noise, lower, upper, training, generator)


@implements("rrelu_with_noise.out")
def rrelu_with_noise_out(
    self: torch.Tensor,
    noise: torch.Tensor,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    generator: torch.Generator | None = None,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """`rrelu_with_noise` into `out`."""
    return _into(resized(out, self.shape), self, noise, lower, upper, training, generator)


@implements("rrelu_with_noise_")
def rrelu_with_noise_(
    self: torch.Tensor,
    noise: torch.Tensor,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """`rrelu_with_noise` into self."""
    return _into(self, self, noise, lower, upper, training, generator)
