"""Fourier transforms: complex to complex, real to complex and complex to real, over any dimensions.

Lengths whose prime factors are at most 13 are transformed by kernels/fft.slang, in shared memory where they fit, else
in several passes; other lengths are turned into a convolution of such a length (Bluestein, "A linear filtering approach
to the computation of the discrete Fourier transform", 1970).
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.promotion import storage
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import collapse, resized, wrapped_dim
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_templates = {real: Template("fft", "fft", f"6Q10q{code}10I") for real, code in (("float", "f"), ("double", "d"))}
_RADICES = (4, 2, 3, 5, 7, 11, 13)
_BATCH_DIMS = 4  # as in kernels/fft.slang
_LARGEST_CAPACITY = 2048  # numbers in a workgroup
_ENOUGH = 1024  # numbers that keep the threads of a workgroup busy


class Normalization(enum.IntEnum):
    """torch's fft_norm_mode."""

    NONE = 0
    BY_ROOT_N = 1
    BY_N = 2


# Tables: made in extended precision where the host has it, on the device for as long as they are in use --------------


def _unit_roots(turns: np.ndarray, n: int) -> np.ndarray:
    """e^(-2 pi i t / n), correctly rounded to complex128 but for rare ties, for integers 0 <= t < n."""
    quarters = (8 * turns + n) // (2 * n)  # the nearest multiple of a quarter turn: what is left is within pi/4
    angle = (4 * turns - quarters * n).astype(np.longdouble) * (np.longdouble(np.pi) + _PI_LOW) / (2 * n)
    root = np.cos(angle).astype(np.float64) - 1j * np.sin(angle).astype(np.float64)
    return root * np.array([1, -1j, -1, 1j])[quarters % 4]


_PI_LOW = np.longdouble(1.2246467991473532e-16)  # pi less its nearest double


