"""Convolution in one, two and three dimensions, transposed, grouped, dilated, and its gradients.

Ungrouped convolutions are matrix products over columns; grouped ones have direct kernels. A transposed convolution is
the adjoint of a plain one, so three functions (forward, image gradient, weight gradient) serve both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._prims_common import suggest_memory_format

from portable_mps.dispatch.checks import COMPLEX, FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.launch import check_turns, grid, launch
from portable_mps.dispatch.products import product, summed_product
from portable_mps.dispatch.promotion import storage, summed_in
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import resized
from portable_mps.runtime.kernel import Template

_LAYOUT = "QQQQ" + "i" * 22
_im2col = Template("convolution", "im2col", _LAYOUT)
_col2im = Template("convolution", "col2im", _LAYOUT)
_forward = Template("convolution", "forward", _LAYOUT)
_backward_image = Template("convolution", "backward_image", _LAYOUT)
_backward_weight = Template("convolution", "backward_weight", _LAYOUT)
_SLOW = FLOATS | COMPLEX | {torch.int64}
_SMALL = {torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex32}
_COLUMN_BYTES = 1 << 30  # columns held at a time: larger batches go in parts


@dataclass(frozen=True)
class Geometry:
    """A plain convolution of `image` (batch, channels, *size) to (batch, filters, *output), padded to 3 dimensions."""

    batch: int
    channels: int
    filters: int
    groups: int
    size: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.kernel[2]

    @property
    def spots(self) -> int:
        return self.output[0] * self.output[1] * self.output[2]

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution that reads each position once: the image is its own columns."""
        return self.taps == 1 and set(self.stride) == {1} and set(self.padding) == {0}

    def arguments(self, batch: int) -> tuple[int, ...]:
        sizes = (*self.size, *self.output, *self.kernel, *self.stride, *self.padding, *self.dilation)
        return (self.channels, self.filters, self.groups, batch, *sizes)


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def _types(written: torch.Tensor, bias: torch.Tensor | None = None) -> dict[str, object]:
    """The variant; the elements of one batch entry of what is written decide the width of indices."""
    row = storage(written.dtype)
    flat = "int" if written[0].numel() < 2**31 - 256 else "int64_t"
    load, store = row.load.format("x"), row.store.format("x")
    types = {"Flat": flat, "T": row.type, "LOAD(x)": load, "STORE(x)": store, "ACC": row.compute}
    return types | {"BIASED": int(bias is not None)}


