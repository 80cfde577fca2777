"""softmax, log_softmax and their gradients."""

from __future__ import annotations

import torch

from portable_mps.dispatch.reduction import canonical_dims, check_out
from portable_mps.dispatch.registry import register
from portable_mps.dispatch.rows import RowKernel, split_at

_forward = RowKernel("softmax", "forward", tensors=3)
_backward = RowKernel("softmax", "backward", tensors=3)


def _register(name: str, log: bool) -> None:
    """The two operators of softmax or, with `log`, log_softmax."""

    def forward(self: torch.Tensor, dim: int, half_to_float: bool, *, out: torch.Tensor) -> torch.Tensor:
        if half_to_float and self.dtype != torch.float16:
            raise RuntimeError("conversion is supported for Half type only")
        check_out(out, self.shape, torch.float32 if half_to_float else self.dtype)
        canonical_dims(dim, self.dim())
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
