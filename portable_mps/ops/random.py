"""Filling tensors with random numbers, random permutations and dropout.

Numbers come from Philox counters (kernels/random.slang), so a seed gives the same ones on every adapter, whatever the
tensor's strides: element i of the contiguous tensor is made from counter i.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, raise_where, require_dtype
from portable_mps.dispatch.launch import draw
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import scalar_type
from portable_mps.dispatch.registry import implements, register_composite
from portable_mps.dispatch.strided import Linear, apart_or_same, dtype_defines, resized
from portable_mps.ops.sort import sort_into
from portable_mps.runtime import device

_BITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}
_ENOUGH_BITS = 24
_VECTOR_BYTES = 32


_NUMBERS = {"int64_t": "qq", "double": "dd", "float": "ff"}
_fill = {number: Linear("random", "fill", "QxQQ" + codes) for number, codes in _NUMBERS.items()}
_dropout = {number: Linear("random", "dropout", "QQQxQQ" + _NUMBERS[number]) for number in ("double", "float")}
_bernoulli_each = Linear("random", "bernoulli", "QQQxQQI")


def _contiguous(self: torch.Tensor) -> torch.Tensor:
    """`self`, or what is to be copied into it."""
    if self.is_contiguous():
        return self
    return torch.empty(self.shape, dtype=self.dtype, device=self.device)


def _aligned(*tensors: torch.Tensor) -> int:
    return int(all(t.data_ptr() % _VECTOR_BYTES == 0 for t in tensors))


@dataclass
class Distribution:
    """A row: numbers of `source` (see the kernel) become elements by `expression`, of x, y and two numbers a and b.

    half_bits: uniform numbers have as few bits as half types hold, so that they are never rounded. below: b is not
    reached. integers: elements may be integers.
    """

    source: str
    expression: str
    half_bits: bool = False
    below: bool = False
    integers: bool = False

    def __call__(self, tensor: torch.Tensor, a: float, b: float, generator: torch.Generator | None) -> torch.Tensor:
        """Fill the tensor with numbers of this distribution, whose parameters are a and b."""
        if tensor.numel() and not tensor.is_floating_point() and not self.integers:
            raise NotImplementedError(f"random numbers of this distribution are not implemented for {tensor.dtype}")
        if tensor.numel() == 0:
            return tensor
        out = _contiguous(tensor)
        is_double = tensor.dtype == torch.float64
        words = self.source == "WORDS"
        per_thread = 2 if words or is_double else 4
        kernel = _fill["int64_t" if words else "double" if is_double else "float"]
        real = "double" if is_double else "float"
        seed, offset = draw(generator, 1)
        kernel(
            -(-out.numel() // per_thread),
            (out, out.numel(), seed, offset, a, b),
            (),
            (out,),
            FILL=1,
            SOURCE=self.source,
            EXPRESSION=self.expression,
            BELOW=int(self.below),
            R=real,
            N="int64_t" if words else real,
            WIDTH=64 if is_double and not words else 32,
            BITS=_BITS.get(tensor.dtype, _ENOUGH_BITS) if self.half_bits else _ENOUGH_BITS,
            VECTOR=_aligned(out),
            **dtype_defines("T", out.dtype),
        )
        return tensor if out is tensor else tensor.copy_(out)


_uniform = Distribution("UNIFORM", "uniform_between(x, a, b)", half_bits=True, below=True)
_normal = Distribution("NORMAL", "x * b + a")
_log_normal = Distribution("NORMAL", "log_normal(x, a, b)")
_exponential = Distribution("UNIFORM", "exponential(x, a)")
_geometric = Distribution("OPEN", "geometric(x, a)", integers=True)
_cauchy = Distribution("UNIFORM", "cauchy(x, a, b)")
_bernoulli = Distribution("UNIFORM", "x < a ? 1 : 0", integers=True)
_integers = Distribution("WORDS", "random_from_to(x, y, uint64_t(b), a)", integers=True)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Floating-point distributions -------------------------------------------------------------------------------------


@implements("uniform_")
def uniform_(self: torch.Tensor, from_: float = 0, to: float = 1, *, generator: Any = None) -> torch.Tensor:
    """Draw from [from_, to)."""
    if self.is_complex():
        uniform_(torch.view_as_real(self), from_, to, generator=generator)
        return self
    if not self.is_floating_point():
        raise NotImplementedError(f'"check_uniform_bounds" not implemented for {_short(self.dtype)}')
    limits = torch.finfo(self.dtype)
    for name, value in (("from", from_), ("to", to)):
        if not limits.min <= value <= limits.max:
            raise RuntimeError(f"{name} is out of bounds for {_short(self.dtype)}")
    if not from_ <= to:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={from_:g} > to={to:g}")
    if to - from_ > limits.max:
        raise RuntimeError(
            f"uniform_ expects to-from <= std::numeric_limits<{_short(self.dtype)}>::max(), but found to={to:g} and "
            f"from={from_:g} which result in to-from to exceed the limit"
        )
    return _uniform(self, from_, to, generator)


def _check_std(std: float) -> None:
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")


@implements("normal_")
def normal_(self: torch.Tensor, mean: float = 0, std: float = 1, *, generator: Any = None) -> torch.Tensor:
    """Draw from a normal distribution. RuntimeError for a negative `std`."""
    _check_std(std)
    if self.is_complex():  # half of the variance for each part
        normal_(torch.view_as_real(self), mean, std / 2**0.5, generator=generator)
        return self
    return _normal(self, mean, std, generator)


@implements("log_normal_")
def log_normal_(self: torch.Tensor, mean: float = 1, std: float = 2, *, generator: Any = None) -> torch.Tensor:
    """Draw numbers whose logarithms have this mean and deviation. RuntimeError for one that is not positive."""
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
    return _log_normal(self, mean, std, generator)


@implements("exponential_")
def exponential_(self: torch.Tensor, lambd: float = 1, *, generator: Any = None) -> torch.Tensor:
    """Draw from an exponential distribution. RuntimeError for a `lambd` that is not positive."""
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    if not self.is_floating_point():
        raise RuntimeError(
            "Exponential distribution is a continuous probability distribution. dtype must be a floating point but "
            f"you specified {_short(self.dtype)}"
        )
    return _exponential(self, lambd, 0.0, generator)


@implements("geometric_")
def geometric_(self: torch.Tensor, p: float, *, generator: Any = None) -> torch.Tensor:
    """Draw how many tries the first success takes. RuntimeError for a `p` outside (0, 1)."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
    require_dtype("geometric_cpu", self, FLOATS | INTEGERS)
    return _geometric(self, p, 0.0, generator)


