"""One operator, one dtype, one check: does `mps` do what the CPU does on torch's own samples?

Every check runs both devices on copies of the same inputs. A sample that the CPU itself refuses is not judged, except
by `errors`, which is about refusals.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.testing import make_tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

from opinfo import compare, samples, ties

OPERATORS = {op.full_name: op for op in op_db}
NO_DTYPE = "-"
"""The dtype of `errors` and `messages`: torch gives an operator's error inputs for no dtype in particular."""

QUICK = 4
"""How many samples the quick part takes, and how many more of other structures."""

Sample = Any  # torch.testing._internal.opinfo.core.SampleInput
# Their saved mean and deviation are float32 for half types on torch's GPUs, of the input's dtype on its CPU.
_WITH_STATISTICS = {"_batch_norm_with_update", "_native_batch_norm_legit", "native_batch_norm"}
_WITH_STATISTICS |= {"native_group_norm", "native_layer_norm"}
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


def quick_dtypes(op: Any) -> list[torch.dtype]:
    """float32 and another, chosen by the name so that the operators together meet them all."""
    dtypes = dtypes_of(op)
    others = [d for d in dtypes if d != torch.float32]
    if others:
        dtypes = [d for d in dtypes if d in (torch.float32, others[zlib.crc32(op.full_name.encode()) % len(others)])]
    return dtypes


def checks_of(op: Any, dtype: torch.dtype) -> list[str]:
    """The checks that apply to the pair."""
    checks = ["forward", "noncontiguous"]
    if op.supports_out:
        checks.append("out")
    if op.inplace_variant is not None:
        checks.append("inplace")
    if dtype in op.supported_backward_dtypes("cpu"):
        checks.append("grad")
    return checks


def quick_checks_of(op: Any, dtype: torch.dtype) -> list[str]:
    """Strides and outputs are a launcher's matter: one dtype of an operator shows it."""
    if dtype == torch.float32 or torch.float32 not in dtypes_of(op):
        return checks_of(op, dtype)
    return [check for check in checks_of(op, dtype) if check in ("forward", "grad")]


def judge(op: Any, dtype: torch.dtype | None, check: str, quick: bool = False) -> Verdict:
    """Run one check on all samples, or on the quick part; dtype is None for the checks that have none."""
    from portable_mps.dispatch import fallback

    verdict = Verdict(op.full_name, NO_DTYPE if dtype is None else name_of(dtype), check, quick)
    before = dict(fallback.fallen_back)
    of_sample = _CHECKS[check]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sample, is_quick in samples.with_quick(_inputs(op, dtype, check), QUICK):
            if is_quick or not quick:
                for problem in of_sample(op, dtype, sample):
                    verdict.count(problem, is_quick)
    verdict.fell_back = sorted(n for n, count in fallback.fallen_back.items() if count != before.get(n, 0))
    return verdict


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# A check of a sample yields what was wrong, or None, for each thing that it judged.
Problems = Iterator[Exception | None]


def _inputs(op: Any, dtype: torch.dtype | None, check: str) -> Iterable[Sample]:
    if dtype is None:
        return op.error_inputs("cpu") if op.error_inputs_func is not None else ()
    return op.sample_inputs("cpu", dtype, requires_grad=check == "grad")


