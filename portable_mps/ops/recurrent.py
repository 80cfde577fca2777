"""Recurrent layers: LSTM, GRU and RNN over padded sequences.

The input's product with its weights is one for all steps; a step is the state's product and one kernel
(kernels/recurrent.slang, which names the papers). torch composes a step of a dozen operators instead; that still serves
packed sequences, projections, autocast, transforms and gradients of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from portable_mps.dispatch.launch import Prepared, grid
from portable_mps.dispatch.promotion import storage
from portable_mps.dispatch.registry import is_plain, register_composite
from portable_mps.runtime.kernel import Template

_LAYOUT = "10Qii"
_forward = Template("recurrent", "forward", _LAYOUT)
_backward = Template("recurrent", "backward", _LAYOUT)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_GATES = {"LSTM": 4, "GRU": 3, "TANH": 1, "RELU": 1}


class _Steps:
    """The kernel of a cell for tensors (batch, hidden)."""

    def __init__(self, template: Template, cell: str, like: torch.Tensor) -> None:
        row, count = storage(like.dtype), like.numel()
        defines = {"CELL": cell, "T": row.type, "LOAD(x)": row.load.format("x"), "STORE(x)": row.store.format("x")}
        self._prepared = Prepared(template, grid(-(-count // 256)), (count, like.shape[-1]), **defines)

    def __call__(
        self,
        writes: Sequence[torch.Tensor],
        gates: torch.Tensor | None = None,
        state_gates: torch.Tensor | None = None,
        before: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        gradient: torch.Tensor | None = None,
        carried: torch.Tensor | None = None,
        slopes: torch.Tensor | None = None,
        state_slopes: torch.Tensor | None = None,
        direct: torch.Tensor | None = None,
    ) -> None:
        """As kernels/recurrent.slang names them."""
        tensors = (gates, state_gates, before, hidden, cell, gradient, carried, slopes, state_slopes, direct)
        self._prepared.record(tensors, [t for t in tensors if t is not None], writes)


class _Layer(torch.autograd.Function):
    """(output (steps, batch, hidden), the last hidden state, and an LSTM's last cell, else an empty tensor)."""

    @staticmethod
    def forward(
        ctx: Any, cell: str, reverse: bool, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, *weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """x (steps, batch, features); h and c (batch, hidden); weights w_ih (gates * hidden, features), w_hh, and
        biases b_ih, b_hh or none."""
        w_ih, w_hh, *biases = weights
        steps, batch, width = x.shape[0], *h.shape
        with_state = cell == "GRU"
        bias = None if not biases else biases[0] if with_state else biases[0] + biases[1]
        h, c = h.contiguous(), c.contiguous()
        gates = F.linear(x, w_ih, bias).contiguous()
        outputs = x.new_empty((steps, batch, width))
        cells = x.new_empty((steps, batch, width) if cell == "LSTM" else 0)
        state_gates = torch.empty_like(gates) if with_state else None
        kernel, turned = _Steps(_forward, cell, h), w_hh.t()
        hidden, state = h, c
        all_gates, all_outputs = gates.unbind(0), outputs.unbind(0)
        all_cells = cells.unbind(0) if cell == "LSTM" else ()
        all_states = () if state_gates is None else state_gates.unbind(0)
        for t in reversed(range(steps)) if reverse else range(steps):
            now, out = all_gates[t], all_outputs[t]
            if with_state:
                ours = all_states[t]
                if biases:
                    torch.addmm(biases[1], hidden, turned, out=ours)
                else:
                    torch.mm(hidden, turned, out=ours)
                kernel((now, out), now, ours, before=hidden, hidden=out)
            else:
                now.addmm_(hidden, turned)
                if cell == "LSTM":
                    kernel((now, out, all_cells[t]), now, before=state, hidden=out, cell=all_cells[t])
                    state = all_cells[t]
                else:
                    kernel((out,), now, hidden=out)
            hidden = out
        ctx.cell, ctx.reverse = cell, reverse
        ctx.save_for_backward(x, h, c, *weights, outputs, cells, *[t for t in (gates, state_gates) if t is not None])
        ctx.count = len(weights)
        return outputs, hidden.clone(), state.clone() if cell == "LSTM" else c.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, h, c, *rest = ctx.saved_tensors
        weights, (outputs, cells, *gates) = rest[: ctx.count], rest[ctx.count :]
        if torch.is_grad_enabled():  # for gradients of these
            return (None, None, *_composed_gradients(ctx, (x, h, c, *weights), gradients))
        return (None, None, *_gradients(ctx, x, h, c, weights, outputs, cells, gates, gradients))


def _gradients(
    ctx: Any,
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    weights: Sequence[torch.Tensor],
    outputs: torch.Tensor,
    cells: torch.Tensor,
    gates: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
) -> list[torch.Tensor | None]:
    """Of x, h, c and the weights."""
    cell, w_ih, w_hh = ctx.cell, weights[0], weights[1]
    steps = len(outputs)
    order = list(range(steps) if ctx.reverse else reversed(range(steps)))
    of_outputs = gradients[0].contiguous().unbind(0)
    slopes = torch.empty_like(gates[0])
    state_slopes = torch.empty_like(slopes) if cell == "GRU" else slopes
    direct = gradients[2].float().clone() if cell == "LSTM" else torch.zeros_like(h, dtype=torch.float32)
    carried: torch.Tensor = gradients[1].contiguous()
    all_gates, all_slopes, all_state_slopes = gates[0].unbind(0), slopes.unbind(0), state_slopes.unbind(0)
    all_states = gates[1].unbind(0) if cell == "GRU" else ()
    all_outputs, all_cells = outputs.unbind(0), cells.unbind(0) if cell == "LSTM" else ()
    kernel = _Steps(_backward, cell, h)
    for position, t in enumerate(order):
        earlier = order[position + 1] if position + 1 < steps else None
        given: dict[str, Any] = {"gradient": of_outputs[t], "carried": carried, "slopes": all_slopes[t]}
        if cell == "LSTM":
            before = c if earlier is None else all_cells[earlier]
            kernel((all_slopes[t], direct), all_gates[t], before=before, cell=all_cells[t], direct=direct, **given)
        elif cell == "GRU":
            before = h if earlier is None else all_outputs[earlier]
            given |= {"before": before, "state_slopes": all_state_slopes[t], "direct": direct}
            kernel((all_slopes[t], all_state_slopes[t], direct), all_gates[t], all_states[t], **given)
        else:
            kernel((all_slopes[t],), hidden=all_outputs[t], **given)
        carried = all_state_slopes[t] @ w_hh
    before = torch.cat((outputs[1:], h[None]) if ctx.reverse else (h[None], outputs[:-1]))
    flat, state_flat = slopes.flatten(0, 1), state_slopes.flatten(0, 1)
    needs = ctx.needs_input_grad[2:]
    results: list[torch.Tensor | None] = [
        (flat @ w_ih).view(x.shape) if needs[0] else None,
        (carried + direct.to(h.dtype) if cell == "GRU" else carried) if needs[1] else None,
        direct.to(c.dtype) if cell == "LSTM" and needs[2] else None,
        flat.t() @ x.flatten(0, 1) if needs[3] else None,
        state_flat.t() @ before.flatten(0, 1) if needs[4] else None,
    ]
    return results + [sums.sum(0) for sums in (flat, state_flat)][: len(weights) - 2]


_OPERATORS = {"LSTM": "lstm", "GRU": "gru", "TANH": "rnn_tanh", "RELU": "rnn_relu"}


def _composed_gradients(
    ctx: Any, inputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
) -> list[torch.Tensor | None]:
    """The same through torch's own composition, differentiable."""
    x, h, c, *weights = inputs
    states = [h[None], c[None]] if ctx.cell == "LSTM" else h[None]
    composite = getattr(torch.ops.aten, _OPERATORS[ctx.cell]).input
    turned = x.flip(0) if ctx.reverse else x
    outputs, *last = composite.decompose(turned, states, weights, len(weights) > 2, 1, 0.0, True, False, False)
    results = [outputs.flip(0) if ctx.reverse else outputs, *(state[0] for state in last)]
    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad[2:], strict=True) if needed]
    slopes = torch.autograd.grad(results, wanted, gradients[: len(results)], create_graph=True, allow_unused=True)
    found = iter(slopes)
    return [next(found) if needed else None for needed in ctx.needs_input_grad[2:]]


