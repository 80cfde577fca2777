"""Fake quantisation: rounding to the codes of an integer type and back, with the mask that its gradient needs.

Gradients of scale and zero point are those of Jain et al., "Trained quantization thresholds" (2019). Observers follow
the range of values as in Jacob et al., "Quantization and training of neural networks" (2018).
"""

from __future__ import annotations

import torch

from portable_mps.dispatch.checks import raise_where
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion, scalar_type
from portable_mps.dispatch.registry import implements

# The code of a value under a scale and a zero point; s0 and s1 are the least and the greatest code.
_CODE = "code_of({0}, cast_float({1}), cast_float({2}))"
_CODE_OF_SUM = "code_of_sum({0}, cast_float({1}), cast_float({2}))"
_MODULES = ("lib.fake_quantize",)
_INSIDE = "({0} >= s0 && {0} <= s1)"
_BACK = "(cast_float(clamp({0}, s0, s1)) - cast_float({2})) * cast_float({1})"


def _row(name: str, code: str, scale: str, zero_point: str, inputs: int) -> Pointwise:
    code = code.format("a", scale, zero_point)
    expressions = (_BACK.format(code, scale, zero_point), _INSIDE.format(code))
    scalars = "ll" if inputs == 3 else "llfl"
    return Pointwise(name, expressions, inputs, scalars, promotion=Promotion.NONE, modules=_MODULES)


_quantize = _row("fake_quantize", _CODE, "b", "c", 3)
_quantize_by_numbers = _row("fake_quantize_by_numbers", _CODE, "s2", "s3", 1)
_quantize_around_real = _row("fake_quantize_around_real", _CODE_OF_SUM, "b", "c", 3)

# Of the gradient `a`, the value `b`, the scale `c` and the zero point `d`: the gradients of the latter three.
_LEARNED = _CODE_OF_SUM.format("b", "c", "d")
_KEPT = _INSIDE.format(_LEARNED)
_ERROR = f"({_BACK.format(_LEARNED, 'c', 'd')} - b) * maths::div(1.0f, cast_float(c))"
_END = f"cast_float({_LEARNED} < s0 ? s0 : s1) - cast_float(d)"
_gradients = Pointwise(
    "fake_quantize_gradients",
    (
        f"{_KEPT} ? a : 0.0f",
        f"a * ({_KEPT} ? {_ERROR} : {_END}) * s2",
        f"{_KEPT} ? 0.0f : -a * cast_float(c) * s2",
    ),
    4,
    "llf",
    promotion=Promotion.NONE,
    modules=_MODULES,
)

# Of an end of the range so far `a`, that of these values `b`, and the observer's switch `c`. Infinity: none so far.
_follow_range = Pointwise(
    "fake_quantize_follow_range",
    ("c == 0 ? a : maths::isinf(a) ? b : a + s0 * (b - a)",),
    3,
    "f",
    promotion=Promotion.NONE,
)
# Of a range `a` to `b`, the switch `c`, and the scale `d` and zero point `e` so far.
_CHOSEN = "quantization_of(a, b, s0, s1, s2 != 0)"
_choose = Pointwise(
    "fake_quantize_choose",
    (f"c == 0 ? d : {_CHOSEN}.scale", f"c == 0 ? cast_float(e) : {_CHOSEN}.zero_point"),
    5,
    "lll",
    promotion=Promotion.NONE,
    modules=_MODULES,
)

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _check_range(quant_min: int, quant_max: int) -> None:
    if quant_min > quant_max:
        raise RuntimeError("`quant_min` should be less than or equal to `quant_max`.")


def _outputs(self: torch.Tensor) -> Pair:
    return torch.empty_like(self), torch.empty_like(self, dtype=torch.bool)


