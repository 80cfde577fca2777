"""Reductions of consecutive segments of a tensor along one dimension (torch.segment_reduce), and their gradient."""

from __future__ import annotations

import math

import torch

from portable_mps.dispatch.launch import check_turns
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import Linear, dtype_defines, wrapped_dim
from portable_mps.runtime import device

_OTHER_NAMES = {"amax": "max", "amin": "min"}
_INITIAL = {"sum": 0.0, "mean": 0.0, "max": -math.inf, "min": math.inf, "prod": 1.0}
_kernels = {code: Linear("segment", "segment", f"QQQQQxxxx{code}I") for code in "fd"}


def _run(
    data: torch.Tensor,
    output: torch.Tensor,
    grad: torch.Tensor | None,
    target: torch.Tensor,
    reduce: str,
    lengths: torch.Tensor | None,
    offsets: torch.Tensor | None,
    axis: int,
    initial: float | None,
) -> None:
    """Fill `target`: the output, or with `grad` the gradient of data. All tensors are contiguous."""
    bounds = _offsets(lengths, offsets)
    if data.size(axis) > device.current().adapter.loop_limit:
        check_turns("segment_reduce", int(bounds.diff().max()))
    inner = math.prod(data.shape[axis + 1 :])
    start = _INITIAL[reduce] if initial is None else initial
    arguments = (
        *(data, output, grad if grad is not None else 0, target, bounds, output.numel()),
        *(data.size(axis), output.size(axis), inner, start, int(initial is not None)),
    )
    reads = [data, bounds] if grad is None else [data, output, grad, bounds]
    defines = {"BACKWARD": int(grad is not None), "REDUCE": reduce.upper(), **dtype_defines("T", data.dtype)}
    kernel = _kernels["d" if data.dtype == torch.float64 else "f"]
    kernel(output.numel(), arguments, reads, [target], **defines)


def _offsets(lengths: torch.Tensor | None, offsets: torch.Tensor | None) -> torch.Tensor:
    """Where segments start and the last one ends, int64 [..., segments + 1]."""
    if offsets is not None:
        return offsets.to(torch.int64).contiguous()
    assert lengths is not None
    return torch.nn.functional.pad(lengths.to(torch.int64).cumsum(-1), (1, 0)).contiguous()


def _checked_axis(
    data: torch.Tensor, reduce: str, lengths: torch.Tensor | None, offsets: torch.Tensor | None, axis: int
) -> int:
    """torch's checks of everything but the values of lengths."""
    if not data.is_floating_point():
        raise NotImplementedError(f'"segment_reduce" not implemented for {data.dtype}')
    if reduce not in _INITIAL:
        raise RuntimeError(f"unsupported reduction {reduce}")
    axis = wrapped_dim(axis, data.dim())
    given = offsets if offsets is not None else lengths
    if given is None:
        raise RuntimeError("segment_reduce(): Either lengths or offsets must be defined.")
    if given.dtype not in (torch.int64, torch.int32):
        raise RuntimeError(f"segment_reduce(): Expected indices of int32 or int64, but got {given.dtype}")
    if given.dim() > data.dim() or axis != given.dim() - 1:
        raise RuntimeError(
            f"segment_reduce(): Expected axis to be the last dimension of lengths or offsets but got {axis}."
        )
    return axis


@implements("segment_reduce")
def segment_reduce(
    data: torch.Tensor,
    reduce: str,
    *,
    lengths: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> torch.Tensor:
    """The host waits for the lengths' check, unless `unsafe`."""
    if indices is not None:
        raise RuntimeError("segment_reduce(): indices based reduction is not supported yet.")
    reduce = _OTHER_NAMES.get(reduce, reduce)
    axis = _checked_axis(data, reduce, lengths, offsets, axis)
    if offsets is None and lengths is not None and not unsafe:
        if lengths.numel() and lengths.min().item() < 0:
            raise RuntimeError("lengths contains negative value!")
        if not bool((lengths.sum(-1) == data.size(axis)).all()):
            raise RuntimeError(
                "segment_reduce(): Expected all rows of lengths along axis to sum to data.size(lengths.dim()-1) when "
                "!unsafe."
            )
    given = offsets if offsets is not None else lengths
    assert given is not None
    segments = given.size(-1) - (offsets is not None)
    shape = [*data.shape[:axis], segments, *data.shape[axis + 1 :]]
    output = torch.empty(shape, dtype=data.dtype, device=data.device)
    _run(data.contiguous(), output, None, output, reduce, lengths, offsets, axis, initial)
    return output


@implements("_segment_reduce_backward")
def segment_reduce_backward(
    grad: torch.Tensor,
    output: torch.Tensor,
    data: torch.Tensor,
    reduce: str,
    *,
    lengths: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    axis: int = 0,
    initial: float | None = None,
) -> torch.Tensor:
    """The gradient of `data` of a reduction over segments."""
    reduce = _OTHER_NAMES.get(reduce, reduce)
    axis = _checked_axis(data, reduce, lengths, offsets, axis)
    result = torch.zeros(data.shape, dtype=grad.dtype, device=data.device)
    gradient, made, values = grad.contiguous(), output.contiguous(), data.contiguous()
    _run(values, made, gradient, result, reduce, lengths, offsets, axis, initial)
    return result
