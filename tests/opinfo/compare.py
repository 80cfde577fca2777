"""When a result is right: torch's own tolerances, and a float64 reference where the CPU itself is rough."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.testing._comparison import default_tolerances
from torch.testing._internal.common_device_type import toleranceOverride
from torch.testing._internal.opinfo.core import DecorateInfo
from torch.utils import _pytree as pytree

# The tests of torch that compare an operator on a GPU with the CPU, and with itself called otherwise.
_DEVICE_TESTS = (
    ("TestCommon", "test_compare_cpu", "cuda"),
    ("TestCommon", "test_noncontiguous_samples", "cuda"),
    ("TestCommon", "test_variant_consistency_eager", "cuda"),
    ("TestConsistency", "test_output_match", "mps"),
    ("TestModule", "test_cpu_gpu_parity", "cuda"),
)
_GRADIENT_TESTS = (("TestConsistency", "test_output_grad_match", "mps"),)

# Looser than torch.testing's defaults for a reason; test_compare_cpu, which compares torch's GPUs, has 1e-3.
_OWN = {
    # Logarithms of several hundred, whose last digit is 6e-5, are summed up: the CPU is 8e-5 off itself.
    "nn.functional.ctc_loss": {torch.float32: (1.3e-6, 2e-4)},
    "nn.CTCLoss": {torch.float32: (1.3e-6, 2e-4)},
    # Chains of products, whose rounding depends on the order in which the CPU's library sums on this processor.
    **{
        name: {torch.float32: (1e-5, 1e-4)}
        for name in ("linalg.householder_product", "linalg.lstsq", "linalg.multi_dot", "matrix_exp")
    },
}

# One may draw the same few numbers, or others that come to the same.
_STATES = range(1, 5)

# No value is promised.
_UNINITIALISED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}

# How many tolerances the CPU may be off double precision in one value, for ours to be as far off.
_ROUGH = 100.0

_EXACT = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
_EXACT |= {torch.complex32: torch.complex128, torch.complex64: torch.complex128}


class Mismatch(AssertionError):
    """A result differs; `ratio` is the largest error in units of the tolerance, where there is one."""

    def __init__(self, message: str, ratio: float | None = None) -> None:
        super().__init__(message)
        self.ratio = ratio


class Tolerance(NamedTuple):
    rtol: float
    atol: float


def tolerance(op: Any, dtype: torch.dtype, gradient: bool = False) -> dict[torch.dtype, Tolerance]:
    """What torch allows its GPU tests of an operator or module, by the dtype of the result, beyond the default."""
    allowed = {of: Tolerance(*limits) for of, limits in _OWN.get(op.name, {}).items()}
    for decorate in op.decorators:
        if not isinstance(decorate, DecorateInfo):
            continue
        for test in _DEVICE_TESTS + (_GRADIENT_TESTS if gradient else ()):
            if not decorate.is_active(*test, dtype, {}):
                continue
            for decorator in decorate.decorators:
                if isinstance(decorator, toleranceOverride):
                    for of, (atol, rtol) in decorator.d.items():
                        before = allowed.get(of, Tolerance(*default_tolerances(of)))
                        allowed[of] = Tolerance(max(rtol, before.rtol), max(atol, before.atol))
    return allowed


def torch_expects_failure(op: Any, test: str, dtype: torch.dtype) -> bool:
    """Whether torch itself skips or expects to fail one of its tests of the operator on a GPU."""
    for decorate in op.decorators:
        if isinstance(decorate, DecorateInfo) and decorate.is_active("TestCommon", test, "cuda", dtype, {}):
            for decorator in decorate.decorators:
                if not isinstance(decorator, toleranceOverride):
                    return True
    return False


def exact(value: Any) -> Any:
    """The same nest with floating-point and complex tensors, and dtype arguments, in double precision."""

    def widen(leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype):
            return _EXACT.get(leaf, leaf)
        if isinstance(leaf, torch.Tensor) and leaf.dtype in _EXACT:
            return leaf.detach().to(_EXACT[leaf.dtype]).requires_grad_(leaf.requires_grad)
        return leaf

    return pytree.tree_map(widen, value)


def promises_values(op: Any) -> bool:
    return op.name not in _UNINITIALISED


def assert_agree(
    actual: Any,
    expected: Any,
    allowed: dict[torch.dtype, Tolerance],
    again: Callable[[int], Any] | None = None,
    reference: Callable[[], Any] | None = None,
    each: Iterable[Callable[[], Any]] | None = None,
    values: bool = True,
    device: str = "mps",
) -> None:
    """Raise Mismatch unless `actual`, on the device, has the nest, shapes, dtypes and values of `expected`.

    A floating-point result is right when it is within the tolerance of the CPU's, or no further from the double
    precision `reference()` than the tolerance or the CPU's own largest error. Values are not compared where the CPU's
    own differ between states of the generator (`again(1)`, `again(2)`, …). With `each`, a value is right when it is
    within the tolerance of one of these, or as near to it as the CPU's: for inputs on which one value says nothing
    about the others.
    """
    have, want = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    if len(have) != len(want):
        raise Mismatch(f"{len(have)} results instead of {len(want)}")
    for mine, theirs in zip(have, want, strict=True):
        _assert_same_kind(mine, theirs, device)
    if not values:
        return
    wrong = [i for i, pair in enumerate(zip(have, want, strict=True)) if _error(*pair, allowed).max_ratio > 1]
    if not wrong:
        return
    if again is not None and any(_is_random(expected, again(state)) for state in _STATES):
        return
    if each is not None:
        truths = [leaves for leaves in (_leaves_or_none(function, len(want)) for function in each) if leaves]
        for i in wrong:
            _assert_one_of(have[i], want[i], [leaves[i] for leaves in truths], allowed)
        return
    exact_leaves = _leaves_or_none(reference, len(want))
    for i in wrong:
        error = _error(have[i], want[i], allowed)
        if exact_leaves is not None and _is_near(have[i], want[i], exact_leaves[i], error, allowed):
            continue
        raise Mismatch(error.describe(), error.max_ratio)


def are_equal(first: Any, second: Any, allowed: dict[torch.dtype, Tolerance]) -> bool:
    """Whether two results of the CPU agree within the tolerance."""
    pairs = list(zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=False))
    same = all(a.shape == b.shape for a, b in pairs if isinstance(a, torch.Tensor))
    return same and all(_error(a, b, allowed).max_ratio <= 1 for a, b in pairs)


class _Error:
    """Errors of one result in units of its tolerance; `example` shows the values at a position."""

    def __init__(self, ratios: torch.Tensor, example: Callable[[int], str]) -> None:
        self.ratios = ratios
        self.example = example
        self.max_ratio = float(ratios.max()) if ratios.numel() else 0.0

    def describe(self) -> str:
        count, total = int((self.ratios > 1).sum()), self.ratios.numel()
        example = self.example(int(self.ratios.flatten().argmax())) if total else ""
        return f"{count} of {total} values differ, the worst by {self.max_ratio:.3g} times the tolerance: {example}"


def _assert_same_kind(mine: Any, theirs: Any, device: str) -> None:
    if not isinstance(theirs, torch.Tensor):
        if type(mine) is not type(theirs):
            raise Mismatch(f"{type(mine).__name__} instead of {type(theirs).__name__}")
        return
    if not isinstance(mine, torch.Tensor):
        raise Mismatch(f"{type(mine).__name__} instead of a tensor")
    for what in ("shape", "dtype", "layout"):
        if getattr(mine, what) != getattr(theirs, what):
            raise Mismatch(f"{what} {getattr(mine, what)} instead of {getattr(theirs, what)}")
    if mine.device.type != device:
        raise Mismatch(f"the result is on {mine.device}")


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return tensor.resolve_conj().resolve_neg()


def _error(mine: Any, theirs: Any, allowed: dict[torch.dtype, Tolerance]) -> _Error:
    if not isinstance(theirs, torch.Tensor):
        if isinstance(theirs, float):
            return _error(torch.tensor(mine), torch.tensor(theirs), allowed)
        same = mine == theirs or (isinstance(theirs, (torch.dtype, torch.device)))
        return _Error(torch.tensor([0.0 if same else torch.inf]), lambda _: f"{mine} instead of {theirs}")
    have, want = _dense(mine), _dense(theirs)
    if not (want.is_floating_point() or want.is_complex()):
        ratios = torch.where(have == want, 0.0, torch.inf).double()
    else:
        rtol, atol = allowed.get(want.dtype) or default_tolerances(want.dtype)
        wide = torch.complex128 if want.is_complex() else torch.float64
        have, want = have.to(wide), want.to(wide)
        a, b = _without_equal_parts(have, want) if want.is_complex() else (have, want)
        ratios = (a - b).abs() / (atol + rtol * b.abs())
        ratios = torch.where(_equal(have, want), 0.0, ratios.nan_to_num(nan=torch.inf))
    return _Error(ratios, lambda at: f"{have.flatten()[at].item()} instead of {want.flatten()[at].item()}")


def _without_equal_parts(have: torch.Tensor, want: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Complex numbers with 0 for infinite and NaN parts that are equal, so that the others are compared."""
    mine, theirs = torch.view_as_real(have), torch.view_as_real(want)
    same = ((mine == theirs) & theirs.isinf()) | (mine.isnan() & theirs.isnan())
    return torch.view_as_complex(torch.where(same, 0, mine)), torch.view_as_complex(torch.where(same, 0, theirs))


