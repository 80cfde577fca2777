"""Fused optimisers: Adam, AdamW, Adagrad and stochastic gradient descent, one dispatch for all parameters.

kernels/optimizer.slang names the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from portable_mps.dispatch.lists import ListKernel, table_of, table_of_copies, types
from portable_mps.dispatch.registry import register

_adam = ListKernel("optimizer", "step", addresses=3, numbers=9)
_adagrad = ListKernel("optimizer", "step", addresses=3, numbers=4)
_sgd = ListKernel("optimizer", "step", addresses=3, numbers=4)


def _step(
    kernel: ListKernel,
    lists: Sequence[list[torch.Tensor]],
    steps: list[torch.Tensor] | None,
    lr: float | torch.Tensor,
    scaling: tuple[torch.Tensor | None, torch.Tensor | None],
    numbers: tuple[float, ...],
    **defines: Any,
) -> None:
    """Run a kernel over lists whose i-th tensors share a shape; all of one dtype.

    lists: parameters, gradients, state. steps: a float32 scalar for each parameter. scaling: grad_scale, found_inf.
    """
    params = lists[0]
    if not params:
        return
    dtype = params[0].dtype
    counters = [] if steps is None else [steps]
    if any(len(tensors) != len(params) for tensors in (*lists, *counters)):
        raise RuntimeError("params, grads and the optimizer's state must have the same length")
    for number in (*scaling, *(steps or ())[:1]):
        _check_number(number)
    lr_tensor = None
    if isinstance(lr, torch.Tensor):
        if lr.is_mps:
            lr_tensor, lr = lr.to(torch.float32), 0.0
        else:
            lr = lr.item()
    if table_of([*lists, *counters], len(counters)) is None or any(tensors[0].dtype != dtype for tensors in lists):
        _check_lists(lists, steps)
    table, copied = table_of_copies(lists, counters)
    defines |= {"STATES": len(lists), **types("T", dtype)}
    kernel(table, dtype, (lr_tensor, *scaling), (lr, *numbers), **defines)
    for tensor, copy in copied:
        tensor.copy_(copy)


def _check_lists(lists: Sequence[list[torch.Tensor]], steps: list[torch.Tensor] | None) -> None:
    """RuntimeError unless the lists are of one dtype and of the same shapes, on the device."""
    params = lists[0]
    for tensors in lists:
        if any(t.dtype != params[0].dtype for t in tensors):
            raise RuntimeError(f"params, grads and the optimizer's state must all have the dtype {params[0].dtype}")
        if any(t.shape != p.shape or not t.is_mps for t, p in zip(tensors, params, strict=True)):
            raise RuntimeError("params, grads and the optimizer's state must share shapes, on the MPS device")
    for number in steps or ():
        _check_number(number)


def _check_number(number: torch.Tensor | None) -> None:
    if number is not None and not (number.is_mps and number.dtype == torch.float32 and number.numel() == 1):
        raise RuntimeError("steps, grad_scale and found_inf must be float32 scalars on the MPS device")


def _register(name: str, function: Callable[..., None]) -> None:
    """Both overloads: with a number and with a tensor for the learning rate."""
    register(name, function)
    register(f"{name}.tensor_lr", function)


def _adam_with(decoupled: bool) -> Callable[..., None]:
    def run(
        self: list[torch.Tensor],
        grads: list[torch.Tensor],
        exp_avgs: list[torch.Tensor],
        exp_avg_sqs: list[torch.Tensor],
        max_exp_avg_sqs: list[torch.Tensor],
        state_steps: list[torch.Tensor],
        *,
        lr: float | torch.Tensor,
        beta1: float,
        beta2: float,
        weight_decay: float,
        eps: float,
        amsgrad: bool,
        maximize: bool,
        grad_scale: torch.Tensor | None = None,
        found_inf: torch.Tensor | None = None,
    ) -> None:
        lists = [self, grads, exp_avgs, exp_avg_sqs] + ([max_exp_avg_sqs] if amsgrad else [])
        logarithms = [math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)]
        numbers = (weight_decay, eps, beta1, beta2, 1 - beta1, 1 - beta2, *logarithms)
        switches = {"DECOUPLED": int(decoupled), "AMSGRAD": int(amsgrad), "MAXIMIZE": int(maximize)}
        _step(_adam, lists, state_steps, lr, (grad_scale, found_inf), numbers, OPTIMIZER="ADAM", **switches)

    return run


_register("_fused_adam_", _adam_with(decoupled=False))
_register("_fused_adamw_", _adam_with(decoupled=True))


def fused_adagrad_(
    self: list[torch.Tensor],
    grads: list[torch.Tensor],
    state_sums: list[torch.Tensor],
    state_steps: list[torch.Tensor],
    *,
    lr: float | torch.Tensor,
    lr_decay: float,
    weight_decay: float,
    eps: float,
    maximize: bool,
    grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
) -> None:
    """A step of Adagrad over all parameters."""
    lists = [self, grads, state_sums]
    numbers = (weight_decay, eps, lr_decay)
    switches = {"OPTIMIZER": "ADAGRAD", "MAXIMIZE": int(maximize)}
    _step(_adagrad, lists, state_steps, lr, (grad_scale, found_inf), numbers, **switches)


_register("_fused_adagrad_", fused_adagrad_)


def fused_sgd_(
    self: list[torch.Tensor],
    grads: list[torch.Tensor],
    momentum_buffer_list: list[torch.Tensor],
    *,
    weight_decay: float,
    momentum: float,
    lr: float | torch.Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    is_first_step: bool,
    grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
) -> None:
    """A step of stochastic gradient descent over all parameters, with momentum where there are buffers for it."""
    has_momentum = bool(momentum_buffer_list)
    lists = [self, grads] + ([momentum_buffer_list] if has_momentum else [])
    switches = {"MOMENTUM": has_momentum, "FIRST": is_first_step, "NESTEROV": nesterov, "MAXIMIZE": maximize}
    defines = {name: int(value) for name, value in switches.items()}
    numbers = (weight_decay, momentum, dampening)
    _step(_sgd, lists, None, lr, (grad_scale, found_inf), numbers, OPTIMIZER="SGD", **defines)


_register("_fused_sgd_", fused_sgd_)
