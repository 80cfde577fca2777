"""Resizing by interpolation in one to three dimensions, antialiased filters, and their gradients.

Places are computed as on the CPU, so that the same input is the nearest one. A result in another memory format than
contiguous is copied there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from portable_mps.dispatch.registry import register, schema
from portable_mps.dispatch.strided import Linear, dtype_defines, word
from portable_mps.ops import interpolation_bytes
from portable_mps.ops.shape import contiguous_out, finish

_MODES = ("nearest", "nearest_exact", "linear", "cubic", "filter_linear", "filter_cubic", "filter_lanczos")
_TAPS = {"nearest": 1, "nearest_exact": 1, "linear": 2, "cubic": 4}
_KERNELS = {
    (entry, code): Linear("interpolation", entry, f"QQxiiiiii{code * 3}i")
    for entry in ("forward", "backward", "resample", "resample_backward")
    for code in "fd"
}
_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _scale(size_in: int, size_out: int, factor: float | None, aligned: bool, real: type) -> float:
    """Places in the input an output apart: aten's area_pixel_compute_scale, rounded as it rounds."""
    if aligned:
        return float(real(size_in - 1) / real(size_out - 1)) if size_out > 1 else 0.0
    if factor is not None and factor > 0:
        return float(real(1.0 / factor))
    return float(real(size_in) / real(size_out))


def _types(mode: str, dtype: torch.dtype, backward: bool) -> dict[str, Any]:
    """The kernel's definitions for a dtype: T, its conversions, and S, the type of places."""
    if dtype not in _FLOATING and (backward or dtype != torch.uint8):
        raise NotImplementedError(f'"upsample_{mode}" not implemented for {dtype}')
    if mode.startswith("nearest"):
        moved = {"T": word(dtype), "T_C": "float"} if not backward else dtype_defines("T", dtype)
        return {"S": "float", **moved}
    if dtype == torch.uint8:
        store = "uint8_t(clamped(maths::round(x), 0.0f, 255.0f))"
        return {"S": "float", "T": "uint8_t", "T_C": "float", "T_LOAD(x)": "float(x)", "T_STORE(x)": store}
    return {"S": "double" if dtype == torch.float64 else "float", **dtype_defines("T", dtype)}


def _run(
    entry: str,
    mode: str,
    small: torch.Tensor,
    large: torch.Tensor,
    sizes: tuple[Sequence[int], Sequence[int]],
    scales: Sequence[float],
    aligned: bool,
    dims: int,
) -> None:
    """Launch over contiguous tensors: `small` has the sizes[0] of the input, `large` the sizes[1] of the output."""
    backward = entry.endswith("backward")
    written, read = (small, large) if backward else (large, small)
    if written.numel() == 0:
        return
    types = _types(mode, written.dtype, backward)
    padding = 3 - len(scales)
    ones, kernel = (1,) * padding, _KERNELS[entry, "d" if types["S"] == "double" else "f"]
    kernel(
        written.numel(),
        (small, large, written.numel(), *ones, *sizes[0], *ones, *sizes[1], *(1.0,) * padding, *scales, int(aligned)),
        (read,),
        (written,),
        MODE=_MODES.index(mode),
        DIMS=dims,
        TAPS=_TAPS.get(mode, 0),
        BACKWARD=int(backward),
        **types,
    )


