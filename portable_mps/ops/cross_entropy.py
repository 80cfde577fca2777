"""Cross entropy of class labels over many classes, forward and backward without the probabilities in memory.

kernels/cross_entropy.slang names the paper. Weights of classes, smoothed labels, probabilities as targets, few classes
and gradients of gradients are left to torch's composition of log_softmax and nll_loss.
"""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.promotion import storage
from portable_mps.dispatch.registry import is_plain, register_composite
from portable_mps.ops.loss import MEAN, NONE, reduced_losses
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_LAYOUT = "7QqqIII"
_forward = Template("cross_entropy", "forward", _LAYOUT)
_backward = Template("cross_entropy", "backward", _LAYOUT)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LEAST_CLASSES = 512  # from which a workgroup a row pays


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, target: torch.Tensor, reduction: int, ignored: int) -> torch.Tensor:
        """scores (rows, classes), target (rows) of int64."""
        rows, classes = scores.shape
        target = target.contiguous()
        logs, losses, weights = scores.new_empty((3, rows), dtype=torch.float32)
        errors = device.current().errors
        code = errors.arm("Target {index} is out of bounds.")
        arguments = (scores, target, logs, losses, weights, None, errors.address)
        numbers = (ignored, scores.stride(0), rows, classes, code)
        _launch(_forward, scores, (*arguments, *numbers), (scores, target), (logs, losses, weights))
        if reduction == NONE:
            result, total = losses.to(scores.dtype), None
        else:
            result, total = scores.new_empty(()), torch.empty((), dtype=torch.float32, device=scores.device)
            reduced_losses(reduction, result, total, losses, weights)
        ctx.save_for_backward(scores, target, logs, *(() if total is None else (total,)))
        ctx.reduction, ctx.ignored = reduction, ignored
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, target, logs, *total = ctx.saved_tensors
        slope = gradients[0]
        if torch.is_grad_enabled():  # for a gradient of this
            composed = _composed(scores, target, None, ctx.reduction, ctx.ignored, 0.0)
            return (*torch.autograd.grad(composed, scores, slope, create_graph=True), None, None, None)
        slope = slope.contiguous()
        rows, classes = scores.shape
        gradient = torch.empty((rows, classes), dtype=scores.dtype, device=scores.device)
        arguments = (scores, target, logs, slope, total[0] if total else None, gradient, None)
        numbers = (ctx.ignored, scores.stride(0), rows, classes, 0)
        reduced = {"REDUCED": int(ctx.reduction != NONE), "COUNTED": int(ctx.reduction == MEAN)}
        _launch(
            _backward, scores, (*arguments, *numbers), (scores, target, logs, slope, *total), (gradient,), **reduced
        )
        return gradient, None, None, None


def _launch(
    template: Template,
    scores: torch.Tensor,
    arguments: tuple[Any, ...],
    reads: tuple[torch.Tensor, ...],
    writes: tuple[torch.Tensor, ...],
    **defines: Any,
) -> None:
    row = storage(scores.dtype)
    variant = {"T": row.type, "LOAD(x)": row.load.format("x"), "STORE(x)": row.store.format("x")}
    launch(template, grid(len(scores)), arguments, reads, writes, **{"REDUCED": 0, "COUNTED": 0, **variant, **defines})


def _composed(*arguments: Any) -> torch.Tensor:
    return torch.ops.aten.cross_entropy_loss.default.decompose(*arguments)


def cross_entropy_loss(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    is_simple = weight is None and label_smoothing == 0 and self.dim() == 2 and target.dtype == torch.int64
    if (
        is_simple
        and self.dtype in _DTYPES
        and self.shape[1] >= _LEAST_CLASSES
        and self.shape[0] < 2**31
        and self.stride(1) == 1
        and target.shape == self.shape[:1]
        and is_plain(self)
        and is_plain(target)
    ):
        return _CrossEntropy.apply(self, target, reduction, ignore_index)
    return _composed(self, target, weight, reduction, ignore_index, label_smoothing)


register_composite("cross_entropy_loss", cross_entropy_loss)
