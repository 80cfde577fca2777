"""torchvision's pooling of regions of interest: kernels/torchvision_rois.slang; registered by compatibility/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from portable_mps.dispatch import atomics
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


def _computed(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and float16 as float32, which is what it is computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()


class _Operator(NamedTuple):
    """An operator of torchvision's and its gradient.

    Its schema's numbers are scale, rows, columns (of a pooled region), and then sampling and aligned where it has them.
    """

    name: str
    kernel: str
    per_bin: bool = False  # each bin is pooled from channels of its own

    def forward(
        self, input: torch.Tensor, rois: torch.Tensor, scale: float, rows: int, columns: int, *more: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """input (n, c, h, w) and rois (k, 5) to (k, c, rows, columns), and where those come from, as int32.

        That is the place of a maximum in its plane, -1 where there is none, or a bin's channel.
        """
        _check(self.name, input, rois)
        channels = input.size(1)
        if self.per_bin:
            if channels % (rows * columns):
                raise RuntimeError("input channels must be a multiple of pooling height * pooling width")
            channels //= rows * columns
        image = _computed(input)
        pooled = torch.zeros((rois.size(0), channels, rows, columns), dtype=image.dtype, device=image.device)
        sources = None if self.name == "roi_align" else torch.zeros_like(pooled, dtype=torch.int32)
        self._run("forward", image, rois, pooled, sources, scale, *more)
        return pooled.to(input.dtype), sources

    def backward(
        self,
        grad: torch.Tensor,
        rois: torch.Tensor,
        sources: torch.Tensor | None,
        shape: tuple[int, ...],
        scale: float,
        *more: Any,
    ) -> torch.Tensor:
        """The gradient of an input of this shape. Channels of bins are computed again."""
        _check(f"_{self.name}_backward", grad, rois, "grad")
        atomics.require(f"_{self.name}_backward", grad.dtype)
        pooled = _computed(grad)
        image = torch.zeros(shape, dtype=pooled.dtype, device=grad.device)
        if sources is not None:
            sources = None if self.per_bin else sources.to(torch.int32).contiguous()
        self._run("backward", image, rois, pooled, sources, scale, *more)
        return image.to(grad.dtype)

    def _run(
        self,
        direction: str,
        image: torch.Tensor,
        rois: torch.Tensor,
        pooled: torch.Tensor,
        sources: torch.Tensor | None,
        scale: float,
        sampling: int = 0,
        aligned: bool = True,
    ) -> None:
        """image or its gradient, pooled or its gradient; of one dtype, contiguous."""
        if not pooled.numel() or 0 in image.shape[1:]:
            return
        rois, backward = _computed(rois), direction == "backward"
        errors, limit = device.current().errors, device.current().adapter.loop_limit
        name = f"_{self.name}_backward" if backward else self.name
        codes = (
            errors.arm(f"{name}: the regions' sample {{index}} is out of bounds"),
            errors.arm(
                f"{name}: a thread would take {{index}} turns through its loops, and this driver ends them after "
                f"{limit:,}: the result would be wrong. Take smaller regions, or a GPU",
                RuntimeError,
            ),
            errors.arm(f"{name}: the place {{index}} of a maximum is out of bounds"),
        )
        sizes = (*image.shape, *pooled.shape[1:], max(sampling, 0))
        arguments = (image, rois, pooled, sources, errors.address, pooled.numel(), *sizes, *codes)
        given = [t for t in (image, rois, pooled, sources) if t is not None]
        written = [image] if backward else [t for t in (pooled, sources) if t is not None]
        code = "d" if image.dtype == torch.float64 else "f"
        _kernels[f"{self.kernel}_{direction}", code](
            pooled.numel(),
            (*arguments, min(limit, 2**31 - 1), scale),
            [t for t in given if all(t is not w for w in written)],
            written,
            T="double" if code == "d" else "float",
            PER_BIN=int(self.per_bin),
            ALIGNED=int(aligned),
        )


_ALIGN = _Operator("roi_align", "align")
_OTHERS = (
    _Operator("roi_pool", "pool"),
    _Operator("ps_roi_align", "align", per_bin=True),
    _Operator("ps_roi_pool", "pool", per_bin=True),
)


def _align_backward(
    grad: torch.Tensor, rois: torch.Tensor, scale: float, rows: int, columns: int, *more: Any
) -> torch.Tensor:
    """more: the input's shape, and what roi_align has."""
    return _ALIGN.backward(grad, rois, None, more[:4], scale, *more[4:])


def _backward(operator: _Operator) -> Callable[..., torch.Tensor]:
    """Of the other schemas, which end with the input's shape."""

    def run(
        grad: torch.Tensor, rois: torch.Tensor, sources: torch.Tensor, scale: float, rows: int, columns: int, *more: Any
    ) -> torch.Tensor:
        return operator.backward(grad, rois, sources, more[-4:], scale, *more[:-4])

    return run


OPERATORS: dict[str, Callable[..., Any]] = {
    "roi_align": lambda *arguments: _ALIGN.forward(*arguments)[0],
    "_roi_align_backward": _align_backward,
}
for _operator in _OTHERS:
    OPERATORS |= {_operator.name: _operator.forward, f"_{_operator.name}_backward": _backward(_operator)}
