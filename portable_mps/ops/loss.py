"""Losses and their gradients: elementwise ones fused with their reduction, and those of class labels.

What torch composes of other operators (l1, kl_div, cosine, triplet, …) needs nothing here; margin losses of class
labels are in ops/margin.py, cross entropy over many classes in ops/cross_entropy.py, connectionist temporal
classification in ops/ctc.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from portable_mps.dispatch.checks import raise_where
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion, scalar_type, summed_in
from portable_mps.dispatch.reduction import Accumulate, Reduction, check_out
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import Linear, dtype_defines, on_device, resized
from portable_mps.ops.shape import contiguous_out, finish
from portable_mps.runtime import device

NONE, MEAN, SUM = range(3)  # torch's numbers of reductions


def require_floating(name: str, *tensors: torch.Tensor) -> None:
    """NotImplementedError, as on the CPU, for a tensor of integers."""
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise NotImplementedError(f'"{name}" not implemented for {tensor.dtype}')


@dataclass
class Loss:
    """An elementwise loss. loss: of the inputs a (scores), b (target), …; gradient: of a (the gradient of the loss),
    b (scores), c (target), …, without the factor of a mean. Both are Slang in the compute type $C, with a number $s."""

    name: str
    loss: str
    gradient: str
    inputs: int = 2
    parameter: bool = False
    _rows: dict[int, Pointwise | Reduction] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        scalars = "c" if self.parameter else ""
        text = self.loss.replace("$C", "C").replace("$s", "s0")
        self._rows[NONE] = Pointwise(self.name, (text,), self.inputs, scalars)
        step = f"s + ({self.loss.replace('$C', 'A').replace('$s', 'k0')})"
        for reduction, result in ((MEAN, "maths::div(s, A(n))"), (SUM, "s")):
            self._rows[reduction] = Reduction(
                f"{self.name}_reduced",
                "A(0)",
                step,
                "x + y",
                (result,),
                inputs=self.inputs,
                scalars=len(scalars),
                accumulate=Accumulate.OUTPUT,
            )
        text = f"({self.gradient.replace('$C', 'C').replace('$s', 's1')}) * s0"
        self._gradient = Pointwise(f"{self.name}_backward", (text,), self.inputs + 1, "c" + scalars)

    def into(
        self, out: torch.Tensor | None, inputs: tuple[torch.Tensor, ...], reduction: int, *parameter: float
    ) -> torch.Tensor:
        """The loss into `out`, which is given its shape; None makes a new tensor."""
        require_floating(self.name, *inputs)
        dtype = inputs[0].dtype
        for tensor in inputs[1:]:
            dtype = torch.promote_types(dtype, tensor.dtype)
        row = self._rows[reduction]
        expanded = torch.broadcast_tensors(*inputs)
        shape = expanded[0].shape if reduction == NONE else ()
        if isinstance(row, Pointwise):
            if out is not None:
                resized(out, shape)
            return row((out,), inputs, parameter)[0]
        if out is None:
            out = torch.empty(shape, dtype=dtype, device=inputs[0].device)
        else:
            resized(out, shape)
        row((out,), expanded, tuple(range(expanded[0].dim())), parameter)
        return out

    def gradient_into(
        self,
        grad_input: torch.Tensor | None,
        grad_output: torch.Tensor,
        inputs: tuple[torch.Tensor, ...],
        reduction: int,
        *parameter: float,
    ) -> torch.Tensor:
        """The gradient of the first input, of the inputs' broadcast shape."""
        shape = torch.broadcast_shapes(*(t.shape for t in inputs))
        if grad_input is None:
            grad_input = torch.empty(shape, dtype=inputs[0].dtype, device=inputs[0].device)
        else:
            resized(grad_input, shape)
        factor = 1 / max(shape.numel(), 1) if reduction == MEAN else 1.0
        self._gradient((grad_input,), (grad_output, *inputs), (factor, *parameter))
        return grad_input


# Of two tensors ---------------------------------------------------------------------------------------------------

_mse = Loss("mse_loss", "(a - b) * (a - b)", "$C(2) * (b - c) * a")
_Z = "maths::abs(a - b)"
_smooth_l1 = Loss(
    "smooth_l1_loss",
    f"{_Z} < $s ? maths::div($C(0.5) * {_Z} * {_Z}, $s) : {_Z} - $C(0.5) * $s",
    "b - c <= -$s ? -a : b - c >= $s ? a : maths::div((b - c) * a, $s)",
    parameter=True,
)
_huber = Loss(
    "huber_loss",
    f"{_Z} <= $s ? $C(0.5) * {_Z} * {_Z} : $s * ({_Z} - $C(0.5) * $s)",
    "b - c <= -$s ? -$s * a : b - c >= $s ? $s * a : (b - c) * a",
    parameter=True,
)


