"""Distances between vectors: cdist, pdist and their gradients."""

from __future__ import annotations

import math

import torch

from portable_mps.dispatch.launch import check_turns, grid, launch
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import dtype_defines, on_device
from portable_mps.runtime.kernel import Template

_TILE = 16  # as in kernels/distance.slang
_THREADS = 256
_FORWARD, _BACKWARD = (
    {code: Template("distance", entry, f"5Q4I{code}") for code in "fd"} for entry in ("forward", "backward")
)
_NORMS = {0.0: "ZERO", 1.0: "ONE", 2.0: "TWO", math.inf: "LARGEST"}
_MATRIX_PRODUCT_FROM = 25  # rows, as in torch: from here it pays to multiply matrices


def _launch(
    templates: dict[str, Template], groups: int, tensors: list[torch.Tensor | None], sizes: tuple[int, ...], p: float
) -> None:
    """tensors: x1, x2, distance, its gradient, x1's gradient; the last one that is given is written."""
    given = [t for t in tensors if t is not None]
    check_turns("cdist", sizes[3] + sizes[3] // _TILE)
    dtype = given[0].dtype
    launch(
        templates["d" if dtype == torch.float64 else "f"],
        grid(groups),
        [*(0 if t is None else t for t in tensors), *sizes, p],
        given[:-1],
        given[-1:],
        NORM=_NORMS.get(p, "OTHER"),
        **dtype_defines("T", dtype),
    )


def _batched(x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Size, torch.Tensor, torch.Tensor]:
    """The batch dimensions, and both tensors with one contiguous dimension in their place."""
    batch = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
    x1, x2 = (x.expand(*batch, *x.shape[-2:]).reshape(batch.numel(), *x.shape[-2:]).contiguous() for x in (x1, x2))
    return batch, x1, x2


@implements("_cdist_forward")
def _cdist_forward(x1: torch.Tensor, x2: torch.Tensor, p: float, compute_mode: int | None) -> torch.Tensor:
    """(…, rows1, columns) and (…, rows2, columns) to (…, rows1, rows2)."""
    on_device(x1, x2)
    if x1.dim() < 2 or x2.dim() < 2:
        raise RuntimeError(f"cdist only supports at least 2D tensors, X1 got: {x1.dim()}D, X2 got: {x2.dim()}D")
    if not (x1.is_floating_point() and x2.is_floating_point()):
        raise RuntimeError(f"cdist only supports floating-point dtypes, X1 got: {x1.dtype}, X2 got: {x2.dtype}")
    if x1.dtype != x2.dtype:
        raise RuntimeError(f"expected scalar type {x1.dtype} but found {x2.dtype}")
    if x1.size(-1) != x2.size(-1):
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {x1.size(-1)} X2: {x2.size(-1)}")
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    if compute_mode not in (None, 0, 1, 2):
        raise RuntimeError(f"{compute_mode} is not a valid value for compute_mode")
    rows1, rows2 = x1.size(-2), x2.size(-2)
    large = rows1 > _MATRIX_PRODUCT_FROM or rows2 > _MATRIX_PRODUCT_FROM
    if p == 2 and x1.numel() and x2.numel() and (compute_mode == 1 or (large and not compute_mode)):
        return torch._euclidean_dist(x1, x2)
    batch, x1, x2 = _batched(x1, x2)
    out = torch.empty((*batch, rows1, rows2), dtype=x1.dtype, device=x1.device)
    groups = batch.numel() * -(-rows1 // _TILE) * -(-rows2 // _TILE)
    _launch(_FORWARD, groups, [x1, x2, out, None, None], (batch.numel(), rows1, rows2, x1.size(-1)), float(p))
    return out


@implements("_cdist_backward")
def _cdist_backward(
    grad: torch.Tensor, x1: torch.Tensor, x2: torch.Tensor, p: float, cdist: torch.Tensor
) -> torch.Tensor:
    """The gradient of x1, of the broadcast batch."""
    batch, x1, x2 = _batched(x1, x2)
    result = torch.empty(x1.shape, dtype=x1.dtype, device=x1.device)
    sizes = (batch.numel(), x1.size(-2), x2.size(-2), x1.size(-1))
    tensors: list[torch.Tensor | None] = [x1, x2, cdist.contiguous(), grad.contiguous(), result]
    _launch(_BACKWARD, -(-result.numel() // _THREADS), tensors, sizes, float(p))
    return result.view(*batch, *x1.shape[-2:])


# Of the pairs of one matrix's rows --------------------------------------------------------------------------------


def _pairs(rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.triu_indices(rows, rows, 1, device=device)
    return first, second


@implements("_pdist_forward")
def _pdist_forward(self: torch.Tensor, p: float = 2) -> torch.Tensor:
    """(rows, columns) to the rows * (rows - 1) / 2 distances of the pairs i < j, in order."""
    if not self.is_contiguous():
        raise RuntimeError("_pdist_forward requires contiguous input")
    return _cdist_forward(self, self, p, 2)[_pairs(self.size(0), self.device)]


@implements("_pdist_backward")
def _pdist_backward(grad: torch.Tensor, self: torch.Tensor, p: float, pdist: torch.Tensor) -> torch.Tensor:
    if self.numel() == 0 or pdist.numel() == 0:
        return torch.zeros_like(self)
    rows = self.size(0)
    first, second = _pairs(rows, self.device)

    def symmetric(values: torch.Tensor) -> torch.Tensor:
        square = torch.zeros((rows, rows), dtype=self.dtype, device=self.device)
        square[first, second] = values
        square[second, first] = values
        return square

    return _cdist_backward(symmetric(grad), self, self, p, symmetric(pdist))