def _fits(
    cell: str,
    x: torch.Tensor,
    states: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    per_layer: int,
    layers: int,
    batch_first: bool,
) -> bool:
    """Whether these are layers without projections; others, and mistakes, are torch's to find."""
    if len(states) != (2 if cell == "LSTM" else 1) or len(params) != per_layer * layers:
        return False
    if x.dim() != 3 or x.dtype not in _DTYPES or torch.is_autocast_enabled("mps") or not is_plain(x, *states, *params):
        return False
    if any(s.dim() != 3 or s.shape[:2] != (layers, x.shape[0 if batch_first else 1]) for s in states):
        return False
    width, gates = states[0].shape[2], _GATES[cell] * states[0].shape[2]
    if states[-1].shape[2] != width or params[0].shape[1:] != x.shape[2:]:
        return False
    shapes = [tuple(p.shape[:1] if i % per_layer == 0 else p.shape) for i, p in enumerate(params)]
    return shapes == [(gates,), (gates, width), *[(gates,)] * (per_layer - 2)] * layers


def _register(cell: str) -> None:
    name = f"{_OPERATORS[cell]}.input"

    def run(
        input: torch.Tensor,
        hx: Any,
        params: Sequence[torch.Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[torch.Tensor, ...]:
        states = hx if cell == "LSTM" else [hx]
        per_layer, directions = 4 if has_biases else 2, 2 if bidirectional else 1
        arguments = (input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
        if input.dim() == 3 and input.shape[int(batch_first)] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if not _fits(cell, input, states, params, per_layer, num_layers * directions, batch_first):
            return getattr(torch.ops.aten, _OPERATORS[cell]).input.decompose(*arguments)
        x = input.transpose(0, 1) if batch_first else input
        hidden, cells = [], []
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                i = layer * directions + direction
                h = states[0][i]
                c = states[1][i] if cell == "LSTM" else h
                weights = params[i * per_layer : (i + 1) * per_layer]
                output, last, last_cell = _Layer.apply(cell, direction == 1, x, h, c, *weights)
                outputs.append(output)
                hidden.append(last)
                cells.append(last_cell)
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
            if dropout and train and layer < num_layers - 1:
                x = F.dropout(x, dropout, True)
        x = x.transpose(0, 1) if batch_first else x
        return (x, torch.stack(hidden), torch.stack(cells)) if cell == "LSTM" else (x, torch.stack(hidden))

    register_composite(name, run)


for _cell in _GATES:
    _register(_cell)
