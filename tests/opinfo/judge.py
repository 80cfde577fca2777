"""One operator, one dtype, one check: does `mps` do what the CPU does on torch's own samples?

Every check runs both devices on copies of the same inputs. A sample that the CPU itself refuses is not judged, except
by `errors`, which is about refusals.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.testing import make_tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

from opinfo import both, compare, layouts, mixed, overlap, results, samples, special, ties, transforms, unsupported
from opinfo.both import Problems, Sample
from opinfo.dtypes import DTYPES

OPERATORS = {op.full_name: op for op in op_db}
NO_DTYPE = "-"
"""The dtype of `errors` and `messages`: torch gives an operator's error inputs for no dtype in particular."""

QUICK = 4
"""How many samples the quick part takes, and how many more of other structures."""

# What they judge depends on an argument's place and kind, not on its size: the full sweep takes no more samples.
_OF_STRUCTURE = {"dtypes", "mixed", "overlap", "results"}

# Of these the quick part takes one for each operator, so that the operators together meet them all.
_FURTHER = ("special", "strides", "dtypes", "results", "overlap", "mixed", "vmap", "vjp", "jvp")

_RESIZED = "An output with one or more elements"


@dataclass
class Verdict:
    """How one check went; `error` describes the first sample that failed, `ratio` the worst in units of tolerance."""

    op: str
    dtype: str
    check: str
    quick: bool = False  # whether only the quick part's samples were judged
    judged: int = 0
    failed: int = 0
    failed_quick: int = 0  # of the samples that the quick part takes
    error: str = ""
    ratio: float | None = None
    fell_back: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def status(self) -> str:
        return "fail" if self.failed else "pass" if self.judged else "none"

    def as_dict(self) -> dict[str, Any]:
        return {"status": self.status, **asdict(self)}

    def count(self, problem: Exception | None, is_quick: bool = True) -> None:
        self.judged += 1
        if problem is None:
            return
        self.failed += 1
        self.failed_quick += is_quick
        if not self.error:
            self.error = _describe(problem)
        ratio = getattr(problem, "ratio", None)
        if ratio is not None:
            self.ratio = max(ratio, self.ratio or 0.0)


def _describe(problem: Exception) -> str:
    first = str(problem).strip().partition("\n")[0][:300]
    missing = re.match(r"The operator '(\S+)' is not currently implemented", first)
    return f"not implemented: {missing[1]}" if missing else f"{type(problem).__name__}: {first}"


def dtypes_of(op: Any) -> list[torch.dtype]:
    return sorted(op.supported_dtypes("cpu"), key=str)


def lacking(op: Any) -> list[torch.dtype]:
    """The dtypes that the CPU does not have for the operator: what they raise is a check of its own."""
    of_op = op.supported_dtypes("cpu")
    return [d for d in DTYPES if d not in of_op] if of_op else []


def quick_dtypes(op: Any) -> list[torch.dtype]:
    """float32 and another, and one that the operator lacks: chosen by the name, so that together they meet them all."""
    dtypes = dtypes_of(op)
    others = [d for d in dtypes if d != torch.float32]
    if others:
        dtypes = [d for d in dtypes if d in (torch.float32, _one_of(others, op))]
    return [*dtypes, _one_of(lacking(op), op)] if lacking(op) else dtypes


def _one_of(items: list[Any], op: Any) -> Any:
    return items[zlib.crc32(op.full_name.encode()) % len(items)]


def checks_of(op: Any, dtype: torch.dtype) -> list[str]:
    """The checks that apply to the pair."""
    of_op = dtypes_of(op)
    if dtype not in of_op:
        return ["dtypes"]
    checks = ["forward", "noncontiguous"]
    if op.supports_out:
        checks.append("out")
    if op.inplace_variant is not None:
        checks.append("inplace")
    has_gradient = dtype in op.supported_backward_dtypes("cpu")
    if has_gradient:
        checks.append("grad")
    if dtype.is_floating_point or dtype.is_complex:
        checks.append("special")
    if dtype in _representative(of_op):
        checks += ["strides", "overlap", "mixed", "results", "vmap"]
        checks += ["vjp"] if has_gradient else []
        checks += ["jvp"] if has_gradient and op.supports_forward_ad else []
    return checks


