"""Convolution in one, two and three dimensions, transposed, grouped, dilated, and its gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch._prims_common import suggest_memory_format

from portable_mps.dispatch import convolution as launcher
from portable_mps.dispatch.checks import FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.convolution import Geometry
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import resized

_SLOW = FLOATS | {torch.int64}
SMALL = {torch.float32, torch.float16, torch.bfloat16}


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def _with_three(tensor: torch.Tensor) -> torch.Tensor:
    """(batch, channels, *size) with missing dimensions of size 1 in front of the others."""
    while tensor.dim() < 5:
        tensor = tensor.unsqueeze(2)
    return tensor


def _check(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int, transposed: bool) -> None:
    for other, name in ((weight, "weight"), (bias, "bias")):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same")
    if weight.shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of size "
            f"{list(weight.shape)} instead"
        )
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if input.shape[1] != channels:
        raise RuntimeError(
            f"Given {'transposed=1' if transposed else f'groups={groups}'}, weight of size {list(weight.shape)}, "
            f"expected input{list(input.shape)} to have {channels} channels, but got {input.shape[1]} channels instead"
        )
    filters = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and bias.shape != (filters,):
        raise RuntimeError(
            f"Given {'transposed=1' if transposed else 'transposed=0'}, weight of size {list(weight.shape)}, expected "
            f"bias to be 1-dimensional with {filters} elements, but got bias of size {list(bias.shape)} instead"
        )
    if weight.shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of "
            f"size {list(weight.shape)} instead"
        )


def _check_windows(stride: Sequence[int], padding: Sequence[int], groups: int) -> None:
    """What torch checks before it looks at any size."""
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    if any(value <= 0 for value in stride):
        raise RuntimeError("non-positive stride is not supported")
    if any(value < 0 for value in padding):
        raise RuntimeError("negative padding is not supported")


def _check_sizes(
    input: torch.Tensor,
    weight: torch.Tensor,
    limits: Sequence[int] | None,
    output_padding: Sequence[int],
) -> None:
    """What torch checks before it convolves a batch with channels; `limits` of the output padding, if transposed."""
    if 0 in input.shape:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {list(input.shape)}"
        )
    if limits is None:
        return
    if weight.numel() == 0:
        raise RuntimeError(f"non-empty weight tensor expected, but got: {list(weight.shape)}")
    if any(more >= limit for more, limit in zip(output_padding, limits, strict=True)):
        raise RuntimeError(
            f"output padding must be smaller than either stride or dilation, but got output_padding "
            f"{list(output_padding)} where {list(limits)} is the larger of the two"
        )


def _transposed_size(size: Sequence[int], weight: Sequence[int], windows: Sequence[Sequence[int]]) -> list[int]:
    """windows: stride, padding, dilation and output padding."""
    each = zip(size, weight[2:], *windows, strict=True)
    return [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, d, more in each]


def _spread(values: Sequence[int], rank: int) -> Sequence[int]:
    return list(values) * rank if len(values) == 1 else values


@functools.lru_cache(maxsize=4096)
def _geometry(
    image: torch.Size,
    result: torch.Size,
    weight: torch.Size,
    groups: int,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Geometry:
    rank = len(weight) - 2
    return Geometry(
        batch=image[0],
        channels=image[1],
        filters=result[1],
        groups=groups,
        size=_three(image[2:], 1),
        output=_three(result[2:], 1),
        kernel=_three(weight[2:], 1),
        stride=_three(_spread(stride, rank), 1),
        padding=_three(_spread(padding, rank), 0),
        dilation=_three(_spread(dilation, rank), 1),
    )


def _memory_format(input: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """Of a result, as on the CPU: channels-last where input or weight is, in 3 dimensions for floats up to 32 bits."""
    is_small = input.dtype in SMALL
    return _format_of(input.shape, input.stride(), weight.shape, weight.stride(), is_small)


@functools.lru_cache(maxsize=4096)
def _format_of(
    input: torch.Size,
    input_strides: tuple[int, ...],
    weight: torch.Size,
    weight_strides: tuple[int, ...],
    is_small: bool,
) -> torch.memory_format:
    image = torch.empty_strided(input, input_strides, device="meta")
    return format_like(image, torch.empty_strided(weight, weight_strides, device="meta"), is_small)


def format_like(input: torch.Tensor, weight: torch.Tensor, is_small: bool) -> torch.memory_format:
    """`_memory_format` of tensors that need not have memory."""
    formats = {suggest_memory_format(input), suggest_memory_format(weight)}
    if torch.channels_last in formats:
        return torch.channels_last
    return torch.channels_last_3d if is_small and torch.channels_last_3d in formats else torch.contiguous_format


@implements("_convolution")
def _convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *flags: bool,
) -> torch.Tensor:
    """What a trace records; its flags are for other backends."""
    return convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


@implements("convolution")
def convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """(batch, channels, one to three axes) with a weight, forward or transposed, in groups."""
    if torch._C._get_tracing_state() is not None:
        # torch does not record this operator but the one that it calls.
        arguments = (stride, padding, dilation, transposed, output_padding, groups)
        return torch._convolution(input, weight, bias, *arguments, False, False, True, True)
    if input.dim() == weight.dim() - 1 >= 2:
        batched = convolution(
            input.unsqueeze(0), weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
        return batched.squeeze(0)
    likes = tuple(None if t is None else (t.shape, t.dtype) for t in (input, weight, bias))
    windows = (tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding), groups)
    shape, geometry = _plan(*likes, *windows)
    if geometry is None:
        return input.new_empty(shape)
    memory_format = _memory_format(input, weight)
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    function = launcher.image_gradient if transposed else launcher.forward
    result = function(geometry, _with_three(input), weight.flatten(2), bias)
    return result.view(shape).contiguous(memory_format=memory_format)


_Like = tuple[torch.Size, torch.dtype]


@functools.lru_cache(maxsize=4096)
def _plan(
    input_like: _Like,
    weight_like: _Like,
    bias_like: _Like | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> tuple[Sequence[int], Geometry | None]:
    """The result's shape, and the convolution; None where there is nothing to convolve.

    Raises what the CPU does. Shapes and most checks are those of torch's own meta function.
    """
    input, weight, bias = (
        None if like is None else torch.empty(like[0], dtype=like[1], device="meta")
        for like in (input_like, weight_like, bias_like)
    )
    assert input is not None and weight is not None
    if transposed or any(value != 1 for value in dilation):  # kernels of their own on the CPU
        require_dtype("slow_conv_transpose2d_out_cpu" if transposed else "slow_conv_dilated<>", input, _SLOW)
    else:
        require_dtype("slow_conv2d_cpu", input, _SLOW | INTEGERS)
    _check_windows(stride, padding, groups)
    if weight.dim() < 3:
        raise RuntimeError("weight should have at least three dimensions")
    _check(input, weight, bias, groups, transposed)
    if any(value <= 0 for value in dilation):
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilation)}")
    rank = weight.dim() - 2
    if input.shape[0] and input.shape[1]:
        limits = [max(s, d) for s, d in zip(_spread(stride, rank), _spread(dilation, rank), strict=True)]
        _check_sizes(input, weight, limits if transposed else None, _spread(output_padding, rank))
    elif transposed and not input.shape[0]:
        windows = [_spread(v, rank) for v in (stride, padding, dilation, output_padding)]
        return (0, weight.shape[1] * groups, *_transposed_size(input.shape[2:], weight.shape, windows)), None
    shape = torch.ops.aten.convolution.default(
        input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
    ).shape
    image, result = (shape, input.shape) if transposed else (input.shape, shape)
    return shape, _geometry(image, result, weight.shape, groups, stride, padding, dilation)


@implements("convolution_backward")
def convolution_backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input, weight and bias of `convolution`; None where `output_mask` wants none."""
    if input.dim() == weight.dim() - 1:
        arguments = (bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask)
        grads = convolution_backward(grad_output.unsqueeze(0), input.unsqueeze(0), weight, *arguments)
        return (None if grads[0] is None else grads[0].squeeze(0), *grads[1:])
    memory_format = _memory_format(input, weight)
    weight = weight.contiguous()
    wide_grad, wide_input, taps = _with_three(grad_output), _with_three(input), weight.flatten(2)
    image, result = (wide_grad, wide_input) if transposed else (wide_input, wide_grad)
    shapes = (grad_output.shape, input.shape) if transposed else (input.shape, grad_output.shape)
    geometry = _geometry(*shapes, weight.shape, groups, tuple(stride), tuple(padding), tuple(dilation))
    grad_input = grad_weight = grad_bias = None
    if output_mask[0]:
        if transposed:
            grad_input = launcher.forward(geometry, wide_grad, taps, None)
        else:
            grad_input = launcher.image_gradient(geometry, wide_grad, taps)
        grad_input = grad_input.view(input.shape).contiguous(memory_format=memory_format)
    if output_mask[1]:
        grad_weight = launcher.weight_gradient(geometry, image, result, taps.shape)
        grad_weight = grad_weight.view(weight.shape).contiguous(memory_format=memory_format)
    if output_mask[2]:
        grad_bias = grad_output.sum([0, *range(2, grad_output.dim())])
    return grad_input, grad_weight, grad_bias


