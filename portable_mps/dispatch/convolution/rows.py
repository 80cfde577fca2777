"""Images as rows of channels, and the products of these: what is planned once for tensors of one kind."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from portable_mps.dispatch import products
from portable_mps.dispatch.convolution.windows import Rows, Window, padded_to, unit_of
from portable_mps.dispatch.launch import Prepared, grid
from portable_mps.dispatch.products import product
from portable_mps.dispatch.promotion import summed_in
from portable_mps.dispatch.strided import reversing, word
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_to_rows = Template("channels_last", "to_rows", "QQqqqqq" + "i" * 18)
_from_rows = Template("channels_last", "from_rows", "QQqqqqq" + "i" * 18)
_CHANNELS = 64  # of a workgroup in channels_last.slang
_WHOLE = 512  # what many positions are padded to: a turn of the matrix engines' unrolled loops
TERMS = 32  # of a weight's gradient that are added up one by one


class Laid:
    """An image (batch, channels, *size), any strides, as rows of channels and zeros up to `room` elements: flat."""

    def __init__(self, image: torch.Tensor, rows: Rows, room: int) -> None:
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
        """image (batch, channels, three axes) in rows, one behind the other, as one dimension."""
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

    def __init__(self, weight: torch.Tensor, taps: Sequence[tuple[int, ...]] | None, window: Window) -> None:
        turned, self._selected = [], []
        for dim, (mine, length) in enumerate(zip(taps or (), weight.shape[3:], strict=taps is not None), 3):
            if mine == tuple(reversed(range(length))):
                turned += [dim - 2] if length > 1 else []
            elif mine != tuple(range(length)):
                self._selected.append((dim, _table(*mine)))
        weight = self._select(weight)
        groups, out, inner, *kernel = weight.shape
        width = window.rows.channels if groups == 1 else inner
        padded = padded_to(out, unit_of(weight.dtype))
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


class Windowed:
    """target (batch, channels, *counts) = the sum over a window of an image's rows times a weight's lines, plus bias.

    Planned for tensors of one kind: weight as `_Lined` has it, bias (channels) contiguous, the others of any strides.
    """

    def __init__(
        self,
        window: Window,
        image: torch.Tensor,
        weight: torch.Tensor,
        taps: Sequence[tuple[int, ...]] | None,
        bias: torch.Tensor | None,
        target: torch.Tensor,
    ) -> None:
        self._laid, self._lined = Laid(image, window.rows, window.room), _Lined(weight, taps, window)
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
        """target = the convolution of image and weight, plus bias where there is one, on recorded dispatches."""
        rows, lines = self._laid(image), self._lined(weight)
        result = torch.empty(self._shape, dtype=target.dtype, device=target.device)
        self._product.run(rows, lines, result, bias)
        self._taken.record((target, result), (result,), (target,))


class Summed:
    """The gradients of a weight's taps (moves, groups, filters of a group, run), summed over images and positions, in
    the accumulator's dtype.

    Planned for an image (batch, channels, *size) and a result's gradient (batch, filters, *output) of one kind. Taps
    whose moves are evenly apart are one product.
    """

    def __init__(self, window: Window, groups: int, image: torch.Tensor, result: torch.Tensor) -> None:
        filters, rows = result.shape[1], window.rows
        if window.count >= 8 * _WHOLE:
            window = replace(window, count=-(-window.count // _WHOLE) * _WHOLE)
        self._window, self._groups = window, groups
        # The result's gradient as rows like those of the overlapping matrix, zero between its lines.
        lines = tuple(a // b for a, b in zip(rows.jumps, (*rows.jumps[1:], 1), strict=True))
        self._like = Rows((0, 0, 0), lines, padded_to(filters, unit_of(result.dtype)), 1, (1, 1), rows.jumps)
        self._theirs = Laid(image, rows, window.room)
        self._mine = Laid(result, self._like, window.count * self._like.channels)
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
            plan = products.as_planned(mine.expand(len(moves), -1, -1), b, out, TERMS)
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
        """The gradients for `image`, which was read, and `result`, the gradient of the convolution's output."""
        mine, theirs = self._mine(result), self._theirs(image)
        sums = torch.empty(self._shape, dtype=self._dtype, device=image.device)
        for part, planned in self._products:
            planned.run(mine, theirs[self._moves[part.start] :], sums[part], None)
        if not self._products:
            rows, run, groups = self._window.rows, self._window.run, self._groups
            strides = (run if groups > 1 else 0, rows.step * rows.channels, 1)
            for move, out in zip(self._moves, sums, strict=True):
                right = theirs.as_strided((groups, self._window.count, run), strides, move)
                product(self._turned(mine), right, out, terms=TERMS)
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
