"""The launcher of convolutions: gathered products (kernels/convolution.slang), and direct kernels for narrow groups.

A transposed convolution is the adjoint of a plain one, so three functions (forward, image gradient, weight gradient)
serve both. Each is a product of filters with places of an image that lies channels last and padded; tables of offsets,
made once for a geometry, say which. Where the stride is more than one, the image's gradient falls apart into phases:
pixels that the same taps reach.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from portable_mps.dispatch import engines, tiles
from portable_mps.dispatch.engines import PLAIN, SUBGROUP, WORKGROUP
from portable_mps.dispatch.launch import Prepared, check_turns, grid, launch
from portable_mps.dispatch.products import ELEMENTS, product, types_of
from portable_mps.dispatch.promotion import storage, summed_in
from portable_mps.dispatch.strided import word
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_DIRECT = "QQQQ" + "i" * 22
_forward = Template("convolution_direct", "forward", _DIRECT)
_backward_image = Template("convolution_direct", "backward_image", _DIRECT)
_backward_weight = Template("convolution_direct", "backward_weight", _DIRECT)
_convolve = Template("convolution", "convolve", "QQQQQQQQqqqiiiiiiii")
_rows = Template("channels_last", "rows_of_channels", "QQqqqqq" + "i" * 11)
_UNIT = 8  # elements that channels are padded to: 16 bytes of half types
_LARGEST = 1 << 31  # elements that the tables' offsets reach
# A weight's gradient: terms summed one by one, and of such sums, bytes and how many.
_EXACT, _SUMS, _PARTS = 32, 1 << 25, 64
_CHANNELS, _SPOTS = 64, 32  # of a workgroup in channels_last.slang


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
    def spots(self) -> int:
        return self.output[0] * self.output[1] * self.output[2]

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
class _Frame:
    """Where padded rows of channels lie: `size` of them along each dimension, from `first`, negative in the padding."""

    first: tuple[int, ...]
    size: tuple[int, ...]
    channels: int

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one image to the next, and along each dimension."""
        _, height, width = self.size
        plane = self.size[0] * height * width * self.channels
        return (plane, height * width * self.channels, width * self.channels, self.channels)