@implements("cauchy_")
def cauchy_(self: torch.Tensor, median: float = 0, sigma: float = 1, *, generator: Any = None) -> torch.Tensor:
    """Draw from Cauchy's distribution. RuntimeError for a `sigma` that is not positive."""
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
    if not self.is_floating_point():
        raise RuntimeError(
            "Cauchy distribution is a continuous probability distribution. dtype must be a floating point but you "
            f"specified {_short(self.dtype)}"
        )
    return _cauchy(self, median, sigma, generator)


def _normal_like(
    out: torch.Tensor, mean: torch.Tensor | float, std: torch.Tensor | float, generator: Any
) -> torch.Tensor:
    """`out` of the broadcast shape, filled with mean + std * normal. A negative std raises at the next
    synchronisation."""
    if isinstance(std, torch.Tensor):
        if std.is_complex():
            raise RuntimeError("normal expects standard deviation to be non-complex")
        raise_where(~(std >= 0), "normal expects all elements of std >= 0.0")
        return normal_(out, generator=generator).mul_(std).add_(mean)
    return normal_(out, 0.0, std, generator=generator).add_(mean)


def _broadcast(mean: Any, std: Any) -> torch.Size:
    return torch.broadcast_shapes(*[t.shape for t in (mean, std) if isinstance(t, torch.Tensor)])


@implements("normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor")
def normal(mean: Any, std: Any = 1.0, *, generator: Any = None) -> torch.Tensor:
    """Normal numbers whose mean or standard deviation is a tensor, or both; they broadcast."""
    like = mean if isinstance(mean, torch.Tensor) else std
    out = torch.empty(_broadcast(mean, std), dtype=like.dtype, device=like.device)
    return _normal_like(out, mean, std, generator)


@implements("normal.Tensor_float_out", "normal.float_Tensor_out", "normal.Tensor_Tensor_out")
def normal_out(mean: Any, std: Any = 1.0, *, generator: Any = None, out: torch.Tensor) -> torch.Tensor:
    """`normal` into `out`."""
    return _normal_like(resized(out, _broadcast(mean, std)), mean, std, generator)


