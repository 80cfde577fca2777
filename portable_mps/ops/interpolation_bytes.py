"""Resizing of 8-bit images as on the CPU: weights are integers, and each direction is rounded to bytes.

As in Pillow's resampling (Resample.c), which ATen follows: the largest weight decides how many bits all have, so that
they fit 16 and a sum of products 32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from portable_mps.dispatch.strided import Linear

_weighted = Linear("interpolation_bytes", "weighted", "QQQxiiiii")
_WORD_BITS, _MOST_BITS = 16, 22


def takes(mode: str, dims: int) -> bool:
    """Whether the CPU resizes bytes this way; along one dimension or three it computes in float32."""
    return dims == 2 and not mode.startswith("nearest")


def resize(
    mode: str,
    source: torch.Tensor,
    target: torch.Tensor,
    scales: Sequence[float],
    aligned: bool,
) -> None:
    """From source to target, both uint8, contiguous and (…, height, width). scales: places apart, in float64."""
    if target.numel() == 0:
        return
    planes = math.prod(source.shape[:-2])
    (in_h, in_w), (out_h, out_w) = source.shape[-2:], target.shape[-2:]
    between = torch.empty((planes, in_h, out_w), dtype=torch.uint8, device=source.device)
    _along(mode, source, between, (in_w, out_w, 1), scales[1], aligned)
    _along(mode, between, target, (in_h, out_h, out_w), scales[0], aligned)


def _along(
    mode: str, source: torch.Tensor, target: torch.Tensor, sizes: tuple[int, int, int], scale: float, aligned: bool
) -> None:
    """From (outer, size_in, inner) to (outer, size_out, inner); sizes are the last three of these."""
    size_in, size_out, inner = sizes
    table, bits = _table(mode, size_in, size_out, scale, aligned)
    places = torch.from_numpy(table).to("mps")
    taps = table.shape[1] - 1
    arguments = (source, target, places, target.numel(), size_in, size_out, inner, taps, bits)
    _weighted(target.numel(), arguments, (source, places), (target,))


@functools.lru_cache(64)
def _table(mode: str, size_in: int, size_out: int, scale: float, aligned: bool) -> tuple[np.ndarray, int]:
    """int32 (size_out, 1 + taps): the first input of each output and the weights from there on; the weights' bits."""
    at = np.arange(size_out, dtype=np.float64)
    if mode.startswith("filter"):
        first, weights = _filtered(mode, at, size_in, scale)
    else:
        first, weights = _interpolated(mode, scale * at if aligned else scale * (at + 0.5) - 0.5, size_in)
    largest, bits = float(weights.max()), 0
    while bits < _MOST_BITS and int(0.5 + largest * (1 << (bits + 1))) < 1 << (_WORD_BITS - 1):
        bits += 1
    rounded = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights))
    return np.concatenate((first[:, None], rounded), 1).astype(np.int32), bits


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981), with its parameter a."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS = {
    "filter_linear": (1, lambda x: np.maximum(0, 1 - np.abs(x))),
    "filter_cubic": (2, lambda x: _keys(x, -0.5)),
    "filter_lanczos": (3, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


def _filtered(mode: str, at: np.ndarray, size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The window of each output, stretched over more inputs where the image shrinks."""
    reach, function = _FILTERS[mode]
    stretch = max(scale, 1.0)
    support, centre = reach * stretch, scale * (at + 0.5)
    begin = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), size)
    inputs = begin[:, None] + np.arange(2 * math.ceil(support) + 1)
    weights = np.where(inputs < end[:, None], function((inputs - centre[:, None] + 0.5) / stretch), 0)
    total = weights.sum(1, keepdims=True)
    return begin, weights / np.where(total == 0, 1, total)


def _interpolated(mode: str, place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two or four neighbours of each output; weights past the edge go to the edge."""
    if mode == "linear":
        place = np.maximum(place, 0)
    whole = np.minimum(np.floor(place), size - 1)
    t = np.clip(place - whole, 0, 1)
    shares = [1 - t, t] if mode == "linear" else [_keys(t + 1 - k, -0.75) for k in range(4)]
    start = whole.astype(np.int64) - (0 if mode == "linear" else 1)
    first = np.maximum(start, 0)
    weights = np.zeros((len(place), len(shares)))
    for k, share in enumerate(shares):
        np.add.at(weights, (np.arange(len(place)), np.clip(start + k, 0, size - 1) - first), share)
    return first, weights
