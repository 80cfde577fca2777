"""torchvision's deformable convolution: kernels/torchvision_deform_conv.slang. Registered by compatibility/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from portable_mps.dispatch import atomics, deterministic
from portable_mps.dispatch.launch import check_turns
from portable_mps.dispatch.products import product, summed_product
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.strided import Linear

_columns, _backward_image, _backward_offset = (
    Linear("torchvision_deform_conv", entry, "QQQQQQQx" + "i" * 14)
    for entry in ("columns", "backward_image", "backward_offset")
)
_COLUMN_BYTES = 1 << 28  # columns held at a time: larger batches go in parts


@dataclass(frozen=True)
class _Problem:
    """A checked call. weight (filters, channels / groups, *kernel), offset (n, 2 * offset_groups * taps, *output)."""

    image: torch.Size
    weight: torch.Size
    output: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int
    masked: bool

    @property
    def taps(self) -> int:
        return self.weight[2] * self.weight[3]

    @property
    def spots(self) -> int:
        return self.output[0] * self.output[1]

    def parts(self, item: int) -> list[slice]:
        """Slices of the batch whose columns fit in the space for them."""
        count = max(1, _COLUMN_BYTES // max(1, self.image[1] * self.taps * self.spots * item))
        return [slice(start, min(start + count, self.image[0])) for start in range(0, self.image[0], count)]

    def launch(
        self,
        kernel: Linear,
        count: int,
        image: torch.Tensor | None,
        offset: torch.Tensor,
        mask: torch.Tensor | None,
        columns: torch.Tensor,
        written: list[torch.Tensor | None],
    ) -> None:
        """written: columns, or the gradients of image, offset and mask."""
        gradients = written if kernel is not _columns else [None] * 3
        sizes = (*self.image[1:], self.offset_groups, *self.weight[2:], *self.output)
        reads = [t for t in (image, offset, mask) if t is not None]
        kernel(
            count,
            (image, offset, mask, columns, *gradients, count, *sizes, *self.stride, *self.padding, *self.dilation),
            reads if kernel is _columns else [*reads, columns],
            [t for t in written if t is not None],
            T="double" if offset.dtype == torch.float64 else "float",
            MASKED=int(self.masked),
        )

    def columns(self, image: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(n * groups, channels / groups * taps, spots) of a part of the batch."""
        columns = image.new_empty((image.size(0) * self.groups, self.weight[1] * self.taps, self.spots))
        self.launch(_columns, columns.numel(), image, offset, mask, columns, [columns])
        return columns

    def matrices(self, weight: torch.Tensor, count: int) -> torch.Tensor:
        """(count * groups, filters / groups, channels / groups * taps)."""
        matrix = weight.reshape(1, self.groups, self.weight[0] // self.groups, -1)
        return matrix.expand(count, -1, -1, -1).reshape(count * self.groups, *matrix.shape[2:])


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(f"deform_conv2d: {message}")


def _check(
    input: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    bias: torch.Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> _Problem:
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight)):
        _require(tensor.dim() == 4, f"expected {name} of 4 dimensions, but got {tensor.dim()}")
    _require(not use_mask or mask.dim() == 4, f"expected mask of 4 dimensions, but got {mask.dim()}")
    for name, tensor in (("weight", weight), ("offset", offset), ("mask", mask), ("bias", bias)):
        _require(tensor.device == input.device, f"input is on {input.device}, but {name} on {tensor.device}")
    if input.dtype not in (torch.float32, torch.float64, torch.float16):
        raise NotImplementedError(f"\"deformable_im2col\" not implemented for '{scalar_type(input.dtype)}'")
    for name, tensor in (("weight", weight), ("offset", offset), ("mask", mask), ("bias", bias)):
        _require(tensor.dtype == input.dtype, f"expected {name} of {input.dtype}, but got {tensor.dtype}")
    kernel_h, kernel_w = weight.shape[2:]
    _require(kernel_h > 0 and kernel_w > 0, f"weight.size: {list(weight.shape)}")
    _require(stride_h > 0 and stride_w > 0, f"stride_h: {stride_h} stride_w: {stride_w}")
    _require(pad_h >= 0 and pad_w >= 0, f"pad_h: {pad_h} pad_w: {pad_w}")
    _require(dilation_h > 0 and dilation_w > 0, f"dilation_h: {dilation_h} dilation_w: {dilation_w}")
    _require(groups > 0 and offset_groups > 0, "the numbers of groups must be positive")
    _require(weight.size(1) * groups == input.size(1), f"weight of {list(weight.shape)} in {groups} groups does not "
             f"take {input.size(1)} channels")  # fmt: skip
    _require(weight.size(0) % groups == 0, f"{weight.size(0)} filters do not divide into {groups} groups")
    _require(bias.shape == (weight.size(0),), f"expected bias of {weight.size(0)} elements, but got {list(bias.shape)}")
    _require(input.size(1) % offset_groups == 0, f"{input.size(1)} channels do not divide into {offset_groups} groups")
    taps = kernel_h * kernel_w
    _require(
        offset.size(1) == offset_groups * 2 * taps,
        f"offset.shape[1] is not valid: got: {offset.size(1)} expected: {offset_groups * 2 * taps}",
    )
    _require(
        not use_mask or mask.size(1) == offset_groups * taps,
        f"mask.shape[1] is not valid: got: {mask.size(1) if mask.dim() > 1 else None} expected: {offset_groups * taps}",
    )
    _require(offset.size(0) == input.size(0), "invalid batch size of offset")
    _require(not use_mask or mask.size(0) == input.size(0), "invalid batch size of mask")
    out_h = (input.size(2) + 2 * pad_h - (dilation_h * (kernel_h - 1) + 1)) // stride_h + 1
    out_w = (input.size(3) + 2 * pad_w - (dilation_w * (kernel_w - 1) + 1)) // stride_w + 1
    _require(out_h > 0 and out_w > 0, f"calculated output size too small - out_h: {out_h} out_w: {out_w}")
    for name, tensor in (("offset", offset), ("mask", mask))[: 2 if use_mask else 1]:
        _require(
            tensor.shape[2:] == (out_h, out_w),
            f"{name} output dims: ({tensor.size(2)}, {tensor.size(3)}) - calculated output dims: ({out_h}, {out_w})",
        )
    check_turns("deform_conv2d", input.size(1) // offset_groups)
    pairs = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    return _Problem(input.shape, weight.shape, (out_h, out_w), *pairs, groups, offset_groups, use_mask)


def _computed(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and float16 as float32, which is what it is computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()


def deform_conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    bias: torch.Tensor,
    *geometry: Any,
) -> torch.Tensor:
    """input (n, channels, h, w), weight (filters, channels / groups, kh, kw) to (n, filters, out_h, out_w).

    geometry is what `_check` names: strides, padding, dilation, groups, and whether the mask is used.
    """
    problem = _check(input, weight, offset, mask, bias, *geometry)
    groups = problem.groups
    image, offset, matrix = _computed(input), _computed(offset), _computed(weight)
    weights = _computed(mask) if problem.masked else None
    result = image.new_empty((input.size(0) * groups, weight.size(0) // groups, problem.spots))
    for part in problem.parts(image.element_size()):
        columns = problem.columns(image[part], offset[part], None if weights is None else weights[part])
        rows = slice(part.start * groups, part.stop * groups)
        product(problem.matrices(matrix, part.stop - part.start), columns, result[rows])
    result = result.view(input.size(0), weight.size(0), *problem.output)
    return (result + bias.view(1, -1, 1, 1)).to(input.dtype)


def deform_conv2d_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    bias: torch.Tensor,
    *geometry: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of input, weight, offset, mask (zeros where it is not used) and bias."""
    problem = _check(input, weight, offset, mask, bias, *geometry)
    groups = problem.groups
    deterministic.alert("deform_conv2d_backward")
    atomics.require("deform_conv2d_backward", grad.dtype)
    gradient = _computed(grad).view(input.size(0) * groups, weight.size(0) // groups, problem.spots)
    image, moved, matrix = _computed(input), _computed(offset), _computed(weight)
    weights = _computed(mask) if problem.masked else None
    grad_image, grad_offset = torch.zeros_like(image), torch.zeros_like(moved)
    grad_mask = torch.zeros_like(mask if weights is None else weights)
    grad_weight = torch.zeros_like(matrix)
    total = grad_weight.view(groups, weight.size(0) // groups, -1)
    for part in problem.parts(image.element_size()):
        count = part.stop - part.start
        rows = slice(part.start * groups, part.stop * groups)
        given = (image[part], moved[part], None if weights is None else weights[part])
        columns = problem.columns(*given)
        by_group = (t.unflatten(0, (count, groups)).transpose(0, 1) for t in (gradient[rows], columns))
        for group, (left, right) in enumerate(zip(*by_group, strict=True)):
            summed = torch.empty_like(total[group])
            summed_product(left, right.transpose(1, 2), summed)
            total[group] += summed
        product(problem.matrices(matrix, count).transpose(1, 2), gradient[rows], columns)
        problem.launch(_backward_image, columns.numel(), None, *given[1:], columns, [grad_image[part], None, None])
        places = count * problem.offset_groups * problem.taps * problem.spots
        written = [None, grad_offset[part], None if weights is None else grad_mask[part]]
        problem.launch(_backward_offset, places, *given, columns, written)
    grads = (grad_image, grad_weight, grad_offset, grad_mask, grad.sum((0, 2, 3)))
    image_, weight_, offset_, mask_, bias_ = (g.to(input.dtype) for g in grads)
    return image_, weight_, offset_, mask_, bias_


OPERATORS = {"deform_conv2d": deform_conv2d, "_deform_conv2d_backward": deform_conv2d_backward}