def _by_tensors(
    self: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> Pair:
    outputs = _outputs(self)
    row = _quantize_around_real if zero_point.is_floating_point() else _quantize
    row(outputs, (self, scale, zero_point), (quant_min, quant_max))
    return outputs


@implements("fake_quantize_per_tensor_affine_cachemask")
def fake_quantize_per_tensor(self: torch.Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int) -> Pair:
    """(self rounded to steps of one scale, which of its elements were in range)."""
    _check_range(quant_min, quant_max)
    if not quant_min <= zero_point <= quant_max:
        raise RuntimeError("`zero_point` must be between `quant_min` and `quant_max`.")
    outputs = _outputs(self)
    _quantize_by_numbers(outputs, (self,), (quant_min, quant_max, scale, zero_point))
    return outputs


@implements("_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")
def fake_quantize_per_tensor_of_tensors(
    self: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    fake_quant_enabled: torch.Tensor,
    quant_min: int,
    quant_max: int,
) -> Pair:
    """The switch is read on the device: the host does not wait."""
    _check_range(quant_min, quant_max)
    outputs = _by_tensors(self, scale.reshape(-1)[0], zero_point.reshape(-1)[0], quant_min, quant_max)
    return _where_on(fake_quant_enabled, outputs, self)


def _where_on(switch: torch.Tensor, outputs: Pair, self: torch.Tensor) -> Pair:
    """These outputs, or those of no quantisation."""
    on = switch.reshape(-1)[0] != 0
    return torch.where(on, outputs[0], self), outputs[1] | ~on


def _along(vector: torch.Tensor, self: torch.Tensor, axis: int) -> torch.Tensor:
    return vector.reshape([-1 if d == axis else 1 for d in range(self.dim())])


def _check_channels(self: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int) -> None:
    if scale.dtype not in (torch.float32, torch.bfloat16):
        raise RuntimeError(f"Scale must be Float or BFloat16, found {scale.dtype}")
    if scale.dim() != 1 or zero_point.dim() != 1:
        raise RuntimeError("scale and zero point should be 1-D tensors")
    if scale.numel() != zero_point.numel():
        raise RuntimeError("scale and zero-point need to have the same dimensions")
    if axis < 0:
        raise RuntimeError("`axis` must be between 0 and number of dimensions of input")
    if scale.numel() != self.size(axis):
        raise RuntimeError("dimensions of scale and zero-point are not consistent with input tensor")


@implements("fake_quantize_per_channel_affine_cachemask")
def fake_quantize_per_channel(
    self: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int, quant_min: int, quant_max: int
) -> Pair:
    """(self rounded to steps of a scale for each index along `axis`, which of its elements were in range)."""
    if zero_point.dtype not in (torch.int32, torch.float16, torch.float32):
        raise RuntimeError(f"Zero-point must be Int32, Float or Half, found {zero_point.dtype}")
    _check_channels(self, scale, zero_point, axis)
    _check_range(quant_min, quant_max)
    if not zero_point.is_floating_point():
        raise_where(
            (zero_point < quant_min) | (zero_point > quant_max),
            "`zero_point` must be between `quant_min` and `quant_max`.",
        )
    return _by_tensors(self, _along(scale, self, axis), _along(zero_point, self, axis), quant_min, quant_max)


# Learned scales and zero points ---------------------------------------------------------------------------------------


def _rounded(zero_point: torch.Tensor, quant_min: int, quant_max: int) -> torch.Tensor:
    return zero_point.float().round().clamp(quant_min, quant_max).to(torch.int32)


def _learned_gradients(
    grad: torch.Tensor,
    self: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    factor: float,
) -> Triple:
    outputs = torch.empty_like(self), torch.empty_like(self), torch.empty_like(self)
    _gradients(outputs, (grad, self, scale, zero_point), (quant_min, quant_max, factor))
    return outputs


@implements("_fake_quantize_learnable_per_tensor_affine")
def learnable_per_tensor(
    self: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    grad_factor: float = 1.0,
) -> torch.Tensor:
    """self rounded to steps of one scale, which is trained."""
    _check_range(quant_min, quant_max)
    point = _rounded(zero_point, quant_min, quant_max).reshape(-1)[0]
    return _by_tensors(self, scale.reshape(-1)[0], point, quant_min, quant_max)[0]


@implements("_fake_quantize_learnable_per_tensor_affine_backward")
def learnable_per_tensor_backward(
    grad: torch.Tensor,
    self: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    grad_factor: float = 1.0,
) -> Triple:
    """The gradients of self, scale and zero point of `learnable_per_tensor`."""
    if self.numel() == 0:
        return self, scale, zero_point
    # ATen rounds half up here, and half to even in all other places.
    point = (zero_point.reshape(-1)[0].float() + 0.5).clamp(quant_min, quant_max).to(torch.int32)
    gradients = _learned_gradients(grad, self, scale.reshape(-1)[0], point, quant_min, quant_max, grad_factor)
    return gradients[0], gradients[1].sum().unsqueeze(0), gradients[2].sum().unsqueeze(0)


@implements("_fake_quantize_learnable_per_channel_affine")
def learnable_per_channel(
    self: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    grad_factor: float = 1.0,
) -> torch.Tensor:
    """self rounded to steps of a scale for each index along `axis`, which are trained."""
    points = _rounded(zero_point, quant_min, quant_max)
    return fake_quantize_per_channel(self, scale, points, axis, quant_min, quant_max)[0]


@implements("_fake_quantize_learnable_per_channel_affine_backward")
def learnable_per_channel_backward(
    grad: torch.Tensor,
    self: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    grad_factor: float = 1.0,
) -> Triple:
    """The gradients of self, scales and zero points of `learnable_per_channel`."""
    _check_channels(self, scale, zero_point, axis)
    _check_range(quant_min, quant_max)
    if self.numel() == 0:
        return self, scale, zero_point
    points = _along(_rounded(zero_point, quant_min, quant_max), self, axis)
    channels = _along(scale, self, axis)
    gradients = _learned_gradients(grad, self, channels, points, quant_min, quant_max, grad_factor)
    others = [d for d in range(self.dim()) if d != axis]
    if not others:
        return gradients
    return gradients[0], gradients[1].sum(others), gradients[2].sum(others)


# Observers ------------------------------------------------------------------------------------------------------------


def _check_observed(observer_on: torch.Tensor, ch_axis: int, *tensors: torch.Tensor) -> None:
    """What the CPU refuses while it observes. Only then does the host wait for the switch."""
    wrong = next((t.dtype for t in tensors if t.dtype != torch.float32), None)
    if ch_axis and observer_on.item():
        raise RuntimeError("Per-channel FakeQuant in fused_moving_avg_obs_fake_quant is only supported on axis == 0")
    if wrong and observer_on.item():
        raise RuntimeError(f"expected scalar type Float but found {scalar_type(wrong)}")


@implements("_fused_moving_avg_obs_fq_helper")
def fused_moving_average_observer(
    self: torch.Tensor,
    observer_on: torch.Tensor,
    fake_quant_on: torch.Tensor,
    running_min: torch.Tensor,
    running_max: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    averaging_const: float,
    quant_min: int,
    quant_max: int,
    ch_axis: int,
    per_row_fake_quant: bool = False,
    symmetric_quant: bool = False,
) -> Pair:
    """Follow the range of self's values, choose scale and zero point by it, quantise and go back; and the mask.

    The state (one element, or one for each row; empty at first, it gets as many) is updated in place. Both switches are
    read on the device: the host does not wait.
    """
    _check_range(quant_min, quant_max)
    _check_observed(observer_on, ch_axis if per_row_fake_quant else 0, self, running_min, running_max)
    if per_row_fake_quant:
        rows = self.size(ch_axis)
        if running_min.numel() == 0:
            running_min.resize_(rows).fill_(torch.inf)
            running_max.resize_(rows).fill_(-torch.inf)
            scale.resize_(rows)
            zero_point.resize_(rows)
        _check_channels(self, scale, zero_point, ch_axis)
        ends = torch.aminmax(self.movedim(ch_axis, 0).flatten(1), dim=1)
    else:
        ends = torch.aminmax(self)
    low, high, scales, points = (t.view(-1) for t in (running_min, running_max, scale, zero_point))
    observing, quantising = observer_on.view(-1), fake_quant_on.view(-1)
    for running, end in zip((low, high), ends, strict=True):
        _follow_range((running,), (running, end.view(-1), observing), (averaging_const,))
    _choose((scales, points), (low, high, quantising, scales, points), (quant_min, quant_max, symmetric_quant))
    if per_row_fake_quant:
        channels = _along(scales, self, ch_axis), _along(points, self, ch_axis)
    else:
        channels = scales[0], points[0]
    return _where_on(quantising, _by_tensors(self, *channels, quant_min, quant_max), self)
