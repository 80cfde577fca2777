"""softmax, log_softmax and their gradients."""

from __future__ import annotations

import math

import torch

from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.reduction import check_out
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.rows import RowKernel, split_at
from portable_mps.dispatch.strided import wrapped_dim

_forward = RowKernel("softmax", "forward", tensors=3)
_backward = RowKernel("softmax", "backward", tensors=3)


def _register(name: str, log: bool) -> None:
    """The two operators of softmax or, with `log`, log_softmax."""

    def forward(self: torch.Tensor, dim: int, half_to_float: bool, *, out: torch.Tensor) -> torch.Tensor:
        if half_to_float and self.dtype != torch.float16:
            raise RuntimeError("conversion is supported for Half type only")
        if self.numel():
            refuse_as_cpu(name, self.dtype)
        check_out(out, self.shape, torch.float32 if half_to_float else self.dtype)
        wrapped_dim(dim, self.dim())
        if self.numel():
            source = self.contiguous()
            target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
            types = {"INPUT": self.dtype, "OUTPUT": out.dtype}
            _forward((source, None, target), (target,), _shape(self, dim), types, LOG=int(log))
            if target is not out:
                out.copy_(target)
        return out

    def backward(
        grad_output: torch.Tensor, output: torch.Tensor, dim: int, input_dtype: torch.dtype, out: torch.Tensor
    ) -> torch.Tensor:
        check_out(out, output.shape, input_dtype)
        if output.numel():
            refuse_as_cpu(name, output.dtype)  # of which there are gradients
            gradient, saved = grad_output.contiguous(), output.contiguous()
            target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
            types = {"INPUT": output.dtype, "OUTPUT": out.dtype}
            _backward((gradient, saved, target), (target,), _shape(output, dim), types, LOG=int(log))
            if target is not out:
                out.copy_(target)
        return out

    register(f"{name}.out", forward)
    if log:
        register(f"{name}_backward_data.out", lambda grad_output, output, dim, input_dtype, *, out: backward(
            grad_output, output, dim, input_dtype, out))  # fmt: skip
    else:  # the schemas call the output differently
        register(f"{name}_backward_data.out", lambda grad_output, output, dim, input_dtype, *, grad_input: backward(
            grad_output, output, dim, input_dtype, grad_input))  # fmt: skip


def _shape(tensor: torch.Tensor, dim: int) -> tuple[int, int, int]:
    return split_at(tensor.shape, dim % max(tensor.dim(), 1))


_register("_softmax", log=False)
_register("_log_softmax", log=True)

# Masks of attention, where an element that is true takes no part; they are numbered as in ATen.
_SQUARE, _PADDING, _WHOLE = 0, 1, 2


def _expanded(mask: torch.Tensor, input: torch.Tensor, kind: int | None) -> torch.Tensor:
    """A mask that broadcasts to input (batch, heads, rows, columns) or, the whole mask, has its shape."""
    if mask.dtype != torch.bool:
        raise RuntimeError("Mask should be a boolean tensor")
    if mask.dim() != 2 or input.dim() != 4:
        kind = _WHOLE
    if kind is None:
        raise RuntimeError("Mask Type should be defined")
    shape = torch.Size(input.shape)
    expected = {_SQUARE: shape[-2:], _PADDING: (*shape[:1], *shape[-2:-1]), _WHOLE: shape}.get(kind)
    if expected is None:
        raise RuntimeError("Mask Type should be 0 (src_mask), 1 (src_key_padding_mask), or 2 (default_mask)")
    if mask.shape != torch.Size(expected):
        raise RuntimeError(f"For mask_type == {kind} mask should be of shape {list(expected)}, not {list(mask.shape)}")
    return mask[:, None, None] if kind == _PADDING else mask


@implements("_masked_softmax")
def masked_softmax(
    self: torch.Tensor, mask: torch.Tensor, dim: int | None = None, mask_type: int | None = None
) -> torch.Tensor:
    """Masked elements become 0; where all are masked, all become NaN."""
    mask = _expanded(mask, self, mask_type)
    result = torch.softmax(self.masked_fill(mask, -math.inf), -1 if dim is None else dim)
    return result


@implements("_masked_softmax_backward")
def masked_softmax_backward(
    grad_output: torch.Tensor, output: torch.Tensor, mask: torch.Tensor, dim: int | None = None
) -> torch.Tensor:
    """The gradient of `masked_softmax`; masked elements have none."""
    if not grad_output.shape == output.shape == mask.shape:
        raise RuntimeError("Mask shape should match grad shape")
    gradient = torch._softmax_backward_data(grad_output, output, -1 if dim is None else dim, output.dtype)
    return gradient.masked_fill_(mask, 0)