def _padded(channels: int) -> int:
    return -(-channels // _UNIT) * _UNIT


@functools.lru_cache(maxsize=4096)
def _image_frame(geometry: Geometry) -> _Frame:
    """What the forward pass reads of the image."""
    reach = [
        (o - 1) * s + (k - 1) * d + 1
        for o, s, k, d in zip(geometry.output, geometry.stride, geometry.kernel, geometry.dilation, strict=True)
    ]
    return _Frame(tuple(-p for p in geometry.padding), tuple(reach), _padded(geometry.channels))


@functools.lru_cache(maxsize=4096)
def _result_frame(geometry: Geometry) -> _Frame:
    """What both gradients read of the result's: itself, and zeros where taps of the image's border lie outside."""
    first, size = [], []
    for i, o, s, k, p, d in zip(
        geometry.size,
        geometry.output,
        geometry.stride,
        geometry.kernel,
        geometry.padding,
        geometry.dilation,
        strict=True,
    ):
        lowest = min(0, -(-(p - (k - 1) * d) // s))
        highest = max(o - 1, (i - 1 + p) // s)
        first.append(lowest)
        size.append(highest - lowest + 1)
    return _Frame(tuple(first), tuple(size), _padded(geometry.filters))


def _rows_of(tensor: torch.Tensor, frame: _Frame) -> torch.Tensor:
    """(batch, channels, *size) as padded rows of channels; itself, if it lies so."""
    prepared = _layout(tensor.shape, tensor.stride(), tensor.dtype, frame)
    if prepared is None and tensor.data_ptr() % 16 == 0:
        return tensor
    rows = torch.empty((tensor.shape[0], *frame.size, frame.channels), dtype=tensor.dtype, device=tensor.device)
    if prepared is None:
        rows.copy_(tensor.permute(0, 2, 3, 4, 1))
    else:
        prepared.record((tensor, rows), (tensor,), (rows,))
    return rows


@functools.lru_cache(maxsize=4096)
def _layout(shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype, frame: _Frame) -> Prepared | None:
    """The dispatch that makes rows of channels of an image; None where it lies so."""
    batch, channels, *size = shape
    as_is = (frame.channels, *frame.strides) == (channels, strides[0], *strides[2:]) and strides[1] == 1
    if as_is and frame.size == tuple(size) and set(frame.first) == {0}:
        return None
    blocks = -(-frame.channels // _CHANNELS) * -(-frame.size[0] * frame.size[1] * frame.size[2] // _SPOTS)
    before = tuple(-first for first in frame.first)
    numbers = (*strides, channels, *size, frame.channels, *frame.size, *before)
    by_channel = int(strides[1] == 1 and channels > 1)
    groups = (*grid(blocks)[:2], batch)
    return Prepared(_rows, groups, numbers, T=word(dtype), BY_CHANNEL=by_channel)


# Tables of offsets ---------------------------------------------------------------------------------------------------


def _offsets(axes: Sequence[Sequence[int]], strides: Sequence[int]) -> torch.Tensor:
    """int32, on the device: the offset of every combination of places along the axes, the last the fastest."""
    total = torch.zeros(1, dtype=torch.int64)
    for places, stride in zip(axes, strides, strict=True):
        total = (total.unsqueeze(1) + torch.tensor(list(places), dtype=torch.int64) * stride).flatten()
    return total.to(torch.int32).to("mps")


@dataclass(frozen=True)
class _Tables:
    """windows: where the window of each spot starts in rows of channels; taps: where its taps lie from there; spots:
    where each spot is written, from the start of its filter; which: the weight's taps in the order of `taps`, None for
    all."""

    windows: torch.Tensor
    taps: torch.Tensor
    spots: torch.Tensor
    which: tuple[int, ...] | None = None


@functools.lru_cache(maxsize=256)
def _forward_tables(geometry: Geometry) -> _Tables:
    frame = _image_frame(geometry)
    starts = [[o * s for o in range(n)] for n, s in zip(geometry.output, geometry.stride, strict=True)]
    taps = [[k * d for k in range(n)] for n, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    return _Tables(
        _offsets([range(geometry.batch), *starts], frame.strides),
        _offsets(taps, frame.strides[1:]),
        _plane_offsets(geometry.batch, geometry.filters, geometry.output, [range(n) for n in geometry.output]),
    )


def _plane_offsets(batch: int, channels: int, size: tuple[int, ...], axes: Sequence[Sequence[int]]) -> torch.Tensor:
    """Offsets in (batch, channels, *size) of places along the three dimensions."""
    plane = size[0] * size[1] * size[2]
    return _offsets([range(batch), *axes], (channels * plane, size[1] * size[2], size[2], 1))


@functools.lru_cache(maxsize=256)
def _result_tables(geometry: Geometry) -> torch.Tensor:
    """Where each spot lies in the padded rows of the result's gradient."""
    frame = _result_frame(geometry)
    places = [[o - first for o in range(n)] for n, first in zip(geometry.output, frame.first, strict=True)]
    return _offsets([range(geometry.batch), *places], frame.strides)


@functools.lru_cache(maxsize=256)
def _phases(geometry: Geometry) -> tuple[_Tables, ...]:
    """For the image's gradient: pixels i with (i + padding) % stride alike, and the taps that reach them."""
    frame = _result_frame(geometry)
    tables = []
    for phase in itertools.product(*(range(s) for s in geometry.stride)):
        pixels, starts, taps, reaching = [], [], [], []
        for axis, rest in enumerate(phase):
            s, p, d = geometry.stride[axis], geometry.padding[axis], geometry.dilation[axis]
            mine = [i for i in range(geometry.size[axis]) if (i + p) % s == rest]
            through = [k for k in range(geometry.kernel[axis]) if k * d % s == rest]
            # The result at (i + p - k d) / s; from the last tap, so that offsets are not negative.
            back = [(k * d - rest) // s for k in through]
            furthest = max(back, default=0)
            pixels.append(mine)
            starts.append([(i + p - rest) // s - furthest - frame.first[axis] for i in mine])
            taps.append([furthest - b for b in back])
            reaching.append(through)
        if not all(pixels):
            continue
        _, height, width = geometry.kernel
        which = tuple((a * height + b) * width + c for a, b, c in itertools.product(*reaching))
        tables.append(
            _Tables(
                _offsets([range(geometry.batch), *starts], frame.strides),
                _offsets(taps, frame.strides[1:]) if which else torch.zeros(1, dtype=torch.int32, device="mps"),
                _plane_offsets(geometry.batch, geometry.channels, geometry.size, pixels),
                which if len(which) != geometry.taps or which != tuple(range(geometry.taps)) else None,
            )
        )
    return tuple(tables)


# Gathered products ----------------------------------------------------------------------------------------------------


def _choose(groups: int, m: int, n: int, k: int, dtype: torch.dtype, along_k: bool, splits: bool) -> tiles.Choice:
    """The tile of a gathered product. The driver's own loads take no tables: workgroup matrices are not for these."""
    engine = engines.engine_for(dtype)
    if engine == WORKGROUP:
        engine = SUBGROUP if engines.has(device.current().adapter, SUBGROUP, dtype) else PLAIN
    shape = tiles.Shape(groups, m, n, k, along_k, along_k, dtype, types_of(dtype, dtype, dtype)["ACC"])
    choice = tiles.choose(shape, engine, splits) or tiles.choose(shape, PLAIN, splits)
    assert choice is not None, "the plain engine has a tile for every product"
    longest = device.current().adapter.loop_limit // 10 * choice.tile.k
    if splits and choice.tile.engine == PLAIN:  # sums of sums are closer: as many as take little memory
        parts = min(_SUMS // (4 * groups * m * n), _PARTS)
        longest = min(longest, max(_EXACT, -(-k // max(parts, choice.splits))))
        longest = -(-longest // choice.tile.k) * choice.tile.k
    if splits and choice.part > longest:
        return tiles.Choice(choice.tile, -(-k // longest), longest)
    check_turns("convolution", choice.part // choice.tile.k * 10)
    return choice


@dataclass(frozen=True)
class _Product:
    """What a gathered product's kernel depends on: filters m, columns n, depth k, elements of a run, elements from a
    filter's results to the next, and the dtypes; weight: it is a weight's gradient, with rows of `stride` elements."""

    groups: int
    m: int
    n: int
    k: int
    run: int
    plane: int
    dtype: torch.dtype
    result: torch.dtype
    biased: bool = False
    weight: bool = False
    stride: int = 0


@functools.lru_cache(maxsize=4096)
def _planned(of: _Product) -> tuple[Prepared, int]:
    """The dispatch, and among how many workgroups its depth is split."""
    choice = _choose(of.groups, of.m, of.n, of.k, of.dtype, along_k=not of.weight, splits=of.weight)
    tile = choice.tile
    inside = of.m % tile.m == 0 and of.n % tile.n == 0 and of.k % choice.part == 0
    along = {"A_ALONG_K": int(not of.weight), "B_ALONG_K": int(not of.weight)}
    variant = types_of(of.dtype, of.dtype, of.result) | tile.variant | along | {"VECTOR": 1, "EDGE": int(not inside)}
    if tile.engine == SUBGROUP:
        element = ELEMENTS[of.dtype]
        variant |= {"A_E": element, "B_E": element, "ELEMENT_BYTES": of.dtype.itemsize}
    if of.weight:
        numbers = (of.m, of.run, 0, of.m, of.n, of.k, of.stride, of.run, 0, choice.splits, choice.part)
    else:
        numbers = (of.m * of.k, of.run, of.m * of.plane, of.m, of.n, of.k, 0, of.run, of.plane, 1, choice.part)
    groups = (*grid(-(-of.m // tile.m) * -(-of.n // tile.n))[:2], of.groups * choice.splits)
    variant |= {"WEIGHT": int(of.weight), "BIASED": int(of.biased)}
    return Prepared(_convolve, groups, numbers, **variant), choice.splits


def _gathered(
    tables: _Tables,
    filters: torch.Tensor,
    rows: torch.Tensor,
    out: torch.Tensor,
    groups: int,
    bias: torch.Tensor | None,
) -> None:
    """out[tables.spots + filter * plane] = filters (filters, taps, channels of a group) over the windows of `rows`."""
    m, (_, taps, run) = filters.shape[0] // groups, filters.shape
    plane = out.shape[2] * out.shape[3] * out.shape[4]
    of = _Product(
        groups, m, tables.spots.numel(), taps * run, run, plane, rows.dtype, out.dtype, biased=bias is not None
    )
    reads = [t for t in (filters, rows, bias, tables.windows, tables.taps, tables.spots) if t is not None]
    operands = (filters, rows, out, bias, None, tables.windows, tables.taps, tables.spots)
    _planned(of)[0].record(operands, reads, (out,))


def _filters(weight: torch.Tensor, which: tuple[int, ...] | None, channels: int) -> torch.Tensor:
    """(filters, channels, taps), any strides, as (filters, taps, channels), padded: those taps, in that order."""
    if which is not None:
        weight = weight[:, :, list(which)] if which else weight[:, :, :0]
    filters = weight.new_zeros if channels != weight.shape[1] else weight.new_empty
    result = filters((weight.shape[0], weight.shape[2], channels))
    result[:, :, : weight.shape[1]].copy_(weight.transpose(1, 2))
    return result


def _parts(geometry: Geometry, *frames: _Frame) -> list[slice]:
    """Slices of the batch that the tables' offsets reach."""
    each = max(*(frame.strides[0] for frame in frames), geometry.filters * geometry.spots)
    each = max(each, geometry.channels * geometry.size[0] * geometry.size[1] * geometry.size[2])
    count = max(1, min(geometry.batch, (_LARGEST - 1) // max(each, 1)))
    return [slice(start, min(start + count, geometry.batch)) for start in range(0, geometry.batch, count)]


def _of(geometry: Geometry, part: slice) -> Geometry:
    return replace(geometry, batch=part.stop - part.start)


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
        columns = image.reshape(geometry.batch, geometry.channels, -1)
        added = None if bias is None else bias.view(1, -1, 1)
        matrix = weight.view(1, geometry.filters, -1).expand(geometry.batch, -1, -1)
        product(matrix, columns, result.flatten(2), added, beta=0.0 if added is None else 1.0)
        return result
    frame = _image_frame(geometry)
    depth = geometry.channels // geometry.groups
    filters = _filters(weight, None, _padded(depth))
    for part in _parts(geometry, frame):
        tables = _forward_tables(_of(geometry, part))
        _gathered(tables, filters, _rows_of(image[part], frame), result[part], geometry.groups, bias)
    return result


def image_gradient(
    geometry: Geometry,
    result: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """The adjoint of `forward` in its image, plus a bias of its channels: (batch, channels, *size).

    rows: `result` as `result_rows` gives it, if that is at hand.
    """
    image = result.new_empty((geometry.batch, geometry.channels, *geometry.size))
    if image.numel() == 0:
        return image
    if geometry.is_narrow:
        _direct(_backward_image, geometry, image, weight, result.contiguous(), bias)
        return image
    groups, frame = geometry.groups, _result_frame(geometry)
    if geometry.is_pointwise:
        added = None if bias is None else bias.view(1, -1, 1)
        matrix = weight.view(1, geometry.filters, -1).transpose(1, 2).expand(geometry.batch, -1, -1)
        gradient = result.reshape(geometry.batch, geometry.filters, -1)
        product(matrix, gradient, image.flatten(2), added, beta=0.0 if added is None else 1.0)
        return image
    width = geometry.filters // groups
    # (filters, channels of a group, taps) with the roles of filters and channels exchanged in each group.
    turned = weight.view(groups, width, -1, geometry.taps).transpose(1, 2).reshape(-1, width, geometry.taps)
    for part in _parts(geometry, frame):
        mine = rows if rows is not None else _rows_of(result[part], frame)
        for tables in _phases(_of(geometry, part)):
            filters = _filters(turned, tables.which, _padded(width))
            _gathered(tables, filters, mine, image[part], groups, bias)
    return image


def result_rows(geometry: Geometry, result: torch.Tensor) -> torch.Tensor | None:
    """What both gradients read of the result's: made once for the two; None where they do not share it."""
    if geometry.is_narrow or geometry.is_pointwise or result.numel() == 0:
        return None
    frame = _result_frame(geometry)
    return _rows_of(result, frame) if len(_parts(geometry, frame, _image_frame(geometry))) == 1 else None


def weight_gradient(
    geometry: Geometry, image: torch.Tensor, result: torch.Tensor, shape: torch.Size, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """The adjoint of `forward` in its weight, of `shape`; rows as in `image_gradient`."""
    weight = image.new_empty(shape)
    if weight.numel() == 0 or geometry.batch == 0 or geometry.spots == 0:
        return weight.zero_()
    if geometry.is_narrow:
        _direct(_backward_weight, geometry, image.contiguous(), weight, result.contiguous())
        return weight
    groups, frame, frame_of_result = geometry.groups, _image_frame(geometry), _result_frame(geometry)
    width, run = geometry.filters // groups, _padded(geometry.channels // groups)
    wide = summed_in(weight.dtype)
    total: torch.Tensor | None = None
    for part in _parts(geometry, frame, frame_of_result):
        tables, spots = _forward_tables(_of(geometry, part)), _result_tables(_of(geometry, part))
        mine = rows if rows is not None else _rows_of(result[part], frame_of_result)
        theirs = _rows_of(image[part], frame)
        of = _Product(
            groups,
            width,
            geometry.taps * run,
            spots.numel(),
            run,
            0,
            image.dtype,
            wide,
            False,
            True,
            frame_of_result.channels,
        )
        prepared, splits = _planned(of)
        partial = torch.empty((groups, splits, of.m, of.n), dtype=wide, device=image.device)
        operands = (mine, theirs, partial, None, spots, tables.windows, tables.taps, None)
        prepared.record(operands, (mine, theirs, spots, tables.windows, tables.taps), (partial,))
        sums = partial.sum(1, dtype=wide) if splits > 1 else partial
        total = sums if total is None else total + sums
    assert total is not None
    taps = total.view(geometry.filters, geometry.taps, run)[:, :, : geometry.channels // groups]
    weight.flatten(2).copy_(taps.transpose(1, 2))
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
    check_turns("convolution", max(2 * each * geometry.taps, geometry.batch * geometry.spots // 256))
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