def _attempt(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # whatever an operator raises is the matter here
        return None, error


def _compared(op: Any, dtype: torch.dtype, function: Callable[..., Any], sample: Sample) -> Iterator[Exception | None]:
    expected, refusal = _attempt(lambda: samples.call(op, function, sample, "cpu"))
    if refusal is not None:
        return

    def check() -> None:
        actual = samples.call(op, function, sample, "mps")
        compare.assert_agree(
            _processed(op, sample, actual),
            _processed(op, sample, expected),
            compare.tolerance(op, dtype),
            again=lambda state: _processed(op, sample, _reseeded(op, function, sample, state)),
            reference=lambda: _processed(op, sample, samples.call(op, function, _exact(sample), "cpu")),
            values=compare.promises_values(op),
        )

    yield _attempt(check)[1]


def _processed(op: Any, sample: Sample, result: Any) -> Any:
    """Make equal what an operator may choose: the signs of singular vectors (torch's function), ties (ours)."""
    if op.name in _WITH_STATISTICS and isinstance(result, tuple):
        result = (result[0], *(t.to(result[0].dtype) for t in result[1:]))
    return ties.resolve(op, sample, sample.output_process_fn_grad(result))


def _exact(sample: Sample) -> Sample:
    input, args, kwargs = compare.exact((sample.input, sample.args, sample.kwargs))
    wide = type(sample)(input, args=tuple(args), kwargs=kwargs)
    wide.output_process_fn_grad = sample.output_process_fn_grad
    return wide


def _reseeded(op: Any, function: Callable[..., Any], sample: Sample, state: int) -> Any:
    with samples.reseeded(state):
        return samples.call(op, function, sample, "cpu")


@torch.no_grad()
def forward(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    yield from _compared(op, dtype, op, sample)


@torch.no_grad()
def noncontiguous(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    strided, refusal = _attempt(sample.noncontiguous)
    if refusal is None:
        strided.output_process_fn_grad = sample.output_process_fn_grad
        yield from _compared(op, dtype, op, strided)


@torch.no_grad()
def inplace(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    def both(input: Any, *args: Any, **kwargs: Any) -> Any:
        result = op.inplace_variant(input, *args, **kwargs)
        return result, input

    if sample.broadcasts_input:
        return
    problems = list(_compared(op, dtype, both, sample))
    yield from problems or _refused(op, both, sample)


def _refused(op: Any, function: Callable[..., Any], sample: Sample) -> Problems:
    """The CPU refuses the arguments: so must the device, with the same type."""
    refusal = _attempt(lambda: samples.call(op, function, sample, "cpu"))[1]
    error = _attempt(lambda: samples.call(op, function, sample, "mps"))[1]
    yield _different_refusal(refusal, error)


def _different_refusal(refusal: Exception | None, error: Exception | None) -> Exception | None:
    if type(refusal) is type(error):
        return None
    if isinstance(error, NotImplementedError):
        return error
    have = "nothing was raised" if error is None else f"{type(error).__name__} ({str(error).partition(chr(10))[0]})"
    want = f"{type(refusal).__name__} ({str(refusal).partition(chr(10))[0]})"
    return AssertionError(f"{have} instead of {want}")


def grad(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    gradients = _Gradients(op, sample)
    expected, refusal = _attempt(lambda: gradients.on("cpu"))
    if refusal is not None or not expected:
        return

    def check() -> None:
        compare.assert_agree(
            gradients.on("mps"),
            expected,
            compare.tolerance(op, dtype, gradient=True),
            again=gradients.reseeded,
            reference=lambda: _Gradients(op, _exact(sample)).on("cpu"),
            values=compare.promises_values(op),
        )

    def check_by_value() -> None:
        actual = gradients.on("mps")
        compare.assert_agree(actual, expected, {}, values=False)
        grouped = (ties.by_value(op, sample, g) for g in (actual, expected))
        compare.assert_agree(*grouped, {torch.float64: compare.Tolerance(1e-5, 1e-5)}, device="cpu")

    yield _attempt(check_by_value if ties.is_free(op, sample) else check)[1]


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
    expected, refusal = _attempt(lambda: samples.call(op, op, sample, "cpu"))
    leaves = pytree.tree_leaves(expected)
    if refusal is not None or not leaves or not all(isinstance(t, torch.Tensor) for t in leaves):
        return
    for make in _OUTPUTS:
        yield from _written(op, dtype, sample, expected, make)
    if not op.is_factory_function and not compare.torch_expects_failure(op, "test_out", dtype):
        elsewhere = pytree.tree_map(torch.empty_like, expected)
        if isinstance(_attempt(lambda: samples.call(op, _with_out(op, elsewhere), sample, "cpu"))[1], TypeError):
            return  # no overload with out= takes these arguments
        error = _attempt(lambda: samples.call(op, _with_out(op, elsewhere), sample, "mps"))[1]
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

    behaviour, refusal = _attempt(lambda: write("cpu"))

    def check() -> None:
        kept, warned = write("mps")
        compare.assert_agree(
            _processed(op, sample, outputs["mps"]),
            _processed(op, sample, outputs["cpu"]),
            compare.tolerance(op, dtype),
            # Into outputs of the same dtypes: what they round is not drawn.
            again=lambda state: _processed(
                op, sample, _reseeded(op, _with_out(op, pytree.tree_map(make, expected)), sample, state)
            ),
            reference=lambda: _processed(op, sample, samples.call(op, op, _exact(sample), "cpu")),
            values=compare.promises_values(op),
        )
        if behaviour[1] and not warned:
            raise AssertionError("no warning of the resize")
        if warned and not behaviour[1] and make is _empty:
            raise AssertionError("a warning of the resize of an empty tensor")
        if make in (_extremal, _strided) and kept != behaviour[0]:
            raise AssertionError("the output's strides or memory changed")

    if refusal is None:
        yield _named(make, _attempt(check)[1])
    elif make is _integers and any(t.is_floating_point() or t.is_complex() for t in pytree.tree_leaves(expected)):
        # As in test_out: what an integer result may be cast to differs from operator to operator.
        yield _named(make, _different_refusal(refusal, _attempt(lambda: write("mps"))[1]))


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
        yield _different_refusal(refusal, error)


def messages(op: Any, dtype: None, error_input: Any) -> Problems:
    """Where the CPU's words are those that torch's tests ask for, so are ours."""
    refusal, error = _both_refusals(op, error_input)
    if type(error) is type(refusal) and re.search(error_input.error_regex, str(refusal)):
        same = re.search(error_input.error_regex, str(error))
        yield None if same else AssertionError(f"says {str(error)!r} instead of {error_input.error_regex!r}")


def _both_refusals(op: Any, error_input: Any) -> tuple[Exception | None, Exception | None]:
    sample = error_input.sample_input
    refusal, error = (_attempt(lambda: samples.call(op, op, sample, on))[1] for on in ("cpu", "mps"))  # noqa: B023
    return refusal, error


_CHECKS: dict[str, Callable[..., Problems]] = {
    check.__name__: check for check in (forward, noncontiguous, out, inplace, grad, errors, messages)
}
CHECKS = tuple(_CHECKS)
