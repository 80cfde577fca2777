"""Cross entropy of class labels over many classes, forward and backward without the probabilities in memory.

csrc/cross_entropy.cpp says which losses come here: weights of classes,
smoothed labels, probabilities as targets and few classes are left to torch's composition of log_softmax and nll_loss,
as are gradients of gradients.
"""

from __future__ import annotations

from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.lists import types
from portable_mps.dispatch.promotion import storage
from portable_mps.ops.loss import MEAN, NONE, reduced_losses
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_LAYOUT = "7QqqIII"
_forward = Template("cross_entropy", "forward", _LAYOUT)
_backward = Template("cross_entropy", "backward", _LAYOUT)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, target: torch.Tensor, reduction: int, ignored: int) -> torch.Tensor:
        """scores (rows, classes), target (rows) of int64."""
        # As torch's composition, whose parts autocast takes in float32; the gradient is rounded as that of the cast.
        dtype = torch.float32 if torch.is_autocast_enabled("mps") else scores.dtype
        rows, classes = scores.shape
        target = target.contiguous()
        logs, losses, weights = scores.new_empty((3, rows), dtype=torch.float32)
        errors = device.current().errors
        code = errors.arm("Target {index} is out of bounds.")
        arguments = (scores, target, logs, losses, weights, None, errors.address)
        numbers = (ignored, scores.stride(0), rows, classes, code)
        _launch(_forward, scores, (*arguments, *numbers), (scores, target), (logs, losses, weights))
        if reduction == NONE:
            result, total = losses.to(dtype), None
        else:
            result, total = losses.new_empty((), dtype=dtype), losses.new_empty(())
            reduced_losses(reduction, result, total, losses, weights)
        ctx.save_for_backward(scores, target, logs, *(() if total is None else (total,)))
        ctx.reduction, ctx.ignored, ctx.dtype = reduction, ignored, dtype
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, target, logs, *total = ctx.saved_tensors
        slope = gradients[0]
        if torch.is_grad_enabled():  # for a gradient of this
            logarithms = scores.to(ctx.dtype).log_softmax(1)
            composed = torch.ops.aten.nll_loss(logarithms, target, None, ctx.reduction, ctx.ignored)
            return (*torch.autograd.grad(composed, scores, slope, create_graph=True), None, None, None)
        slope = slope.contiguous()
        rows, classes = scores.shape
        gradient = torch.empty((rows, classes), dtype=scores.dtype, device=scores.device)
        arguments = (scores, target, logs, slope, total[0] if total else None, gradient, None)
        numbers = (ctx.ignored, scores.stride(0), rows, classes, 0)
        reads = (scores, target, logs, slope, *total)
        reduced = {"REDUCED": int(ctx.reduction != NONE), "COUNTED": int(ctx.reduction == MEAN)}
        _launch(_backward, scores, (*arguments, *numbers), reads, (gradient,), **reduced, **types("S", slope.dtype))
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
    variant: dict[str, Any] = {"T": row.type, "LOAD(x)": row.load.format("x"), "STORE(x)": row.store.format("x")}
    variant["SHUFFLES"] = int(device.current().adapter.features["subgroup_shuffle"])
    backward = {"REDUCED": 0, "COUNTED": 0, **types("S", torch.float32)}  # which the forward kernel's file has, too
    launch(template, grid(len(scores)), arguments, reads, writes, **{**backward, **variant, **defines})


def cross_entropy(scores: torch.Tensor, target: torch.Tensor, reduction: int, ignore_index: int) -> torch.Tensor:
    """The loss of scores (rows, classes) for one class a row, with a gradient; `reduction` as ATen numbers it."""
    return _CrossEntropy.apply(scores, target, reduction, ignore_index)


_C.set_cross_entropy(cross_entropy)
