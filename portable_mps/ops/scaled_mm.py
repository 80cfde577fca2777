"""Products of matrices of 8-bit floats under scales: Micikevicius et al., "FP8 formats for deep learning" (2022).

The products are summed in float32, and the sums scaled, by one number for each operand or one for each row and column.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from portable_mps.dispatch.products import product
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import resized

# torch.nn.functional.ScalingType and SwizzleType, which take long to import.
_TENSORWISE, _ROWWISE = 0, 1
_NO_SWIZZLE = 0
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu)
_SCALED_RESULTS = (torch.float8_e4m3fn, torch.float8_e5m2)


def _shapes(a: torch.Tensor, b: torch.Tensor) -> str:
    return f"mat_a and mat_b shapes cannot be multiplied ({a.shape[0]}x{a.shape[1]} and {b.shape[0]}x{b.shape[1]})"


def _described(name: str, tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return f"{name}=None"
    return f"{name}.dtype()={tensor.dtype}, {name}.size()={list(tensor.shape)}, {name}.stride()={list(tensor.stride())}"


def _invalid(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor | None, scale_b: torch.Tensor | None
) -> ValueError:
    return ValueError(
        "Invalid scaling configuration.\n"
        "- For TensorWise scaling, a and b should be float8, scales should be float and singletons.\n"
        "- For RowWise scaling, a and b should be float8, scales should be float, scale_a should be "
        f"({a.size(0)}, 1) and scale_b should be (1, {b.size(1)}), and both should be contiguous.\n"
        f"Got mat_a.dtype()={a.dtype}, {_described('scale_a', scale_a)}, mat_b.dtype()={b.dtype}, "
        f"{_described('scale_b', scale_b)}"
    )


def _are_float8(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype in _FLOAT8 and b.dtype in _FLOAT8


def _are_float(*scales: torch.Tensor) -> bool:
    return all(scale.dtype == torch.float32 for scale in scales)


def _check_tensorwise(scale_a: torch.Tensor, scale_b: torch.Tensor) -> None:
    for name, scale in (("scale_a", scale_a), ("scale_b", scale_b)):
        if scale.numel() != 1:
            raise ValueError(f"{name} must have 1 Float element")


def _check_rowwise(a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor) -> None:
    rows, columns = a.shape[0], b.shape[1]
    if scale_a.size(0) != rows or scale_a.size(1) != 1:
        raise ValueError(f"scale_a must have shape [{rows}, 1], got {list(scale_a.shape)}")
    if scale_a.numel() != rows:
        raise ValueError(f"scale_a must have {rows} Float elements, got {scale_a.numel()}")
    if scale_b.numel() != columns:
        raise ValueError(f"scale_b must have {columns} Float elements, got {scale_b.numel()}")
    for name, scale in (("scale_a", scale_a), ("scale_b", scale_b)):
        if scale.stride(1) != 1:
            raise ValueError(f"expected {name}.stride(1) to be 1, but got {scale.stride(1)}")
    if scale_b.shape != (1, columns):  # ATen leaves this to the broadcasting of b with its scale
        raise RuntimeError(f"scale_b must have shape [1, {columns}], got {list(scale_b.shape)}")


def _scaled_product(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
    scale_result: torch.Tensor | None,
    out: torch.Tensor,
) -> torch.Tensor:
    """out = ((a @ b) * scale_a * scale_b + bias) / scale_result, computed in float32.

    a (m, k) and b (k, n), each of an 8-bit float dtype; the scales broadcast to (m, n); bias has n elements; out is of
    any dtype.
    """
    shape = a.shape[0], b.shape[1]
    resized(out, shape)
    result = out if out.dtype == torch.float32 else torch.empty(shape, dtype=torch.float32, device=out.device)
    product(a.unsqueeze(0), b.unsqueeze(0), result.unsqueeze(0))
    result.mul_(scale_a).mul_(scale_b)
    if bias is not None:
        result.add_(bias)
    if scale_result is not None:
        result.mul_(scale_result.reciprocal())
    return out if result is out else out.copy_(result)


@implements("_scaled_mm.out")
def scaled_mm_out(
    self: torch.Tensor,
    mat2: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """self (m, k) @ mat2 (k, n), out (m, n). Scales of float32, one element each or (m, 1) and (1, n), contiguous.

    scale_result divides results whose out_dtype is float8_e4m3fn or float8_e5m2. Sums are always kept in float32, so
    use_fast_accum changes nothing.
    """
    if out_dtype is not None and out_dtype != out.dtype:
        raise ValueError("out_dtype must match output matrix type")
    tensorwise = scale_a.numel() == 1 and scale_b.numel() == 1
    rowwise = all(
        scale.dim() == 2 and scale.shape == shape and scale.is_contiguous()
        for scale, shape in ((scale_a, (self.size(0), 1)), (scale_b.t(), (mat2.size(-1), 1)))
    )
    if not _are_float8(self, mat2) or not _are_float(scale_a, scale_b) or not (tensorwise or rowwise):
        raise _invalid(self, mat2, scale_a, scale_b)
    for name, matrix in (("mat1", self), ("mat2", mat2)):
        if matrix.dim() != 2:
            raise RuntimeError(f"{name} must be a matrix")
    if self.shape[1] != mat2.shape[0]:
        raise RuntimeError(_shapes(self, mat2))
    if scale_result is not None and not (scale_result.numel() == 1 and _are_float(scale_result)):
        raise RuntimeError("scale_result must be a float scalar")
    if bias is not None and bias.numel() != mat2.shape[1]:
        raise RuntimeError(f"Bias must be size {mat2.shape[1]} but got {bias.numel()}")
    if tensorwise:
        scale_a, scale_b = scale_a.reshape(()), scale_b.reshape(())
    if scale_result is not None:
        scale_result = scale_result.reshape(()) if out_dtype in _SCALED_RESULTS else None
    return _scaled_product(self, mat2, scale_a, scale_b, bias, scale_result, out)


@implements("_scaled_mm")
def scaled_mm(
    self: torch.Tensor,
    mat2: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> torch.Tensor:
    """A product of 8-bit floats under scales, of whole tensors or of rows and columns."""
    out = self.new_empty(0, dtype=out_dtype or self.dtype)
    return scaled_mm_out(self, mat2, scale_a, scale_b, bias, scale_result, out_dtype, out=out)


@implements("_scaled_mm_v2.out")
def scaled_mm_v2_out(
    self: torch.Tensor,
    mat2: torch.Tensor,
    scale_a: Sequence[torch.Tensor],
    recipe_a: Sequence[int],
    swizzle_a: Sequence[int],
    scale_b: Sequence[torch.Tensor],
    recipe_b: Sequence[int],
    swizzle_b: Sequence[int],
    bias: torch.Tensor | None,
    out_dtype: torch.dtype | None,
    contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """`scaled_mm_out` with the way of scaling named: one scale for each operand, both by tensor or both by row."""
    for name, matrix in (("mat_a", self), ("mat_b", mat2)):
        if matrix.dim() != 2:
            raise ValueError(f"{name} must be a matrix")
    if 0 in (*self.shape, mat2.shape[1]):
        return resized(out, (self.shape[0], mat2.shape[1])).zero_()
    if contraction_dim:
        if len(contraction_dim) != 2:
            raise ValueError("contraction_dim must have exactly 2 elements")
        if self.size(contraction_dim[0]) != mat2.size(contraction_dim[1]):
            dims = f"mat_a: {contraction_dim[0]}, mat_b: {contraction_dim[1]}"
            raise ValueError(f"{_shapes(self, mat2)} with contraction dims {dims}")
    elif self.shape[1] != mat2.shape[0]:
        raise ValueError(_shapes(self, mat2))
    if bias is not None and bias.numel() != mat2.shape[1]:
        raise ValueError(f"Bias must be size {mat2.shape[1]} but got {bias.numel()}")
    if out_dtype is not None and out_dtype != out.dtype:
        raise ValueError("out_dtype must match output matrix type")
    if bias is not None and bias.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"Bias must be Float32 or BFloat16 or Half, but got {bias.dtype}")
    if swizzle_a and swizzle_b and (swizzle_a[0], swizzle_b[0]) != (_NO_SWIZZLE, _NO_SWIZZLE):
        raise ValueError("the MPS device does not support swizzle.")
    recipe = recipe_a[0] if len(recipe_a) == 1 and list(recipe_a) == list(recipe_b) else None
    single = len(scale_a) == 1 and len(scale_b) == 1 and _are_float(*scale_a, *scale_b)
    if recipe not in (_TENSORWISE, _ROWWISE) or not single or not _are_float8(self, mat2):
        raise _invalid(self, mat2, scale_a[0] if scale_a else None, scale_b[0] if scale_b else None)
    if self.shape[1] != mat2.shape[0]:  # whatever contraction_dim says
        raise RuntimeError(_shapes(self, mat2))
    of_a, of_b = scale_a[0], scale_b[0]
    if recipe == _TENSORWISE:
        _check_tensorwise(of_a, of_b)
        of_a, of_b = of_a.reshape(()), of_b.reshape(())
    else:
        _check_rowwise(self, mat2, of_a, of_b)
    return _scaled_product(self, mat2, of_a, of_b, bias, None, out)


@implements("_scaled_mm_v2")
def scaled_mm_v2(
    self: torch.Tensor,
    mat2: torch.Tensor,
    scale_a: Sequence[torch.Tensor],
    recipe_a: Sequence[int],
    swizzle_a: Sequence[int],
    scale_b: Sequence[torch.Tensor],
    recipe_b: Sequence[int],
    swizzle_b: Sequence[int],
    bias: torch.Tensor | None,
    out_dtype: torch.dtype | None,
    contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
) -> torch.Tensor:
    """`scaled_mm` with recipes that say what scales stand for."""
    out = self.new_empty(0, dtype=out_dtype or self.dtype)
    recipes = (scale_a, recipe_a, swizzle_a, scale_b, recipe_b, swizzle_b)
    return scaled_mm_v2_out(self, mat2, *recipes, bias, out_dtype, contraction_dim, out=out)