def _direct(
    template: Template,
    geometry: Geometry,
    image: torch.Tensor,
    weight: torch.Tensor,
    result: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    written = {_forward: result, _backward_image: image, _backward_weight: weight}[template]
    read = [t for t in (image, weight, result, bias) if t is not None and t is not written]
    each = {_forward: geometry.channels, _backward_image: geometry.filters}.get(template, 0) // geometry.groups
    check_turns("convolution", max(2 * each * geometry.taps, geometry.batch * geometry.spots // 256))
    if template is _backward_weight:
        x, y, _ = grid(written.numel())
        groups = (x, y, 1)
    else:
        x, y, _ = grid(-(-written[0].numel() // 256))
        groups = (x, y, geometry.batch)
    arguments = (image, weight, result, bias, *geometry.arguments(geometry.batch))
    launch(template, groups, arguments, reads=read, writes=(written,), **_types(written, bias))


def _parts(geometry: Geometry, item: int) -> list[slice]:
    """Slices of the batch whose columns fit in the space for them."""
    each = max(1, geometry.channels * geometry.taps * geometry.spots * item)
    count = max(1, min(geometry.batch, _COLUMN_BYTES // each, 32768))
    return [slice(start, min(start + count, geometry.batch)) for start in range(0, geometry.batch, count)]


def _columns(geometry: Geometry, image: torch.Tensor) -> torch.Tensor:
    """(batch, channels * taps, spots) for a part of the batch."""
    if geometry.is_pointwise:
        return image.reshape(image.shape[0], geometry.channels, -1)
    rows = geometry.channels * geometry.taps
    columns = image.new_empty((image.shape[0], rows, geometry.spots))
    x, y, _ = grid(-(-rows * geometry.spots // 256))
    arguments = (image, columns, None, None, *geometry.arguments(image.shape[0]))
    launch(_im2col, (x, y, image.shape[0]), arguments, reads=(image,), writes=(columns,), **_types(columns))
    return columns


def _convolve(geometry: Geometry, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(batch, filters, spots) of contiguous image and weight."""
    result = image.new_empty((geometry.batch, geometry.filters, geometry.spots))
    if result.numel() == 0:
        return result
    if geometry.groups > 1:
        _direct(_forward, geometry, image, weight, result, bias)
        return result
    matrix = weight.reshape(1, geometry.filters, -1)
    added = None if bias is None else bias.view(1, -1, 1)
    for part in _parts(geometry, image.element_size()):
        columns = _columns(geometry, image[part])
        left = matrix.expand(columns.shape[0], -1, -1)
        product(left, columns, result[part], added, beta=0.0 if added is None else 1.0)
    return result


def _image_gradient(
    geometry: Geometry, result: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The adjoint of `_convolve` in its image, plus a bias of its channels: (batch, channels, *size)."""
    image = result.new_empty((geometry.batch, geometry.channels, *geometry.size))
    if image.numel() == 0:
        return image
    if geometry.groups > 1:
        _direct(_backward_image, geometry, image, weight, result, bias)
        return image
    matrix = weight.reshape(1, geometry.filters, -1).transpose(1, 2)
    wide = summed_in(image.dtype)  # products that are yet to be added up
    for part in _parts(geometry, wide.itemsize):
        gradient = result[part].reshape(-1, geometry.filters, geometry.spots)
        left = matrix.expand(gradient.shape[0], -1, -1)
        if geometry.is_pointwise:
            added, beta = (None, 0.0) if bias is None else (bias.view(1, -1, 1), 1.0)
            product(left, gradient, image[part].view(-1, geometry.channels, geometry.spots), added, beta=beta)
            continue
        columns = result.new_empty((gradient.shape[0], geometry.channels * geometry.taps, geometry.spots), dtype=wide)
        product(left, gradient, columns)
        target = image[part]
        x, y, _ = grid(-(-target[0].numel() // 256))
        arguments = (target, columns, None, bias, *geometry.arguments(target.shape[0]))
        read = (columns,) if bias is None else (columns, bias)
        launch(_col2im, (x, y, target.shape[0]), arguments, reads=read, writes=(target,), **_types(target, bias))
    return image


def _weight_gradient(geometry: Geometry, image: torch.Tensor, result: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The adjoint of `_convolve` in its weight."""
    weight = image.new_empty(shape)
    if weight.numel() == 0 or geometry.batch == 0 or geometry.spots == 0:
        return weight.zero_()
    if geometry.groups > 1:
        _direct(_backward_weight, geometry, image, weight, result)
        return weight
    total = weight.view(geometry.filters, -1)
    for number, part in enumerate(_parts(geometry, image.element_size())):
        columns = _columns(geometry, image[part]).transpose(1, 2)
        gradient = result[part].reshape(-1, geometry.filters, geometry.spots)
        target = total if number == 0 else torch.empty_like(total)
        summed_product(gradient, columns, target)
        if number:
            total.add_(target)
    return weight


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


def _geometry(
    image: Sequence[int],
    result: Sequence[int],
    weight: torch.Size,
    groups: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
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
    formats = {suggest_memory_format(input), suggest_memory_format(weight)}
    if torch.channels_last in formats:
        return torch.channels_last
    is_small = input.dtype in _SMALL
    return torch.channels_last_3d if is_small and torch.channels_last_3d in formats else torch.contiguous_format


def _gradients_format(input: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if input.is_complex() else _memory_format(input, weight)


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
    """Shapes and most checks are those of torch's own meta function."""
    if torch._C._get_tracing_state() is not None:
        # torch does not record this operator but the one that it calls.
        arguments = (stride, padding, dilation, transposed, output_padding, groups)
        return torch._convolution(input, weight, bias, *arguments, False, False, True, True)
    if transposed or any(value != 1 for value in dilation):  # kernels of their own on the CPU
        require_dtype("slow_conv_transpose2d_out_cpu" if transposed else "slow_conv_dilated<>", input, _SLOW)
    else:
        require_dtype("slow_conv2d_cpu", input, _SLOW | INTEGERS)
    _check_windows(stride, padding, groups)
    if weight.dim() < 3:
        raise RuntimeError("weight should have at least three dimensions")
    if input.dim() == weight.dim() - 1:
        batched = convolution(
            input.unsqueeze(0), weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
        return batched.squeeze(0)
    _check(input, weight, bias, groups, transposed)
    if any(value <= 0 for value in dilation):
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilation)}")
    rank = weight.dim() - 2
    if input.shape[0] and input.shape[1]:
        limits = [max(s, d) for s, d in zip(_spread(stride, rank), _spread(dilation, rank), strict=True)]
        _check_sizes(input, weight, limits if transposed else None, _spread(output_padding, rank))
    elif transposed and not input.shape[0]:
        windows = [_spread(v, rank) for v in (stride, padding, dilation, output_padding)]
        return input.new_empty((0, weight.shape[1] * groups, *_transposed_size(input.shape[2:], weight.shape, windows)))
    shape = torch.ops.aten.convolution.default(
        *(None if t is None else torch.empty(t.shape, device="meta") for t in (input, weight, bias)),
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
    ).shape
    memory_format = _memory_format(input, weight)
    input, weight = input.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    if transposed:
        geometry = _geometry(shape, input.shape, weight.shape, groups, stride, padding, dilation)
        result = _image_gradient(geometry, input, weight, bias)
    else:
        geometry = _geometry(input.shape, shape, weight.shape, groups, stride, padding, dilation)
        result = _convolve(geometry, input, weight, bias)
    return result.view(shape).contiguous(memory_format=memory_format)


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
    if input.dim() == weight.dim() - 1:
        arguments = (bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask)
        grads = convolution_backward(grad_output.unsqueeze(0), input.unsqueeze(0), weight, *arguments)
        return (None if grads[0] is None else grads[0].squeeze(0), *grads[1:])
    memory_format = _gradients_format(input, weight)
    grad_output, input, weight = grad_output.contiguous(), input.contiguous(), weight.contiguous()
    image, result = (grad_output, input) if transposed else (input, grad_output)
    geometry = _geometry(image.shape, result.shape, weight.shape, groups, stride, padding, dilation)
    grad_input = grad_weight = grad_bias = None
    if output_mask[0]:
        if transposed:
            grad_input = _convolve(geometry, grad_output, weight, None)
        else:
            grad_input = _image_gradient(geometry, grad_output, weight)
        grad_input = grad_input.view(input.shape).contiguous(memory_format=memory_format)
    if output_mask[1]:
        grad_weight = _weight_gradient(geometry, image, result, weight.shape).contiguous(memory_format=memory_format)
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
    outputs = (grad_input, grad_weight, grad_bias)
    gradients = slow_conv2d_backward(grad_output, self, weight, kernel_size, stride, padding, [True] * 3)
    for output, gradient in zip(outputs, gradients, strict=True):
        assert gradient is not None
        resized(output, gradient.shape).copy_(gradient)
    return outputs
