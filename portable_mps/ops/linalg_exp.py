"""The exponential of matrices."""

from __future__ import annotations

import math

import torch

from portable_mps.dispatch.registry import implements
from portable_mps.ops.linalg import check_square

_DEGREE = 18
_BLOCK = 3
# 1-norms up to which Taylor's polynomial of that degree is right to the rounding unit (Bader, Blanes and Casas,
# "Computing the matrix exponential with an optimized Taylor polynomial approximation", 2019, table 1).
_LARGEST_NORM = {torch.float32: 3.010066362817634, torch.float64: 1.090863719290036}


@implements("_compute_linear_combination")
def _compute_linear_combination(input: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Sums over the first dimension of input (k, ...), one for each row of coefficients (r, k): (r, ...)."""
    sums = coefficients.to(input.dtype) @ input.reshape(input.shape[0], -1)
    return sums.view(coefficients.shape[0], *input.shape[1:])


def _taylor(a: torch.Tensor) -> torch.Tensor:
    """The sum of a^i / i! up to the degree, by Paterson and Stockmeyer's scheme (SIAM J. Comput. 2, 1973)."""
    square = a @ a
    cube = square @ a
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(a.shape)
    inverses = [1 / math.factorial(i) for i in range(_DEGREE)]
    coefficients = torch.tensor(inverses, dtype=a.dtype.to_real(), device=a.device).view(-1, _BLOCK)
    blocks = _compute_linear_combination(torch.stack([identity, a, square]), coefficients)
    result = blocks[-1] + cube / math.factorial(_DEGREE)
    for block in reversed(blocks[:-1].unbind()):
        result = block + cube @ result
    return result


@implements("linalg_matrix_exp")
def linalg_matrix_exp(self: torch.Tensor) -> torch.Tensor:
    """By scaling and squaring; half types in float32."""
    check_square("linalg.matrix_exp", self)
    if not (self.is_floating_point() or self.is_complex()):
        raise RuntimeError(f"linalg.matrix_exp: Expected a floating point or complex tensor as input. Got {self.dtype}")
    if self.numel() == 0 or self.shape[-1] == 1:
        return self.exp()
    if self.dtype == torch.complex32:
        raise NotImplementedError("\"bmm\" not implemented for 'ComplexHalf'")
    if self.dtype in (torch.float16, torch.bfloat16):
        return linalg_matrix_exp(self.float()).to(self.dtype)
    norm = self.abs().sum(-2).amax(-1)[..., None, None]
    halvings = (norm / _LARGEST_NORM[norm.dtype]).log2().ceil().clamp(min=0)
    halvings = halvings.where(norm.isfinite(), 0)
    result = _taylor(self * (-halvings).exp2())
    for step in range(int(halvings.max())):
        result = torch.where(halvings > step, result @ result, result)
    return result