# What autograd calls on the CPU, by name ------------------------------------------------------------------------------


def _register_slow(name: str, dims: int, transposed: bool, dilated: bool) -> None:
    """One of ATen's convolutions for the CPU, which carry their case in their name."""
    ones, zeros = (1,) * dims, (0,) * dims

    def forward(
        self: torch.Tensor,
        weight: torch.Tensor,
        kernel_size: Sequence[int],
        bias: torch.Tensor | None = None,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
        *more: Sequence[int],
    ) -> torch.Tensor:
        output_padding = more[0] if transposed and more else zeros
        dilation = more[-1] if more and (dilated or len(more) > 1) else ones
        return convolution(self, weight, bias, stride, padding, dilation, transposed, output_padding, 1)

    register(name, forward)


_register_slow("_slow_conv2d_forward", 2, transposed=False, dilated=False)
_register_slow("slow_conv3d_forward", 3, transposed=False, dilated=False)
_register_slow("slow_conv_dilated2d", 2, transposed=False, dilated=True)
_register_slow("slow_conv_dilated3d", 3, transposed=False, dilated=True)
_register_slow("slow_conv_transpose2d", 2, transposed=True, dilated=True)
_register_slow("slow_conv_transpose3d", 3, transposed=True, dilated=True)


@implements("_slow_conv2d_backward.output_mask")
def slow_conv2d_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    weight: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """`convolution_backward` of a convolution in two dimensions without groups."""
    sizes = [weight.size(0)]
    return convolution_backward(
        grad_output, self, weight, sizes, stride, padding, (1, 1), False, (0, 0), 1, output_mask
    )


@implements("_slow_conv2d_backward.grad_input")
def slow_conv2d_backward_out(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    weight: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *,
    grad_input: torch.Tensor,
    grad_weight: torch.Tensor,
    grad_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`slow_conv2d_backward` into tensors."""
    outputs = (grad_input, grad_weight, grad_bias)
    gradients = slow_conv2d_backward(grad_output, self, weight, kernel_size, stride, padding, [True] * 3)
    for output, gradient in zip(outputs, gradients, strict=True):
        assert gradient is not None
        resized(output, gradient.shape).copy_(gradient)
    return outputs