@implements("mse_loss.out")
def mse_loss_out(self: torch.Tensor, target: torch.Tensor, reduction: int = MEAN, *, out: torch.Tensor) -> torch.Tensor:
    """Squared differences."""
    return _mse.into(out, (self, target), reduction)


@implements("mse_loss_backward")
def mse_loss_backward(
    grad_output: torch.Tensor, self: torch.Tensor, target: torch.Tensor, reduction: int
) -> torch.Tensor:
    """The gradient of `mse_loss_out`."""
    return _mse.gradient_into(None, grad_output, (self, target), reduction)


@implements("mse_loss_backward.grad_input")
def mse_loss_backward_out(
    grad_output: torch.Tensor, self: torch.Tensor, target: torch.Tensor, reduction: int, *, grad_input: torch.Tensor
) -> torch.Tensor:
    """`mse_loss_backward` into `grad_input`."""
    return _mse.gradient_into(grad_input, grad_output, (self, target), reduction)


@implements("smooth_l1_loss.out")
def smooth_l1_loss_out(
    self: torch.Tensor, target: torch.Tensor, reduction: int = MEAN, beta: float = 1.0, *, out: torch.Tensor
) -> torch.Tensor:
    """Differences, squared where they are below `beta`."""
    return _smooth_l1.into(out, (self, target), reduction, beta)


