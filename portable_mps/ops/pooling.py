"""Average and maximum pooling with fixed, adaptive and fractional windows in two and three dimensions.

The forms in one dimension are composites of these. Planes are contiguous in the kernels; a result in another memory
format is copied there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.launch import check_turns
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import Linear, dtype_defines, resized, written
from portable_mps.ops.shape import contiguous_out, finish, in_format_of

_LAYOUT = "QQQQx" + "i" * 21
_forward = Linear("pooling", "forward", _LAYOUT)
_backward = Linear("pooling", "backward", _LAYOUT)
_FIXED, _ADAPTIVE, _FRACTIONAL = range(3)  # as in kernels/pooling.slang


@dataclass(frozen=True)
class Pooling:
    """Where windows lie. Sizes are (depth, height, width), of an unused depth 1; `divisor` 0 counts elements."""

    window: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    size: tuple[int, ...] = (1, 1, 1)
    stride: tuple[int, ...] = (1, 1, 1)
    padding: tuple[int, ...] = (0, 0, 0)
    dilation: tuple[int, ...] = (1, 1, 1)
    divisor: int = 0
    padding_counts: bool = False

    def run(
        self,
        input: torch.Tensor,
        output: torch.Tensor,
        indices: torch.Tensor | None,
        backward: bool,
        samples: torch.Tensor | None = None,
    ) -> None:
        """Fill output (and the indices of maxima, where given) from input, or input's gradient from output's."""
        written = [input] if backward else [output] + ([] if indices is None else [indices])
        if written[0].numel() == 0:
            return
        check_turns("pooling", self._turns())
        tensors = [t for t in (input, output, indices, samples) if t is not None]
        geometry = (*self.input, *self.output, *self.size, *self.stride, *self.padding, *self.dilation)
        samples_each = 0 if samples is None else samples.size(-1)
        (_backward if backward else _forward)(
            written[0].numel(),
            (
                *(0 if t is None else t for t in (input, output, indices, samples)),
                written[0].numel(),
                *geometry,
                samples_each,
                self.divisor,
                int(self.padding_counts),
            ),
            [t for t in tensors if all(t is not w for w in written)],
            written,
            WINDOW=self.window,
            POOL=int(indices is not None),
            BACKWARD=int(backward),
            **dtype_defines("T", input.dtype),
        )

    def _turns(self) -> int:
        """What a thread loops through, at most: a window, or the windows around an element."""
        if self.window == _ADAPTIVE:
            pairs = [sorted(pair) for pair in zip(self.input, self.output, strict=True)]
            spans = [many // max(few, 1) + (2 if few and many % few else 0) for few, many in pairs]
        else:
            # Windows are clipped to the input, and there are no more around an element than outputs.
            spans = [min(size, max(n, m)) for size, n, m in zip(self.size, self.input, self.output, strict=True)]
        return spans[0] + spans[0] * spans[1] + math.prod(spans)


def _three(values: Sequence[int], dims: int, fill: int) -> tuple[int, ...]:
    given = tuple(values) * dims if len(values) == 1 else tuple(values)
    return (fill,) * (3 - dims) + given


def _sizes(tensor: torch.Tensor, dims: int) -> tuple[int, ...]:
    return (1,) * (3 - dims) + tuple(tensor.shape[-dims:])


def _fixed(
    dims: int,
    self: torch.Tensor,
    output: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1,),
    divisor: int | None = None,
    padding_counts: bool = False,
) -> Pooling:
    size = _three(kernel_size, dims, 1)
    return Pooling(
        _FIXED,
        _sizes(self, dims),
        _sizes(output, dims),
        size,
        _three(stride, dims, 1) if stride else size,
        _three(padding, dims, 0),
        _three(dilation, dims, 1),
        divisor or 0,
        padding_counts,
    )


def _adaptive(dims: int, self: torch.Tensor, output: torch.Tensor) -> Pooling:
    return Pooling(_ADAPTIVE, _sizes(self, dims), _sizes(output, dims))


class _Like(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype


def _shape(name: str, *arguments: Any) -> torch.Size:
    """The shape of the operator's first result. Its checks are those of torch's meta function.

    For a call of the functional form torch has made them; a call with out= has seen none.
    """
    return _shape_of_meta(
        name,
        *(
            _Like(a.shape, a.dtype) if isinstance(a, torch.Tensor) else tuple(a) if isinstance(a, list) else a
            for a in arguments
        ),
    )


@functools.lru_cache(4096)
def _shape_of_meta(name: str, *arguments: Any) -> torch.Size:
    on_meta = [torch.empty(a.shape, dtype=a.dtype, device="meta") if isinstance(a, _Like) else a for a in arguments]
    results = getattr(torch.ops.aten, name).default(*on_meta)
    return (results[0] if isinstance(results, tuple) else results).shape


def _pool(pooling: Pooling, self: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Averages into `out`, which has the right shape."""
    target = contiguous_out(out, out.shape)
    pooling.run(self.contiguous(), target, None, backward=False)
    return finish(out, target)


