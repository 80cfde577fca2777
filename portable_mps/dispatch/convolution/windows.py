"""What a convolution reads, in whole numbers: its geometry, the rows of an image that overlap, and the taps' moves."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

import torch

_UNIT = 8  # elements that channels are padded to, 16 bytes of half types: see `unit_of`


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
        """How many places of the kernel there are."""
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
class Axis:
    """One dimension: output t, of `count`, reads the place t * step + offset of `size` for each of the offsets."""

    size: int
    count: int
    step: int
    offsets: tuple[int, ...]

    @property
    def first(self) -> int:
        """The least offset, where reading begins."""
        return min(self.offsets)

    @property
    def reach(self) -> int:
        """Places from the first that is read to the last."""
        return (self.count - 1) * self.step + max(self.offsets) - self.first + 1


@dataclass(frozen=True)
class Rows:
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
        """How many rows an image of the batch takes."""
        return self.length[0] * self.length[1] * self.length[2]

    def place(self, batch: int, *position: int) -> int:
        """Elements from the first row to that at `position`, counted from `first`, of the first image of `batch`."""
        (d, h), w = position[:2], position[2]
        (planes, lines), (turn_d, turn_h) = self.together, (d % self.apart[0], h % self.apart[1])
        turn = (turn_d * self.apart[1] + turn_h) * batch * planes * lines
        line = turn + d // self.apart[0] * lines + h // self.apart[1]
        return (line * self.length[2] + w) * self.channels


@functools.lru_cache(maxsize=4096)
def rows_of(axes: tuple[Axis, ...], channels: int) -> Rows:
    """How an image of `channels` lies in rows so that windows along `axes` are overlapping rows."""
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
    return Rows(first, tuple(lengths), channels, axes[2].step, apart, (depth * height * width, height * width, width))


@dataclass(frozen=True)
class Window:
    """What a convolution reads: rows of the overlapping matrix, elements of a row of it, and how far it is moved for
    each tap, in elements."""

    rows: Rows
    count: int
    run: int
    moves: tuple[int, ...]

    @property
    def room(self) -> int:
        """Elements that are read, and more that are zero."""
        return (self.count - 1) * self.rows.step * self.rows.channels + max(self.moves) + self.run


@functools.lru_cache(maxsize=4096)
def window_of(axes: tuple[Axis, ...], batch: int, channels: int, groups: int, unit: int) -> Window:
    """What a convolution over `axes` reads; channels are padded to multiples of `unit`."""
    rows = rows_of(axes, padded_to(channels, unit))
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
    return Window(rows, count, run, moves)


def unit_of(dtype: torch.dtype) -> int:
    """Elements that channels are padded to: 16 bytes."""
    return _UNIT if dtype.itemsize < 4 else 4


def padded_to(channels: int, unit: int) -> int:
    """The least multiple of `unit` that holds `channels`."""
    return -(-channels // unit) * unit


def forward_axes(geometry: Geometry) -> tuple[Axis, ...]:
    """The three axes of a forward convolution."""
    sizes = zip(geometry.size, geometry.output, geometry.stride, geometry.kernel, strict=True)
    more = zip(geometry.padding, geometry.dilation, strict=True)
    return tuple(
        Axis(i, o, s, tuple(tap * d - p for tap in range(k))) for (i, o, s, k), (p, d) in zip(sizes, more, strict=True)
    )


@dataclass(frozen=True)
class Phase:
    """Pixels of the image's gradient that the same taps reach: from `start`, `step` apart; taps by dimension."""

    axes: tuple[Axis, ...]
    start: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=4096)
def phases(geometry: Geometry) -> tuple[Phase, ...]:
    """The phases of the gradient of a convolution's image."""
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
            axes.append(Axis(geometry.output[axis], count, 1, offsets))
            starts.append(start)
            taps.append(tuple(through))
        if all(axis.count for axis in axes):
            phases.append(Phase(tuple(axes), tuple(starts), tuple(taps)))
    return tuple(phases)


@functools.lru_cache(maxsize=4096)
def thin(geometry: Geometry) -> tuple[tuple[slice, ...], Geometry] | None:
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


def each_takes(axes: tuple[Axis, ...], channels: int, filters: int, unit: int) -> int:
    """Elements that an image takes, as rows of channels or of filters."""
    rows = rows_of(axes, padded_to(channels, unit))
    return max(rows.rows_of_image * rows.channels, rows.jumps[0] * padded_to(filters, unit))