def _resize(
    mode: str,
    tensors: tuple[torch.Tensor, torch.Tensor],
    sizes: tuple[Sequence[int], Sequence[int]],
    factors: Sequence[float | None],
    aligned: bool,
    backward: bool,
) -> None:
    """From tensors[0] to tensors[1], both contiguous; sizes are the input's and the output's of the forward pass."""
    source, target = tensors
    in_bytes = source.dtype == torch.uint8 and not backward and interpolation_bytes.takes(mode, len(factors))
    wide = in_bytes or (source.dtype == torch.float64 and not mode.startswith("nearest"))
    real = np.float64 if wide else np.float32
    scales = [_scale(*pair, aligned, real) for pair in zip(*sizes, factors, strict=True)]
    if in_bytes:
        interpolation_bytes.resize(mode, source, target, scales, aligned)
        return
    small, large = (target, source) if backward else (source, target)
    if not mode.startswith("filter"):
        _run("backward" if backward else "forward", mode, small, large, sizes, scales, aligned, len(scales))
        return
    # Rows first; between the passes half types are kept in float32.
    planes = math.prod(source.shape[:-2])
    (in_h, in_w), (out_h, out_w) = sizes
    dtype = torch.promote_types(source.dtype, torch.float32) if source.is_floating_point() else source.dtype
    between = torch.empty((planes, in_h, out_w), dtype=dtype, device=source.device)
    passes = (
        (small.to(dtype), between, ((in_w, 1), (out_w, 1)), scales[1]),
        (between, large.to(dtype), ((in_h, out_w), (out_h, out_w)), scales[0]),
    )
    entry = "resample_backward" if backward else "resample"
    for few, many, lengths, scale in reversed(passes) if backward else passes:
        _run(entry, mode, few, many, lengths, (scale, 1.0), aligned, 2)
    result = passes[0][0] if backward else passes[1][1]
    if result is not target:
        target.copy_(result)


def _register(name: str, dims: int, mode: str, aligns: bool) -> None:
    def options(rest: tuple[Any, ...]) -> tuple[bool, list[float | None]]:
        aligned, factors = (rest[0], rest[1:]) if aligns else (False, rest)
        return aligned, [*factors, *[None] * (dims - len(factors))]

    def check(input_size: Sequence[int], output_size: Sequence[int]) -> None:
        # Of a direct call with out= there has been no check yet.
        if len(input_size) != dims + 2 or len(output_size) != dims or min(*input_size[2:], *output_size) <= 0:
            raise RuntimeError(
                f"Input and output sizes should be greater than 0 and of {dims} dimensions, but got input "
                f"{list(input_size)}, output {list(output_size)}"
            )

    def forward(self: torch.Tensor, output_size: Sequence[int], *rest: Any, out: torch.Tensor) -> torch.Tensor:
        aligned, factors = options(rest)
        check(self.shape, output_size)
        target = contiguous_out(out, (*self.shape[:2], *output_size))
        sizes = (self.shape[2:], output_size)
        _resize(mode, (self.contiguous(), target), sizes, factors, aligned, backward=False)
        return finish(out, target)

    def backward(
        grad_output: torch.Tensor,
        output_size: Sequence[int],
        input_size: Sequence[int],
        *rest: Any,
        grad_input: torch.Tensor,
    ) -> torch.Tensor:
        aligned, factors = options(rest)
        check(input_size, output_size)
        if list(grad_output.shape) != [*input_size[:2], *output_size]:
            raise RuntimeError(
                f"Expected grad_output to have the shape of the output, {[*input_size[:2], *output_size]}, but got "
                f"{list(grad_output.shape)}"
            )
        target = contiguous_out(grad_input, input_size)
        sizes = (input_size[2:], output_size)
        _resize(mode, (grad_output.contiguous(), target), sizes, factors, aligned, backward=True)
        return finish(grad_input, target)

    register(f"{name}.out", forward)
    register(f"{name}_backward.grad_input", backward)


for _dims in (1, 2, 3):
    _register(f"upsample_nearest{_dims}d", _dims, "nearest", aligns=False)
    _register(f"_upsample_nearest_exact{_dims}d", _dims, "nearest_exact", aligns=False)
_register("upsample_linear1d", 1, "linear", aligns=True)
_register("upsample_bilinear2d", 2, "linear", aligns=True)
_register("upsample_trilinear3d", 3, "linear", aligns=True)
_register("upsample_bicubic2d", 2, "cubic", aligns=True)
_register("_upsample_bilinear2d_aa", 2, "filter_linear", aligns=True)
_register("_upsample_bicubic2d_aa", 2, "filter_cubic", aligns=True)
try:
    schema("_upsample_lanczos2d_aa.out")
except RuntimeError:  # an older torch has no such filter
    pass
else:
    _register("_upsample_lanczos2d_aa", 2, "filter_lanczos", aligns=True)