def _equal(have: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Equal, where NaN equals NaN and complex infinities count by part."""
    if have.is_complex():
        both_nan = have.isnan() & want.isnan()
        parts = torch.view_as_real(have), torch.view_as_real(want)
        return both_nan | ((parts[0] == parts[1]) | (parts[0].isnan() & parts[1].isnan())).all(-1)
    return (have == want) | (have.isnan() & want.isnan())


def _assert_one_of(mine: Any, theirs: Any, truths: list[Any], allowed: dict[torch.dtype, Tolerance]) -> None:
    error = _error(mine, theirs, allowed)
    ratios = error.ratios
    for truth in truths:
        if not isinstance(theirs, torch.Tensor) or not isinstance(truth, torch.Tensor) or truth.shape != theirs.shape:
            continue
        rounded = truth.detach().to(theirs.dtype)
        own = _error(theirs, rounded, allowed).ratios.clamp(1, _ROUGH)
        near = _error(mine, rounded, allowed).ratios
        ratios = torch.where(near <= own, torch.minimum(ratios, near.clamp(max=1)), ratios)
    if bool((ratios > 1).any()):
        left = _Error(ratios, error.example)
        raise Mismatch(left.describe(), left.max_ratio)


def _is_near(mine: Any, theirs: Any, truth: Any, error: _Error, allowed: dict[torch.dtype, Tolerance]) -> bool:
    if not isinstance(theirs, torch.Tensor) or not isinstance(truth, torch.Tensor) or truth.shape != theirs.shape:
        return False
    if not (theirs.is_floating_point() or theirs.is_complex()):
        return False
    rounded = truth.detach().to(theirs.dtype)
    limit = _error(theirs, rounded, allowed).ratios
    limit = limit[limit.isfinite()]  # where the CPU overflows it is no measure
    largest = max(1.0, float(limit.max()) if limit.numel() else 0.0)
    return bool(((error.ratios <= 1) | (_error(mine, rounded, allowed).ratios <= largest)).all())


def _is_random(expected: Any, other: Any) -> bool:
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(other), strict=True)
    return any(_error(b, a, {}).max_ratio > 1 for a, b in pairs if isinstance(a, torch.Tensor) and a.shape == b.shape)


def _leaves_or_none(reference: Callable[[], Any] | None, count: int) -> list[Any] | None:
    """The reference's results; None where the operator has none in double precision."""
    if reference is None:
        return None
    try:
        leaves = pytree.tree_leaves(reference())
    except (RuntimeError, TypeError, ValueError, IndexError, unittest.SkipTest):
        return None
    return leaves if len(leaves) == count else None
