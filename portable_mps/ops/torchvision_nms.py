"""torchvision's non-maximum suppression: kernels/torchvision_nms.slang. Registered by compatibility/."""

from __future__ import annotations

import math

import numpy as np
import torch

from portable_mps.dispatch.launch import launch
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.strided import Linear
from portable_mps.runtime.kernel import Template

_LAYOUT = "QQQQxIIII"
_pairs = {code: Linear("torchvision_nms", "pairs", _LAYOUT + code) for code in "fd"}
_walk = {code: Template("torchvision_nms", "walk", _LAYOUT.replace("x", "I") + code) for code in "fd"}
_WORD = 32
_TURNS = 32768  # of a thread of `walk`: half of what the software driver grants
_BYTES = 1 << 26  # of the table of pairs


def _check(dets: torch.Tensor, scores: torch.Tensor) -> None:
    """torchvision's own checks, in its words."""
    if dets.dim() != 2:
        raise RuntimeError(f"boxes should be a 2d tensor, got {dets.dim()}D")
    if dets.size(1) != 4:
        raise RuntimeError(f"boxes should have 4 elements in dimension 1, got {dets.size(1)}")
    if scores.dim() != 1:
        raise RuntimeError(f"scores should be a 1d tensor, got {scores.dim()}D")
    if dets.size(0) != scores.size(0):
        raise RuntimeError(
            "boxes and scores should have same number of elements in dimension 0, got "
            f"{dets.size(0)} and {scores.size(0)}"
        )
    if not dets.device == scores.device:
        raise RuntimeError(f"nms: boxes are on {dets.device}, but scores are on {scores.device}")
    if dets.dtype not in (torch.float32, torch.float64, torch.float16):
        raise NotImplementedError(f"\"nms_kernel\" not implemented for '{scalar_type(dets.dtype)}'")
    if dets.dtype != scores.dtype:
        raise RuntimeError("dets should have the same type as scores")


def _threshold(value: float, dtype: torch.dtype) -> float:
    """A number of dtype that as many numbers of dtype are above as are above `value`."""
    if dtype == torch.float64 or not math.isfinite(value):
        return value
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf)))


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """dets: boxes (n, 4) as x1, y1, x2, y2; scores (n). The int64 places of the kept boxes, by falling score."""
    _check(dets, scores)
    order = scores.sort(stable=True, descending=True).indices
    boxes = dets.to(torch.promote_types(dets.dtype, torch.float32))[order].contiguous()
    count = boxes.size(0)
    if count == 0:
        return order
    words = -(-count // _WORD)
    each = min(_TURNS // (1 + -(-words // 256)), _BYTES // (4 * words), words * _WORD)
    each = max(each // _WORD, 1) * _WORD
    mask = torch.empty((each, words), dtype=torch.int32, device=dets.device)
    removed = torch.zeros(words, dtype=torch.int32, device=dets.device)
    kept = torch.empty(count, dtype=torch.bool, device=dets.device)
    code, defines = ("d", {"T": "double"}) if boxes.dtype == torch.float64 else ("f", {"T": "float"})
    threshold = _threshold(iou_threshold, boxes.dtype)
    for first in range(0, count, each):
        numbers = (each * words, count, first, each, words, threshold)
        arguments = (boxes, mask, removed, kept, *numbers)
        _pairs[code](each * words, arguments, (boxes, removed), (mask,), **defines)
        launch(_walk[code], (1, 1, 1), arguments, (mask, removed), (removed, kept), **defines)
    return order[kept]


OPERATORS = {"nms": nms}