# Integers ---------------------------------------------------------------------------------------------------------


def _refuse_without_integers(name: str, dtype: torch.dtype) -> None:
    """NotImplementedError for complex numbers and 8-bit floats, in the words of torch's CPU kernel `name`."""
    if dtype.is_complex or (dtype.itemsize == 1 and dtype.is_floating_point):
        raise NotImplementedError(f"\"{name}\" not implemented for '{scalar_type(dtype)}'")


def _highest(dtype: torch.dtype) -> int:
    """The highest number that random_() gives: the last of a type's consecutive integers."""
    _refuse_without_integers("random_kernel_cpu", dtype)
    if dtype.is_floating_point:
        return int(2 ** _BITS[dtype])
    return 1 if dtype == torch.bool else min(torch.iinfo(dtype).max, 2**63 - 1)


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    if dtype == torch.bool:
        return 0, 1
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return limits.min, limits.max


def _inside(value: int, dtype: torch.dtype, up: bool) -> int:
    """The number nearest to `value` that stays inside a range when it is rounded to a floating-point dtype.

    value begins the range with `up`, else it ends it. ATen's update_from and update_to.
    """
    step = 1 if up else -1
    rounded = int(torch.tensor(float(value + step), dtype=torch.float64).to(dtype).to(torch.float64).item())
    if (rounded < value) if up else (rounded >= value):
        return rounded + step * (1 << (abs(value + step).bit_length() - _BITS[dtype]))
    return value


def _signed(count: int) -> int:
    """An unsigned 64-bit number as the kernel's signed parameter."""
    return count - 2**64 if count >= 2**63 else count


@implements("random_.from")
def random_from_(self: torch.Tensor, from_: int, to: int | None, *, generator: Any = None) -> torch.Tensor:
    """Draw whole numbers from [from_, to); to the dtype's largest, included, where `to` is None."""
    dtype = self.dtype
    if to is None and from_ == -(2**63):
        return _integers(self, 0, 0, generator)
    if dtype.is_complex:
        raise RuntimeError("check_random_bounds handles only integral, floating-point and boolean types")
    _refuse_without_integers("random_update_from_to", dtype)
    begin, last = from_, _highest(dtype) if to is None else to - 1
    if to is not None and not from_ < to:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={from_} >= to={to}")
    if dtype.is_floating_point:
        begin = _inside(from_, dtype, up=True)
        last = last if to is None else _inside(to, dtype, up=False) - 1
        if not begin <= last:
            raise RuntimeError(
                f"random_ expects 'from' casted to dtype to be less than 'to' casted to dtype, but got from={begin} "
                f">= to={last + 1}"
            )
    low, high = _limits(dtype)
    for name, value in (("from", begin), ("to - 1", last)):
        if not low <= value <= high:
            raise RuntimeError(f"{name} is out of bounds for {_short(dtype)}")
        if dtype.is_floating_point and abs(value) > 2 ** _BITS[dtype]:
            warnings.warn(
                f"{name} is out of bounds [-(2^{_BITS[dtype]}), 2^{_BITS[dtype]}]. Due to precision limitations "
                f"{_short(dtype)} can support discrete uniform distribution only within this range.",
                UserWarning,
                stacklevel=2,
            )
    return _integers(self, begin, _signed(last - begin + 1), generator)


@implements("random_.to")
def random_to_(self: torch.Tensor, to: int, *, generator: Any = None) -> torch.Tensor:
    """Draw whole numbers from [0, to)."""
    return random_from_(self, 0, to, generator=generator)


@implements("random_")
def random_(self: torch.Tensor, *, generator: Any = None) -> torch.Tensor:
    """Draw whole numbers from 0 to the largest that the dtype has, or holds exactly."""
    return _integers(self, 0, _signed(_highest(self.dtype) + 1), generator)


@implements("randperm.generator_out")
def randperm_generator_out(n: int, *, generator: Any, out: torch.Tensor) -> torch.Tensor:
    """0 … n - 1 in the order of random keys of 63 bits."""
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got{n}")
    _refuse_without_integers("randperm", out.dtype)
    if out.dtype == torch.bool:
        raise NotImplementedError("\"randperm\" not implemented for 'Bool'")
    limit = 2 ** _BITS[out.dtype] if out.dtype in _BITS else torch.iinfo(out.dtype).max
    if n - 1 > limit:
        raise RuntimeError("n is too large for result tensor type: '" + _short(out.dtype) + "'")
    resized(out, (n,))
    keys = random_(torch.empty(n, dtype=torch.int64, device=out.device), generator=generator)
    order = out if out.dtype == torch.int64 and out.is_contiguous() else torch.empty_like(keys)
    sort_into(keys, 0, False, torch.empty_like(keys), order)
    return out if order is out else out.copy_(order)


