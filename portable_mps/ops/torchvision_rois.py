"""torchvision's pooling of regions of interest: kernels/torchvision_rois.slang; registered by compatibility/."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.strided import Linear
from portable_mps.runtime import device

_LAYOUT = "QQQQQx" + "i" * 8 + "IIII"
_ENTRIES = ("align_forward", "align_backward", "pool_forward", "pool_backward")
_kernels = {(entry, code): Linear("torchvision_rois", entry, _LAYOUT + code) for entry in _ENTRIES for code in "fd"}


def _check(name: str, tensor: torch.Tensor, rois: torch.Tensor, what: str = "input") -> None:
    """torchvision's own checks, in its words where it has some."""
    if rois.dim() != 2 or rois.size(1) != 5:
        raise RuntimeError("rois must have shape as Tensor[K, 5]")
    if tensor.dim() != 4:
        raise RuntimeError(f"{name}: expected {what} of 4 dimensions, but got {tensor.dim()}")
    if tensor.device != rois.device:
        raise RuntimeError(f"{what} should be on the same device as rois")
    if tensor.dtype != rois.dtype:
        raise RuntimeError(f"{what} should have the same type as rois")
    if tensor.dtype not in (torch.float32, torch.float64, torch.float16):
        raise NotImplementedError(f"\"{name}\" not implemented for '{scalar_type(tensor.dtype)}'")


def _run(
    entry: str,
    name: str,
    image: torch.Tensor,
    rois: torch.Tensor,
    pooled: torch.Tensor,
    sources: torch.Tensor | None,
    scale: float,
    sampling: int = 0,
    per_bin: bool = False,
    aligned: bool = True,
) -> None:
    """image (batch, channels, height, width) or its gradient, rois (k, 5), pooled (k, channels, rows, columns); of one
    dtype, contiguous."""
    backward = entry.endswith("backward")
    errors, limit = device.current().errors, device.current().adapter.loop_limit
    codes = (
        errors.arm(f"{name}: the regions' sample {{index}} is out of bounds"),
        errors.arm(
            f"{name}: a thread would take {{index}} turns through its loops, and this driver ends them after {limit:,}:"
            " the result would be wrong. Take smaller regions, or a GPU",
            RuntimeError,
        ),
        errors.arm(f"{name}: the place {{index}} of a maximum is out of bounds"),
    )
    sizes = (*image.shape, *pooled.shape[1:], max(sampling, 0))
    arguments = (image, rois, pooled, sources, errors.address, pooled.numel(), *sizes, *codes, min(limit, 2**31 - 1))
    given = [t for t in (image, rois, pooled, sources) if t is not None]
    written = [image] if backward else [t for t in (pooled, sources) if t is not None]
    code = "d" if image.dtype == torch.float64 else "f"
    _kernels[entry, code](
        pooled.numel(),
        (*arguments, scale),
        [t for t in given if all(t is not w for w in written)],
        written,
        T="double" if code == "d" else "float",
        PER_BIN=int(per_bin),
        ALIGNED=int(aligned),
    )


def _computed(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and float16 as float32, which is what it is computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()


def _forward(
    entry: str, name: str, input: torch.Tensor, rois: torch.Tensor, rows: int, columns: int, **more: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The pooled regions and, but for roi_align, where they come from."""
    _check(name, input, rois)
    channels = input.size(1)
    if more.get("per_bin"):
        if channels % (rows * columns):
            raise RuntimeError("input channels must be a multiple of pooling height * pooling width")
        channels //= rows * columns
    image = _computed(input)
    pooled = torch.zeros((rois.size(0), channels, rows, columns), dtype=image.dtype, device=image.device)
    sources = None if name == "roi_align" else torch.zeros(pooled.shape, dtype=torch.int32, device=image.device)
    if pooled.numel() and 0 not in image.shape[1:]:
        _run(entry, name, image, _computed(rois), pooled, sources, **more)
    return pooled.to(input.dtype), sources


def _backward(
    entry: str,
    name: str,
    grad: torch.Tensor,
    rois: torch.Tensor,
    sources: torch.Tensor | None,
    shape: tuple[int, int, int, int],
    **more: Any,
) -> torch.Tensor:
    """The gradient of an input of this shape."""
    _check(name, grad, rois, "grad")
    pooled = _computed(grad)
    image = torch.zeros(shape, dtype=pooled.dtype, device=grad.device)
    if pooled.numel() and 0 not in shape[1:]:
        if sources is not None:
            sources = sources.to(torch.int32).contiguous()
        _run(entry, name, image, _computed(rois), pooled, sources, **more)
    return image.to(grad.dtype)


def roi_align(
    input: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """input (n, c, h, w), rois (k, 5) to (k, c, pooled_height, pooled_width): means of bilinear samples of each bin."""
    more = {"scale": spatial_scale, "sampling": sampling_ratio, "aligned": aligned}
    return _forward("align_forward", "roi_align", input, rois, pooled_height, pooled_width, **more)[0]


def roi_align_backward(
    grad: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    shape = (batch_size, channels, height, width)
    more = {"scale": spatial_scale, "sampling": sampling_ratio, "aligned": aligned}
    return _backward("align_backward", "_roi_align_backward", grad, rois, None, shape, **more)


def roi_pool(
    input: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int, pooled_width: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The maximum of each bin's pixels, and its place in its plane as int32, -1 where there is none."""
    return _forward("pool_forward", "roi_pool", input, rois, pooled_height, pooled_width, scale=spatial_scale)


def roi_pool_backward(
    grad: torch.Tensor,
    rois: torch.Tensor,
    argmax: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
) -> torch.Tensor:
    shape = (batch_size, channels, height, width)
    return _backward("pool_backward", "_roi_pool_backward", grad, rois, argmax, shape, scale=spatial_scale)


def ps_roi_align(
    input: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As roi_align, each bin from channels of its own, and those as int32."""
    more = {"scale": spatial_scale, "sampling": sampling_ratio, "per_bin": True}
    return _forward("align_forward", "ps_roi_align", input, rois, pooled_height, pooled_width, **more)


def ps_roi_align_backward(
    grad: torch.Tensor,
    rois: torch.Tensor,
    channel_mapping: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
) -> torch.Tensor:
    shape = (batch_size, channels, height, width)
    more = {"scale": spatial_scale, "sampling": sampling_ratio, "per_bin": True}
    return _backward("align_backward", "_ps_roi_align_backward", grad, rois, None, shape, **more)


def ps_roi_pool(
    input: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int, pooled_width: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The mean of each bin's pixels, each bin from channels of its own, and those as int32."""
    more = {"scale": spatial_scale, "per_bin": True}
    return _forward("pool_forward", "ps_roi_pool", input, rois, pooled_height, pooled_width, **more)


def ps_roi_pool_backward(
    grad: torch.Tensor,
    rois: torch.Tensor,
    channel_mapping: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
) -> torch.Tensor:
    shape = (batch_size, channels, height, width)
    more = {"scale": spatial_scale, "per_bin": True}
    return _backward("pool_backward", "_ps_roi_pool_backward", grad, rois, None, shape, **more)


OPERATORS = {
    "roi_align": roi_align,
    "_roi_align_backward": roi_align_backward,
    "roi_pool": roi_pool,
    "_roi_pool_backward": roi_pool_backward,
    "ps_roi_align": ps_roi_align,
    "_ps_roi_align_backward": ps_roi_align_backward,
    "ps_roi_pool": ps_roi_pool,
    "_ps_roi_pool_backward": ps_roi_pool_backward,
}
