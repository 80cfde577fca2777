"""The launcher of convolutions: products over rows of channels, and direct kernels for narrow groups.

The image is laid out channels last, each line of it behind the padding that the one before needs, too: row t of a
matrix then starts `step` places behind row t - 1, for all the image, and overlaps it. A convolution is the sum over the
lines of its window of products of such a matrix, moved, with that line's weights. No columns are held in memory, and
tiles read plain matrices; what straddles two lines of the result is computed for nothing, and left out. Compare
Vasudevan, Anderson and Gregg, "Parallel multi channel convolution using general matrix multiplication", ASAP 2017.
Where the window moves by more than a line, every so many-th line lies together, so that none is computed for nothing.

A transposed convolution is the adjoint of a plain one, so three functions (forward, image gradient, weight gradient)
serve both. Where the stride is more than one, the image's gradient falls apart into phases: pixels that the same taps
reach.
"""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch import products
from portable_mps.dispatch.convolution.rows import TERMS, Summed, Windowed
from portable_mps.dispatch.convolution.windows import (
    Geometry,
    each_takes,
    forward_axes,
    phases,
    thin,
    unit_of,
    window_of,
)
from portable_mps.dispatch.launch import check_turns, grid, launch, remember
from portable_mps.dispatch.products import product, summed_product
from portable_mps.dispatch.promotion import storage
from portable_mps.runtime.kernel import Template

__all__ = ["Geometry", "forward", "image_gradient", "weight_gradient"]

_DIRECT = "QQQQ" + "i" * 22
_forward = Template("convolution_direct", "forward", _DIRECT)
_backward_image = Template("convolution_direct", "backward_image", _DIRECT)
_backward_weight = Template("convolution_direct", "backward_weight", _DIRECT)
_LARGEST = 1 << 31  # elements that a matrix may span

_steps = products.table()  # of each of the three functions: what part of the batch, and what is planned for it


