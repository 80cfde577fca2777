"""Functions to compile, by name: what each asks of the code generator, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


class Case(NamedTuple):
    """inputs: called with a generator on the CPU. gradients: whether those of floating-point inputs are compared."""

    function: Callable[..., Any]
    inputs: Callable[[torch.Generator], tuple[Any, ...]]
    gradients: bool = False
    tolerance: float = 1e-5


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda generator: torch.randn(shape, generator=generator).to(dtype)


def whole(
    low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64
) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda generator: torch.randint(low, high, shape, generator=generator).to(dtype)


def given(*makers: Any) -> Callable[[torch.Generator], tuple[Any, ...]]:
    return lambda generator: tuple(make(generator) if callable(make) else make for make in makers)


CASES: dict[str, Case] = {}


def case(
    name: str, function: Callable[..., Any], *makers: Any, gradients: bool = False, tolerance: float = 1e-5
) -> None:
    assert name not in CASES, name
    CASES[name] = Case(function, given(*makers), gradients, tolerance)


# Pointwise: each function of one number, and of two, in a chain that must be one kernel.
_UNARY = "abs acos acosh asin asinh atan atanh ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 floor frac"
_UNARY += (
    " lgamma log log10 log1p log2 logit neg reciprocal relu round rsqrt sgn sigmoid sign sin sinc sinh sqrt square"
)
_UNARY += " tan tanh trunc i0 nan_to_num positive rad2deg isnan isinf isfinite signbit"
for _name in _UNARY.split():
    _f = getattr(torch, _name)
    case(f"unary {_name}", lambda x, f=_f: f(x * 1.5 + 0.1) * 1, normal(7, 33))
_SPECIAL = "bessel_j0 bessel_y1 erfcx i1e log_ndtr ndtri entr modified_bessel_k0"
for _name in _SPECIAL.split():
    _f = getattr(torch.special, _name)
    case(f"special {_name}", lambda x, f=_f: f(x.abs() * 0.4), normal(7, 33))
_BINARY = (
    "add sub mul div atan2 copysign fmod remainder maximum minimum hypot logaddexp pow floor_divide nextafter eq ne"
)
_BINARY += " lt le gt ge logical_and logical_or logical_xor fmax fmin xlogy heaviside"
for _name in _BINARY.split():
    _f = getattr(torch, _name)
    case(f"binary {_name}", lambda x, y, f=_f: f(x.abs() + 0.5, y), normal(9, 16), normal(16))
_OF_WHOLE = "add sub mul floor_divide remainder maximum minimum bitwise_and bitwise_or bitwise_xor gcd"
for _name in _OF_WHOLE.split():
    _f = getattr(torch, _name)
    for _dtype in (torch.int64, torch.uint8, torch.int8, torch.int16):
        _low = 1 if _dtype == torch.uint8 else -90
        case(
            f"whole {_name} {_dtype}",
            lambda x, y, f=_f: f(x, y) + x,
            whole(_low, 100, 5, 64, dtype=_dtype),
            whole(1, 9, 64, dtype=_dtype),
        )
_ACTIVATIONS = "gelu silu mish softplus elu selu celu hardtanh hardsigmoid hardswish leaky_relu relu6 logsigmoid"
_ACTIVATIONS += " tanhshrink"
for _name in _ACTIVATIONS.split():
    case(f"activation {_name}", getattr(F, _name), normal(8, 130), gradients=True)
for _dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.uint8):
    # Half types are rounded in memory alone, as on CUDA.
    _tolerance = 1e-2 if _dtype in (torch.float16, torch.bfloat16) else 1e-5
    case(f"to {_dtype}", lambda x, d=_dtype: (x * 3).to(d).to(torch.float32) + 1, normal(4, 300), tolerance=_tolerance)
    case(
        f"from {_dtype}",
        lambda x: x.to(torch.float32).exp().sum(1),
        lambda g, d=_dtype: torch.randn(4, 300, generator=g).to(d),
    )
case("shifts", lambda x: (x << 3, x >> 2, ~x), whole(-100, 100, 40))
case(
    "half chain",
    lambda x, y: (x.float() * y + 1).to(torch.bfloat16).float(),
    normal(6, 128, dtype=torch.bfloat16),
    normal(128),
    tolerance=1e-2,
)
case("where", lambda x, y: torch.where(x > 0, x * y, y), normal(9, 17), normal(17), gradients=True)
case("clamp", lambda x: x.clamp(-0.5, 0.5) + x.clamp_min(0), normal(9, 17), gradients=True)
case("masked fill", lambda x: x.masked_fill(x > 0, -1e9).softmax(-1), normal(9, 30))
case(
    "lerp, addcmul, addcdiv",
    lambda x, y: (x.lerp(y, 0.3), x.addcmul(x, y, value=2), x.addcdiv(y, x.abs() + 1)),
    normal(50),
    normal(50),
)
case("bits", lambda x: x.view(torch.int32) ^ 5, normal(8, 8))
case("frexp", torch.frexp, normal(8, 8))
case("8-bit floats", lambda x: x.to(torch.float8_e4m3fn).float() * 2, normal(8, 8))
case(
    "constants", lambda x: x + torch.arange(8, device=x.device) * torch.linspace(0, 1, 8, device=x.device), normal(4, 8)
)
case("infinities", lambda x: torch.where(x > 0, float("inf"), float("nan")) * float("-inf"), normal(4, 8))
case("tiny numbers", lambda x: x * 1e-40 + 1e38 * x, normal(4, 8))

# Reductions: kinds, dimensions, lengths that fit in registers, that are looped over, and that are split.
_KINDS: dict[str, Callable[..., Any]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "amax": torch.amax,
    "amin": torch.amin,
    "argmax": torch.argmax,
    "argmin": torch.argmin,
    "var": torch.var,
    "std": torch.std,
    "any": lambda x, d: torch.any(x > 1, d),
    "all": lambda x, d: torch.all(x > -3, d),
    "logsumexp": torch.logsumexp,
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "max": lambda x, d: torch.max(x, d),
    "count": lambda x, d: torch.count_nonzero(x > 0, d),
    "norm": lambda x, d: torch.linalg.vector_norm(x, 2, d),
}
for _name, _reduce in _KINDS.items():
    for _shape, _dim in (((5, 7), 1), ((300, 40), 0), ((6, 700), 1), ((3, 5000), 1), ((2500, 6), 0)):
        case(
            f"{_name} of {_shape} over {_dim}",
            lambda x, f=_reduce, d=_dim: f(x * 1.5, d),
            normal(*_shape),
            tolerance=1e-4,
        )
case("prod", lambda x: (x.prod(1), x.prod()), normal(5, 9), tolerance=1e-4)
case("sum of all", lambda x: x.sum() + x.amax() - x.mean(), normal(300, 400), tolerance=1e-3)
case("sums of two dimensions", lambda x: (x.sum((0, 2)), x.sum((1, 2)), x.sum(1)), normal(9, 20, 30), tolerance=1e-4)
case("several reductions", lambda x: (x.sum(1), x.amax(1), (x * x).mean(1)), normal(40, 90), tolerance=1e-4)
case(
    "reduction and use",
    lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
    normal(40, 90),
    gradients=True,
    tolerance=1e-4,
)
case("variance of little", lambda x: torch.var_mean(x + 1e4, 1), normal(4, 3000), tolerance=1e-2)
case("whole sums", lambda x: (x.sum(1), x.amax(0), x.argmin(1)), whole(-90, 90, 40, 50))
case("bytes", lambda x: (x.sum(1), x.amax(0)), whole(0, 250, 40, 50, dtype=torch.uint8))
case("half sums", lambda x: (x.float().sum(1), x.amax(1)), normal(40, 300, dtype=torch.bfloat16), tolerance=1e-4)
case(
    "NaN wins",
    lambda x: (torch.where(x > 2, float("nan"), x).amax(1), torch.where(x > 2, float("nan"), x).argmax(1)),
    normal(40, 90),
)

# Norms, losses.
for _width in (100, 3000):
    case(
        f"layer norm of {_width}",
        lambda x, w, b, n=_width: F.layer_norm(x, (n,), w, b),
        normal(9, _width),
        normal(_width),
        normal(_width),
        gradients=True,
        tolerance=1e-3,
    )
    case(
        f"RMS norm of {_width}",
        lambda x, w, n=_width: F.rms_norm(x, (n,), w),
        normal(9, _width),
        normal(_width),
        gradients=True,
        tolerance=1e-3,
    )
    case(
        f"cross entropy of {_width}",
        lambda x, y: F.cross_entropy(x, y),
        normal(9, _width),
        whole(0, _width, 9),
        gradients=True,
        tolerance=1e-4,
    )
case(
    "group norm",
    lambda x, w, b: F.group_norm(x, 3, w, b),
    normal(4, 12, 7, 7),
    normal(12),
    normal(12),
    gradients=True,
    tolerance=1e-3,
)
case(
    "batch norm",
    lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    normal(4, 12, 7, 7),
    normal(12),
    normal(12),
    gradients=True,
    tolerance=1e-3,
)
case(
    "layer norm, residual, dropout of nothing",
    lambda x, r, w: F.dropout(F.layer_norm(x + r, (64,), w), 0.0),
    normal(9, 64),
    normal(9, 64),
    normal(64),
    gradients=True,
    tolerance=1e-3,
)
_LOSSES = "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits"
_LOSSES += " kl_div"
for _name in _LOSSES.split():
    _f = getattr(F, _name)
    case(
        f"loss {_name}",
        lambda x, y, f=_f: f(x, y.sigmoid()),
        normal(9, 16),
        normal(9, 16),
        gradients=True,
        tolerance=1e-4,
    )
case(
    "nll loss",
    lambda x, y: F.nll_loss(x.log_softmax(1), y, ignore_index=2),
    normal(9, 16),
    whole(0, 16, 9),
    gradients=True,
)

# Shapes and memory.
_VIEWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "transpose": lambda x: x.t().contiguous() * 2,
    "transposed sum": lambda x: x.t() + x[:, :12].reshape(12, 12).t().repeat(2, 1),
    "slice": lambda x: x[:, 3:20:2] + 1,
    "aligned slice": lambda x: x[:, 4:] * 2,
    "flip, roll": lambda x: x.flip(1) + x.roll(5, 1),
    "cat": lambda x: torch.cat([x, x * 2, x[:3]], 0) + 1,
    "stack": lambda x: torch.stack([x, x + 1], 1).sum(2),
    "pad": lambda x: F.pad(x, (1, 2, 3, 0), value=3.0),
    "reflect": lambda x: F.pad(x[None], (2, 1), mode="reflect"),
    "repeat": lambda x: x.repeat(2, 3) * 2,
    "repeat interleave": lambda x: x.repeat_interleave(3, 0),
    "unfold": lambda x: x.unfold(1, 5, 2).sum(-1),
    "diagonal": lambda x: x.diagonal() + x.tril(1).sum(0)[:12],
    "expand": lambda x: x[:, None].expand(-1, 4, -1) * x[:, None],
    "split": lambda x: [part * 2 for part in x.split(5, 1)],
    "permuted": lambda x: x.view(3, 4, 24).permute(2, 0, 1).reshape(24, 12) + 1,
    "views that are written": lambda x: (
        y := x.clone(),
        y[:, 2:7].mul_(3),
        y.t().add_(1),
        y.view(-1)[::3].zero_(),
        y * 2,
    )[-1],
    "meshgrid": lambda x: sum(torch.meshgrid(x[0], x[1], indexing="ij")),
}
for _name, _view in _VIEWS.items():
    case(f"shape {_name}", _view, normal(12, 24), gradients=True)
for _mode in ("nearest", "bilinear", "bicubic"):
    case(
        f"interpolate {_mode}",
        lambda x, m=_mode: F.interpolate(x, scale_factor=1.7, mode=m),
        normal(2, 3, 7, 9),
        gradients=True,
        tolerance=1e-4,
    )
case("pooling", lambda x: F.max_pool2d(x.relu(), 2) + F.avg_pool2d(x, 2), normal(2, 3, 8, 8), gradients=True)
case("adaptive pooling", lambda x: F.adaptive_avg_pool2d(x, 3), normal(2, 3, 9, 9), gradients=True)

# Indices.
case("gather", lambda x, i: x.gather(1, i) * 2, normal(6, 9), whole(0, 9, 6, 4), gradients=True)
case("index", lambda x, i: x[i] + x[-i - 1], normal(9, 6), whole(0, 9, 5), gradients=True)
case("two indices", lambda x, i, j: x[i, :, j] * 2, normal(9, 3, 6), whole(0, 9, 5), whole(-6, 6, 5), gradients=True)
case(
    "index put",
    lambda x, i, v: x.index_put((i,), v, accumulate=True) * 2,
    normal(9, 6),
    whole(0, 9, 20),
    normal(20, 6),
    gradients=True,
)
case(
    "scatter add",
    lambda x, i, v: x.scatter_add(0, i, v),
    normal(9, 6),
    whole(0, 9, 20, 6),
    normal(20, 6),
    gradients=True,
)
case("scatter", lambda x, i: x.scatter(1, i, 7.0), normal(9, 6), whole(0, 6, 9, 1))
case("embedding", lambda w, i: F.embedding(i, w, padding_idx=1).relu(), normal(9, 6), whole(0, 9, 4, 5), gradients=True)
case("index select", lambda x, i: x.index_select(1, i).softmax(1), normal(9, 6), whole(0, 6, 4), gradients=True)
case("take along, narrow", lambda x, i: torch.take_along_dim(x, i, 1).narrow(0, 2, 3), normal(9, 6), whole(0, 6, 9, 2))
case("bucketize", lambda x, b: torch.bucketize(x, b.sort()[0]) + 1, normal(8, 16), normal(8))
case("masked select", lambda x: x[x > 0].sum(), normal(60, 5), tolerance=1e-4)
case("one hot", lambda i: F.one_hot(i, 7).sum(0), whole(0, 7, 30))

# What stays a kernel of eager's, between fused ones.
case("cumsum", lambda x: (x + 1).cumsum(1) * 2, normal(8, 100), gradients=True, tolerance=1e-4)
case("sort, topk", lambda x: ((x + 1).sort(1)[0] * 2, (x + 1).topk(3)[1] + 1), normal(8, 100))
case(
    "product, bias, gelu",
    lambda x, w, b: F.gelu(F.linear(x, w, b)),
    normal(9, 32),
    normal(24, 32),
    normal(24),
    gradients=True,
    tolerance=1e-4,
)
case(
    "products of a batch",
    lambda x, y: torch.bmm(x, y).softmax(-1) @ y.mT,
    normal(4, 8, 16),
    normal(4, 16, 8),
    gradients=True,
    tolerance=1e-3,
)
case(
    "einsum",
    lambda x, y: torch.einsum("bij,bjk->bki", x, y) * 2,
    normal(4, 8, 16),
    normal(4, 16, 8),
    gradients=True,
    tolerance=1e-3,
)
case(
    "convolution",
    lambda x, w: F.conv2d(x, w, padding=1).relu(),
    normal(2, 8, 9, 9),
    normal(8, 8, 3, 3),
    gradients=True,
    tolerance=1e-3,
)
case(
    "channels-last",
    lambda x, w: F.conv2d(x.to(memory_format=torch.channels_last), w).tanh(),
    normal(2, 8, 9, 9),
    normal(8, 8, 3, 3),
    gradients=True,
    tolerance=1e-3,
)
case(
    "attention",
    lambda q: F.scaled_dot_product_attention(q, q * 2, q + 1, is_causal=True) * 2,
    normal(2, 4, 16, 32),
    gradients=True,
    tolerance=1e-3,
)
case(
    "attention of rows outside",
    lambda x: F.scaled_dot_product_attention(*(x.view(5, 2, 4, 8).permute(1, 2, 0, 3),) * 3),
    normal(5, 2, 32),
    gradients=True,
    tolerance=1e-3,
)
case("determinant", lambda x: torch.linalg.det(x @ x.mT + torch.eye(5, device=x.device)), normal(5, 5), tolerance=1e-2)

# Random numbers: eager's.
case("dropout", lambda x: F.dropout(x * 2, 0.4) + 1, normal(20, 30), gradients=True)
case(
    "random numbers",
    lambda x: torch.rand_like(x) + torch.randn(30, device=x.device) + torch.randint(9, (20, 1), device=x.device),
    normal(20, 30),
)
case("bernoulli", lambda x: torch.bernoulli(x.sigmoid()) * 2, normal(20, 30))

# Control.
case("a number of the host", lambda x: x * x.sum().item(), normal(6, 5), tolerance=1e-4)
case("a branch", lambda x: x + 1 if x.sum() > 0 else x - 1, normal(6, 5))
case(
    "checkpoint",
    lambda x, w: checkpoint(lambda y: F.gelu(y @ w), x, use_reentrant=False),
    normal(8, 16),
    normal(16, 16),
    gradients=True,
    tolerance=1e-4,
)
case("scalars", lambda x, s: x * s + 1, normal(6, 5), 0.3)
case("a tensor of one number on the CPU", lambda x, s: (x * s).exp(), normal(6, 5), lambda g: torch.tensor(0.25))
