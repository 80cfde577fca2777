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

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from portable_mps.dispatch import products
from portable_mps.dispatch.launch import Prepared, check_turns, grid, launch, remember
from portable_mps.dispatch.products import product, summed_product
from portable_mps.dispatch.promotion import storage, summed_in
from portable_mps.dispatch.strided import reversing, word
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_DIRECT = "QQQQ" + "i" * 22
_forward = Template("convolution_direct", "forward", _DIRECT)
_backward_image = Template("convolution_direct", "backward_image", _DIRECT)
_backward_weight = Template("convolution_direct", "backward_weight", _DIRECT)
_to_rows = Template("channels_last", "to_rows", "QQqqqqq" + "i" * 18)
_from_rows = Template("channels_last", "from_rows", "QQqqqqq" + "i" * 18)
_CHANNELS = 64  # of a workgroup in channels_last.slang
_UNIT = 8  # elements that channels are padded to, 16 bytes of half types: see `_unit`
_LARGEST = 1 << 31  # elements that a matrix may span
_WHOLE = 512  # what many positions are padded to: a turn of the matrix engines' unrolled loops
_TERMS = 32  # of a weight's gradient that are added up one by one


@dataclass(frozen=True, eq=False)
class Geometry:
    """A plain convolution of `image` (batch, channels, *size) to (batch, filters, *output), padded to 3 dimensions.

    What is planned is remembered by it: one of the same numbers is another.
    """

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
        is_one = self.taps == 1 and set(self.stride) == {1} and set(self.padding) == {0}
        return is_one and self.groups == 1 and self.size == self.output  # output padding makes it larger

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
    Of planes and lines those that are so many `apart` lie together, for the whole batch: first number 0, `apart`,
    2 `apart` and so on of every image, then number 1, ... jumps: rows of the overlapping matrix from one image, plane
    and line of the result to the next.
    """

    first: tuple[int, ...]
    length: tuple[int, ...]
    channels: int
    step: int
    apart: tuple[int, int]
    jumps: tuple[int, int, int]

    @property
    def together(self) -> tuple[int, int]:
        """Planes of an image, and lines of a plane, that lie together."""
        return self.length[0] // self.apart[0], self.length[1] // self.apart[1]

    @property
    def rows_of_image(self) -> int:
        return self.length[0] * self.length[1] * self.length[2]

    def place(self, batch: int, *position: int) -> int:
        """Elements from the first row to that at `position`, counted from `first`, of the first image of `batch`."""
        (d, h), w = position[:2], position[2]
        (planes, lines), (turn_d, turn_h) = self.together, (d % self.apart[0], h % self.apart[1])
        turn = (turn_d * self.apart[1] + turn_h) * batch * planes * lines
        line = turn + d // self.apart[0] * lines + h // self.apart[1]
        return (line * self.length[2] + w) * self.channels


@functools.lru_cache(maxsize=4096)
def _rows(axes: tuple[_Axis, ...], channels: int) -> _Rows:
    lengths: list[int] = []
    for i, axis in enumerate(axes):
        # What is next to lines that were taken apart is not the padding before the next ones.
        before = 0 if i < 2 and axis.step > 1 else max(0, -axis.first)
        least = max(min(axis.size - axis.first, axis.reach), axis.reach - before)
        # Lines of the result must not overlap in the rows that are between two of them.
        lengths.append(-(-max(least, axis.count * axis.step) // axis.step) * axis.step)
    depth, height, width = (length // axis.step for length, axis in zip(lengths, axes, strict=True))
    first = tuple(axis.first for axis in axes)
    apart = axes[0].step, axes[1].step
    return _Rows(first, tuple(lengths), channels, axes[2].step, apart, (depth * height * width, height * width, width))


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
def _window(axes: tuple[_Axis, ...], batch: int, channels: int, groups: int, unit: int) -> _Window:
    rows = _rows(axes, _padded(channels, unit))
    jumps = (*rows.jumps, 1)
    counts = (batch, *(axis.count for axis in axes))
    count = sum((n - 1) * jump for n, jump in zip(counts, jumps, strict=True)) + 1
    last = axes[2].offsets
    merged = groups == 1 and last == tuple(range(last[0], last[0] + len(last)))
    places = [[offset - axis.first for offset in axis.offsets] for axis in axes]
    if merged:
        places[2] = [0]
    run = rows.channels * len(last) if merged else channels // groups if groups > 1 else rows.channels
    moves = tuple(rows.place(batch, *position) for position in itertools.product(*places))
    return _Window(rows, count, run, moves)


def _unit(dtype: torch.dtype) -> int:
    """Elements that channels are padded to: 16 bytes."""
    return _UNIT if dtype.itemsize < 4 else 4


def _padded(channels: int, unit: int) -> int:
    return -(-channels // unit) * unit


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


class _Laid:
    """An image (batch, channels, *size), any strides, as rows of channels and zeros up to `room` elements: flat."""

    def __init__(self, image: torch.Tensor, rows: _Rows, room: int) -> None:
        batch, channels, *size = image.shape
        self._prepared: Prepared | None = None
        as_it_lies = rows.channels == channels and rows.length == tuple(size) and not any(rows.first)
        if as_it_lies and rows.apart == (1, 1):
            flat = image.permute(0, 2, 3, 4, 1)
            if flat.is_contiguous() and image.data_ptr() % 16 == 0 and room <= image.numel():
                return
        positions = max(batch * rows.rows_of_image, -(-room // rows.channels))
        blocks = -(-rows.channels // _CHANNELS) * -(-positions // _spots(image.dtype))
        before = tuple(-first for first in rows.first)
        whence = (rows.channels, 0, 0, 0, *rows.together, rows.length[2], *before, *rows.apart)
        numbers = (*image.stride(), positions, batch, channels, *size, *whence)
        turning = _turning(image.dtype, image.stride(1), channels)
        self._prepared = Prepared(_to_rows, grid(blocks), numbers, **turning)
        self._elements = positions * rows.channels

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self._prepared is None:
            return image.permute(0, 2, 3, 4, 1).view(-1)
        result = torch.empty(self._elements, dtype=image.dtype, device=image.device)
        self._prepared.record((image, result), (image,), (result,))
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
def _table(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64).to("mps")


class _Lined:
    """A weight (groups, out, in, d, h, w) as the right matrices of a window: (groups, moves, run, out padded)."""

    def __init__(self, weight: torch.Tensor, taps: Sequence[tuple[int, ...]] | None, window: _Window) -> None:
        turned, self._selected = [], []
        for dim, (mine, length) in enumerate(zip(taps or (), weight.shape[3:], strict=taps is not None), 3):
            if mine == tuple(reversed(range(length))):
                turned += [dim - 2] if length > 1 else []
            elif mine != tuple(range(length)):
                self._selected.append((dim, _table(*mine)))
        weight = self._select(weight)
        groups, out, inner, *kernel = weight.shape
        width = window.rows.channels if groups == 1 else inner
        padded = _padded(out, _unit(weight.dtype))
        self._padded = (width, padded) != (inner, out)
        self._shape = (groups, *kernel, width, padded)
        self.by_move = (groups, len(window.moves), window.run, padded)
        target = weight.new_empty(self._shape)[..., :inner, :out]
        self._copy = reversing(target, weight.permute(0, 3, 4, 5, 2, 1), turned)

    def _select(self, weight: torch.Tensor) -> torch.Tensor:
        for dim, table in self._selected:
            weight = weight.index_select(dim, table)
        return weight

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        weight = self._select(weight)
        lines = (weight.new_zeros if self._padded else weight.new_empty)(self._shape)
        self._copy.record((lines, weight), (weight,), (lines,))
        return lines


class _Windowed:
    """target (batch, channels, *counts) = the sum over a window of an image's rows times a weight's lines, plus bias.

    Planned for tensors of one kind: weight as `_Lined` has it, bias (channels) contiguous, the others of any strides.
    """

    def __init__(
        self,
        window: _Window,
        image: torch.Tensor,
        weight: torch.Tensor,
        taps: Sequence[tuple[int, ...]] | None,
        bias: torch.Tensor | None,
        target: torch.Tensor,
    ) -> None:
        self._laid, self._lined = _Laid(image, window.rows, window.room), _Lined(weight, taps, window)
        rows, lines = self._laid(image), self._lined(weight).view(self._lined.by_move)
        groups, _, run, padded = lines.shape
        channels, count = target.shape[1] // groups, window.count
        self._shape = (count, groups * padded)
        result = torch.empty(self._shape, dtype=target.dtype, device=target.device)
        a = rows.as_strided(
            (groups, count, run), (run if groups > 1 else 0, window.rows.step * window.rows.channels, 1)
        )
        out = result.as_strided((groups, count, channels), (channels, groups * padded, 1))
        added = None if bias is None else bias.view(groups, 1, channels)
        moves = _table(len(window.moves), run * padded, *window.moves)
        self._product = products.over_taps(a, lines[:, 0, :, :channels], out, moves, added)
        batch, channels, *size = target.shape
        positions = batch * size[0] * size[1] * size[2]
        blocks = -(-channels // _CHANNELS) * -(-positions // _spots(target.dtype))
        width, jumps = groups * padded, window.rows.jumps
        numbers = (*target.stride(), positions, batch, channels, *size, width, *jumps, *(0,) * 8)
        turning = _turning(target.dtype, target.stride(1), channels)
        self._taken = Prepared(_from_rows, grid(blocks), numbers, **turning)

    def __call__(
        self, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor
    ) -> None:
        rows, lines = self._laid(image), self._lined(weight)
        result = torch.empty(self._shape, dtype=target.dtype, device=target.device)
        self._product.run(rows, lines, result, bias)
        self._taken.record((target, result), (result,), (target,))


def _pointwise(matrix: torch.Tensor, image: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None) -> None:
    """target (batch, m, *size), contiguous = matrix (m, k) times image (batch, k, *size) at each place, plus bias."""
    added, beta = (None, 0.0) if bias is None else (bias.view(1, -1, 1), 1.0)
    product(matrix.expand(image.shape[0], -1, -1), image.flatten(2), target.flatten(2), added, beta=beta)


def _parts(batch: int, each: int) -> list[slice]:
    """Slices of the batch of which a matrix, of `each` elements an image, is not too large."""
    count = max(1, min(batch, (_LARGEST - 1) // max(each, 1) - 1))
    return [slice(start, min(start + count, batch)) for start in range(0, batch, count)]


def _each(axes: tuple[_Axis, ...], channels: int, filters: int, unit: int) -> int:
    """Elements that an image takes, as rows of channels or of filters."""
    rows = _rows(axes, _padded(channels, unit))
    return max(rows.rows_of_image * rows.channels, rows.jumps[0] * _padded(filters, unit))


_steps = products.table()  # of each of the three functions: what part of the batch, and what is planned for it


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What plans depend on beside the shape."""
    return tensor.stride(), tensor.dtype, tensor.data_ptr() & 31


