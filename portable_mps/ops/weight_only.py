"""Products with weights kept in 8 or 4 bits, activations staying floating-point ("weight-only" quantisation)."""

from __future__ import annotations

import torch

from portable_mps.dispatch.products import product
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.registry import implements

_ACTIVATIONS = (torch.float32, torch.float16, torch.bfloat16)
_ROWS, _COLUMNS = 8, 16  # of weights in a tile of torch's packed shape


def _check(name: str, condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(f"{name} : {message}")


def _product(activations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """activations (m, k) @ weights (n, k) transposed, in float32."""
    shape = activations.shape[0], weights.shape[0]
    result = torch.empty(shape, dtype=torch.float32, device=activations.device)
    product(activations.unsqueeze(0), weights.t().unsqueeze(0), result.unsqueeze(0))
    return result


@implements("_weight_int8pack_mm")
def weight_int8pack_mm(self: torch.Tensor, mat2: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """self (m, k) @ mat2 (n, k) of int8, transposed, times scales (n), of self's dtype; so is the result."""
    name, n, k = "_weight_int8pack_mm", mat2.size(0), self.size(1)
    _check(name, self.dtype in _ACTIVATIONS, "expect A to be either 32-bit or 16-bit float tensor.")
    _check(name, self.stride(1) == 1, "A must be contiguous on the last dimension.")
    _check(name, self.dim() == 2, "expect A to be 2D tensor.")
    _check(name, mat2.dtype == torch.int8, "expect B to be int8 tensor.")
    _check(name, mat2.is_contiguous(), "expect B to be contiguous.")
    _check(name, mat2.size(1) == k, f"expect B.size(1) == {k}")
    _check(name, scales.shape == (n,), f"expect scales to be 1d tensor with size {n}")
    if scales.dtype != self.dtype:
        raise RuntimeError(f"expected scalar type {scalar_type(self.dtype)} but found {scalar_type(scales.dtype)}")
    return _product(self, mat2).mul_(scales).to(self.dtype)


@implements("_convert_weight_to_int4pack")
def convert_weight_to_int4pack(self: torch.Tensor, innerKTiles: int) -> torch.Tensor:
    """self (n, k / 2), bytes of two codes, the first above, to int32 (n / 8, k / 16 / tiles, 32, tiles / 2).

    The first of two codes is in the lower bits there, as the Mac's packed weights have it.
    """
    name, tiles = "_convert_weight_to_int4pack_mps", innerKTiles
    _check(name, self.dim() == 2, "expect weight to be 2D tensor.")
    _check(name, self.dtype == torch.uint8, "expect weight to be kByte.")
    _check(name, tiles in (2, 4, 8), f"innerKTiles need to be 2, 4, or 8, got {tiles}")
    n, k = self.shape[0], self.shape[1] * 2
    whole = n % _ROWS == 0 and k % (_COLUMNS * tiles) == 0
    _check(name, whole, f"expect N to be dividable by {_ROWS} and K by {_COLUMNS * tiles}, got {n} and {k}")
    swapped = (self << 4) | (self >> 4)
    return swapped.view(torch.int32).view(n // _ROWS, k // (_COLUMNS * tiles), 32, tiles // 2)


@implements("_weight_int4pack_mm")
def weight_int4pack_mm(
    self: torch.Tensor,
    mat2: torch.Tensor,
    qGroupSize: int,
    qScaleAndZeros: torch.Tensor,
) -> torch.Tensor:
    """self (m, k) @ weights (n, k) transposed; mat2 is what `_convert_weight_to_int4pack` made of their codes.

    A weight is (code - 8) * scale + zero; qScaleAndZeros (groups, n, 2) has both for each group of qGroupSize columns.
    """
    name, size = "_weight_int4pack_mm_mps", qGroupSize
    _check(name, self.dtype in _ACTIVATIONS, "expect A to be either 32-bit or 16-bit float tensor.")
    _check(name, self.is_contiguous(), "expect A to be contiguous.")
    _check(name, self.dim() == 2, "expect A to be 2D tensor.")
    _check(name, mat2.dtype == torch.int32, "expect B to be int32 tensor.")
    _check(name, mat2.is_contiguous(), "expect B to be contiguous.")
    _check(name, mat2.dim() == 4, "expect B to 4d tensor.")
    _check(name, size in (32, 64, 128, 256), f"expect qGroupSize to be 32, 64, 128 or 256, got {size}")
    n, k = mat2.shape[0] * _ROWS, self.shape[1]
    _check(name, mat2.numel() * 8 == n * k, f"expect B to have {k} columns, got {list(mat2.shape)}")
    groups = -(-k // size)
    shape = (groups, n, 2)
    _check(name, qScaleAndZeros.shape == shape, f"expect qScaleAndZeros to be 3d tensor with sizes {list(shape)}")

    packed = mat2.view(torch.uint8).view(n, k // 2)
    codes = torch.stack((packed & 15, packed >> 4), dim=2).view(n, k)
    of_columns = qScaleAndZeros.float().repeat_interleave(size, dim=0, output_size=groups * size)[:k]
    scales, zeros = of_columns.transpose(0, 1).unbind(2)
    return _product(self, torch.addcmul(zeros, codes.float() - 8, scales)).to(self.dtype)
