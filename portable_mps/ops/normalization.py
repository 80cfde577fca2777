"""Batch, layer, group and RMS normalisation with their gradients, and weight normalisation's.

Statistics of half types are kept in float32, as CUDA does. Variances are sums of squared deviations, never a difference
of two large sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import scalar_type, summed_in
from portable_mps.dispatch.reduction import Accumulate, Reduction
from portable_mps.dispatch.registry import implements, register, register_composite, schema
from portable_mps.dispatch.rows import RowKernel
from portable_mps.dispatch.strided import resized

_VARIANCE = "maths::div(s.deviations, A(n))"
statistics = Reduction(
    "norm_statistics",
    "{ A(0), A(0), A(0) }",
    "extended(s, a)",
    "pooled(x, y)",
    ("s.mean", f"maths::rsqrt({_VARIANCE} + k0)", "maths::div(s.deviations, A(n) - A(1))"),
    "Moments",
    scalars=1,
    accumulate=Accumulate.OUTPUT,
)
# Of the gradient a and the input b, with mean c and reciprocal deviation d: sums of a * (b - c) * d and of a.
gradient_sums = Reduction(
    "norm_gradient_sums",
    "{ A(0), A(0) }",
    "{ s.first + a * (b - c) * d, s.second + a }",
    "added(x, y)",
    ("s.first", "s.second"),
    "Pair",
    inputs=4,
    accumulate=Accumulate.OUTPUT,
)
_normalized = Pointwise("norm_plain", ("(a - b) * c",), 3)
_affine = Pointwise("norm_affine", ("(a - b) * c * d + e",), 5)
_scaled = Pointwise("norm_scaled", ("a * b",), 2)
_running = Pointwise("norm_running", ("a + s0 * (c - a)", "b + s0 * (d - b)"), 4, "c")
# a gradient, b input, c mean, d rstd, e weight, f mean of weighted gradients, g of their products with the input.
input_gradient = Pointwise("norm_input_gradient", ("d * (a * e - f - (b - c) * d * g)",), 7)
_forward_rows = RowKernel("normalization", "forward", tensors=7, scalars=1)
_backward_rows = RowKernel("normalization", "backward", tensors=7, scalars=1)


def _require_floating(name: str, input: torch.Tensor) -> None:
    if not input.is_floating_point():
        raise NotImplementedError(f"\"{name}\" not implemented for '{scalar_type(input.dtype)}'")


def channels_of(tensor: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """One value a channel, to broadcast over (batch, channels, …)."""
    return tensor.view(1, -1, *(1,) * (input.dim() - 2))


def normalize(
    out: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> None:
    """out = (input - mean) * rstd * weight + bias, everything broadcast."""
    if weight is None and bias is None:
        _normalized((out,), (input, mean, rstd))
    else:  # at most one of the two numbers stands in
        _affine((out,), (input, mean, rstd, 1.0 if weight is None else weight, 0.0 if bias is None else bias))


# Batch ------------------------------------------------------------------------------------------------------------


def _batch_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, and of training the mean and reciprocal deviation of each channel; updates the running statistics.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015.
    """
    _require_floating("batch_norm", input)
    accumulator = summed_in(input.dtype)
    out = torch.empty_like(input, memory_format=suggest_memory_format(input))
    channels = input.size(1)
    if training:
        mean, rstd, variance = (torch.empty(channels, dtype=accumulator, device=input.device) for _ in range(3))
        statistics((mean, rstd, variance), (input,), all_but_channels(input), (eps,))
        if running_mean is not None and running_var is not None and input.numel():
            _running((running_mean, running_var), (running_mean, running_var, mean, variance), (momentum,))
        saved = mean, rstd
    else:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        mean, rstd = running_mean, torch.rsqrt(running_var.to(accumulator) + eps)
        saved = input.new_empty(0, dtype=accumulator), input.new_empty(0, dtype=accumulator)
    weight, bias = (None if t is None else channels_of(t, input) for t in (weight, bias))
    normalize(out, input, channels_of(mean, input), channels_of(rstd, input), weight, bias)
    return out, *saved


def all_but_channels(input: torch.Tensor) -> tuple[int, ...]:
    """The dimensions that batch normalisation takes statistics over."""
    return (0, *range(2, input.dim()))