def _representative(dtypes: list[torch.dtype]) -> list[torch.dtype]:
    """One dtype of each kind of kernel, for what hardly depends on the dtype."""
    return [d for d in dtypes if d in (torch.float32, torch.int64, torch.complex64)] or dtypes[:1]


def quick_checks_of(op: Any, dtype: torch.dtype) -> list[str]:
    """Strides and outputs are a launcher's matter: one dtype of an operator shows it."""
    of_op, checks = dtypes_of(op), checks_of(op, dtype)
    first = torch.float32 if torch.float32 in of_op else of_op[0] if of_op else dtype
    further = [check for check in _FURTHER if check == "dtypes" or check in checks_of(op, first)]
    chosen = _one_of(further, op)
    if dtype == first:
        return [check for check in checks if check not in _FURTHER or check == chosen]
    return [check for check in checks if check in ("forward", "grad") or check == chosen == "dtypes"]


def judge(op: Any, dtype: torch.dtype | None, check: str, quick: bool = False) -> Verdict:
    """Run one check on all samples, or on the quick part; dtype is None for the checks that have none."""
    from portable_mps.dispatch import fallback

    verdict = Verdict(op.full_name, NO_DTYPE if dtype is None else name_of(dtype), check, quick)
    before = dict(fallback.fallen_back)
    of_sample = _CHECKS[check]
    with warnings.catch_warnings(), _reference_library(op):
        warnings.simplefilter("ignore")
        for sample, is_quick in samples.with_quick(_inputs(op, dtype, check), QUICK):
            if is_quick or not (quick or check in _OF_STRUCTURE):
                for problem in of_sample(op, dtype, sample):
                    verdict.count(problem, is_quick)
    verdict.fell_back = sorted(n for n, count in fallback.fallen_back.items() if count != before.get(n, 0))
    return verdict


def _reference_library(op: Any) -> AbstractContextManager[Any]:
    """Products of 8-bit floats without oneDNN, which makes NaN of what is too large where the processor has them."""
    warnings.simplefilter("ignore")
    return torch.backends.mkldnn.flags(enabled=False) if op.name == "torch._scaled_mm" else nullcontext()


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _inputs(op: Any, dtype: torch.dtype | None, check: str) -> Iterable[Sample]:
    if dtype is None:
        return op.error_inputs("cpu") if op.error_inputs_func is not None else ()
    if check == "dtypes":
        dtype = unsupported.base_dtype(op)
    return op.sample_inputs("cpu", dtype, requires_grad=check in ("grad", "vjp", "jvp"))


