"""The launcher of convolutions: products over rows of channels, and direct kernels for narrow groups.

The image is laid out channels last, each line of it behind the padding that the one before needs, too: row t of a
matrix then starts `step` places behind row t - 1, for all the image, and overlaps it. A convolution is the sum over the
lines of its window of products of such a matrix, moved, with that line's weights. No columns are held in memory, and
tiles read plain matrices; what straddles two lines of the result is computed for nothing, and left out. Compare
Vasudevan, Anderson and Gregg, "Parallel multi channel convolution using general matrix multiplication", ASAP 2017.

A transposed convolution is the adjoint of a plain one, so three functions (forward, image gradient, weight gradient)
serve both. Where the stride is more than one, the image's gradient falls apart into phases: pixels that the same taps
reach.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from portable_mps.dispatch.launch import Prepared, check_turns, grid, launch
from portable_mps.dispatch.products import product, summed_over_taps, summed_product
from portable_mps.dispatch.promotion import storage, summed_in
from portable_mps.dispatch.strided import copy_reversed, word
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_DIRECT = "QQQQ" + "i" * 22
_forward = Template("convolution_direct", "forward", _DIRECT)
_backward_image = Template("convolution_direct", "backward_image", _DIRECT)
_backward_weight = Template("convolution_direct", "backward_weight", _DIRECT)
_to_rows = Template("channels_last", "to_rows", "QQqqqqq" + "i" * 16)
_from_rows = Template("channels_last", "from_rows", "QQqqqqq" + "i" * 16)
_CHANNELS = 64  # of a workgroup in channels_last.slang
_UNIT = 8  # elements that channels are padded to: 16 bytes of half types
_LARGEST = 1 << 31  # elements that a matrix may span
_WHOLE = 512  # what many positions are padded to: a turn of the matrix engines' unrolled loops
_TERMS = 32  # of a weight's gradient that are added up one by one


@dataclass(frozen=True)
class Geometry:
    """A plain convolution of `image` (batch, channels, *size) to (batch, filters, *output), padded to 3 dimensions."""

    batch: int
    channels: int
    filters: int
    groups: int
    size: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.kernel[2]

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution that reads each position once: a product as it stands."""
        return self.taps == 1 and set(self.stride) == {1} and set(self.padding) == {0} and self.groups == 1

    @property
    def is_narrow(self) -> bool:
        """Whether a group has too few channels or filters for the tiles of a product."""
        return self.groups > 1 and (
            self.channels // self.groups % _UNIT != 0 or self.filters // self.groups % _UNIT != 0
        )

    def arguments(self) -> tuple[int, ...]:
        """For the direct kernels."""
        sizes = (*self.size, *self.output, *self.kernel, *self.stride, *self.padding, *self.dilation)
        return (self.channels, self.filters, self.groups, self.batch, *sizes)


@dataclass(frozen=True)
class _Axis:
    """One dimension: output t, of `count`, reads the place t * step + offset of `size` for each of the offsets."""

    size: int
    count: int
    step: int
    offsets: tuple[int, ...]

    @property
    def first(self) -> int:
        return min(self.offsets)

    @property
    def reach(self) -> int:
        """Places from the first that is read to the last."""
        return (self.count - 1) * self.step + max(self.offsets) - self.first + 1


@dataclass(frozen=True)
class _Rows:
    """How an image lies as rows of channels.

    Along each dimension `length` rows, the first of them the place `first` of the image, negative in the padding before
    it; the padding behind it is that before the next line. channels: elements of a row. step: of the last dimension.
    jumps: rows of the overlapping matrix from one image, plane and line of the result to the next.
    """

    first: tuple[int, ...]
    length: tuple[int, ...]
    channels: int
    step: int
    jumps: tuple[int, int, int]

    def place(self, *position: int) -> int:
        """Elements from the first row to that at `position`, counted from `first`."""
        d, h, w = position
        return ((d * self.length[1] + h) * self.length[2] + w) * self.channels


