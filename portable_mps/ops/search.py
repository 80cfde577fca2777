"""Looking up in sorted sequences and counting: searchsorted, bucketize, isin, bincount, histc, histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, raise_where, require_dtype
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import Linear, dtype_defines, resized, written
from portable_mps.ops.indexing import along

_search = Linear("search", "search", "QQQQxxx")
_tally = Linear("search", "tally", "QQxq")
_FEW = 16  # elements that are faster compared one by one than sorted


# Sorted sequences -------------------------------------------------------------------------------------------------


def _check_search(
    sequence: torch.Tensor, values: torch.Tensor, right: bool, side: str | None, sorter: torch.Tensor | None
) -> bool:
    """Whether to search after equal elements. Raises as torch does."""
    if side is not None and side not in ("left", "right"):
        raise RuntimeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if right and side == "left":
        raise RuntimeError("torch.searchsorted(): side and right can't be set to opposites, got side of left while "
                           "right was True")  # fmt: skip
    if sequence.device != values.device:
        raise RuntimeError(
            f"torch.searchsorted(): boundaries and input value tensors should have same device type, but got "
            f"boundaries tensor device type {sequence.device} and input value tensor device type {values.device}"
        )
    if sorter is not None:
        if sorter.device != sequence.device:
            raise RuntimeError("torch.searchsorted(): sorter and boundary tensors should have same device type")
        if sorter.shape != sequence.shape:
            raise RuntimeError("torch.searchsorted(): boundary and sorter must have the same size")
        if sorter.dtype != torch.int64:
            raise RuntimeError("torch.searchsorted(): sorter must be a tensor of long dtype")
        raise_where(
            (sorter < 0) | (sorter >= max(sequence.size(-1), 1)), "torch.searchsorted(): sorter index out of range"
        )
    if values.dim() == 0 and sequence.dim() != 1:
        raise RuntimeError(
            "torch.searchsorted(): input value can be a scalar only when boundaries tensor dimension is 1"
        )
    if sequence.dim() == 0:
        raise RuntimeError("torch.searchsorted(): boundaries tensor should have positive dimension")
    if sequence.dim() != 1 and (sequence.dim() != values.dim() or sequence.shape[:-1] != values.shape[:-1]):
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries "
            f"tensor and input value tensor must match, but we got boundaries tensor {list(sequence.shape)} and input "
            f"value tensor {list(values.shape)}"
        )
    return right or side == "right"


def _places(
    sequence: torch.Tensor,
    values: torch.Tensor,
    dtype: torch.dtype = torch.int64,
    right: bool = False,
    sorter: torch.Tensor | None = None,
    nan_last: bool = False,
) -> torch.Tensor:
    """The places of `values` in rows of `sequence`, in `dtype`; nothing is checked."""
    sequence, values = sequence.contiguous(), values.contiguous()
    result = torch.empty(values.shape, dtype=dtype, device=values.device)
    if result.numel():
        columns = values.numel() if sequence.dim() == 1 else values.size(-1)
        order = None if sorter is None else sorter.contiguous()
        _search(
            result.numel(),
            (sequence, 0 if order is None else order, values, result, result.numel(), sequence.size(-1), columns),
            (sequence, values) if order is None else (sequence, values, order),
            (result,),
            SEARCH=1,
            RIGHT=int(right),
            NAN_LAST=int(nan_last),
            SORTER=int(order is not None),
            O="int" if dtype == torch.int32 else "int64_t",
            **dtype_defines("T", sequence.dtype),
        )
    return result


def _searched(
    sequence: torch.Tensor,
    values: torch.Tensor,
    out_int32: bool,
    right: bool,
    side: str | None,
    sorter: torch.Tensor | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    right = _check_search(sequence, values, right, side, sorter)
    if values.numel():
        require_dtype("searchsorted_out_cpu", sequence, FLOATS | INTEGERS)
    dtype = torch.int32 if out_int32 else torch.int64
    if out is not None and out.dtype != dtype:
        raise RuntimeError(
            "torch.searchsorted(): output tensor's dtype is wrong, it can only be Int(int32) or Long(int64) depending "
            "on whether out_int32 flag is True"
        )
    size = sequence.size(-1)
    if out_int32 and size >= 2**31:
        raise RuntimeError("torch.searchsorted(): the size of boundaries' last dimension should be less than 2^31")
    common = torch.result_type(sequence, values)
    result = _places(sequence.to(common), values.to(common), dtype, right, sorter)
    return result if out is None else resized(out, result.shape).copy_(result)


def _number(value: float, sequence: torch.Tensor) -> torch.Tensor:
    return torch.full((), value, dtype=torch.result_type(sequence, value), device=sequence.device)


@implements("searchsorted.Tensor")
def searchsorted(
    sorted_sequence: torch.Tensor,
    self: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """int64 (or int32) places of `self` in the rows of sorted_sequence."""
    return _searched(sorted_sequence, self, out_int32, right, side, sorter)


@implements("searchsorted.Tensor_out")
def searchsorted_out(
    sorted_sequence: torch.Tensor,
    self: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
    out: torch.Tensor,
) -> torch.Tensor:
    """Where each element of self would go in the sorted sequence of its row."""
    return _searched(sorted_sequence, self, out_int32, right, side, sorter, out)


@implements("searchsorted.Scalar")
def searchsorted_scalar(
    sorted_sequence: torch.Tensor,
    self: float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """`searchsorted_out` of a number, into a new tensor."""
    return _searched(sorted_sequence, _number(self, sorted_sequence), out_int32, right, side, sorter)


@implements("searchsorted.Scalar_out")
def searchsorted_scalar_out(
    sorted_sequence: torch.Tensor,
    self: float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
    out: torch.Tensor,
) -> torch.Tensor:
    """`searchsorted_out` of a number."""
    return _searched(sorted_sequence, _number(self, sorted_sequence), out_int32, right, side, sorter, out)


def _check_boundaries(boundaries: torch.Tensor) -> None:
    if boundaries.dim() != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries.dim()})")


@implements("bucketize.Tensor")
def bucketize(
    self: torch.Tensor, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """Where each element of self would go among sorted boundaries, which have one dimension."""
    _check_boundaries(boundaries)
    return _searched(boundaries, self, out_int32, right, None, None)


@implements("bucketize.Tensor_out")
def bucketize_out(
    self: torch.Tensor, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False, out: torch.Tensor
) -> torch.Tensor:
    """`bucketize` into `out`."""
    _check_boundaries(boundaries)
    return _searched(boundaries, self, out_int32, right, None, None, out)


@implements("bucketize.Scalar")
def bucketize_scalar(
    self: float, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """`bucketize` of a number."""
    _check_boundaries(boundaries)
    return _searched(boundaries, _number(self, boundaries), out_int32, right, None, None)


@implements("isin.Tensor_Tensor_out")
def isin_out(
    elements: torch.Tensor,
    test_elements: torch.Tensor,
    *,
    assume_unique: bool = False,
    invert: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """Whether each of `elements` is among test_elements; assume_unique changes nothing."""
    written(out, torch.bool)
    resized(out, elements.shape)
    if elements.numel():
        refuse_as_cpu("isin.Tensor_Tensor", elements.dtype, test_elements.dtype)
    common = torch.result_type(elements, test_elements)
    tests, elements = test_elements.to(common).reshape(-1), elements.to(common)
    if tests.numel() == 0:
        return out.fill_(invert)
    if tests.numel() <= _FEW:
        found = (elements.unsqueeze(-1) == tests).any(-1)
    else:
        ordered = tests.sort()[0]
        places = _places(ordered, elements, nan_last=True).clamp_max_(tests.numel() - 1)
        found = ordered.take(places) == elements
    return out.copy_(~found if invert else found)


@implements("isin.Tensor_Scalar_out")
def isin_scalar_out(
    elements: torch.Tensor,
    test_element: float,
    *,
    assume_unique: bool = False,
    invert: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """Whether each element is this number, or with `invert` is not."""
    written(out, torch.bool)
    resized(out, elements.shape)
    return torch.ne(elements, test_element, out=out) if invert else torch.eq(elements, test_element, out=out)


@implements("isin.Scalar_Tensor_out")
def isin_of_scalar_out(
    element: float,
    test_elements: torch.Tensor,
    *,
    assume_unique: bool = False,
    invert: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """Whether this number is among the elements, or with `invert` is not."""
    found = (test_elements == element).any()
    return resized(out, ()).copy_(~found if invert else found)


# Counting ---------------------------------------------------------------------------------------------------------


def _counted(bins: torch.Tensor, size: int, weights: torch.Tensor | None) -> torch.Tensor:
    """How many of the int64 `bins` are each number below `size`, or the sum of their weights; others are left out.

    Counts are int32 (int64 from 2^31 elements on), sums have the dtype of the weights.
    """
    bins = bins.reshape(-1)
    if weights is None and bins.numel() < 2**31:
        counts = torch.zeros(size, dtype=torch.int32, device=bins.device)
        if bins.numel() and size:
            bins = bins.contiguous()
            _tally(bins.numel(), (counts, bins, bins.numel(), size), (bins,), (counts,))
        return counts
    dtype = torch.int64 if weights is None else weights.dtype
    sums = torch.zeros(size + 1, dtype=dtype, device=bins.device)  # the last takes what is left out
    values = torch.ones((), dtype=dtype, device=bins.device).expand(bins.shape) if weights is None else weights
    along("sum", sums, 0, torch.where((bins < 0) | (bins > size), size, bins), values.reshape(-1))
    return sums[:size]


@implements("bincount")
def bincount(self: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    """int64 counts, or float32 or float64 sums; the host waits for the largest number."""
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    require_dtype("bincount_cpu", self, INTEGERS)
    if self.dim() != 1:
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is not None and (weights.dim() != 1 or weights.numel() != self.numel()):
        raise RuntimeError("weights should be 1-d and have the same length as input")
    if self.numel() == 0:
        return torch.zeros(minlength, dtype=torch.int64, device=self.device)
    low, high = torch.stack(torch.aminmax(self.long())).tolist()
    if low < 0:
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is not None and weights.dtype != torch.float32:
        weights = weights.double()
    counts = _counted(self.long(), max(high + 1, minlength), weights)
    return counts.long() if weights is None else counts


def _outer_edges(self: torch.Tensor, low: float, high: float, name: str, widen: float) -> tuple[float, float]:
    """The ends of a histogram; those of the elements where `low` and `high` are equal. The host waits for them."""
    if low == high and self.numel():
        low, high = torch.stack(torch.aminmax(self.detach())).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RuntimeError(f"{name}: range of [{low}, {high}] is not finite")
    if low > high:
        raise RuntimeError(f"{name}: max must be larger than min")
    return (low - widen, high + widen) if low == high else (low, high)


@implements("histc")
def histc(self: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    """How many elements each of `bins` equal parts of [min, max] has. RuntimeError for none."""
    if bins <= 0:
        raise RuntimeError(f"torch.histogram(): bins must be > 0, but got {bins} for dimension 0")
    if not self.is_floating_point():
        raise NotImplementedError(f"\"histogram_cpu\" not implemented for '{str(self.dtype).removeprefix('torch.')}'")
    low, high = _outer_edges(self, float(min), float(max), "torch.histc", 1.0)
    x = self.float() if self.dtype in (torch.float16, torch.bfloat16) else self
    places = ((x - low) * bins / (high - low)).long().clamp_max_(bins - 1)
    places.masked_fill_(~((x >= low) & (x <= high)), -1)
    return _counted(places, bins, None).to(self.dtype)


@implements("histc.out")
def histc_out(
    self: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0, *, out: torch.Tensor
) -> torch.Tensor:
    """`histc` into `out`."""
    written(out, self.dtype)
    return resized(out, (bins,)).copy_(histc(self, bins, min, max))


def _check_histogram(self: torch.Tensor, weight: torch.Tensor | None) -> None:
    if self.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(f"\"histogram\" not implemented for '{str(self.dtype).removeprefix('torch.')}'")
    if weight is not None and weight.dtype != self.dtype:
        raise RuntimeError(
            f"torch.histogramdd(): if weight tensor is provided, input tensor and weight tensor should have the same "
            f"dtype, but got input({self.dtype}), and weight({weight.dtype})"
        )
    if weight is not None and weight.shape != self.shape:
        raise RuntimeError(
            "torch.histogramdd(): if weight tensor is provided it should have the same shape as the input tensor "
            f"excluding its innermost dimension, but got input with shape {list(self.shape)} and weight with shape "
            f"{list(weight.shape)}"
        )


def _bins(x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """The bin of each element, the last of which has both its edges; -1 outside."""
    places = torch.where(x == edges[-1], edges.numel() - 2, _places(edges, x.contiguous(), right=True) - 1)
    return places.masked_fill_(~((x >= edges[0]) & (x <= edges[-1])), -1)


def _histogram(
    self: torch.Tensor, edges: torch.Tensor, weight: torch.Tensor | None, density: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    counts = _counted(_bins(self.reshape(-1), edges), edges.numel() - 1, weight).to(self.dtype)
    return (counts / (counts.sum() * edges.diff()) if density else counts), edges


def _even_edges(x: torch.Tensor, bins: int, ends: Sequence[float] | None) -> torch.Tensor:
    """The edges of bins of one width between `ends`, or the least and the largest element."""
    if bins <= 0:
        raise RuntimeError(f"torch.histogram(): bins must be > 0, but got {bins} for dimension 0")
    if ends is None:
        low, high = _outer_edges(x, 0.0, 0.0 if x.numel() else 1.0, "torch.histogramdd()", 0.5)
    else:
        low, high = (float(end) for end in ends)
        if not low <= high:
            raise RuntimeError(f"torch.histogramdd(): min should not exceed max, but got min {low} max {high}")
        low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    return torch.linspace(low, high, bins + 1, dtype=x.dtype, device=x.device)


@implements("histogram.bins_tensor")
def histogram_bins(
    self: torch.Tensor, bins: torch.Tensor, *, weight: torch.Tensor | None = None, density: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(how many elements, or what weight, each part between edges has, the edges)."""
    _check_histogram(self, weight)
    if bins.dim() != 1 or bins.numel() == 0:
        raise RuntimeError("torch.histogramdd(): bins tensor should have one dimension and at least one element")
    if bins.dtype != self.dtype:
        raise RuntimeError("torch.histogramdd(): input tensor and bins tensors should have the same dtype")
    return _histogram(self, bins.clone(), weight, density)


