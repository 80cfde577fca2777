"""Connectionist temporal classification, its loss and gradient: kernels/ctc.slang."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from portable_mps.dispatch.launch import check_turns, grid, launch
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import dtype_defines, on_device
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_LAYOUT = "QQQQQQQQQQQ" + "qqqqq" + "II"
_states = Template("ctc", "states", _LAYOUT)
_gradient = Template("ctc", "gradient", _LAYOUT)


class _Problem:
    """A checked batch. log_probs: (steps, batch, classes); targets: (batch, longest) or all labels in one row."""

    def __init__(
        self,
        log_probs: torch.Tensor,
        targets: torch.Tensor,
        input_lengths: Sequence[int],
        target_lengths: Sequence[int],
        blank: int,
    ) -> None:
        on_device(log_probs)
        if log_probs.dtype not in (torch.float32, torch.float64):
            raise NotImplementedError(f'"ctc_loss" not implemented for {log_probs.dtype}')
        if log_probs.dim() != 3:
            raise RuntimeError(f"Expected log_probs of 3 dimensions, but got {log_probs.dim()}")
        if targets.dtype not in (torch.int32, torch.int64):
            raise RuntimeError(f"Expected targets to be int32 or int64, but got {targets.dtype}")
        steps, batch, classes = log_probs.shape
        if not 0 <= blank < classes:
            raise RuntimeError("blank must be in label range")
        for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
            if len(lengths) != batch:
                raise RuntimeError(f"{name} must be of size batch_size")
            if lengths and min(lengths) < 0:
                raise RuntimeError(f"Expected {name} to be non-negative, but got {min(lengths)}")
        if input_lengths and max(input_lengths) > steps:
            raise RuntimeError(f"Expected input_lengths to have value at most {steps}, but got {max(input_lengths)}")
        longest = max(target_lengths, default=0)
        if targets.dim() == 1:
            offsets = [0]
            for length in target_lengths:
                offsets.append(offsets[-1] + length)
            if offsets.pop() != targets.numel():
                raise RuntimeError(f"Expected {sum(target_lengths)} targets, as the target_lengths say")
        else:
            if targets.dim() != 2 or targets.size(0) != batch or targets.size(1) < longest:
                raise RuntimeError(
                    f"Expected targets of shape ({batch}, at least {longest}), but got {list(targets.shape)}"
                )
            offsets = [b * targets.size(1) for b in range(batch)]
        self.shape = (steps, batch, classes)
        self.states = 2 * longest + 1
        self.blank = blank
        self.log_probs = log_probs.contiguous()
        self.targets = targets.to(log_probs.device, torch.int64).contiguous()
        facts = torch.tensor([offsets, list(input_lengths), list(target_lengths)], dtype=torch.int64)
        self.facts = facts.reshape(3, batch).to(log_probs.device)

    def variables(self) -> torch.Tensor:
        """Room for one number a sample, step and state. Those that no path reaches stay at -inf."""
        shape = (self.shape[1], self.shape[0], self.states)
        return torch.full(shape, -torch.inf, dtype=self.log_probs.dtype, device=self.log_probs.device)

    def launch(
        self,
        template: Template,
        groups: int,
        tensors: tuple[torch.Tensor | None, ...],
        write: tuple[torch.Tensor, ...],
        zero_infinity: bool = False,
        **defines: str,
    ) -> None:
        """tensors: variables, other, likelihoods, grad_output and gradient of the kernel's parameters."""
        check_turns("ctc_loss", self.shape[0] * (2 + self.states // 64) + self.states)
        errors = device.current().errors
        code = errors.arm("ctc_loss: target {index} is out of bounds.")
        inputs = (self.log_probs, self.targets, *self.facts.unbind(0))
        given = [*inputs, *(t for t in tensors if t is not None)]
        launch(
            template,
            grid(groups),
            (*inputs, *(0 if t is None else t for t in tensors), errors.address, *self.shape, self.states, self.blank,
             code, int(zero_infinity)),
            [t for t in given if all(t is not w for w in write)],
            write,
            **defines,
            **dtype_defines("T", self.log_probs.dtype),
        )  # fmt: skip


@implements("_ctc_loss")
def _ctc_loss(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The negative log likelihood of each sample, (batch), and alpha, (batch, steps, states)."""
    problem = _Problem(log_probs, targets, input_lengths, target_lengths, blank)
    alpha = problem.variables()
    likelihoods = torch.empty(problem.shape[1], dtype=log_probs.dtype, device=log_probs.device)
    tensors = (alpha, None, likelihoods, None, None)
    problem.launch(_states, problem.shape[1], tensors, (alpha, likelihoods), BETA="false")
    return likelihoods, alpha


@implements("_ctc_loss.Tensor")
def _ctc_loss_tensor(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _ctc_loss(log_probs, targets, input_lengths.tolist(), target_lengths.tolist(), blank, zero_infinity)


@implements("_ctc_loss_backward")
def _ctc_loss_backward(
    grad: torch.Tensor,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    neg_log_likelihood: torch.Tensor,
    log_alpha: torch.Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> torch.Tensor:
    """The gradient of log_probs as of a softmax's logarithm, like torch's: each step's sums to 0."""
    problem = _Problem(log_probs, targets, input_lengths, target_lengths, blank)
    steps, batch, _ = problem.shape
    beta = problem.variables()
    problem.launch(_states, batch, (beta, None, None, None, None), (beta,), BETA="true")
    gradient = torch.empty(problem.shape, dtype=log_probs.dtype, device=log_probs.device)
    tensors = (log_alpha.contiguous(), beta, neg_log_likelihood.contiguous(), grad.contiguous(), gradient)
    problem.launch(_gradient, steps * batch, tensors, (gradient,), zero_infinity)
    return gradient


@implements("_ctc_loss_backward.Tensor")
def _ctc_loss_backward_tensor(
    grad: torch.Tensor,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    neg_log_likelihood: torch.Tensor,
    log_alpha: torch.Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> torch.Tensor:
    lengths = input_lengths.tolist(), target_lengths.tolist()
    return _ctc_loss_backward(grad, log_probs, targets, *lengths, neg_log_likelihood, log_alpha, blank, zero_infinity)