@implements("native_batch_norm")
def native_batch_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, mean, 1 / standard deviation); in training, running statistics are updated."""
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)


@implements("_native_batch_norm_legit")
def _native_batch_norm_legit(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)


@implements("_native_batch_norm_legit.no_stats")
def _native_batch_norm_legit_no_stats(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _batch_norm(input, weight, bias, None, None, training, momentum, eps)


@implements("_batch_norm_with_update")
def _batch_norm_with_update(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    reserve = torch.empty(0, dtype=torch.uint8, device=input.device)
    return *_batch_norm(input, weight, bias, running_mean, running_var, True, momentum, eps), reserve


@implements("batch_norm_update_stats")
def batch_norm_update_stats(
    input: torch.Tensor, running_mean: torch.Tensor | None, running_var: torch.Tensor | None, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and (biased) variance of each channel."""
    accumulator = summed_in(input.dtype)
    variance, mean = torch.var_mean(input.to(accumulator), all_but_channels(input), correction=0)
    if running_mean is not None and running_var is not None:
        count = input.numel() // max(input.size(1), 1)
        unbiased = variance * (count / (count - 1)) if count > 1 else variance
        _running((running_mean, running_var), (running_mean, running_var, mean, unbiased), (momentum,))
    return mean, variance


def _register_batch_norm_out(name: str, function: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    declared = schema(name).arguments
    names = [argument.name for argument in declared if argument.is_out]
    switch = next((place for place, argument in enumerate(declared) if argument.name == "training"), None)

    def into(*arguments: Any, **outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = function(*arguments)
        # Statistics of a batch are left alone where none are taken.
        taken = switch is None or arguments[switch]
        pairs = [(n, result) for n, result in zip(names, results, strict=True) if taken or n == names[0]]
        for n, result in zip(names, results, strict=True):
            # Statistics of half types are float32 here, and may be had as the CPU has them.
            if outputs[n].dtype not in (result.dtype, results[0].dtype):
                raise RuntimeError(f"expected {n} of {result.dtype} but found {outputs[n].dtype}")
        for n, result in pairs:
            resized(outputs[n], result.shape).copy_(result)
        return tuple(outputs[n] for n in names)

    register(name, into)


_register_batch_norm_out("native_batch_norm.out", native_batch_norm)
_register_batch_norm_out("_native_batch_norm_legit.out", _native_batch_norm_legit)
_register_batch_norm_out("_native_batch_norm_legit.no_stats_out", _native_batch_norm_legit_no_stats)
_register_batch_norm_out("_batch_norm_with_update.out", _batch_norm_with_update)


@implements("native_batch_norm_backward")
def native_batch_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    save_mean: torch.Tensor | None,
    save_invstd: torch.Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input, weight and bias of `native_batch_norm`; None where `output_mask` wants none."""
    accumulator = summed_in(input.dtype)
    if train:
        mean, rstd = save_mean, save_invstd
    elif running_mean is not None and running_var is not None:
        mean, rstd = running_mean.to(accumulator), torch.rsqrt(running_var.to(accumulator) + eps)
    if mean is None or rstd is None:
        raise RuntimeError("batch_norm_backward needs the statistics that the forward pass used")
    products, sums = (torch.empty(input.size(1), dtype=accumulator, device=input.device) for _ in range(2))
    wide_mean, wide_rstd = channels_of(mean, input), channels_of(rstd, input)
    if train or any(output_mask[1:]):
        operands = (grad_out, input, wide_mean.expand(input.shape), wide_rstd.expand(input.shape))
        gradient_sums((products, sums), operands, all_but_channels(input))
    grad_input = None
    if output_mask[0]:
        grad_input = torch.empty_like(input, memory_format=suggest_memory_format(input))
        if train:
            factor = 1 / max(input.numel() // max(input.size(1), 1), 1)
            scale = factor if weight is None else weight.to(accumulator) * factor
            shares = (channels_of(sums * scale, input), channels_of(products * scale, input))
            wide_weight = 1.0 if weight is None else channels_of(weight, input)
            input_gradient((grad_input,), (grad_out, input, wide_mean, wide_rstd, wide_weight, *shares))
        else:
            scale = wide_rstd if weight is None else wide_rstd * channels_of(weight, input)
            _scaled((grad_input,), (grad_out, scale))
    dtype = input.dtype if weight is None else weight.dtype
    return (
        grad_input,
        products.to(dtype) if output_mask[1] else None,
        sums.to(dtype) if output_mask[2] else None,
    )


@implements("batch_norm_backward")
def batch_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    save_mean: torch.Tensor | None,
    save_var: torch.Tensor | None,
    update: bool,
    eps: float,
    output_mask: Sequence[bool],
    reserve: torch.Tensor,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """`native_batch_norm_backward`; `reserve` is not read."""
    return native_batch_norm_backward(
        grad_out, input, weight, running_mean, running_var, save_mean, save_var, update, eps, output_mask
    )


# Layer and RMS ----------------------------------------------------------------------------------------------------


def _rows(input: torch.Tensor, normalized_shape: Sequence[int]) -> tuple[int, int, tuple[int, ...]]:
    """Rows, their length, and the shape of one statistic a row; RuntimeError for shapes that do not fit."""
    kept = input.dim() - len(normalized_shape)
    if not normalized_shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got "
            "normalized_shape = []"
        )
    if kept < 0 or list(input.shape[kept:]) != list(normalized_shape):
        expected = ", ".join(str(size) for size in normalized_shape)
        raise RuntimeError(
            f"Given normalized_shape={list(normalized_shape)}, expected input with shape [*, {expected}], but got "
            f"input of size{list(input.shape)}"
        )
    size = math.prod(normalized_shape)
    return math.prod(input.shape[:kept]), size, (*input.shape[:kept], *(1,) * len(normalized_shape))


def _check_parameter(name: str, parameter: torch.Tensor | None, normalized_shape: Sequence[int]) -> None:
    if parameter is not None and list(parameter.shape) != list(normalized_shape):
        raise RuntimeError(
            f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape {list(parameter.shape)} "
            f"and normalized_shape = {list(normalized_shape)}"
        )


def _normalize_rows(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    rms: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _require_floating("layer_norm", input)
    rows, size, statistics_shape = _rows(input, normalized_shape)
    _check_parameter("weight", weight, normalized_shape)
    _check_parameter("bias", bias, normalized_shape)
    source = input.contiguous()
    out = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    accumulator = summed_in(input.dtype)
    mean, rstd = (torch.empty(statistics_shape, dtype=accumulator, device=input.device) for _ in range(2))
    if rows and size:
        parameters = [p for p in (weight, bias) if p is not None]
        dtype = parameters[0].dtype if parameters else input.dtype
        weight, bias = (None if p is None else p.to(dtype).contiguous() for p in (weight, bias))
        _forward_rows(
            (source, weight, bias, None, out, None if rms else mean, rstd),
            (out, rstd) if rms else (out, mean, rstd),
            (rows, size, 1),
            {"INPUT": input.dtype, "WEIGHT": dtype},
            (eps,),
            RMS=int(rms),
            WEIGHTED=int(weight is not None),
            BIASED=int(bias is not None),
        )
    return out, mean, rstd


def _rows_gradient(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    mean: torch.Tensor | None,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of the input, the weight and the bias; a `mean` of None stands for RMS normalisation."""
    rows, size, _ = _rows(input, normalized_shape)
    source, gradient = input.contiguous(), grad_out.to(input.dtype).contiguous()
    grad_input = grad_weight = grad_bias = None
    if output_mask[0]:
        grad_input = torch.empty(input.shape, dtype=input.dtype, device=input.device)
        if rows and size:
            dtype = input.dtype if weight is None else weight.dtype
            _backward_rows(
                (source, None if weight is None else weight.contiguous(), None, gradient, grad_input, mean, rstd),
                (grad_input,),
                (rows, size, 1),
                {"INPUT": input.dtype, "WEIGHT": dtype},
                (0.0,),
                RMS=int(mean is None),
                WEIGHTED=int(weight is not None),
                BIASED=0,
            )
    if any(output_mask[1:]):
        products, sums = (torch.zeros(size, dtype=rstd.dtype, device=input.device) for _ in range(2))
        if rows and size:
            wide_mean = torch.zeros((), dtype=rstd.dtype, device=input.device) if mean is None else mean.view(rows, 1)
            operands = (gradient.view(rows, size), source.view(rows, size), wide_mean, rstd.view(rows, 1))
            gradient_sums((products, sums), [t.expand(rows, size) for t in operands], (0,))
        dtype = input.dtype if weight is None else weight.dtype
        grad_weight = products.to(dtype).view(*normalized_shape) if output_mask[1] else None
        grad_bias = sums.to(dtype).view(*normalized_shape) if output_mask[2] else None
    return grad_input, grad_weight, grad_bias


@implements("native_layer_norm")
def native_layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, mean, 1 / standard deviation) over the last dimensions, whose shape is given."""
    return _normalize_rows(input, normalized_shape, weight, bias, eps, rms=False)


@implements("native_layer_norm_backward")
def native_layer_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input, weight and bias of `native_layer_norm`; None where `output_mask` wants none."""
    return _rows_gradient(grad_out, input, normalized_shape, mean, rstd, weight, output_mask)


@implements("_fused_rms_norm")
def _fused_rms_norm(
    input: torch.Tensor, normalized_shape: Sequence[int], weight: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    _require_floating("rms_norm", input)
    eps = torch.finfo(summed_in(input.dtype)).eps if eps is None else eps
    out, _, rstd = _normalize_rows(input, normalized_shape, weight, None, eps, rms=True)
    return out, rstd


@implements("_fused_rms_norm_backward")
def _fused_rms_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return _rows_gradient(grad_out, input, normalized_shape, None, rstd, weight, (*output_mask, False))[:2]


# Group ------------------------------------------------------------------------------------------------------------


@implements("native_group_norm")
def native_group_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Wu and He, "Group Normalization", ECCV 2018. Statistics are (N, group)."""
    _require_floating("group_norm", input)
    accumulator = summed_in(input.dtype)
    out = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    mean, rstd, variance = (torch.empty((N, group), dtype=accumulator, device=input.device) for _ in range(3))
    grouped = input.contiguous().view(N, group, C // group, HxW)
    statistics((mean, rstd, variance), (grouped,), (2, 3), (eps,))
    weight, bias = (None if t is None else t.view(1, group, -1, 1) for t in (weight, bias))
    wide_mean, wide_rstd = mean.view(N, group, 1, 1), rstd.view(N, group, 1, 1)
    normalize(out.view(grouped.shape), grouped, wide_mean, wide_rstd, weight, bias)
    return out.contiguous(memory_format=suggest_memory_format(input)), mean, rstd


def _group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    """torch's composition, which makes the input contiguous on GPUs, but channels-last as on the CPU."""
    if input.dim() < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.dim()}")
    batch, channels = input.shape[:2]
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if channels % num_groups:
        raise RuntimeError(
            f"Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(input.shape)} and num_groups={num_groups}"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
                f"shape {list(parameter.shape)} and input of shape {list(input.shape)}"
            )
    size = math.prod(input.shape[2:])
    input = input.contiguous(memory_format=suggest_memory_format(input))
    return torch.native_group_norm(input, weight, bias, batch, channels, size, num_groups, eps)[0]


register_composite("group_norm", _group_norm)


@implements("native_group_norm_backward")
def native_group_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input, weight and bias of a group normalisation; None where `output_mask` wants none."""
    accumulator = summed_in(input.dtype)
    shape = (N, group, C // group, HxW)
    grouped, gradient = input.contiguous().view(shape), grad_out.contiguous().view(shape)
    wide_mean, wide_rstd = (t.to(accumulator).view(N, group, 1, 1) for t in (mean, rstd))
    products, sums = (torch.empty((N, group, C // group), dtype=accumulator, device=input.device) for _ in range(2))
    operands = (gradient, grouped, wide_mean.expand(shape), wide_rstd.expand(shape))
    gradient_sums((products, sums), operands, (3,))
    grad_input = None
    if output_mask[0]:
        grad_input = torch.empty(input.shape, dtype=input.dtype, device=input.device)
        per_group = torch.ones((), dtype=accumulator, device=input.device)
        if weight is not None:
            per_group = weight.to(accumulator).view(1, group, -1)
        count = max(C // group * HxW, 1)
        shares = [(t * per_group).sum(2).div_(count).view(N, group, 1, 1) for t in (sums, products)]
        scale = 1.0 if weight is None else weight.view(1, group, -1, 1)
        input_gradient((grad_input.view(shape),), (gradient, grouped, wide_mean, wide_rstd, scale, *shares))
        grad_input = grad_input.contiguous(memory_format=suggest_memory_format(input))
    dtype = input.dtype if weight is None else weight.dtype
    return (
        grad_input,
        products.sum(0).view(C).to(dtype) if output_mask[1] else None,
        sums.sum(0).view(C).to(dtype) if output_mask[2] else None,
    )


# Weight -----------------------------------------------------------------------------------------------------------


@implements("_weight_norm_interface_backward")
def _weight_norm_interface_backward(
    grad_w: torch.Tensor, saved_v: torch.Tensor, saved_g: torch.Tensor, saved_norms: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Salimans and Kingma, "Weight Normalization", NeurIPS 2016: w = g v / |v|, norms over all dimensions but `dim`."""
    others = [d for d in range(saved_v.dim()) if d != dim % saved_v.dim()]
    norms = saved_norms.to(saved_v.dtype)
    products = (grad_w * saved_v).sum(others, keepdim=True)
    grad_v = (saved_g / norms) * (grad_w - saved_v * (products / norms.square()))
    return grad_v, products / norms