@torch.no_grad()
def forward(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    yield from both.compared(op, dtype, op, sample)


@torch.no_grad()
def noncontiguous(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    strided, refusal = both.attempt(sample.noncontiguous)
    if refusal is None:
        strided.output_process_fn_grad = sample.output_process_fn_grad
        yield from both.compared(op, dtype, op, strided)


@torch.no_grad()
def inplace(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    def and_input(input: Any, *args: Any, **kwargs: Any) -> Any:
        result = op.inplace_variant(input, *args, **kwargs)
        return result, input

    if sample.broadcasts_input:
        return
    problems = list(both.compared(op, dtype, and_input, sample))
    yield from problems or both.refused(op, and_input, sample)


def grad(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    gradients = _Gradients(op, sample)
    expected, refusal = both.attempt(lambda: gradients.on("cpu"))
    if refusal is not None or not expected:
        return

    def check() -> None:
        compare.assert_agree(
            gradients.on("mps"),
            expected,
            compare.tolerance(op, dtype, gradient=True),
            again=gradients.reseeded,
            reference=lambda: _Gradients(op, both.exact(sample)).on("cpu"),
            values=compare.promises_values(op),
        )

    def check_by_value() -> None:
        actual = gradients.on("mps")
        compare.assert_agree(actual, expected, {}, values=False)
        grouped = (ties.by_value(op, sample, g) for g in (actual, expected))
        compare.assert_agree(*grouped, {torch.float64: compare.Tolerance(1e-5, 1e-5)}, device="cpu")

    yield both.attempt(check_by_value if ties.is_free(op, sample) else check)[1]


class _Gradients:
    """An operator's gradients on one sample, for the same cotangents wherever they are computed."""

    def __init__(self, op: Any, sample: Sample) -> None:
        self._op, self._sample = op, sample

    def reseeded(self, state: int) -> tuple[torch.Tensor | None, ...]:
        with samples.reseeded(state):
            return self.on("cpu")

    def on(self, device: str) -> tuple[torch.Tensor | None, ...]:
        input, args, kwargs = samples.arguments(self._op, self._sample, device)
        leaves = [t for t in pytree.tree_leaves((input, args, kwargs)) if _needs_grad(t)]
        torch.manual_seed(0)
        outputs = self._sample.output_process_fn_grad(self._op(input, *args, **kwargs))
        outputs = [t for t in pytree.tree_leaves(outputs) if _needs_grad(t)]
        if not leaves or not outputs:
            return ()
        generator = torch.Generator().manual_seed(0)
        cotangents = [_cotangent(t, generator, device) for t in outputs]
        gradients = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
        if device == "mps":
            torch.mps.synchronize()
        return gradients


def _needs_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _cotangent(output: torch.Tensor, generator: torch.Generator, device: str) -> torch.Tensor:
    # Drawn as float64, so that a double precision run gets the same values; kept to a few bits, so that all hold them.
    drawn = torch.randint(-8, 9, output.shape, generator=generator).double() / 8
    if output.is_complex():
        drawn = torch.complex(drawn, torch.randint(-8, 9, output.shape, generator=generator).double() / 8)
    cotangent = drawn.to(output.dtype).to(device)
    return cotangent if output.layout == torch.strided else cotangent.to_sparse()


@torch.no_grad()
def out(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """torch's test_out and test_out_warning, against the CPU: what it writes, keeps, resizes and refuses."""
    expected, refusal = both.attempt(lambda: samples.call(op, op, sample, "cpu"))
    leaves = pytree.tree_leaves(expected)
    if refusal is not None or not leaves or not all(isinstance(t, torch.Tensor) for t in leaves):
        return
    for make in _OUTPUTS:
        yield from _written(op, dtype, sample, expected, make)
    if not op.is_factory_function and not compare.torch_expects_failure(op, "test_out", dtype):
        elsewhere = pytree.tree_map(torch.empty_like, expected)
        if isinstance(both.attempt(lambda: samples.call(op, _with_out(op, elsewhere), sample, "cpu"))[1], TypeError):
            return  # no overload with out= takes these arguments
        error = both.attempt(lambda: samples.call(op, _with_out(op, elsewhere), sample, "mps"))[1]
        refused = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
        yield None if refused else AssertionError(f"out= on the CPU: {error!r} instead of RuntimeError"[:200])


def _with_out(op: Any, out: Any) -> Callable[..., Any]:
    return lambda input, *args, **kwargs: op(input, *args, **kwargs, out=out)


def _written(op: Any, dtype: torch.dtype, sample: Sample, expected: Any, make: Callable[..., Any]) -> Problems:
    outputs: dict[str, Any] = {}

    def write(device: str) -> tuple[Any, bool]:
        torch.manual_seed(0)
        outputs[device] = samples.Mover(device)(pytree.tree_map(make, expected))
        before = [(t.stride(), t.data_ptr()) for t in pytree.tree_leaves(outputs[device])]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            samples.call(op, _with_out(op, outputs[device]), sample, device)
        after = [(t.stride(), t.data_ptr()) for t in pytree.tree_leaves(outputs[device])]
        warned = any(_RESIZED in str(w.message) for w in caught)
        return [a == b for a, b in zip(after, before, strict=True)], warned

    behaviour, refusal = both.attempt(lambda: write("cpu"))

    def check() -> None:
        kept, warned = write("mps")
        compare.assert_agree(
            both.processed(op, sample, outputs["mps"]),
            both.processed(op, sample, outputs["cpu"]),
            compare.tolerance(op, dtype),
            # Into outputs of the same dtypes: what they round is not drawn.
            again=lambda state: both.processed(
                op, sample, both.reseeded(op, _with_out(op, pytree.tree_map(make, expected)), sample, state)
            ),
            reference=lambda: both.processed(op, sample, samples.call(op, op, both.exact(sample), "cpu")),
            values=compare.promises_values(op),
        )
        if behaviour[1] and not warned:
            raise AssertionError("no warning of the resize")
        if warned and not behaviour[1] and make is _empty:
            raise AssertionError("a warning of the resize of an empty tensor")
        if make in (_extremal, _strided) and kept != behaviour[0]:
            raise AssertionError("the output's strides or memory changed")

    if refusal is None:
        yield _named(make, both.attempt(check)[1])
    elif make is _integers and any(t.is_floating_point() or t.is_complex() for t in pytree.tree_leaves(expected)):
        # As in test_out: what an integer result may be cast to differs from operator to operator.
        yield _named(make, both.different_refusal(refusal, both.attempt(lambda: write("mps"))[1]))


def _named(make: Callable[..., Any], problem: Exception | None) -> Exception | None:
    if isinstance(problem, AssertionError) and not isinstance(problem, compare.Mismatch):
        return AssertionError(f"out= {make.__name__.lstrip('_')}: {problem}")
    return problem


def _extremal(t: torch.Tensor) -> torch.Tensor:
    if t.dtype == torch.bool:
        return torch.ones_like(t)
    if t.is_floating_point() or t.is_complex():
        return torch.full_like(t, torch.nan)
    return torch.full_like(t, torch.iinfo(t.dtype).max)


def _strided(t: torch.Tensor) -> torch.Tensor:
    return make_tensor(t.shape, dtype=t.dtype, device="cpu", noncontiguous=True)


def _empty(t: torch.Tensor) -> torch.Tensor:
    return make_tensor((0,), dtype=t.dtype, device="cpu")


def _wrong_shape(t: torch.Tensor) -> torch.Tensor:
    shape = [*t.shape[:-1], t.shape[-1] + 1] if t.dim() else [2]
    return make_tensor(shape, dtype=t.dtype, device="cpu")


def _integers(t: torch.Tensor) -> torch.Tensor:
    return make_tensor(t.shape, dtype=torch.long, device="cpu")


_OUTPUTS = (_extremal, _strided, _empty, _wrong_shape, _integers)


def errors(op: Any, dtype: None, error_input: Any) -> Problems:
    """An error input raises the type that the CPU raises."""
    refusal, error = _both_refusals(op, error_input)
    if refusal is not None:
        yield both.different_refusal(refusal, error)


def messages(op: Any, dtype: None, error_input: Any) -> Problems:
    """Where the CPU's words are those that torch's tests ask for, so are ours."""
    refusal, error = _both_refusals(op, error_input)
    if type(error) is type(refusal) and re.search(error_input.error_regex, str(refusal)):
        same = re.search(error_input.error_regex, str(error))
        yield None if same else AssertionError(f"says {str(error)!r} instead of {error_input.error_regex!r}")


def _both_refusals(op: Any, error_input: Any) -> tuple[Exception | None, Exception | None]:
    sample = error_input.sample_input
    refusal, error = (both.attempt(lambda: samples.call(op, op, sample, on))[1] for on in ("cpu", "mps"))  # noqa: B023
    return refusal, error


_CHECKS: dict[str, Callable[..., Problems]] = {
    check.__name__: check
    for check in (
        *(forward, noncontiguous, out, inplace, grad, errors, messages),
        *(layouts.strides, special.special, unsupported.dtypes, results.results, overlap.overlap, mixed.mixed),
        *(transforms.vmap, transforms.vjp, transforms.jvp),
    )
}
CHECKS = tuple(_CHECKS)
