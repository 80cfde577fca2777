"""Activation functions and their derivatives."""

from __future__ import annotations

import torch

from portable_mps.dispatch.pointwise import Pointwise, register
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import once_each

register(
    Pointwise(
        "relu",
        ("maths::isnan(a) ? a : max(a, C(0))",),
        1,
        by_type={k: "max(a, C(0))" for k in ("int", "int64_t")},
        like="relu",
    ),
    "relu",
    "relu_",
)
_threshold = Pointwise("threshold", ("a <= s0 ? s1 : a",), 1, "os", like="threshold")


@implements("threshold.out")
def threshold_out(self: torch.Tensor, threshold: float, value: float, *, out: torch.Tensor) -> torch.Tensor:
    """self where it is above the threshold, else `value`."""
    if out is self:  # ATen checks no overlap here: an expanded tensor is done once
        self = once_each(self)
        _threshold((self,), (self,), (threshold, value))
        return out
    return _threshold((out,), (self,), (threshold, value))[0]


register(Pointwise("threshold_backward", ("b <= s0 ? C(0) : a",), 2, "c"), "threshold_backward.grad_input")
register(
    Pointwise("hardtanh", ("maths::minimum(maths::maximum(a, s0), s1)",), 1, "ss", like="hardtanh"),
    "hardtanh",
    "hardtanh_",
    "hardtanh.out",
)
register(
    Pointwise("hardtanh_backward", ("(b <= s0 || b >= s1) ? C(0) : a",), 2, "cc"),
    "hardtanh_backward",
    "hardtanh_backward.grad_input",
)
register(Pointwise("leaky_relu", ("a > C(0) ? a : a * s0",), 1, "o"), "leaky_relu.out")
# self_is_result changes nothing: a positive slope keeps the sign.
register(Pointwise("leaky_relu_backward", ("b > C(0) ? a : a * s0",), 2, "ci"), "leaky_relu_backward.grad_input")
register(Pointwise("elu", ("a < C(0) ? maths::expm1(a * s2) * (s0 * s1) : a * s1",), 1, "ooo"), "elu.out")
register(
    Pointwise(
        "elu_backward",
        ("b > C(0) ? a * s1 : (s3 != 0 ? a * s2 * (b + s0 * s1) : a * s2 * s0 * s1 * maths::exp(b * s2))",),
        2,
        "ccci",
    ),
    "elu_backward.grad_input",
)
register(
    Pointwise(
        "silu",
        ("maths::silu(a)",),
        1,
        by_type={"Complex": "maths::div(a, C(1) + maths::exp(-a))"},
        in_half="rounded::silu(a)",
    ),
    "silu.out",
)
register(
    Pointwise(
        "silu_backward",
        ("a * maths::sigmoid(b) * (C(1) + b * (C(1) - maths::sigmoid(b)))",),
        2,
        in_half="a * rounded::silu_slope(b)",
    ),
    "silu_backward",
    "silu_backward.grad_input",
)
register(Pointwise("mish", ("maths::mish(a)",), 1), "mish.out")
register(
    Pointwise(
        "mish_backward",
        (
            "a * (maths::tanh(maths::softplus(b, C(1), C(20))) + b * maths::sigmoid(b)"
            " * (C(1) - maths::tanh(maths::softplus(b, C(1), C(20))) * maths::tanh(maths::softplus(b, C(1), C(20)))))",
        ),
        2,
    ),
    "mish_backward",
)
register(
    Pointwise("sigmoid_backward", ("a * (C(1) - b) * b",), 2, by_type={"Complex": "a * maths::conj((C(1) - b) * b)"}),
    "sigmoid_backward.grad_input",
)
register(
    Pointwise("tanh_backward", ("a * (C(1) - b * b)",), 2, by_type={"Complex": "a * maths::conj(C(1) - b * b)"}),
    "tanh_backward.grad_input",
)
_RELU6 = "maths::minimum(maths::maximum(a + C(3), C(0)), C(6))"
register(Pointwise("hardswish", (f"a * {_RELU6} / C(6)",), 1), "hardswish", "hardswish_", "hardswish.out")
register(
    Pointwise("hardswish_backward", ("b <= C(-3) ? C(0) : (b < C(3) ? a * (b / C(3) + C(0.5)) : a)",), 2),
    "hardswish_backward",
)
register(Pointwise("hardsigmoid", (f"{_RELU6} / C(6)",), 1), "hardsigmoid.out")
register(
    Pointwise("hardsigmoid_backward", ("b > C(-3) && b < C(3) ? a / C(6) : C(0)",), 2),
    "hardsigmoid_backward.grad_input",
)
register(
    Pointwise("hardshrink", ("a >= -s0 && a <= s0 ? C(0) : a",), 1, "s", promotion=Promotion.SAME), "hardshrink.out"
)
register(Pointwise("shrink_backward", ("b >= -s0 && b <= s0 ? C(0) : a",), 2, "c"), "hardshrink_backward.grad_input")
register(
    Pointwise(
        "softshrink",
        ("a > s0 ? a - s0 : (a < -s0 ? a + s0 : maths::isnan(a) ? a : C(0))",),
        1,
        "c",
        promotion=Promotion.SAME,
    ),
    "softshrink.out",
)
register(
    Pointwise("softshrink_backward", ("b >= -s0 && b <= s0 ? C(0) : a",), 2, "c"), "softshrink_backward.grad_input"
)
register(
    Pointwise(
        "softplus",
        ("a * s0 > s1 ? a : maths::div(maths::log1p(maths::exp(a * s0)), s0)",),
        1,
        "oo",
        promotion=Promotion.SAME,
    ),
    "softplus.out",
)
register(
    Pointwise("softplus_backward", ("b * s0 > s1 ? a : a * maths::sigmoid(b * s0)",), 2, "cc"),
    "softplus_backward.grad_input",
)