@implements("histogram.bin_ct")
def histogram(
    self: torch.Tensor,
    bins: int = 100,
    *,
    range: Sequence[float] | None = None,
    weight: torch.Tensor | None = None,
    density: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`histogram_bins` with equal parts of a range, by default from the least to the largest element."""
    _check_histogram(self, weight)
    if range is not None and len(range) != 2:
        raise RuntimeError(
            f"torch.histogramdd(): for a 1-dimensional histogram range should have 2 elements, but got {len(range)}"
        )
    return _histogram(self, _even_edges(self, bins, range), weight, density)


def _histogram_into(
    hist: torch.Tensor, bin_edges: torch.Tensor, results: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    for out, result in zip((hist, bin_edges), results, strict=True):
        written(out, result.dtype)
        resized(out, result.shape).copy_(result)
    return hist, bin_edges


@implements("histogram.bins_tensor_out")
def histogram_bins_out(
    self: torch.Tensor,
    bins: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    density: bool = False,
    hist: torch.Tensor,
    bin_edges: torch.Tensor,
) -> Any:
    """`histogram_bins` into tensors."""
    return _histogram_into(hist, bin_edges, histogram_bins(self, bins, weight=weight, density=density))


@implements("histogram.bin_ct_out")
def histogram_out(
    self: torch.Tensor,
    bins: int = 100,
    *,
    range: Sequence[float] | None = None,
    weight: torch.Tensor | None = None,
    density: bool = False,
    hist: torch.Tensor,
    bin_edges: torch.Tensor,
) -> Any:
    """`histogram` into tensors."""
    return _histogram_into(hist, bin_edges, histogram(self, bins, range=range, weight=weight, density=density))


# Histograms of points: self is [..., dimensions] ------------------------------------------------------------------


@implements("_histogramdd_bin_edges")
def _histogramdd_bin_edges(
    self: torch.Tensor,
    bins: Sequence[int],
    *,
    range: Sequence[float] | None = None,
    weight: torch.Tensor | None = None,
    density: bool = False,
) -> list[torch.Tensor]:
    if self.dim() < 2:
        raise RuntimeError("torch.histogramdd(): input tensor should have at least 2 dimensions")
    if len(bins) != self.size(-1):
        raise RuntimeError(
            "histogramdd: The size of bins must be equal to the innermost dimension of the input, "
            f"{self.size(-1)}, but got {len(bins)}"
        )
    if range is not None and len(range) != 2 * self.size(-1):
        raise RuntimeError(
            f"torch.histogramdd(): for a {self.size(-1)}-dimensional histogram range should have {2 * self.size(-1)} "
            f"elements, but got {len(range)}"
        )
    return [
        _even_edges(self[..., d], count, None if range is None else range[2 * d : 2 * d + 2])
        for d, count in enumerate(bins)
    ]


@implements("_histogramdd_from_bin_tensors")
def _histogramdd_from_bin_tensors(
    self: torch.Tensor, bins: Sequence[torch.Tensor], *, weight: torch.Tensor | None = None, density: bool = False
) -> torch.Tensor:
    if self.dim() < 2:
        raise RuntimeError("torch.histogramdd(): input tensor should have at least 2 dimensions")
    if len(bins) != self.size(-1):
        raise RuntimeError(
            f"torch.histogramdd: expected {self.size(-1)} sequences of bin edges for a {self.size(-1)}-dimensional "
            f"histogram but got {len(bins)}"
        )
    points = self.reshape(-1, self.size(-1))
    _check_histogram(self[..., 0], weight)
    place = torch.zeros(points.size(0), dtype=torch.int64, device=self.device)
    outside = torch.zeros(points.size(0), dtype=torch.bool, device=self.device)
    for d, edges in enumerate(bins):
        found = _bins(points[:, d], edges)
        outside |= found < 0
        place = place * (edges.numel() - 1) + found
    shape = [edges.numel() - 1 for edges in bins]
    counts = _counted(place.masked_fill_(outside, -1), math.prod(shape), weight).to(self.dtype).view(shape)
    if density:
        counts = counts / counts.sum()
        for d, edges in enumerate(bins):
            counts = counts / edges.diff().view([-1 if k == d else 1 for k in range(len(bins))])
    return counts


@implements("_histogramdd_from_bin_cts")
def _histogramdd_from_bin_cts(
    self: torch.Tensor,
    bins: Sequence[int],
    *,
    range: Sequence[float] | None = None,
    weight: torch.Tensor | None = None,
    density: bool = False,
) -> torch.Tensor:
    edges = _histogramdd_bin_edges(self, bins, range=range)
    return _histogramdd_from_bin_tensors(self, edges, weight=weight, density=density)