def _pool_max(
    pooling: Pooling, self: torch.Tensor, out: torch.Tensor, indices: torch.Tensor, samples: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    target, places = contiguous_out(out, out.shape), contiguous_out(indices, indices.shape)
    pooling.run(self.contiguous(), target, places, backward=False, samples=samples)
    return finish(out, target), finish(indices, places)


def _gradient(
    dims: int,
    pooling: Pooling,
    grad_output: torch.Tensor,
    self: torch.Tensor,
    grad_input: torch.Tensor | None,
    indices: torch.Tensor | None,
) -> torch.Tensor:
    """The gradient of self, the pass's input, into grad_input; None makes a new tensor."""
    if self.dim() != grad_output.dim() or self.shape[:-dims] != grad_output.shape[:-dims]:
        raise RuntimeError(
            f"Expected grad_output for an input of shape {list(self.shape)}, but got {list(grad_output.shape)}"
        )
    if indices is not None and indices.shape != grad_output.shape:
        raise RuntimeError(
            f"Expected indices of the shape of grad_output, {list(grad_output.shape)}, but got {list(indices.shape)}"
        )
    grad_input = self.new_empty(self.shape) if grad_input is None else grad_input
    target = contiguous_out(grad_input, self.shape)
    places = None if indices is None else indices.contiguous()
    pooling.run(target, grad_output.to(target.dtype).contiguous(), places, backward=True)
    return finish(grad_input, target)


# Maximum, fixed windows -------------------------------------------------------------------------------------------


@implements("max_pool2d_with_indices.out")
def max_pool2d_with_indices_out(
    self: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
    *,
    out: torch.Tensor,
    indices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maxima of windows of height and width, and where they were."""
    shape = _shape("max_pool2d_with_indices", self, kernel_size, stride, padding, dilation, ceil_mode)
    require_dtype("max_pool2d", self, FLOATS | INTEGERS)
    resized(out, shape)
    resized(indices, shape)
    return _pool_max(_fixed(2, self, out, kernel_size, stride, padding, dilation), self, out, indices)


@implements("max_pool2d_with_indices_backward.grad_input")
def max_pool2d_with_indices_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    """The gradient of `max_pool2d_with_indices_out`."""
    require_dtype("max_pool2d_backward", self, FLOATS)
    pooling = _fixed(2, self, grad_output, kernel_size, stride, padding, dilation)
    return _gradient(2, pooling, grad_output, self, grad_input, indices)


@implements("max_pool3d_with_indices")
def max_pool3d_with_indices(
    self: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the maxima of windows in three dimensions, where they were)."""
    shape = _shape("max_pool3d_with_indices", self, kernel_size, stride, padding, dilation, ceil_mode)
    require_dtype("max_pool3d", self, FLOATS | INTEGERS)
    out, indices = self.new_empty(shape), self.new_empty(shape, dtype=torch.int64)
    _pool_max(_fixed(3, self, out, kernel_size, stride, padding, dilation), self, out, indices)
    return in_format_of(self, out), in_format_of(self, indices)


@implements("max_pool3d_with_indices_backward")
def max_pool3d_with_indices_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
) -> torch.Tensor:
    """The gradient of `max_pool3d_with_indices`."""
    pooling = _fixed(3, self, grad_output, kernel_size, stride, padding, dilation)
    return in_format_of(self, _gradient(3, pooling, grad_output, self, None, indices))


# Averages, fixed windows ------------------------------------------------------------------------------------------


def _register_average(dims: int) -> None:
    def forward(
        self: torch.Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        out: torch.Tensor,
    ) -> torch.Tensor:
        if divisor_override == 0:
            raise RuntimeError("divisor must be not zero")
        windows = (kernel_size, stride, padding)
        require_dtype(f"avg_pool{dims}d", self, FLOATS | {torch.int64})
        written(out, self.dtype)
        resized(out, _shape(f"avg_pool{dims}d", self, *windows, ceil_mode, count_include_pad, divisor_override))
        pooling = _fixed(dims, self, out, *windows, divisor=divisor_override, padding_counts=count_include_pad)
        return _pool(pooling, self, out)

    def backward(
        grad_output: torch.Tensor,
        self: torch.Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
        *,
        grad_input: torch.Tensor,
    ) -> torch.Tensor:
        windows = (kernel_size, stride, padding)
        pooling = _fixed(dims, self, grad_output, *windows, divisor=divisor_override, padding_counts=count_include_pad)
        return _gradient(dims, pooling, grad_output, self, grad_input, None)

    register(f"avg_pool{dims}d.out", forward)
    register(f"avg_pool{dims}d_backward.grad_input", backward)


_register_average(2)
_register_average(3)


# Adaptive ---------------------------------------------------------------------------------------------------------


def _register_adaptive(dims: int) -> None:
    average = f"_adaptive_avg_pool{dims}d"

    def forward_out(self: torch.Tensor, output_size: Sequence[int], *, out: torch.Tensor) -> torch.Tensor:
        require_dtype(average.removeprefix("_"), self, FLOATS)
        resized(out, _shape(average, self, output_size))
        return _pool(_adaptive(dims, self, out), self, out)

    def forward(self: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
        require_dtype(average.removeprefix("_"), self, FLOATS)
        out = self.new_empty(_shape(average, self, output_size))
        result = _pool(_adaptive(dims, self, out), self, out)
        return in_format_of(self, result) if dims == 2 else result

    def backward(grad_output: torch.Tensor, self: torch.Tensor) -> torch.Tensor:
        gradient = _gradient(dims, _adaptive(dims, self, grad_output), grad_output, self, None, None)
        return in_format_of(self, gradient) if dims == 2 else gradient

    def backward_out(grad_output: torch.Tensor, self: torch.Tensor, *, grad_input: torch.Tensor) -> torch.Tensor:
        return _gradient(dims, _adaptive(dims, self, grad_output), grad_output, self, grad_input, None)

    def maximum(
        self: torch.Tensor, output_size: Sequence[int], *, out: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        require_dtype(f"adaptive_max_pool{dims}d", self, FLOATS)
        shape = _shape(f"adaptive_max_pool{dims}d", self, output_size)
        resized(out, shape)
        resized(indices, shape)
        return _pool_max(_adaptive(dims, self, out), self, out, indices)

    def maximum_backward(
        grad_output: torch.Tensor, self: torch.Tensor, indices: torch.Tensor, *, grad_input: torch.Tensor
    ) -> torch.Tensor:
        return _gradient(dims, _adaptive(dims, self, grad_output), grad_output, self, grad_input, indices)

    register(f"adaptive_avg_pool{dims}d.out", forward_out)
    register(f"_adaptive_avg_pool{dims}d", forward)
    register(f"_adaptive_avg_pool{dims}d_backward", backward)
    if dims == 3:
        register("adaptive_avg_pool3d_backward.grad_input", backward_out)
    register(f"adaptive_max_pool{dims}d.out", maximum)
    register(f"adaptive_max_pool{dims}d_backward.grad_input", maximum_backward)


_register_adaptive(2)
_register_adaptive(3)


# Undone -----------------------------------------------------------------------------------------------------------


@implements("max_unpool2d")
def max_unpool2d(self: torch.Tensor, indices: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    """torch's decomposition, in the memory format of self."""
    from torch._decomp.decompositions import max_unpool2d as decomposed  # 0.5 s: only when needed

    require_dtype("max_unpool2d", self, FLOATS)
    return in_format_of(self, decomposed(self, indices, list(output_size)))


@implements("max_unpool3d")
def max_unpool3d(
    self: torch.Tensor,
    indices: torch.Tensor,
    output_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """Maxima at their places, zeros elsewhere."""
    from torch._decomp.decompositions import max_unpool3d as decomposed

    require_dtype("max_unpool3d", self, FLOATS)
    return decomposed(self, indices, list(output_size), list(stride), list(padding))


# Fractional -------------------------------------------------------------------------------------------------------


def _samples_of(self: torch.Tensor, random_samples: torch.Tensor, dims: int) -> torch.Tensor:
    """[batch, channels, dims]: there may be samples for more batches."""
    batch, channels = self.shape[:-dims] if self.dim() == dims + 2 else (1, self.size(0))
    if random_samples.dim() != 3:
        raise RuntimeError(f"Expect _random_samples to have 3 dimensions, got {random_samples.dim()}")
    if random_samples.size(0) < batch:
        raise RuntimeError("Expect _random_samples.size(0) no less then input batch size.")
    if random_samples.size(1) != channels:
        raise RuntimeError("Expect _random_samples.size(1) equals to input channel size.")
    if random_samples.size(2) != dims:
        raise RuntimeError(f"Expect _random_samples.size(2) equals to {dims}; got {random_samples.size(2)}.")
    return random_samples[:batch]


def _register_fractional(dims: int) -> None:
    def forward(
        self: torch.Tensor,
        kernel_size: Sequence[int],
        output_size: Sequence[int],
        random_samples: torch.Tensor,
        *,
        output: torch.Tensor,
        indices: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = _shape(f"fractional_max_pool{dims}d", self, kernel_size, output_size, random_samples)
        samples = _samples_of(self, random_samples, dims)
        resized(output, shape)
        resized(indices, shape)
        pooling = Pooling(_FRACTIONAL, _sizes(self, dims), _sizes(output, dims), _three(kernel_size, dims, 1))
        return _pool_max(pooling, self, output, indices, samples.to(self.dtype).contiguous())

    def backward(
        grad_output: torch.Tensor,
        self: torch.Tensor,
        kernel_size: Sequence[int],
        output_size: Sequence[int],
        indices: torch.Tensor,
        *,
        grad_input: torch.Tensor,
    ) -> torch.Tensor:
        resized(grad_input, self.shape)
        total = torch.zeros(self.shape, dtype=self.dtype, device=self.device).flatten(-dims)
        total.scatter_add_(-1, indices.flatten(-dims), grad_output.flatten(-dims))
        return grad_input.copy_(total.view(self.shape))

    register(f"fractional_max_pool{dims}d.output", forward)
    register(f"fractional_max_pool{dims}d_backward.grad_input", backward)
    if dims == 3:
        register("fractional_max_pool3d_backward", lambda grad_output, self, *rest: backward(
            grad_output, self, *rest, grad_input=self.new_empty(self.shape)))  # fmt: skip


_register_fractional(2)
_register_fractional(3)
