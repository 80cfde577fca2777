"""One operator on both devices, the CPU and ours: what it computes is compared, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from opinfo import compare, samples, ties

Sample = Any  # torch.testing._internal.opinfo.core.SampleInput

# A check of a sample yields what was wrong, or None, for each thing that it judged.
Problems = Iterator[Exception | None]


# Their saved mean and deviation are float32 for half types on torch's GPUs, of the input's dtype on its CPU.
_WITH_STATISTICS = {"_batch_norm_with_update", "_native_batch_norm_legit", "native_batch_norm"}
_WITH_STATISTICS |= {"native_group_norm", "native_layer_norm"}


def attempt(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # whatever an operator raises is the matter here
        return None, error


def compared(
    op: Any,
    dtype: torch.dtype,
    function: Callable[..., Any],
    sample: Sample,
    *,
    allowed: dict[torch.dtype, compare.Tolerance] | None = None,
    refusals: bool = False,
    beyond: bool = False,
    also: Callable[[Any, Any], None] | None = None,
    each: Iterable[Callable[[], Any]] | None = None,
) -> Problems:
    """Judge function's results on both devices; with `refusals` also what the CPU refuses.

    With `beyond`, what the CPU has no kernel for may work, and is then compared with its result in double precision.
    `also` raises where two results that agree differ in something else; `each` are references of which a value needs
    to agree with one only, as in compare.assert_agree.
    """
    expected, refusal = attempt(lambda: samples.call(op, function, sample, "cpu"))
    if refusal is not None:
        if refusals and isinstance(refusal, NotImplementedError):
            yield _without_kernel(op, dtype, function, sample, refusal, beyond)
        elif refusals:
            yield different_refusal(refusal, attempt(lambda: samples.call(op, function, sample, "mps"))[1])
        return

    def check() -> None:
        actual = samples.call(op, function, sample, "mps")
        compare.assert_agree(
            processed(op, sample, actual),
            processed(op, sample, expected),
            compare.tolerance(op, dtype) | (allowed or {}),
            again=lambda state: processed(op, sample, reseeded(op, function, sample, state)),
            reference=lambda: processed(op, sample, samples.call(op, function, exact(sample), "cpu")),
            each=each,
            values=compare.promises_values(op),
        )
        if also is not None:
            also(actual, expected)

    yield attempt(check)[1]


def _without_kernel(
    op: Any, dtype: torch.dtype, function: Callable[..., Any], sample: Sample, refusal: Exception, may_work: bool
) -> Exception | None:
    """The CPU has no kernel: nor have we, or, where we may, its result is that of double precision."""
    actual, error = attempt(lambda: samples.call(op, function, sample, "mps"))
    if error is not None:
        return different_refusal(refusal, error)
    if not any(t.numel() for t in pytree.tree_leaves(actual) if isinstance(t, torch.Tensor)):
        return None  # nothing was computed
    if not may_work:
        return different_refusal(refusal, None)
    wide, unknown = attempt(lambda: samples.call(op, function, exact(sample), "cpu"))
    if unknown is not None:
        return None

    def rounded(have: Any, want: Any) -> Any:
        return want.to(have.dtype) if isinstance(have, torch.Tensor) and isinstance(want, torch.Tensor) else want

    def check() -> None:
        expected = pytree.tree_map(rounded, actual, wide)
        compare.assert_agree(
            processed(op, sample, actual),
            processed(op, sample, expected),
            compare.tolerance(op, dtype),
            again=lambda state: processed(op, sample, reseeded(op, function, exact(sample), state)),
            values=compare.promises_values(op),
        )

    return attempt(check)[1]


def torch_gpus_have(op: Any, dtype: torch.dtype) -> bool:
    """Whether torch's own GPU kernels have the dtype."""
    return dtype in op.supported_dtypes("cuda")


def processed(op: Any, sample: Sample, result: Any) -> Any:
    """Make equal what an operator may choose: the signs of singular vectors (torch's function), ties (ours)."""
    if op.name in _WITH_STATISTICS and isinstance(result, tuple):
        result = (result[0], *(t.to(result[0].dtype) for t in result[1:]))
    return ties.resolve(op, sample, sample.output_process_fn_grad(result))


def exact(sample: Sample) -> Sample:
    return replaced(sample, *compare.exact((sample.input, sample.args, sample.kwargs)))


def replaced(sample: Sample, input: Any, args: Any, kwargs: dict[str, Any]) -> Sample:
    """A sample of other arguments."""
    other = type(sample)(input, args=tuple(args), kwargs=kwargs)
    other.output_process_fn_grad = sample.output_process_fn_grad
    return other


def mapped(sample: Sample, function: Callable[[Any], Any]) -> Sample:
    """A sample with function applied to every leaf of the arguments."""
    return replaced(sample, *pytree.tree_map(function, (sample.input, tuple(sample.args), sample.kwargs)))


def tensors(sample: Sample) -> list[torch.Tensor]:
    """The different tensors among the arguments."""
    leaves = pytree.tree_leaves((sample.input, tuple(sample.args), sample.kwargs))
    return list({id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.Tensor)}.values())


def with_tensor(sample: Sample, old: torch.Tensor, new: Any) -> Sample:
    return mapped(sample, lambda leaf: new if leaf is old else leaf)


def named(what: str, problem: Exception | None) -> Exception | None:
    """The problem, saying which input shows it."""
    if isinstance(problem, compare.Mismatch):
        return compare.Mismatch(f"{what}: {problem}", problem.ratio)
    return problem if problem is None else type(problem)(f"{what}: {problem}")


def reseeded(op: Any, function: Callable[..., Any], sample: Sample, state: int) -> Any:
    with samples.reseeded(state):
        return samples.call(op, function, sample, "cpu")


def refused(op: Any, function: Callable[..., Any], sample: Sample) -> Problems:
    """The CPU refuses the arguments: so must the device, with the same type."""
    refusal = attempt(lambda: samples.call(op, function, sample, "cpu"))[1]
    error = attempt(lambda: samples.call(op, function, sample, "mps"))[1]
    yield different_refusal(refusal, error)


def different_refusal(refusal: Exception | None, error: Exception | None) -> Exception | None:
    if type(refusal) is type(error):
        return None
    if isinstance(error, NotImplementedError):
        return error
    have = "nothing was raised" if error is None else f"{type(error).__name__} ({str(error).partition(chr(10))[0]})"
    want = f"{type(refusal).__name__} ({str(refusal).partition(chr(10))[0]})"
    return AssertionError(f"{have} instead of {want}")