# Bernoulli and dropout --------------------------------------------------------------------------------------------


@implements("bernoulli_.float")
def bernoulli_float_(self: torch.Tensor, p: float = 0.5, *, generator: Any = None) -> torch.Tensor:
    """Draw 1 with probability `p`, else 0. RuntimeError for one outside [0, 1]."""
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
    return _bernoulli(self, p, 0.0, generator)


@implements("bernoulli_.Tensor")
def bernoulli_tensor_(self: torch.Tensor, p: torch.Tensor, *, generator: Any = None) -> torch.Tensor:
    """A probability outside [0, 1] raises at the next synchronisation."""
    if self.numel() == 0:
        return self
    require_dtype("bernoulli_tensor_cpu_p_", p, FLOATS)
    refuse_as_cpu("bernoulli_.Tensor", self.dtype, p.dtype)
    out, probability = _contiguous(self), p.to(self.device).expand(self.shape).contiguous()
    if probability is self:
        probability = self.clone()
    is_double = p.dtype == torch.float64
    errors = device.current().errors
    code = errors.arm("bernoulli_ expects all elements of p to be in [0, 1]", RuntimeError)
    seed, offset = draw(generator, 1)
    _bernoulli_each(
        -(-out.numel() // (2 if is_double else 4)),
        (out, probability, errors.address, out.numel(), seed, offset, code),
        (probability,),
        (out,),
        BERNOULLI=1,
        SOURCE="UNIFORM",
        R="double" if is_double else "float",
        WIDTH=64 if is_double else 32,
        BITS=_ENOUGH_BITS,
        VECTOR=0,
        **dtype_defines("T", out.dtype),
        **dtype_defines("P", p.dtype),
    )
    return self if out is self else self.copy_(out)


@implements("bernoulli.out")
def bernoulli_out(self: torch.Tensor, *, generator: Any = None, out: torch.Tensor) -> torch.Tensor:
    """1 with the probability that is self's element, else 0."""
    apart_or_same(resized(out, self.shape), self)
    return bernoulli_tensor_(out, self, generator=generator)


@implements("native_dropout")
def native_dropout(input: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(input * mask / (1 - p), mask); the mask is bool, and all true outside training."""
    if train is False or p == 0 or input.numel() == 0:
        return input.clone(), torch.ones_like(input, dtype=torch.bool)
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p:g}")
    if not input.is_floating_point():
        if input.is_complex() or input.dtype in (torch.uint16, torch.uint32, torch.uint64):
            raise NotImplementedError(f"\"bernoulli_scalar_cpu_\" not implemented for '{scalar_type(input.dtype)}'")
        raise RuntimeError(f"result type Float can't be cast to the desired output type {_short(input.dtype)}")
    if p == 1:
        return input * 0, torch.zeros_like(input, dtype=torch.bool)  # not zeros: NaN stays, as on the CPU
    out = torch.empty_like(input)
    mask = torch.empty_like(out, dtype=torch.bool)
    # The kernel goes through memory: in the order of the strides, which empty_like takes over.
    source = input if input.stride() == out.stride() else torch.empty_like(out).copy_(input)
    real = "double" if input.dtype == torch.float64 else "float"
    seed, offset = draw(None, 1)
    _dropout[real](
        -(-out.numel() // (2 if real == "double" else 4)),
        (out, mask, source, out.numel(), seed, offset, 1 - p, 1 / (1 - p)),
        (source,),
        (out, mask),
        DROPOUT=1,
        SOURCE="UNIFORM",
        R=real,
        WIDTH=64 if real == "double" else 32,
        BITS=_ENOUGH_BITS,
        VECTOR=_aligned(out, mask, source),
        **dtype_defines("T", out.dtype),
    )
    return out, mask


def _dropout_composite(input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """One kernel, where torch's composition has three."""
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p:g}")
    if p == 0 or not train or input.numel() == 0:
        return input
    return torch.native_dropout(input, p, train)[0]


register_composite("dropout", _dropout_composite)