def forward(geometry: Geometry, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(batch, filters, *output). image (batch, channels, *size) of any strides; weight (filters, channels of a group,
    taps) and bias contiguous."""
    result = image.new_empty((geometry.batch, geometry.filters, *geometry.output))
    if result.numel() == 0:
        return result
    if geometry.is_narrow:
        _direct(_forward, geometry, image.contiguous(), weight, result, bias)
        return result
    if (thinned := thin(geometry)) is not None:
        return forward(thinned[1], image[thinned[0]], weight, bias)
    if geometry.is_pointwise:
        _pointwise(weight.flatten(1), image, result, bias)
        return result
    groups = geometry.groups
    by_group = weight.view(groups, geometry.filters // groups, -1, *geometry.kernel)
    key = (geometry, "forward", *_kind(image), bias is None)
    steps = _steps.get(key)
    if steps is None:
        axes, steps, unit = forward_axes(geometry), [], unit_of(image.dtype)
        for part in _parts(geometry.batch, each_takes(axes, geometry.channels, geometry.filters, unit)):
            window = window_of(axes, part.stop - part.start, geometry.channels, groups, unit)
            steps.append((part, Windowed(window, image[part], by_group, None, bias, result[part])))
        remember(_steps, key, steps)
    for part, windowed in steps:
        windowed(image[part], by_group, bias, result[part])
    return result


def image_gradient(
    geometry: Geometry, result: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The adjoint of `forward` in its image, plus a bias of its channels: (batch, channels, *size)."""
    image = result.new_empty((geometry.batch, geometry.channels, *geometry.size))
    if image.numel() == 0:
        return image
    if geometry.is_narrow:
        _direct(_backward_image, geometry, image, weight, result.contiguous(), bias)
        return image
    if (thinned := thin(geometry)) is not None:
        _fill(image, bias)
        image[thinned[0]] = image_gradient(thinned[1], result, weight, bias)
        return image
    groups = geometry.groups
    if geometry.is_pointwise:
        _pointwise(weight.flatten(1).t(), result, image, bias)
        return image
    by_group = weight.view(groups, geometry.filters // groups, -1, *geometry.kernel).transpose(1, 2)
    key = (geometry, "image", *_kind(result), bias is None)
    steps = _steps.get(key)
    if steps is None:
        steps, unit = [], unit_of(result.dtype)
        for phase in phases(geometry):
            place = (slice(None), slice(None), *map(slice, phase.start, (None,) * 3, geometry.stride))
            if not all(phase.taps):
                steps.append((place, slice(None), None))
                continue
            for part in _parts(geometry.batch, each_takes(phase.axes, geometry.filters, geometry.channels, unit)):
                window = window_of(phase.axes, part.stop - part.start, geometry.filters, groups, unit)
                windowed = Windowed(window, result[part], by_group, phase.taps, bias, image[place][part])
                steps.append((place, part, windowed))
        remember(_steps, key, steps)
    for place, part, windowed in steps:
        pixels = image[place]
        if windowed is None:  # no tap reaches them
            _fill(pixels, bias)
        else:
            windowed(result[part], by_group, bias, pixels[part])
    return image


def weight_gradient(geometry: Geometry, image: torch.Tensor, result: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The adjoint of `forward` in its weight, of `shape`."""
    weight = image.new_empty(shape)
    if weight.numel() == 0 or geometry.batch == 0 or result.numel() == 0:
        return weight.zero_()
    if geometry.is_narrow:
        _direct(_backward_weight, geometry, image.contiguous(), weight, result.contiguous())
        return weight
    if (thinned := thin(geometry)) is not None:
        return weight_gradient(thinned[1], image[thinned[0]], result, shape)
    if geometry.is_pointwise:
        summed_product(result.flatten(2), image.flatten(2).transpose(1, 2), weight.flatten(1), TERMS)
        return weight
    groups, filters = geometry.groups, geometry.filters
    key = (geometry, "weight", *_kind(image), *_kind(result), torch.get_float32_matmul_precision())
    steps = _steps.get(key)
    if steps is None:
        axes, steps, unit = forward_axes(geometry), [], unit_of(image.dtype)
        for part in _parts(geometry.batch, each_takes(axes, geometry.channels, filters, unit)):
            window = window_of(axes, part.stop - part.start, geometry.channels, groups, unit)
            steps.append((part, Summed(window, groups, image[part], result[part])))
        remember(_steps, key, steps)
    total: torch.Tensor | None = None
    for part, summed in steps:
        sums = summed(image[part], result[part])
        total = sums if total is None else total + sums
    assert total is not None
    # Of the taps along the last dimension, either each has its move, or all are in a run.
    depth, height, across = geometry.kernel
    moved = len(total) // (depth * height)
    taps = total.view(depth, height, moved, groups, filters // groups, across // moved, -1).permute(3, 4, 6, 0, 1, 2, 5)
    inner = geometry.channels // groups
    weight.view(groups, filters // groups, inner, depth, height, moved, -1).copy_(taps[:, :, :inner])
    return weight


def _fill(image: torch.Tensor, bias: torch.Tensor | None) -> None:
    """What no tap reaches."""
    if bias is None:
        image.zero_()
    else:
        image.copy_(bias.view(1, -1, 1, 1, 1))


def _pointwise(matrix: torch.Tensor, image: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None) -> None:
    """target (batch, m, *size), contiguous = matrix (m, k) times image (batch, k, *size) at each place, plus bias."""
    added, beta = (None, 0.0) if bias is None else (bias.view(1, -1, 1), 1.0)
    product(matrix.expand(image.shape[0], -1, -1), image.flatten(2), target.flatten(2), added, beta=beta)


def _parts(batch: int, each: int) -> list[slice]:
    """Slices of the batch of which a matrix, of `each` elements an image, is not too large."""
    count = max(1, min(batch, (_LARGEST - 1) // max(each, 1) - 1))
    return [slice(start, min(start + count, batch)) for start in range(0, batch, count)]


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What plans depend on beside the shape."""
    return tensor.stride(), tensor.dtype, tensor.data_ptr() & 31


def _direct(
    template: Template,
    geometry: Geometry,
    image: torch.Tensor,
    weight: torch.Tensor,
    result: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    written = {_forward: result, _backward_image: image, _backward_weight: weight}[template]
    read = [t for t in (image, weight, result, bias) if t is not None and t is not written]
    each = {_forward: geometry.channels, _backward_image: geometry.filters}.get(template, 0) // geometry.groups
    check_turns("convolution", max(2 * each * geometry.taps, geometry.batch * result[0, 0].numel() // 256))
    if template is _backward_weight:
        groups = grid(written.numel())
    else:
        groups = (*grid(-(-written[0].numel() // 256))[:2], geometry.batch)
    row = storage(written.dtype)
    # The elements of one batch entry of what is written decide the width of indices.
    flat = "int" if written[0].numel() < 2**31 - 256 else "int64_t"
    load, store = row.load.format("x"), row.store.format("x")
    variant = {"Flat": flat, "T": row.type, "LOAD(x)": load, "STORE(x)": store, "ACC": row.compute}
    arguments = (image, weight, result, bias, *geometry.arguments())
    launch(template, groups, arguments, reads=read, writes=(written,), BIASED=int(bias is not None), **variant)
