"""Margin losses of class labels and their gradients: rare, so composed of other operators."""

from __future__ import annotations

import torch

from portable_mps.dispatch.checks import raise_where
from portable_mps.dispatch.registry import implements
from portable_mps.ops.loss import MEAN, NONE, labels_of, require_floating


def _margin_rows(self: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (batch, classes) in the accumulator's dtype and their targets (batch, …)."""
    require_floating("margin_loss", self)
    scores = self.reshape(-1, self.size(-1)) if self.dim() else self.reshape(1, 1)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)), labels_of(target)


def _check_scores(self: torch.Tensor) -> None:
    if self.dim() > 2 or 0 in self.shape[-1:]:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(self.shape)}"
        )


def _reduce(losses: torch.Tensor, reduction: int) -> torch.Tensor:
    return losses if reduction == NONE else losses.mean() if reduction == MEAN else losses.sum()


def _row_gradients(grad_output: torch.Tensor, slopes: torch.Tensor, reduction: int) -> torch.Tensor:
    """(rows or 1, 1): what multiplies the gradient of each row's sum over classes. slopes: (rows, classes)."""
    share = slopes.numel() if reduction == MEAN else slopes.size(1)
    return grad_output.reshape(-1, 1).to(torch.promote_types(grad_output.dtype, torch.float32)) / share


def _class_margins(
    self: torch.Tensor, target: torch.Tensor, p: float, margin: float, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What each wrong class exceeds its margin by, the targets (batch, 1) and their weights."""
    if p not in (1, 2):
        raise RuntimeError("only p == 1 and p == 2 supported")
    batch = self.size(0) if self.dim() == 2 else 1
    _check_scores(self)
    if target.dim() > 1 or target.numel() != batch:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{batch}], but got {list(target.shape)}. Input has shape {list(self.shape)}."
        )
    classes = self.size(-1) if self.dim() else 1
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(weight.shape)}")
    scores, labels = _margin_rows(self, target)
    labels = labels.reshape(-1, 1)
    raise_where((labels < 0) | (labels >= classes), "target out of range")
    labels = labels.clamp_min(0).clamp_max(classes - 1)
    excess = margin - scores.gather(1, labels) + scores
    excess = torch.where(excess > 0, excess, 0.0).scatter_(1, labels, 0.0)
    return excess, labels, None if weight is None else weight.to(excess.dtype)[labels]


@implements("multi_margin_loss")
def multi_margin_loss(
    self: torch.Tensor,
    target: torch.Tensor,
    p: float = 1,
    margin: float = 1,
    weight: torch.Tensor | None = None,
    reduction: int = MEAN,
) -> torch.Tensor:
    """How far other classes' scores come within `margin` of a row's own, to the power of `p`."""
    excess, _, weights = _class_margins(self, target, p, margin, weight)
    losses = excess.square() if p == 2 else excess
    if weights is not None:  # an infinite weight of no excess is no loss
        losses = torch.where(excess > 0, losses * weights, 0.0)
    losses = losses.mean(1)
    return _reduce(losses if target.dim() else losses.reshape(()), reduction).to(self.dtype)


@implements("multi_margin_loss_backward")
def multi_margin_loss_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    p: float,
    margin: float,
    weight: torch.Tensor | None = None,
    reduction: int = MEAN,
) -> torch.Tensor:
    """The gradient of `multi_margin_loss`."""
    excess, labels, weights = _class_margins(self, target, p, margin, weight)
    slopes = 2 * excess if p == 2 else (excess > 0).to(excess.dtype)
    slopes = slopes if weights is None else torch.where(excess > 0, slopes * weights, 0.0)
    slopes = slopes * _row_gradients(grad_output, excess, reduction)
    return slopes.scatter_(1, labels, -slopes.sum(1, keepdim=True)).to(self.dtype).reshape(self.shape)


def _label_margins(
    self: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Excesses (batch, targets, classes), labels, which of them come before the first -1, and which classes are."""
    _check_scores(self)
    if target.shape != self.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(self.shape)}")
    scores, labels = _margin_rows(self, target)
    labels = labels.reshape(scores.shape)
    classes = scores.size(1)
    raise_where((labels < -1) | (labels >= classes), "argument #2 'target' is out of range")
    listed = (labels < 0).cumsum(1) == 0
    labels = labels.clamp_min(0).clamp_max(classes - 1)
    wanted = torch.zeros_like(scores).scatter_add_(1, labels, listed.to(scores.dtype)) > 0
    excess = 1 - scores.gather(1, labels).unsqueeze(2) + scores.unsqueeze(1)
    live = (excess > 0) & listed.unsqueeze(2) & ~wanted.unsqueeze(1)
    return torch.where(live, excess, 0.0), labels, listed, wanted


@implements("multilabel_margin_loss_forward")
def multilabel_margin_loss_forward(
    self: torch.Tensor, target: torch.Tensor, reduction: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the loss of rows with several classes each, which classes are among them)."""
    excess, _, _, wanted = _label_margins(self, target)
    losses = excess.sum((1, 2)) / excess.size(2)
    losses = losses if self.dim() == 2 else losses.reshape(())
    return _reduce(losses, reduction).to(self.dtype), wanted.to(self.dtype).reshape(target.shape)


@implements("multilabel_margin_loss_backward")
def multilabel_margin_loss_backward(
    grad_output: torch.Tensor, self: torch.Tensor, target: torch.Tensor, reduction: int, is_target: torch.Tensor
) -> torch.Tensor:
    """The gradient of `multilabel_margin_loss_forward`."""
    excess, labels, _, _ = _label_margins(self, target)
    live = (excess > 0).to(excess.dtype)
    slopes = live.sum(1).scatter_add_(1, labels, -live.sum(2))
    return (slopes * _row_gradients(grad_output, slopes, reduction)).to(self.dtype).reshape(self.shape)
