"""The check `special`: NaN, infinities, zeros, denormals and the ends of the range in every floating-point input."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from opinfo import both, samples
from opinfo.both import Problems, Sample

# Steps through the special values that meet other pairs of them in every two inputs.
_STEPS = (1, 5, 7, 11)


@torch.no_grad()
def special(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """Special values throughout, and one by one among ordinary ones.

    The CPU's vectorised code differs from its scalar code here and there, and both from double precision: a value is
    right when it is one of these. What the CPU refuses is refused.
    """
    for name, variant in _variants(sample):
        references = [
            lambda v=variant: both.processed(op, v, samples.call(op, op, both.exact(v), "cpu")),
            lambda v=variant: both.processed(op, v, samples.call(op, op, _strided(v), "cpu")),
            lambda v=variant: both.processed(op, v, samples.call(op, op, _strided(both.exact(v)), "cpu")),
        ]
        for problem in both.compared(op, dtype, op, variant, refusals=True, each=references):
            yield both.named(name, problem)


def _variants(sample: Sample) -> Iterator[tuple[str, Sample]]:
    floating = [t for t in both.tensors(sample) if _is_floating(t)]
    if not floating:
        return
    for start in (0, 3):
        steps = itertools.cycle(_STEPS)
        filled = {id(t): _filled(t, start, next(steps)) for t in floating}
        yield "special values throughout", both.mapped(sample, lambda leaf, f=filled: f.get(id(leaf), leaf))
    for tensor in floating:
        for value in (torch.nan, torch.inf, -torch.inf, -0.0, torch.finfo(tensor.dtype).max):
            if not tensor.is_complex():
                yield f"one {value:.3g}", both.with_tensor(sample, tensor, _with_one(tensor, value))
            else:
                for number in (complex(value, 1), complex(1, value)):
                    yield f"one {number:.3g}", both.with_tensor(sample, tensor, _with_one(tensor, number))


def _is_floating(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0


def _filled(tensor: torch.Tensor, start: int, step: int) -> torch.Tensor:
    values = _values(tensor.dtype)
    return values[(start + step * torch.arange(tensor.numel())) % len(values)].view(tensor.shape)


def _with_one(tensor: torch.Tensor, value: complex) -> torch.Tensor:
    flat = tensor.flatten().clone()
    place = torch.tensor(3 * tensor.numel() // 7)
    return torch.where(torch.arange(flat.numel()) == place, torch.tensor(value).to(flat.dtype), flat).view(tensor.shape)


def _strided(sample: Sample) -> Sample:
    other = sample.noncontiguous()
    other.output_process_fn_grad = sample.output_process_fn_grad
    return other


@functools.cache
def _values(dtype: torch.dtype) -> torch.Tensor:
    """Special values of a dtype, a prime number of them so that steps through them meet them all."""
    if dtype.is_complex:
        parts = _values(dtype.to_real()).double()
        pairs = torch.complex(*torch.cartesian_prod(parts, parts).unbind(-1)).to(dtype)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
        return pairs[order]
    info = torch.finfo(dtype)
    denormal = 0.0 if _flushes(dtype) else info.smallest_normal / 4
    return torch.tensor(
        [
            *(torch.nan, torch.inf, -torch.inf, 0.0, -0.0, info.max, -info.max),
            *(info.smallest_normal, denormal, -denormal, info.eps, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0),
        ],
        dtype=torch.float64,
    ).to(dtype)


def _flushes(dtype: torch.dtype) -> bool:
    """Whether the adapter computes with 0 for denormals of the dtype, as Vulkan permits."""
    if dtype.itemsize < 2:
        return False
    smallest = torch.tensor(torch.finfo(dtype).smallest_normal / 4, dtype=dtype, device="mps")
    return not (smallest * 2).cpu().item()