@functools.lru_cache(maxsize=4096)
def _rows(axes: tuple[_Axis, ...], channels: int) -> _Rows:
    lengths: list[int] = []
    for axis, outer in zip(axes, (None, *axes[:-1]), strict=True):
        before = max(0, -axis.first)
        least = max(min(axis.size - axis.first, axis.reach), axis.reach - before)
        # Lines of the result must not overlap in the rows that are between two of them.
        apart = -(-axis.count * axis.step // (1 if outer is None else outer.step))
        lengths.append(-(-max(least, apart) // axis.step) * axis.step)
    (step_d, step_h, step_w), (_, height, width) = (axis.step for axis in axes), lengths
    line = step_h * (width // step_w)
    plane = step_d * height * (width // step_w)
    image = lengths[0] * height * (width // step_w)
    first = tuple(axis.first for axis in axes)
    return _Rows(first, tuple(lengths), channels, step_w, (image, plane, line))


@dataclass(frozen=True)
class _Window:
    """What a convolution reads: rows of the overlapping matrix, elements of a row of it, and how far it is moved for
    each tap, in elements."""

    rows: _Rows
    count: int
    run: int
    moves: tuple[int, ...]

    @property
    def room(self) -> int:
        """Elements that are read, and more that are zero."""
        return (self.count - 1) * self.rows.step * self.rows.channels + max(self.moves) + self.run


@functools.lru_cache(maxsize=4096)
def _window(axes: tuple[_Axis, ...], batch: int, channels: int, groups: int) -> _Window:
    rows = _rows(axes, _padded(channels))
    jumps = (*rows.jumps, 1)
    counts = (batch, *(axis.count for axis in axes))
    count = sum((n - 1) * jump for n, jump in zip(counts, jumps, strict=True)) + 1
    last = axes[2].offsets
    merged = groups == 1 and last == tuple(range(last[0], last[0] + len(last)))
    places = [[offset - axis.first for offset in axis.offsets] for axis in axes]
    if merged:
        places[2] = [0]
    run = rows.channels * len(last) if merged else channels // groups if groups > 1 else rows.channels
    moves = tuple(rows.place(*position) for position in itertools.product(*places))
    return _Window(rows, count, run, moves)


def _padded(channels: int) -> int:
    return -(-channels // _UNIT) * _UNIT


def _forward_axes(geometry: Geometry) -> tuple[_Axis, ...]:
    sizes = zip(geometry.size, geometry.output, geometry.stride, geometry.kernel, strict=True)
    more = zip(geometry.padding, geometry.dilation, strict=True)
    return tuple(
        _Axis(i, o, s, tuple(tap * d - p for tap in range(k))) for (i, o, s, k), (p, d) in zip(sizes, more, strict=True)
    )


@dataclass(frozen=True)
class _Phase:
    """Pixels of the image's gradient that the same taps reach: from `start`, `step` apart; taps by dimension."""

    axes: tuple[_Axis, ...]
    start: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=4096)
def _phases(geometry: Geometry) -> tuple[_Phase, ...]:
    phases = []
    for rests in itertools.product(*(range(s) for s in geometry.stride)):
        axes, starts, taps = [], [], []
        for axis, rest in enumerate(rests):
            size, s, p, d = (
                values[axis] for values in (geometry.size, geometry.stride, geometry.padding, geometry.dilation)
            )
            start = (rest - p) % s
            count = len(range(start, size, s))
            # Pixel start + t s is reached by result t + (start + p - tap d) / s: in the order of the results.
            through = [k for k in reversed(range(geometry.kernel[axis])) if k * d % s == rest]
            offsets = tuple((start + p - k * d) // s for k in through)
            axes.append(_Axis(geometry.output[axis], count, 1, offsets))
            starts.append(start)
            taps.append(tuple(through))
        if all(axis.count for axis in axes):
            phases.append(_Phase(tuple(axes), tuple(starts), tuple(taps)))
    return tuple(phases)


# Rows of channels ----------------------------------------------------------------------------------------------------


def _as_rows(image: torch.Tensor, rows: _Rows, room: int) -> torch.Tensor:
    """(batch, channels, *size), any strides, as rows of channels and zeros up to `room` elements: flat."""
    batch, channels, *size = image.shape
    plane = rows.length[0] * rows.length[1] * rows.length[2]
    if rows.channels == channels and rows.length == tuple(size) and not any(rows.first):
        flat = image.permute(0, 2, 3, 4, 1)
        if flat.is_contiguous() and image.data_ptr() % 16 == 0 and room <= image.numel():
            return flat.view(-1)
    positions = max(batch * plane, -(-room // rows.channels))
    result = torch.empty(positions * rows.channels, dtype=image.dtype, device=image.device)
    prepared = _laying(image.shape, image.stride(), image.dtype, rows, positions)
    prepared.record((image, result), (image,), (result,))
    return result


def _spots(dtype: torch.dtype) -> int:
    """Places of a workgroup in channels_last.slang: 128 bytes of a line."""
    return max(32, 128 // dtype.itemsize)


def _turning(dtype: torch.dtype, channel_stride: int, channels: int) -> dict[str, Any]:
    """The compile key of channels_last.slang."""
    spots = _spots(dtype)
    # A software driver gains nothing from reading ahead.
    ahead = 1 if device.current().adapter.is_software else min(16, _CHANNELS * spots // 256)
    return {"T": word(dtype), "SPOTS": spots, "AHEAD": ahead, "BY_CHANNEL": int(channel_stride == 1 and channels > 1)}


@functools.lru_cache(maxsize=4096)
def _laying(shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype, rows: _Rows, positions: int) -> Prepared:
    """The dispatch of `_as_rows`."""
    batch, channels, *size = shape
    blocks = -(-rows.channels // _CHANNELS) * -(-positions // _spots(dtype))
    before = tuple(-first for first in rows.first)
    numbers = (*strides, positions, batch, channels, *size, rows.channels, 0, 0, 0, *rows.length, *before)
    return Prepared(_to_rows, grid(blocks), numbers, **_turning(dtype, strides[1], channels))


@functools.lru_cache(maxsize=4096)
def _taking(
    shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype, jumps: tuple[int, int, int], width: int
) -> Prepared:
    """The dispatch that takes an image (batch, channels, *size) out of rows of `width` elements, `jumps` apart."""
    batch, channels, *size = shape
    positions = batch * size[0] * size[1] * size[2]
    blocks = -(-channels // _CHANNELS) * -(-positions // _spots(dtype))
    numbers = (*strides, positions, batch, channels, *size, width, *jumps, 0, 0, 0, 0, 0, 0)
    return Prepared(_from_rows, grid(blocks), numbers, **_turning(dtype, strides[1], channels))


@functools.lru_cache(maxsize=4096)
def _table(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64).to("mps")


def _lines(weight: torch.Tensor, taps: Sequence[tuple[int, ...]] | None, window: _Window) -> torch.Tensor:
    """weight (groups, out, in, d, h, w) as the right matrices of a window: (groups, moves, run, out padded)."""
    turned = []
    if taps is not None:
        for dim, (mine, length) in enumerate(zip(taps, weight.shape[3:], strict=True), 3):
            if mine == tuple(reversed(range(length))):
                turned += [dim] if length > 1 else []
            elif mine != tuple(range(length)):
                weight = weight.index_select(dim, _table(*mine))
    groups, out, inner, *kernel = weight.shape
    width = window.rows.channels if groups == 1 else inner
    shape = (groups, *kernel, width, _padded(out))
    padded = shape[-2:] != (inner, out)
    lines = (weight.new_zeros if padded else weight.new_empty)(shape)
    target, source = lines[..., :inner, :out], weight.permute(0, 3, 4, 5, 2, 1)
    if turned:
        copy_reversed(target, source, [dim - 2 for dim in turned])
    else:
        target.copy_(source)
    return lines.view(groups, len(window.moves), window.run, _padded(out))


def _windowed(
    window: _Window, rows: torch.Tensor, lines: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor
) -> None:
    """target (batch, channels, *counts), any strides = the sum over the window of rows times lines, plus bias."""
    groups, _, run, padded = lines.shape
    channels = target.shape[1] // groups
    step = window.rows.step * window.rows.channels
    a = rows.as_strided((groups, window.count, run), (run if groups > 1 else 0, step, 1))
    b = lines[:, 0, :, :channels]
    result = torch.empty((window.count, groups * padded), dtype=target.dtype, device=target.device)
    out = result.as_strided((groups, window.count, channels), (channels, groups * padded, 1))
    added = None if bias is None else bias.view(groups, 1, channels)
    summed_over_taps(a, b, out, _table(len(window.moves), run * padded, *window.moves), added)
    prepared = _taking(target.shape, target.stride(), target.dtype, window.rows.jumps, groups * padded)
    prepared.record((target, result), (result,), (target,))


def _pointwise(matrix: torch.Tensor, image: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None) -> None:
    """target (batch, m, *size), contiguous = matrix (m, k) times image (batch, k, *size) at each place, plus bias."""
    added, beta = (None, 0.0) if bias is None else (bias.view(1, -1, 1), 1.0)
    product(matrix.expand(image.shape[0], -1, -1), image.flatten(2), target.flatten(2), added, beta=beta)


def _parts(batch: int, each: int) -> list[slice]:
    """Slices of the batch of which a matrix, of `each` elements an image, is not too large."""
    count = max(1, min(batch, (_LARGEST - 1) // max(each, 1) - 1))
    return [slice(start, min(start + count, batch)) for start in range(0, batch, count)]


def _each(axes: tuple[_Axis, ...], channels: int, filters: int) -> int:
    """Elements that an image takes, as rows of channels or of filters."""
    rows = _rows(axes, _padded(channels))
    length = rows.length[0] * rows.length[1] * rows.length[2]
    return max(length * rows.channels, rows.jumps[0] * _padded(filters))


# The three functions -------------------------------------------------------------------------------------------------


def forward(geometry: Geometry, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(batch, filters, *output). image (batch, channels, *size) of any strides; weight (filters, channels of a group,
    taps) and bias contiguous."""
    result = image.new_empty((geometry.batch, geometry.filters, *geometry.output))
    if result.numel() == 0:
        return result
    if geometry.is_narrow:
        _direct(_forward, geometry, image.contiguous(), weight, result, bias)
        return result
    if geometry.is_pointwise:
        _pointwise(weight.flatten(1), image, result, bias)
        return result
    axes, groups = _forward_axes(geometry), geometry.groups
    by_group = weight.view(groups, geometry.filters // groups, -1, *geometry.kernel)
    for part in _parts(geometry.batch, _each(axes, geometry.channels, geometry.filters)):
        window = _window(axes, part.stop - part.start, geometry.channels, groups)
        rows = _as_rows(image[part], window.rows, window.room)
        _windowed(window, rows, _lines(by_group, None, window), bias, result[part])
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
    groups = geometry.groups
    if geometry.is_pointwise:
        _pointwise(weight.flatten(1).t(), result, image, bias)
        return image
    by_group = weight.view(groups, geometry.filters // groups, -1, *geometry.kernel).transpose(1, 2)
    for phase in _phases(geometry):
        pixels = image[(slice(None), slice(None), *map(slice, phase.start, (None,) * 3, geometry.stride))]
        if not all(phase.taps):
            pixels.zero_() if bias is None else pixels.copy_(bias.view(1, -1, 1, 1, 1))
            continue
        for part in _parts(geometry.batch, _each(phase.axes, geometry.filters, geometry.channels)):
            window = _window(phase.axes, part.stop - part.start, geometry.filters, groups)
            rows = _as_rows(result[part], window.rows, window.room)
            _windowed(window, rows, _lines(by_group, phase.taps, window), bias, pixels[part])
    return image


def weight_gradient(geometry: Geometry, image: torch.Tensor, result: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The adjoint of `forward` in its weight, of `shape`."""
    weight = image.new_empty(shape)
    if weight.numel() == 0 or geometry.batch == 0 or result.numel() == 0:
        return weight.zero_()
    if geometry.is_narrow:
        _direct(_backward_weight, geometry, image.contiguous(), weight, result.contiguous())
        return weight
    if geometry.is_pointwise:
        summed_product(result.flatten(2), image.flatten(2).transpose(1, 2), weight.flatten(1), _TERMS)
        return weight
    axes, groups, filters = _forward_axes(geometry), geometry.groups, geometry.filters
    wide = summed_in(weight.dtype)
    total: torch.Tensor | None = None
    for part in _parts(geometry.batch, _each(axes, geometry.channels, filters)):
        window = _window(axes, part.stop - part.start, geometry.channels, groups)
        if window.count >= 8 * _WHOLE:
            window = replace(window, count=-(-window.count // _WHOLE) * _WHOLE)
        rows, step = window.rows, window.rows.step * window.rows.channels
        theirs = _as_rows(image[part], rows, window.room)
        # The result's gradient as rows like those of the overlapping matrix, zero between its lines.
        lines = tuple(a // b for a, b in zip(rows.jumps, (*rows.jumps[1:], 1), strict=True))
        like = _Rows((0, 0, 0), lines, _padded(filters), 1, rows.jumps)
        mine = _as_rows(result[part], like, window.count * like.channels)
        width, run, count = filters // groups, window.run, window.count
        sums = torch.empty((len(window.moves), groups, width, run), dtype=wide, device=image.device)
        a = mine.as_strided((groups, width, count), (width, 1, like.channels))
        gaps = {after - before for before, after in itertools.pairwise(window.moves)}
        if groups == 1 and len(gaps) == 1:
            b = theirs.as_strided((len(sums), count, run), (*gaps, step, 1))
            product(a.expand(len(sums), -1, -1), b, sums[:, 0], terms=_TERMS)
        else:
            for move, out in zip(window.moves, sums, strict=True):
                b = theirs.as_strided((groups, count, run), (run if groups > 1 else 0, step, 1), move)
                product(a, b, out, terms=_TERMS)
        total = sums if total is None else total + sums
    assert total is not None
    # Of the taps along the last dimension, either each has its move, or all are in a run.
    depth, height, across = geometry.kernel
    moved = len(total) // (depth * height)
    taps = total.view(depth, height, moved, groups, filters // groups, across // moved, -1).permute(3, 4, 6, 0, 1, 2, 5)
    inner = geometry.channels // groups
    weight.view(groups, filters // groups, inner, depth, height, moved, -1).copy_(taps[:, :, :inner])
    return weight


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
