"""Sampling of images and volumes at the places of a grid, and its gradients: kernels/grid_sampler.slang."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from portable_mps.dispatch import atomics, deterministic
from portable_mps.dispatch.registry import register
from portable_mps.dispatch.strided import Linear, dtype_defines

_forward = Linear("grid_sampler", "forward", "QQQQQxxiiiI")
_backward = Linear("grid_sampler", "backward", "QQQQQxxiiiI")
_CUBIC = 2


def _check(dims: int, input: torch.Tensor, grid: torch.Tensor, mode: int, padding: int) -> None:
    """torch's own checks, in its words; they are part of grid_sampler, which a direct call skips."""
    if input.dim() != dims + 2 or grid.dim() != dims + 2:
        raise RuntimeError(
            f"grid_sampler(): expected {dims + 2}D input and grid, but got input with sizes {list(input.shape)} and "
            f"grid with sizes {list(grid.shape)}"
        )
    if input.size(0) != grid.size(0):
        raise RuntimeError(
            "grid_sampler(): expected grid and input to have same batch size, but got input with sizes "
            f"{list(input.shape)} and grid with sizes {list(grid.shape)}"
        )
    if grid.size(-1) != dims:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {dims} in last dimension, but got grid with sizes "
            f"{list(grid.shape)}"
        )
    if 0 in input.shape[2:]:
        raise RuntimeError(
            "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
            f"{list(input.shape)}"
        )
    if input.dtype != grid.dtype:
        raise RuntimeError(
            f"grid_sampler(): expected input and grid to have same dtype, but input has {input.dtype} and grid has "
            f"{grid.dtype}"
        )
    if not input.is_floating_point():
        raise NotImplementedError(f'"grid_sampler" not implemented for {input.dtype}')
    if dims == 3 and mode == _CUBIC:
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    if not (0 <= mode <= _CUBIC and 0 <= padding <= 2):
        raise RuntimeError("grid_sampler(): unknown interpolation or padding mode")


def _geometry(input: torch.Tensor, grid: torch.Tensor) -> tuple[int, ...]:
    dims = input.dim() - 2
    return (input.size(1), *(1,) * (3 - dims), *input.shape[2:], math.prod(grid.shape[1:-1]))


def _register(dims: int) -> None:
    def forward(
        input: torch.Tensor, grid: torch.Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
    ) -> torch.Tensor:
        _check(dims, input, grid, interpolation_mode, padding_mode)
        shape = (*input.shape[:2], *grid.shape[1:-1])
        out = torch.empty(shape, dtype=input.dtype, device=input.device)
        if out.numel():
            sources = input.contiguous(), grid.contiguous()
            _forward(
                out.numel(),
                (*sources, out, 0, 0, out.numel(), *_geometry(input, grid)),
                sources,
                (out,),
                DIMS=dims,
                MODE=interpolation_mode,
                PADDING=padding_mode,
                ALIGNED=int(align_corners),
                GRAD_INPUT=0,
                GRAD_GRID=0,
                **dtype_defines("T", input.dtype),
            )
        return out

    def backward(
        grad_output: torch.Tensor,
        input: torch.Tensor,
        grid: torch.Tensor,
        interpolation_mode: int,
        padding_mode: int,
        align_corners: bool,
        output_mask: Sequence[bool],
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        _check(dims, input, grid, interpolation_mode, padding_mode)
        accumulator = torch.promote_types(input.dtype, torch.float32)
        grad_input = None
        if output_mask[0]:
            deterministic.alert(f"grid_sampler_{dims}d_backward")
            atomics.require(f"grid_sampler_{dims}d_backward", accumulator)
            grad_input = torch.zeros(input.shape, dtype=accumulator, device=input.device)
        grad_grid = torch.empty(grid.shape, dtype=grid.dtype, device=grid.device)
        places = grid.numel() // dims
        if places and any(output_mask):
            sources = input.contiguous(), grid.contiguous(), grad_output.contiguous()
            written = [grad_grid] if grad_input is None else [grad_grid, grad_input]
            _backward(
                places,
                (*sources, 0 if grad_input is None else grad_input, grad_grid, places, *_geometry(input, grid)),
                sources,
                written,
                DIMS=dims,
                MODE=interpolation_mode,
                PADDING=padding_mode,
                ALIGNED=int(align_corners),
                GRAD_INPUT=int(output_mask[0]),
                GRAD_GRID=1,
                **dtype_defines("T", input.dtype),
            )
        return None if grad_input is None else grad_input.to(input.dtype), grad_grid

    register(f"grid_sampler_{dims}d", forward)
    register(f"grid_sampler_{dims}d_backward", backward)


_register(2)
_register(3)
