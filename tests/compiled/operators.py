"""Operators of torch's database, compiled for the device against eager there."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

# What differs for a reason, by operator and its variant; the words of Inductor are its own on every device.
EXPECTED = {
    "empty": "no two calls have equal values",
    "empty_like": "no two calls have equal values",
    "empty_permuted": "no two calls have equal values",
    "empty_strided": "no two calls have equal values",
    "new_empty": "no two calls have equal values",
    "new_empty_strided": "no two calls have equal values",
    "unique": "the database calls NumPy within its function, which Dynamo does not trace",
    "var_mean.unbiased": "Inductor's mean of nothing is 0, eager's NaN",
    "std_mean.unbiased": "Inductor's mean of nothing is 0, eager's NaN",
    "native_batch_norm": "Inductor's statistics of an evaluation have the size of the channels, eager's none",
    "_native_batch_norm_legit": "Inductor's statistics of an evaluation have the size of the channels, eager's none",
    "native_group_norm": "torch's decomposition rounds the statistics of half types, eager keeps them in float32",
    "linalg.lstsq": "of a matrix without full rank there are many solutions",
    "linalg.lstsq.grad_oriented": "of a matrix without full rank there are many solutions",
    "_unsafe_masked_index_put_accumulate": "sums of half types in memory are rounded at each term",
    "nn.functional.adaptive_avg_pool2d": "Inductor's lowering asks for the truth of an expression of sizes",
    "nn.functional.interpolate.area": "Inductor's lowering asks for the truth of an expression of sizes",
    "max_pool2d_with_indices_backward": "torch's function of tensors without memory refuses the sizes",
    "cov": "torch's function of tensors without memory asks for a number of elements",
    "quantile": "torch's function of tensors without memory asks for a number of elements",
    "nanquantile": "torch's function of tensors without memory asks for a number of elements",
}
_SECONDS = 120  # for one operator
_TOLERANCES = {torch.float32: (2e-4, 2e-5), torch.bfloat16: (3e-2, 3e-2)}


def name_of(info: Any) -> str:
    """Of an operator, its variant behind a dot."""
    return f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def judge_part(dtype: torch.dtype, dynamic: bool, samples: int, part: slice) -> tuple[int, dict[str, str]]:
    """(Operators that take the dtype, what went wrong by operator) of a part of the database."""
    warnings.simplefilter("ignore")
    infos = [info for info in op_db[part] if dtype in info.dtypes]
    failed = {}
    for info in infos:
        try:
            with _limited(_SECONDS):
                failure = judge(info, dtype, dynamic, samples)
        except Exception as error:  # of the database, or a TimeoutError
            failed[name_of(info)] = f"{type(error).__name__}: {error}"
            continue
        if failure:
            failed[name_of(info)] = failure
    return len(infos), failed


def judge(info: Any, dtype: torch.dtype, dynamic: bool, limit: int) -> str:
    """The words of what went wrong, "" if all went well.

    At most `limit` samples, evenly chosen; what eager refuses is left out.
    """
    samples = list(info.sample_inputs("cpu", dtype, requires_grad=False))
    for sample in samples[:: max(1, len(samples) // limit)][:limit]:
        arguments = _moved((sample.input, tuple(sample.args), dict(sample.kwargs)))

        def call(first: Any, rest: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return info.op(first, *rest, **named)

        torch.manual_seed(0)
        try:
            expected = call(*_copied(arguments))
            torch.mps.synchronize()
        except Exception:
            continue
        torch._dynamo.reset()
        torch.manual_seed(0)
        try:
            actual = torch.compile(call, dynamic=dynamic)(*_copied(arguments))
            torch.mps.synchronize()
            _assert_close(actual, expected, *_TOLERANCES.get(dtype, (1e-4, 1e-5)))
        except Exception as error:  # the verdict
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


def _moved(nest: Any) -> Any:
    return pytree.tree_map(lambda v: v.to("mps") if isinstance(v, torch.Tensor) else v, nest)


def _copied(nest: Any) -> Any:
    return pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v, nest)


def _assert_close(actual: Any, expected: Any, rtol: float, atol: float) -> None:
    mine, theirs = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(mine) == len(theirs), f"{len(mine)} results instead of {len(theirs)}"
    for have, want in zip(mine, theirs, strict=True):
        if not isinstance(want, torch.Tensor):
            assert have == want or want != want, f"{have} instead of {want}"
        elif want.layout == torch.strided:
            assert (have.dtype, have.shape, have.device) == (want.dtype, want.shape, want.device)
            torch.testing.assert_close(have.cpu(), want.cpu(), rtol=rtol, atol=atol, equal_nan=True)
