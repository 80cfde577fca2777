"""The check `special`: NaN, infinities, zeros, denormals and the ends of the range in every floating-point input."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Any

import torch
from torch.utils import _pytree as pytree

from opinfo import both, samples
from opinfo.both import Problems, Sample

# Sums of the largest numbers overflow or cancel as their order has it: these operators get none.
_SUMS = (
    "*conv*",
    "*interpolate*",
    "_upsample*",
    "*mm*",
    "*matmul*",
    "*mv",
    "cov",
    "corrcoef",
    "std*",
    "var*",
    "*norm*",
)
_SUMS += ("fft.*", "stft", "istft", "linalg.*", "*lu*", "*svd*", "*qr*", "geqrf", "*cholesky*", "matrix_exp", "pca*")
_SUMS += (
    "*linear*",
    "*bilinear*",
    "cross",
    "cdist",
    "*pdist",
    "inner",
    "dot",
    "vdot",
    "einsum",
    "tensordot",
    "addr",
    "ger",
)
# Which of the values that are not finite comes out depends on the algorithm too: their places are compared.
_BLURRED = ("fft.*", "stft", "istft", "linalg.*", "*lu*", "*svd*", "*qr*", "geqrf", "*cholesky*", "matrix_exp", "pca*")
_BLURRED += ("*_norm*", "std*", "var*", "cov", "corrcoef")

# Steps through the special values that meet other pairs of them in every two inputs.
_STEPS = (1, 5, 7, 11)


@torch.no_grad()
def special(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """Special values throughout, and one by one among ordinary ones.

    The CPU's vectorised code differs from its scalar code here and there, and both from double precision: a value is
    right when it is one of these. What the CPU refuses is refused.
    """
    function = _blurred(op) if _is_any(op, _BLURRED) else op
    for name, variant in _variants(sample, ends=not _is_any(op, _SUMS)):
        references = [
            lambda v=variant: both.processed(op, v, samples.call(op, function, both.exact(v), "cpu")),
            lambda v=variant: both.processed(op, v, samples.call(op, function, _strided(v), "cpu")),
            lambda v=variant: both.processed(op, v, samples.call(op, function, _strided(both.exact(v)), "cpu")),
        ]
        for problem in both.compared(op, dtype, function, variant, refusals=True, each=references):
            yield both.named(name, problem)


def _is_any(op: Any, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(op.full_name, pattern) for pattern in patterns)


def _blurred(op: Any) -> Callable[..., Any]:
    def blur(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
        return torch.where(leaf.isfinite(), leaf, torch.nan) if floating else leaf

    return lambda *args, **kwargs: pytree.tree_map(blur, op(*args, **kwargs))


def _variants(sample: Sample, ends: bool) -> Iterator[tuple[str, Sample]]:
    floating = [t for t in both.tensors(sample) if _is_floating(t)]
    if not floating:
        return
    for start in (0, 3):
        steps = itertools.cycle(_STEPS)
        filled = {id(t): _filled(t, start, next(steps), ends) for t in floating}
        yield "special values throughout", both.mapped(sample, lambda leaf, f=filled: f.get(id(leaf), leaf))
    for tensor in floating:
        for value in (torch.nan, torch.inf, -torch.inf, -0.0, *([torch.finfo(tensor.dtype).max] if ends else [])):
            if not tensor.is_complex():
                yield f"one {value:.3g}", both.with_tensor(sample, tensor, _with_one(tensor, value))
            else:
                for number in (complex(value, 1), complex(1, value)):
                    yield f"one {number:.3g}", both.with_tensor(sample, tensor, _with_one(tensor, number))


def _is_floating(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0


def _filled(tensor: torch.Tensor, start: int, step: int, ends: bool) -> torch.Tensor:
    values = _values(tensor.dtype, ends)
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
def _values(dtype: torch.dtype, ends: bool) -> torch.Tensor:
    """Special values of a dtype, a prime number of them so that steps through them meet them all."""
    if dtype.is_complex:
        parts = _values(dtype.to_real(), ends).double()
        pairs = torch.complex(*torch.cartesian_prod(parts, parts).unbind(-1)).to(dtype)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
        return pairs[order]
    info = torch.finfo(dtype)
    denormal = 0.0 if _flushes(dtype) else info.smallest_normal / 4
    return torch.tensor(
        [
            *(torch.nan, torch.inf, -torch.inf, 0.0, -0.0, *((info.max, -info.max) if ends else (3.0, -2.0))),
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
