"""Running sums, products, extrema and log-sum-exps along a dimension."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import COMPLEX_TYPES, storage
from portable_mps.dispatch.reduction import check_out
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.rows import split_at
from portable_mps.dispatch.strided import apart_or_same, wrapped_dim
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_THREADS = 256
_ITEMS = 4  # as in kernels/scan.slang
_ENOUGH_GROUPS = 1024  # workgroups that fill a large device
_STATE_BYTES = 16
_COMPLEX_KINDS = ("SUM", "PROD", "LOG_SUM_EXP")
_WIDE_FROM = 2**31 - _THREADS * _ITEMS

_templates = {
    (entry, index): Template("scan", entry, f"QQQQ5{index}I")
    for entry in ("scan", "totals", "offsets")
    for index in "IQ"
}


def scan(kind: str, source: torch.Tensor, dim: int, output: torch.Tensor, indices: torch.Tensor | None = None) -> None:
    """Scan a contiguous tensor into contiguous ones of its shape. kind: SUM, PROD, MAX, MIN (these with int64 indices)
    or LOG_SUM_EXP; sums and products are computed in the output's type."""
    if source.numel() == 0:
        return
    outer, size, inner = split_at(source.shape, dim)
    rows = outer * inner
    height = _power_of_two(-(-size // _ITEMS))
    if inner > 1:  # neighbouring rows are neighbours in memory: up to 32 of them a workgroup
        height = min(height, max(8, _THREADS // _power_of_two(rows)))
    blocks = -(-rows // (_THREADS // height))
    tile = height * _ITEMS
    chunks = max(1, min(-(-size // (4 * tile)), -(-_ENOUGH_GROUPS // blocks)))
    chunk = -(-size // (chunks * tile)) * tile
    chunks = -(-size // chunk)
    index = "Q" if source.numel() >= _WIDE_FROM else "I"
    geometry = (height.bit_length() - 1) | (16 if inner == 1 else 0)

    complex = kind in _COMPLEX_KINDS
    read, wrote = storage(source.dtype, complex), storage(output.dtype, complex)
    compute = (wrote if kind in ("SUM", "PROD") else read).compute
    accumulator = "int" if compute == "bool" else compute
    if kind == "LOG_SUM_EXP" and compute == "Complex" and device.current().adapter.features["float64"]:
        accumulator = "ComplexDouble"  # as on the CPU: each merge of logarithms rounds
    defines: dict[str, Any] = {
        "SCAN": kind,
        "A": accumulator,
        "I": read.type,
        "O": wrote.type,
        "LOAD_I(x)": read.load.format("x"),
        "STORE_O(x)": wrote.store.format("x"),
        "CAST(x)": "(x)" if read.compute == accumulator else f"cast_{accumulator}(x)",
        "Index": "uint64_t" if index == "Q" else "uint",
    }
    if accumulator in COMPLEX_TYPES:
        defines["COMPLEX"] = 1
    outputs = [output] if indices is None else [output, indices]
    partials = torch.empty(rows * chunks * _STATE_BYTES if chunks > 1 else 0, dtype=torch.uint8, device=source.device)
    arguments = (
        source,
        output,
        0 if indices is None else indices,
        partials,
        rows,
        size,
        inner,
        chunk,
        chunks,
        geometry,
    )
    groups = grid(blocks * chunks)
    if chunks > 1:
        launch(_templates["totals", index], groups, arguments, (source,), (partials,), **defines)
        launch(_templates["offsets", index], grid(rows), arguments, (), (partials,), **defines)
    launch(_templates["scan", index], groups, arguments, (source, partials), outputs, **defines)


def _power_of_two(at_least: int) -> int:
    return min(1 << max(at_least - 1, 0).bit_length(), _THREADS)


def _scan_into(
    kind: str, source: torch.Tensor, dim: int, output: torch.Tensor, indices: torch.Tensor | None = None
) -> None:
    """`scan` for any strides; the outputs may be the source."""
    dim = wrapped_dim(dim, source.dim())
    source = source.contiguous()
    targets = [output] if indices is None else [output, indices]
    written = [
        t if t.is_contiguous() and t.data_ptr() != source.data_ptr() else torch.empty_like(t, memory_format=_CONTIGUOUS)
        for t in targets
    ]
    scan(kind, source, dim, *written)
    for target, result in zip(targets, written, strict=True):
        if target is not result:
            target.copy_(result)


_CONTIGUOUS = torch.contiguous_format


def _register_sum(name: str, kind: str) -> None:
    def cumulative(
        self: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None, out: torch.Tensor
    ) -> torch.Tensor:
        integral = not (self.is_floating_point() or self.is_complex())
        check_out(out, self.shape, dtype or out.dtype)
        if out.dim() and out.numel():
            refuse_as_cpu(f"{name}.out", out.dtype)
        apart_or_same(out, self)
        # The elements are rounded to a narrow type first, as torch does.
        keeps = self.dtype == out.dtype or (integral and out.dtype == torch.int64)
        source = self if keeps else self.to(out.dtype)
        dim = wrapped_dim(dim, out.dim())
        if out.dim() == 0:
            out.copy_(source)
        else:
            _scan_into(kind, source, dim, out)
        return out

    register(f"{name}.out", cumulative)


_register_sum("cumsum", "SUM")
_register_sum("cumprod", "PROD")


@implements("_cummax_helper")
def _cummax_helper(self: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, dim: int) -> None:
    refuse_as_cpu("cummax", self.dtype)
    _scan_into("MAX", self, dim, values, indices)


@implements("_cummin_helper")
def _cummin_helper(self: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, dim: int) -> None:
    refuse_as_cpu("cummin", self.dtype)
    _scan_into("MIN", self, dim, values, indices)


@implements("_logcumsumexp.out")
def _logcumsumexp_out(self: torch.Tensor, dim: int, *, out: torch.Tensor) -> torch.Tensor:
    check_out(out, self.shape, self.dtype)
    apart_or_same(out, self)
    if not (self.is_floating_point() or self.is_complex()):
        name = str(self.dtype).removeprefix("torch.")
        raise NotImplementedError(f'"logcumsumexp" not implemented for {name}')
    _scan_into("LOG_SUM_EXP", self, dim, out)
    return out


@implements("_logcumsumexp")
def _logcumsumexp(self: torch.Tensor, dim: int) -> torch.Tensor:
    return _logcumsumexp_out(self, dim, out=torch.empty_like(self, memory_format=_CONTIGUOUS))