# The three functions -------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _thinned(geometry: Geometry) -> tuple[tuple[slice, ...], Geometry] | None:
    """(The part of the image that is read, a convolution of that alone), where a window of one place skips some."""
    place, size, stride = [slice(None), slice(None)], list(geometry.size), list(geometry.stride)
    for axis, (n, s) in enumerate(zip(geometry.output, geometry.stride, strict=True)):
        if geometry.kernel[axis] == 1 and geometry.padding[axis] == 0:
            place.append(slice(None, (n - 1) * s + 1, s))
            size[axis], stride[axis] = n, 1
        else:
            place.append(slice(None))
    if geometry.is_narrow or (geometry.size == tuple(size) and geometry.stride == tuple(stride)):
        return None
    return tuple(place), replace(geometry, size=tuple(size), stride=tuple(stride))


def forward(geometry: Geometry, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(batch, filters, *output). image (batch, channels, *size) of any strides; weight (filters, channels of a group,
    taps) and bias contiguous."""
    result = image.new_empty((geometry.batch, geometry.filters, *geometry.output))
    if result.numel() == 0:
        return result
    if geometry.is_narrow:
        _direct(_forward, geometry, image.contiguous(), weight, result, bias)
        return result
    if (thinned := _thinned(geometry)) is not None:
        return forward(thinned[1], image[thinned[0]], weight, bias)
    if geometry.is_pointwise:
        _pointwise(weight.flatten(1), image, result, bias)
        return result
    groups = geometry.groups
    by_group = weight.view(groups, geometry.filters // groups, -1, *geometry.kernel)
    key = (geometry, "forward", *_kind(image), bias is None)
    steps = _steps.get(key)
    if steps is None:
        axes, steps, unit = _forward_axes(geometry), [], _unit(image.dtype)
        for part in _parts(geometry.batch, _each(axes, geometry.channels, geometry.filters, unit)):
            window = _window(axes, part.stop - part.start, geometry.channels, groups, unit)
            steps.append((part, _Windowed(window, image[part], by_group, None, bias, result[part])))
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
    if (thinned := _thinned(geometry)) is not None:
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
        steps, unit = [], _unit(result.dtype)
        for phase in _phases(geometry):
            place = (slice(None), slice(None), *map(slice, phase.start, (None,) * 3, geometry.stride))
            if not all(phase.taps):
                steps.append((place, slice(None), None))
                continue
            for part in _parts(geometry.batch, _each(phase.axes, geometry.filters, geometry.channels, unit)):
                window = _window(phase.axes, part.stop - part.start, geometry.filters, groups, unit)
                windowed = _Windowed(window, result[part], by_group, phase.taps, bias, image[place][part])
                steps.append((place, part, windowed))
        remember(_steps, key, steps)
    for place, part, windowed in steps:
        pixels = image[place]
        if windowed is None:  # no tap reaches them
            _fill(pixels, bias)
        else:
            windowed(result[part], by_group, bias, pixels[part])
    return image


def _fill(image: torch.Tensor, bias: torch.Tensor | None) -> None:
    """What no tap reaches."""
    if bias is None:
        image.zero_()
    else:
        image.copy_(bias.view(1, -1, 1, 1, 1))


class _Summed:
    """The gradients of a weight's taps (moves, groups, filters of a group, run), summed over images and positions, in
    the accumulator's dtype.

    Planned for an image (batch, channels, *size) and a result's gradient (batch, filters, *output) of one kind. Taps
    whose moves are evenly apart are one product.
    """

    def __init__(self, window: _Window, groups: int, image: torch.Tensor, result: torch.Tensor) -> None:
        filters, rows = result.shape[1], window.rows
        if window.count >= 8 * _WHOLE:
            window = replace(window, count=-(-window.count // _WHOLE) * _WHOLE)
        self._window, self._groups = window, groups
        # The result's gradient as rows like those of the overlapping matrix, zero between its lines.
        lines = tuple(a // b for a, b in zip(rows.jumps, (*rows.jumps[1:], 1), strict=True))
        self._like = _Rows((0, 0, 0), lines, _padded(filters, _unit(result.dtype)), 1, (1, 1), rows.jumps)
        self._theirs = _Laid(image, rows, window.room)
        self._mine = _Laid(result, self._like, window.count * self._like.channels)
        self._shape = (len(window.moves), groups, filters // groups, window.run)
        self._dtype = summed_in(image.dtype)
        by_move = sorted(range(len(window.moves)), key=window.moves.__getitem__)
        self._moves = [window.moves[tap] for tap in by_move]
        is_sorted = self._moves == list(window.moves)
        self._places = None if is_sorted else _table(*(by_move.index(tap) for tap in range(len(by_move))))
        self._products = [] if groups > 1 else self._planned(image, result)

    def _planned(self, image: torch.Tensor, result: torch.Tensor) -> list[tuple[slice, products.Plan]]:
        """Of the taps in the order of their moves, which ones a product has; none where products take other ways."""
        theirs, mine = self._theirs(image), self._turned(self._mine(result))
        sums = torch.empty(self._shape, dtype=self._dtype, device=image.device)
        planned = []
        for part in _evenly(self._moves):
            moves, out = self._moves[part], sums[part, 0]
            b = self._overlapping(theirs, moves)
            plan = products.as_planned(mine.expand(len(moves), -1, -1), b, out, _TERMS)
            if plan is None:
                return []
            planned.append((part, plan))
        return planned

    def _turned(self, mine: torch.Tensor) -> torch.Tensor:
        """The rows of the result's gradient as left matrices: (groups, filters of a group, positions)."""
        width = self._shape[2]
        return mine.as_strided((self._groups, width, self._window.count), (width, 1, self._like.channels))

    def _overlapping(self, theirs: torch.Tensor, moves: Sequence[int]) -> torch.Tensor:
        """The image's rows as right matrices, evenly moved: (moves, positions, run)."""
        rows, gap = self._window.rows, moves[1] - moves[0] if len(moves) > 1 else 0
        shape = (len(moves), self._window.count, self._window.run)
        return theirs.as_strided(shape, (gap, rows.step * rows.channels, 1), moves[0])

    def __call__(self, image: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        mine, theirs = self._mine(result), self._theirs(image)
        sums = torch.empty(self._shape, dtype=self._dtype, device=image.device)
        for part, planned in self._products:
            planned.run(mine, theirs[self._moves[part.start] :], sums[part], None)
        if not self._products:
            rows, run, groups = self._window.rows, self._window.run, self._groups
            strides = (run if groups > 1 else 0, rows.step * rows.channels, 1)
            for move, out in zip(self._moves, sums, strict=True):
                right = theirs.as_strided((groups, self._window.count, run), strides, move)
                product(self._turned(mine), right, out, terms=_TERMS)
        return sums if self._places is None else sums.index_select(0, self._places)


def _evenly(moves: Sequence[int]) -> list[slice]:
    """Parts of them, as long as they go, that are evenly apart."""
    parts, start = [], 0
    for end in range(1, len(moves) + 1):
        is_uneven = (
            end < len(moves) and end - start > 1 and moves[end] - moves[end - 1] != moves[start + 1] - moves[start]
        )
        if end == len(moves) or is_uneven:
            parts.append(slice(start, end))
            start = end
    return parts


def weight_gradient(geometry: Geometry, image: torch.Tensor, result: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The adjoint of `forward` in its weight, of `shape`."""
    weight = image.new_empty(shape)
    if weight.numel() == 0 or geometry.batch == 0 or result.numel() == 0:
        return weight.zero_()
    if geometry.is_narrow:
        _direct(_backward_weight, geometry, image.contiguous(), weight, result.contiguous())
        return weight
    if (thinned := _thinned(geometry)) is not None:
        return weight_gradient(thinned[1], image[thinned[0]], result, shape)
    if geometry.is_pointwise:
        summed_product(result.flatten(2), image.flatten(2).transpose(1, 2), weight.flatten(1), _TERMS)
        return weight
    groups, filters = geometry.groups, geometry.filters
    key = (geometry, "weight", *_kind(image), *_kind(result), torch.get_float32_matmul_precision())
    steps = _steps.get(key)
    if steps is None:
        axes, steps, unit = _forward_axes(geometry), [], _unit(image.dtype)
        for part in _parts(geometry.batch, _each(axes, geometry.channels, filters, unit)):
            window = _window(axes, part.stop - part.start, geometry.channels, groups, unit)
            steps.append((part, _Summed(window, groups, image[part], result[part])))
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