def _upload(table: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(table).to(dtype).to("mps")


@functools.lru_cache(maxsize=256)
def _roots(n: int, dtype: torch.dtype) -> torch.Tensor:
    return _upload(_unit_roots(np.arange(n, dtype=np.int64), n), dtype)


@functools.lru_cache(maxsize=32)
def _split_roots(n: int, dtype: torch.dtype) -> tuple[int, torch.Tensor, torch.Tensor]:
    """(shift, fine, coarse): the root for t is fine[t mod 2^shift] * coarse[t >> shift]."""
    shift = n.bit_length() // 2 + 1
    fine = _unit_roots(np.arange(1 << shift, dtype=np.int64) % n, n)
    coarse = _unit_roots(np.arange((n >> shift) + 1, dtype=np.int64) << shift, n)
    return shift, _upload(fine, dtype), _upload(coarse, dtype)


@functools.lru_cache(maxsize=16)
def _chirp(n: int, inverse: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(chirp of length n, spectrum of its conjugate's two sides over the length of the convolution)."""
    squares = np.arange(n, dtype=np.int64) ** 2 % (2 * n)
    chirp = _unit_roots(squares, 2 * n)
    if inverse:
        chirp = chirp.conj()
    size = _convolution_length(n)
    sides = np.zeros(size, dtype=np.complex128)
    sides[:n] = chirp.conj()
    sides[size - n + 1 :] = chirp.conj()[:0:-1]
    return _upload(chirp, dtype), _upload(np.fft.fft(sides) / size, dtype)


def _convolution_length(n: int) -> int:
    return 1 << (2 * n - 2).bit_length()


@functools.lru_cache(maxsize=4096)
def _factors(n: int) -> tuple[int, ...] | None:
    """The radices of `n`; None where one of its primes has no radix."""
    found = []
    for radix in _RADICES:
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return tuple(found) if n == 1 else None


def _capacity(dtype: torch.dtype) -> int:
    """Numbers of `dtype` that a workgroup holds twice: a power of two."""
    fitting = device.current().adapter.max_shared_memory // (2 * dtype.itemsize)
    return min(1 << (fitting.bit_length() - 1), _LARGEST_CAPACITY)


@functools.lru_cache(maxsize=4096)
def _split(n: int, capacity: int) -> int:
    """The length of the first of several passes: a divisor of `n`, such that both fit if any does."""
    divisors = {1}
    for factor in _factors(n) or ():
        divisors |= {d * factor for d in divisors}
    fitting = [d for d in divisors if d <= capacity]
    both = [d for d in fitting if n // d <= capacity]
    return min(both, key=lambda d: abs(d - math.isqrt(n))) if both else max(fitting)


# Transforms along one dimension ---------------------------------------------------------------------------------------

Batch = list[tuple[int, int, int]]
"""(size, input stride, output stride) of the dimensions that are not transformed, the innermost first."""


def _pass(
    source: torch.Tensor,
    target: torch.Tensor,
    n: int,
    batch: Batch,
    steps: tuple[int, int],
    inverse: bool,
    scale: float = 1.0,
    kept: int | None = None,
    whole: int = 0,
) -> None:
    """One dispatch of the kernel, for n that fits. Strides and steps are in elements.

    kept: how many elements of a result are stored, if not all. whole: the length of the transform that this is a pass
    of, if it is one.
    """
    dtype = source.dtype.to_complex()
    number = storage(dtype, complex=True).compute
    real = "double" if number == "ComplexDouble" else "float"
    count = math.prod(size for size, _, _ in batch)
    capacity = _capacity(dtype)
    together = max(1, min(capacity // n, -(-_ENOUGH // n), count))
    dims = [*batch, *[(1, 0, 0)] * (_BATCH_DIMS - len(batch))]
    batch_first = sum(1 << side for side in (0, 1) if 0 < dims[0][1 + side] < steps[side])
    radices = sum(radix << 4 * i for i, radix in enumerate(_factors(n) or ()))
    roots = _roots(n, dtype)
    shift, fine, coarse = _split_roots(whole, dtype) if whole else (0, roots, roots)
    arguments = (
        *(source, target, roots, fine, coarse, radices),
        *(*[d[1] for d in dims], steps[0], *[d[2] for d in dims], steps[1]),
        *(scale, n, n if kept is None else kept, count, together, *[d[0] for d in dims[:-1]]),
        *(shift, int(inverse), batch_first),
    )
    launch(
        _templates[real],
        grid(-(-count // together)),
        arguments,
        reads=(source, roots, fine, coarse),
        writes=(target,),
        NUMBER=number,
        REAL=real,
        CAPACITY=capacity,
        REAL_INPUT=int(source.is_floating_point()),
        REAL_OUTPUT=int(target.is_floating_point()),
    )


def _passes(
    source: torch.Tensor,
    target: torch.Tensor,
    n: int,
    batch: Batch,
    steps: tuple[int, int],
    inverse: bool,
    scale: float,
) -> None:
    """`_pass` for any n that has radices, complex on both sides: with j = j1 n2 + j2 and k = k1 + n1 k2, transforms of
    length n1 over j1, factors e^(-2 pi i j2 k1 / n), and transforms of length n2 over j2."""
    capacity = _capacity(source.dtype)
    if n <= capacity:
        return _pass(source, target, n, batch, steps, inverse, scale)
    first = _split(n, capacity)
    second = n // first
    between = torch.empty(math.prod(size for size, _, _ in batch) * n, dtype=source.dtype, device=source.device)
    before, after, stride = [(second, steps[0], 1)], [(first, second, steps[1])], n
    for size, reads, writes in batch:
        before.append((size, reads, stride))
        after.append((size, stride, writes))
        stride *= size
    _pass(source, between, first, before, (second * steps[0], second), inverse, whole=n)
    return _passes(between, target, second, after, (1, first * steps[1]), inverse, scale)


def _by_convolution(source: torch.Tensor, n: int, inverse: bool, scale: float) -> torch.Tensor:
    """Transforms along the last dimension for any n. Bluestein: jk = (j^2 + k^2 - (k - j)^2) / 2."""
    chirp, spectrum = _chirp(n, inverse, source.dtype.to_complex())
    padded = torch.zeros((*source.shape[:-1], spectrum.numel()), dtype=chirp.dtype, device=source.device)
    torch.mul(source, chirp, out=padded[..., :n])
    _transform(padded, padded, padded.dim() - 1, spectrum.numel(), False)
    padded *= spectrum
    _transform(padded, padded, padded.dim() - 1, spectrum.numel(), True)
    return padded[..., :n] * (chirp * scale)


def _transform(source: torch.Tensor, target: torch.Tensor, dim: int, n: int, inverse: bool, scale: float = 1.0) -> None:
    """target = scale * the transform of length n of source along dim; target may be source.

    A real source has no imaginary parts; a real target is the transform of the Hermitian spectrum whose first half is
    the source; a complex target that is shorter than n takes the first elements.
    """
    if target.numel() == 0:
        return
    dtype = source.dtype.to_complex()
    kept = target.size(dim)
    fits = _factors(n) is not None and n <= _capacity(dtype)
    if not fits and (source.dtype != dtype or target.dtype != dtype or kept < n):
        spectrum = _hermitian(source, dim, n) if target.is_floating_point() else source.to(dtype)
        result = torch.empty(spectrum.shape, dtype=dtype, device=source.device)
        _transform(spectrum, result, dim, n, inverse, scale)
        target.copy_(result.real if target.is_floating_point() else result.narrow(dim, 0, kept))
        return
    if _factors(n) is None:
        target.movedim(dim, -1).copy_(_by_convolution(source.movedim(dim, -1), n, inverse, scale))
        return
    others = [d for d in range(source.dim()) if d != dim]
    shape = [source.size(d) for d in others]
    batch = _batch(shape, source, target, others)
    if len(batch) > (_BATCH_DIMS if fits else 2):
        source = source.contiguous()
        batch = _batch(shape, source, target, others)
    steps = (source.stride(dim), target.stride(dim))
    if fits:
        _pass(source, target, n, batch, steps, inverse, scale, kept)
    else:
        _passes(source, target, n, batch, steps, inverse, scale)


def _batch(shape: list[int], source: torch.Tensor, target: torch.Tensor, dims: list[int]) -> Batch:
    rows = collapse(shape, [[t.stride(d) for d in dims] for t in (source, target)])
    return [(row[0], row[1], row[2]) for row in rows]


def _hermitian(half: torch.Tensor, dim: int, n: int) -> torch.Tensor:
    """The whole spectrum of length n from its first n // 2 + 1 elements."""
    rest = half.narrow(dim, 1, n - half.size(dim)).flip(dim).conj()
    return torch.cat((half, rest), dim)


# Operators ------------------------------------------------------------------------------------------------------------


def _scale(normalization: int, sizes: Sequence[int]) -> float:
    count = math.prod(sizes)
    if normalization == Normalization.NONE or count == 0:
        return 1.0
    return 1.0 / (math.sqrt(count) if normalization == Normalization.BY_ROOT_N else count)


def _check(self: torch.Tensor, complex: bool) -> None:
    """The CPU's refusals: the wrong kind of numbers, and half types, which its library lacks."""
    name = str(self.dtype).removeprefix("torch.")
    if self.is_complex() != complex or not (complex or self.is_floating_point()):
        raise RuntimeError(f"Only supports {'complex' if complex else 'floating-point'} dtypes, but found: {name}")
    if self.dtype.itemsize < 4 or self.dtype == torch.complex32:
        raise RuntimeError(f"FFT doesn't support tensors of type: {name}")


def _empty(
    self: torch.Tensor, shape: Sequence[int], dims: Sequence[int], dtype: torch.dtype, last: bool = False
) -> torch.Tensor:
    """An uninitialised result that lies in memory as the CPU's: the batch in the order of self's strides, then `dims`
    in that order, at most three of them at a time from the back. With `last`, the last of them stays there."""
    sizes, strides, left = list(self.shape), list(self.stride()), list(dims)
    while True:
        fixed = left[-1:] if last else []
        left = sorted(left[: len(left) - len(fixed)], key=lambda d: -strides[d]) + fixed
        left, some = left[:-3], left[-3:]
        batch = sorted((d for d in range(len(sizes)) if d not in some), key=lambda d: -strides[d])
        step = 1
        for d in reversed([*batch, *some]):
            sizes[d] = shape[d]
            strides[d] = step
            step *= max(sizes[d], 1)
        if not left:
            return torch.empty_strided(tuple(shape), strides, dtype=dtype, device=self.device)
        last = False


def _along_others(
    source: torch.Tensor, dims: Sequence[int], inverse: bool, scale: float, into: torch.Tensor | None = None
) -> torch.Tensor:
    """Complex transforms along `dims`, the last first; the first of them may be in place, the others are."""
    result = _empty(source, source.shape, dims, source.dtype) if into is None else into
    for dim in reversed(dims):
        _transform(source, result, dim, source.size(dim), inverse, scale if dim == dims[0] else 1.0)
        source = result
    return result


@implements("_fft_c2c")
def fft_c2c(self: torch.Tensor, dim: Sequence[int], normalization: int, forward: bool) -> torch.Tensor:
    """The Fourier transform of complex numbers along `dim`; `normalization` as ATen numbers it."""
    _check(self, complex=True)
    if not dim:
        return self.clone()
    dims = [wrapped_dim(d, self.dim()) for d in dim]
    return _along_others(self, dims, not forward, _scale(normalization, [self.size(d) for d in dims]))


@implements("_fft_r2c")
def fft_r2c(self: torch.Tensor, dim: Sequence[int], normalization: int, onesided: bool) -> torch.Tensor:
    """The Fourier transform of real numbers along `dim`; with `onesided`, its half that is not redundant."""
    _check(self, complex=False)
    *others, last = (wrapped_dim(d, self.dim()) for d in dim)
    scale = _scale(normalization, [self.size(d) for d in (*others, last)])
    n = self.size(last)
    shape = list(self.shape)
    if onesided:
        shape[last] = n // 2 + 1
    result = _empty(self, shape, (*others, last), self.dtype.to_complex(), last=True)
    _transform(self, result, last, n, False, 1.0 if others else scale)
    return _along_others(result, others, False, scale, result)


@implements("_fft_c2r")
def fft_c2r(self: torch.Tensor, dim: Sequence[int], normalization: int, last_dim_size: int) -> torch.Tensor:
    """Real numbers, `last_dim_size` along the last of `dim`, whose Fourier transform has this half."""
    _check(self, complex=True)
    *others, last = (wrapped_dim(d, self.dim()) for d in dim)
    half = last_dim_size // 2 + 1
    if last_dim_size < 1 or self.size(last) < half:
        raise RuntimeError(f"Expected at least {half} elements along dimension {last}, but got {self.size(last)}")
    half_spectrum = self.narrow(last, 0, half)
    scale = _scale(normalization, [*(self.size(d) for d in others), last_dim_size])
    if others:
        half_spectrum = _along_others(half_spectrum, others, True, 1.0)
    shape = list(self.shape)
    shape[last] = last_dim_size
    result = _empty(half_spectrum, shape, [last], self.dtype.to_real())
    _transform(half_spectrum, result, last, last_dim_size, True, scale)
    return result


def _into(out: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    return resized(out, result.shape).copy_(result)  # of any dtype, as on the CPU


@implements("_fft_c2c.out")
def fft_c2c_out(
    self: torch.Tensor, dim: Sequence[int], normalization: int, forward: bool, *, out: torch.Tensor
) -> torch.Tensor:
    """`fft_c2c` into `out`."""
    return _into(out, fft_c2c(self, dim, normalization, forward))


@implements("_fft_r2c.out")
def fft_r2c_out(
    self: torch.Tensor, dim: Sequence[int], normalization: int, onesided: bool, *, out: torch.Tensor
) -> torch.Tensor:
    """`fft_r2c` into `out`."""
    return _into(out, fft_r2c(self, dim, normalization, onesided))


@implements("_fft_c2r.out")
def fft_c2r_out(
    self: torch.Tensor, dim: Sequence[int], normalization: int, last_dim_size: int, *, out: torch.Tensor
) -> torch.Tensor:
    """`fft_c2r` into `out`."""
    return _into(out, fft_c2r(self, dim, normalization, last_dim_size))