# The buffer of log_sigmoid belongs to the CPU's vectorised kernel; it stays empty here, as on CUDA.
_log_sigmoid = Pointwise(
    "log_sigmoid", ("maths::log_sigmoid(a)",), 1, promotion=Promotion.SAME, like="log_sigmoid_forward"
)
_log_sigmoid_backward = Pointwise("log_sigmoid_backward", ("a * maths::sigmoid(-b)",), 2)


@implements("log_sigmoid_forward")
def log_sigmoid_forward(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(log(sigmoid(self)), an empty buffer): the gradient needs none."""
    return _log_sigmoid((None,), (self,))[0], self.new_empty(0)


@implements("log_sigmoid_forward.output")
def log_sigmoid_forward_output(
    self: torch.Tensor, *, output: torch.Tensor, buffer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`log_sigmoid_forward` into `output`; the buffer stays as it is."""
    return _log_sigmoid((output,), (self,))[0], buffer


@implements("log_sigmoid_backward")
def log_sigmoid_backward(grad_output: torch.Tensor, self: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """The gradient of log(sigmoid(self)); the buffer is not read."""
    return _log_sigmoid_backward((None,), (grad_output, self))[0]


@implements("log_sigmoid_backward.grad_input")
def log_sigmoid_backward_out(
    grad_output: torch.Tensor, self: torch.Tensor, buffer: torch.Tensor, *, grad_input: torch.Tensor
) -> torch.Tensor:
    """`log_sigmoid_backward` into `grad_input`."""
    return _log_sigmoid_backward((grad_input,), (grad_output, self))[0]


_gelu = {
    "none": Pointwise(
        "gelu",
        ("maths::gelu(a)",),
        1,
        promotion=Promotion.SAME,
        modules=("lib.special",),
        in_half="rounded::gelu(a)",
        like="gelu",
    ),
    "tanh": Pointwise(
        "gelu_tanh",
        ("maths::gelu_tanh(a)",),
        1,
        promotion=Promotion.SAME,
        in_half="rounded::gelu_tanh(a)",
        like="gelu",
    ),
}
# d/dx x Phi(x) = Phi(x) + x phi(x), with 1/sqrt(2) and 1/sqrt(2 pi).
_PHI = "C(0.5) * (C(1) + maths::erf(b * K(0.70710678118654752440)))"
_DENSITY = "K(0.39894228040143267794) * maths::exp(C(-0.5) * b * b)"
# The tanh form with k = sqrt(2/pi) and its inner derivative.
_INNER = "maths::tanh(K(0.79788456080286535588) * (b + K(0.044715) * b * b * b))"
_SLOPE = "K(0.79788456080286535588) * (C(1) + K(0.134145) * b * b)"
_gelu_backward = {
    "none": Pointwise(
        "gelu_backward",
        (f"a * ({_PHI} + b * {_DENSITY})",),
        2,
        modules=("lib.special",),
        in_half="a * rounded::gelu_slope(b)",
    ),
    "tanh": Pointwise(
        "gelu_tanh_backward",
        (f"a * (C(0.5) * (C(1) + {_INNER}) + C(0.5) * b * (C(1) - {_INNER} * {_INNER}) * {_SLOPE})",),
        2,
        in_half="a * rounded::gelu_tanh_slope(b)",
    ),
}


def _approximation(rows: dict[str, Pointwise], approximate: str) -> Pointwise:
    if approximate not in rows:
        raise RuntimeError("approximate argument must be either none or tanh.")
    return rows[approximate]


@implements("gelu.out")
def gelu_out(self: torch.Tensor, *, approximate: str = "none", out: torch.Tensor) -> torch.Tensor:
    """x * Phi(x), or its approximation "tanh". RuntimeError for another one."""
    return _approximation(_gelu, approximate)((out,), (self,))[0]


@implements("gelu_backward.grad_input")
def gelu_backward_out(
    grad_output: torch.Tensor, self: torch.Tensor, *, approximate: str = "none", grad_input: torch.Tensor
) -> torch.Tensor:
    """The gradient of `gelu_out`."""
    return _approximation(_gelu_backward, approximate)((grad_input,), (grad_output, self))[0]


_glu = Pointwise("glu", ("a * maths::sigmoid(b)",), 2, only="floating")
_glu_backward = Pointwise(
    "glu_backward",
    ("a * maths::sigmoid(c)", "a * b * maths::sigmoid(c) * (C(1) - maths::sigmoid(c))"),
    3,
)


@implements("glu.out")
def glu_out(self: torch.Tensor, dim: int = -1, *, out: torch.Tensor) -> torch.Tensor:
    """The first half along `dim`, times the sigmoid of the second."""
    first, second = self.chunk(2, dim)
    return _glu((out,), (first, second))[0]


@implements("glu_backward")
def glu_backward(grad_output: torch.Tensor, self: torch.Tensor, dim: int) -> torch.Tensor:
    """The gradient of `glu_out`."""
    return glu_backward_out(grad_output, self, dim, grad_input=torch.empty_like(self))


@implements("glu_backward.grad_input")
def glu_backward_out(
    grad_output: torch.Tensor, self: torch.Tensor, dim: int, *, grad_input: torch.Tensor
) -> torch.Tensor:
    """`glu_backward` into `grad_input`, which takes self's shape."""
    grad_input.resize_(self.shape)
    _glu_backward(tuple(grad_input.chunk(2, dim)), (grad_output, *self.chunk(2, dim)))
    return grad_input


_glu_forward_mode = Pointwise("glu_jvp", ("maths::sigmoid(b) * c + a * (C(1) - maths::sigmoid(b)) * d",), 4)


@implements("glu_jvp")
def glu_jvp(glu: torch.Tensor, x: torch.Tensor, dx: torch.Tensor, dim: int) -> torch.Tensor:
    """The forward-mode gradient of glu, whose result was `glu`; dx is x's tangent."""
    return _glu_forward_mode((None,), (glu, x.chunk(2, dim)[1], *dx.chunk(2, dim)))[0]


@implements("glu_backward_jvp")
def glu_backward_jvp(
    grad_x: torch.Tensor, grad_glu: torch.Tensor, x: torch.Tensor, dgrad_glu: torch.Tensor, dx: torch.Tensor, dim: int
) -> torch.Tensor:
    """The derivative of glu_backward along (dgrad_glu, dx), by the product rule."""
    first, second = x.chunk(2, dim)
    dfirst, dsecond = dx.chunk(2, dim)
    gate = second.sigmoid()
    dgate = gate * (1 - gate) * dsecond
    rest = 1 - gate
    through_gate = dgrad_glu * gate + grad_glu * dgate
    slope = through_gate * first * rest + grad_glu * gate * (dfirst * rest - first * dgate)
    return torch.cat((through_gate, slope), dim)


_prelu_backward = Pointwise(
    "prelu_backward", ("b > C(0) ? a : a * c", "b > C(0) ? C(0) : a * b"), 3, promotion=Promotion.SAME
)
register(Pointwise("prelu", ("a > C(0) ? a : a * b",), 2), "_prelu_kernel")
register(_prelu_backward, "_prelu_kernel_backward")

register(
    Pointwise("dropout_backward", ("a * (cast_bool(b) ? s0 : C(0))",), 2, "c", promotion=Promotion.FLOAT),
    "native_dropout_backward",
)

_logit_backward = Pointwise(
    "logit_backward", ("b < C(0) || b > C(1) ? maths::nan_of(a) : maths::div(a, b * (C(1) - b))",), 2
)
_logit_backward_clamped = Pointwise(
    "logit_backward_clamped", ("b < s0 || b > C(1) - s0 ? C(0) : maths::div(a, b * (C(1) - b))",), 2, "c"
)


@implements("logit_backward.grad_input")
def logit_backward_out(
    grad_output: torch.Tensor, self: torch.Tensor, eps: float | None = None, *, grad_input: torch.Tensor
) -> torch.Tensor:
    """The gradient of logit; with `eps`, of that of the clamped input."""
    if eps is None:
        return _logit_backward((grad_input,), (grad_output, self))[0]
    return _logit_backward_clamped((grad_input,), (grad_output, self), (eps,))[0]