@implements("smooth_l1_loss_backward.grad_input")
def smooth_l1_loss_backward_out(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    reduction: int,
    beta: float,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    """The gradient of `smooth_l1_loss_out`."""
    return _smooth_l1.gradient_into(grad_input, grad_output, (self, target), reduction, beta)


def _check_delta(delta: float) -> None:
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")


@implements("huber_loss")
def huber_loss(self: torch.Tensor, target: torch.Tensor, reduction: int = MEAN, delta: float = 1.0) -> torch.Tensor:
    """Squared differences, linear above `delta`. RuntimeError for one that is not positive."""
    _check_delta(delta)
    return _huber.into(None, (self, target), reduction, delta)


@implements("huber_loss.out")
def huber_loss_out(
    self: torch.Tensor, target: torch.Tensor, reduction: int = MEAN, delta: float = 1.0, *, out: torch.Tensor
) -> torch.Tensor:
    """`huber_loss` into `out`."""
    _check_delta(delta)
    return _huber.into(out, (self, target), reduction, delta)


@implements("huber_loss_backward.out")
def huber_loss_backward_out(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    reduction: int,
    delta: float,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    """The gradient of `huber_loss`."""
    return _huber.gradient_into(grad_input, grad_output, (self, target), reduction, delta)


# Of probabilities -------------------------------------------------------------------------------------------------

_LOGS = "(b - $C(1)) * maths::maximum(maths::log1p(-a), $C(-100)) - b * maths::maximum(maths::log(a), $C(-100))"
_LOGS_GRADIENT = "maths::div(a * (b - c), maths::maximum(($C(1) - b) * b, $C(1e-12)))"
_bce = Loss("binary_cross_entropy", _LOGS, _LOGS_GRADIENT)
_weighted_bce = Loss("binary_cross_entropy_weighted", f"({_LOGS}) * c", f"{_LOGS_GRADIENT} * d", inputs=3)
_logits = Loss("bce_with_logits", "($C(1) - b) * a - maths::log_sigmoid(a)", "(maths::sigmoid(b) - c) * a")
# c is the weight of an element, d that of its positive part.
# Without a positive weight an infinite target is no NaN, as on the CPU.
_weighted_logits = Loss(
    "bce_with_logits_weighted",
    "(($C(1) - b) * a - (d == $C(1) ? $C(1) : (d - $C(1)) * b + $C(1)) * maths::log_sigmoid(a)) * c",
    "(maths::sigmoid(b) * ((e - $C(1)) * c + $C(1)) - e * c) * d * a",
    inputs=4,
)
_improbable = Pointwise("improbable", ("maths::isnan(a) || a < C(0) || a > C(1)",), 1, promotion=Promotion.BOOL)


def _bce_inputs(self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return (self, target) if weight is None else (self, target, weight)


def _bce_into(
    out: torch.Tensor | None, self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: int
) -> torch.Tensor:
    require_floating("binary_cross_entropy", self)
    on_device(*_bce_inputs(self, target, weight))
    for name, tensor in (("input", self), ("target", target)):
        outside = torch.empty(tensor.shape, dtype=torch.bool, device=self.device)
        _improbable((outside,), (tensor,))
        raise_where(outside, f"all elements of {name} should be between 0 and 1")
    return (_bce if weight is None else _weighted_bce).into(out, _bce_inputs(self, target, weight), reduction)


@implements("binary_cross_entropy")
def binary_cross_entropy(
    self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: int = MEAN
) -> torch.Tensor:
    """Of probabilities and targets in [0, 1]."""
    return _bce_into(None, self, target, weight, reduction)


@implements("binary_cross_entropy.out")
def binary_cross_entropy_out(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = MEAN,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """`binary_cross_entropy` into `out`."""
    return _bce_into(out, self, target, weight, reduction)


@implements("binary_cross_entropy_backward")
def binary_cross_entropy_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = MEAN,
) -> torch.Tensor:
    """The gradient of `binary_cross_entropy`."""
    loss = _bce if weight is None else _weighted_bce
    return loss.gradient_into(None, grad_output, _bce_inputs(self, target, weight), reduction)


@implements("binary_cross_entropy_backward.grad_input")
def binary_cross_entropy_backward_out(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = MEAN,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    """`binary_cross_entropy_backward` into `grad_input`."""
    loss = _bce if weight is None else _weighted_bce
    return loss.gradient_into(grad_input, grad_output, _bce_inputs(self, target, weight), reduction)


@implements("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    pos_weight: torch.Tensor | None = None,
    reduction: int = MEAN,
) -> torch.Tensor:
    """torch differentiates it by itself, with elementwise operators."""
    if weight is None and pos_weight is None:
        return _logits.into(None, (self, target), reduction)
    one = torch.ones((), dtype=self.dtype, device=self.device)
    weights = (one if weight is None else weight, one if pos_weight is None else pos_weight)
    return _weighted_logits.into(None, (self, target, *weights), reduction)


# Of class labels --------------------------------------------------------------------------------------------------

_LAYOUT = "QQQQQQqxxxI"
_nll_forward = Linear("loss", "forward", _LAYOUT)
_nll_backward = Linear("loss", "backward", _LAYOUT)


def _weighted_mean(name: str, result: str) -> Reduction:
    return Reduction(
        name,
        "{ A(0), A(0) }",
        "{ s.first + a, s.second + b }",
        "added(x, y)",
        (result, "s.second"),
        "Pair",
        inputs=2,
        accumulate=Accumulate.INPUT,
    )


_nll_reduced = {
    SUM: _weighted_mean("nll_sum", "s.first"),
    MEAN: _weighted_mean("nll_mean", "maths::div(s.first, s.second)"),
}


def reduced_losses(
    reduction: int, result: torch.Tensor, total_weight: torch.Tensor, losses: torch.Tensor, weights: torch.Tensor
) -> None:
    """The sum of losses (rows), each with its weight in it, or their weighted mean; and the sum of the weights."""
    _nll_reduced[reduction]((result, total_weight), (losses, weights), (0,))


def labels_of(target: torch.Tensor) -> torch.Tensor:
    """Class labels as kernels read them; RuntimeError for another dtype."""
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected scalar type Long but found {scalar_type(target.dtype)}")
    return target.to(torch.int64).contiguous()


def _nll(
    output: torch.Tensor,
    total_weight: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    spatial: int,
) -> None:
    """Losses of (batch, classes, spatial) scores into `output` and the sum of the targets' weights."""
    require_floating("nll_loss", self)
    labels, scores = labels_of(target), self.contiguous()
    weight = None if weight is None else weight.to(self.dtype).contiguous()
    count = labels.numel()
    if reduction == NONE:
        losses = contiguous_out(output, output.shape)
        weights = None
        total_weight.zero_()
    else:
        losses, weights = (torch.empty(count, dtype=summed_in(self.dtype), device=self.device) for _ in range(2))
    if count:
        classes = self.numel() // count if self.numel() else 0
        errors = device.current().errors
        code = errors.arm("Target {index} is out of bounds.")
        _nll_forward(
            count,
            (scores, labels, weight if weight is not None else 0, losses, weights if weights is not None else 0,
             errors.address, ignore_index, count, classes, spatial, code),
            [t for t in (scores, labels, weight) if t is not None],
            [t for t in (losses, weights) if t is not None],
            WEIGHTED=int(weight is not None),
            COUNTED=int(weights is not None),
            REDUCED=0,
            MEAN=0,
            **dtype_defines("T", self.dtype),
            **dtype_defines("R", losses.dtype),
        )  # fmt: skip
    if weights is not None:
        reduced_losses(reduction, output, total_weight, losses, weights)
    else:
        finish(output, losses)


def _nll_gradient(
    grad_input: torch.Tensor,
    grad_output: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
    spatial: int,
) -> torch.Tensor:
    if total_weight.numel() != 1:
        raise RuntimeError("expected total_weight to be a single element tensor")
    if grad_output.numel() != (target.numel() if reduction == NONE else 1):
        raise RuntimeError(f"grad_output does not fit the reduction: it has the shape {list(grad_output.shape)}")
    labels, gradient = labels_of(target), grad_output.to(grad_input.dtype).contiguous()
    weight = None if weight is None else weight.to(grad_input.dtype).contiguous()
    total = total_weight.to(grad_input.dtype)
    written = contiguous_out(grad_input, grad_input.shape)
    count = written.numel()
    if count:
        _nll_backward(
            count,
            (written, labels, weight if weight is not None else 0, gradient, total, 0, ignore_index, count,
             count // labels.numel(), spatial, 0),
            [t for t in (labels, weight, gradient, total) if t is not None],
            [written],
            WEIGHTED=int(weight is not None),
            COUNTED=0,
            REDUCED=int(reduction != NONE),
            MEAN=int(reduction == MEAN),
            **dtype_defines("T", written.dtype),
            **dtype_defines("R", written.dtype),
        )  # fmt: skip
    return finish(grad_input, written)


def _check_nll(self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> None:
    """Of a direct call with out= there has been no check yet."""
    if not 1 <= self.dim() <= 2:
        raise RuntimeError("input tensor should be 1D or 2D")
    if target.dim() > 1 or (self.dim() == 2 and list(target.shape) != [self.size(0)]) or target.numel() > self.numel():
        raise RuntimeError(f"size mismatch (got input: {list(self.shape)}, target: {list(target.shape)})")
    if weight is not None and list(weight.shape) != [self.size(-1)]:
        raise RuntimeError(
            f"weight tensor should be defined either for all {self.size(-1)} classes or no classes but got weight "
            f"tensor of shape: {list(weight.shape)}"
        )


@implements("nll_loss_forward.output")
def nll_loss_forward_output(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    *,
    output: torch.Tensor,
    total_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The negative of each row's score of its class, weighted, and the sum of the weights."""
    _check_nll(self, target, weight)
    resized(output, target.shape if reduction == NONE and self.dim() == 2 else ())
    resized(total_weight, ())
    if self.dim() == 1:  # one sample: its loss is never a list of one
        reduction = SUM if reduction == NONE else reduction
    _nll(output, total_weight, self, target, weight, reduction, ignore_index, 1)
    return output, total_weight


@implements("nll_loss_backward.grad_input")
def nll_loss_backward_out(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    """The gradient of `nll_loss_forward_output`."""
    _check_nll(self, target, weight)
    resized(grad_input, self.shape)
    return _nll_gradient(grad_input, grad_output, target, weight, reduction, ignore_index, total_weight, 1)


def _check_nll2d(self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> None:
    if target.dim() != 3:
        raise RuntimeError(
            f"only batches of spatial targets supported (3D tensors) but got targets of dimension: {target.dim()}"
        )
    if self.dim() != 4:
        raise RuntimeError(
            f"only batches of spatial inputs supported (4D tensors), but got input of dimension: {self.dim()}"
        )
    if weight is not None and weight.numel() != self.size(1):
        raise RuntimeError("weight tensor should be defined either for all or no classes")
    if self.size(0) != target.size(0) or self.shape[2:] != target.shape[1:]:
        raise RuntimeError(f"size mismatch (got input: {list(self.shape)} , target: {list(target.shape)}")


@implements("nll_loss2d_forward.output")
def nll_loss2d_forward_output(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    *,
    output: torch.Tensor,
    total_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nll_loss_forward_output` for a class at each place of (batch, classes, height, width)."""
    _check_nll2d(self, target, weight)
    check_out(output, target.shape if reduction == NONE else (), self.dtype)
    check_out(total_weight, (), self.dtype)
    _nll(output, total_weight, self, target, weight, reduction, ignore_index, self.size(2) * self.size(3))
    return output, total_weight


@implements("nll_loss2d_forward")
def nll_loss2d_forward(
    self: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: int, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nll_loss2d_forward_output` into new tensors."""
    output, total_weight = self.new_empty(target.shape if reduction == NONE else ()), self.new_empty(())
    return nll_loss2d_forward_output(
        self, target, weight, reduction, ignore_index, output=output, total_weight=total_weight
    )


@implements("nll_loss2d_backward.grad_input")
def nll_loss2d_backward_out(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    """The gradient of `nll_loss2d_forward`."""
    _check_nll2d(self, target, weight)
    resized(grad_input, self.shape)
    spatial = self.size(2) * self.size(3)
    return _nll_gradient(grad_input, grad_output, target, weight, reduction, ignore_index, total_weight, spatial)


register("nll_loss2d_backward", lambda grad_output, self, *rest: nll_loss2d_backward_out(
    grad_output, self, *rest, grad_input=self.new_empty(self.shape)))  # fmt: skip
