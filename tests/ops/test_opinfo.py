"""torch's operator database: every entry and dtype does what the CPU does, but for what failures.json lists.

The quick part takes float32 and one more dtype of each entry, and few samples. `--opinfo=full` takes all; `make
operators` does the same and writes docs/operators.md and the list. Either way the checks run in a process behind the
tests, which is replaced now and then: what it has compiled it keeps.
"""

import pytest
import torch
from opinfo import failures, judge, sweep
from opinfo.faults import faulty
from support import hidden_in, skip_without_float64
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from portable_mps.dispatch import fallback

EXPECTED = failures.load()
IN_FLOAT64 = ("special.hermite_polynomial_h", "special.hermite_polynomial_he")
TIMEOUT = 240  # seconds for one check


def pytest_generate_tests(metafunc):
    if "dtype" in metafunc.fixturenames:
        full = metafunc.config.getoption("opinfo") == "full"
        dtypes = judge.dtypes_of if full else judge.quick_dtypes
        pairs = [(op, dtype) for op in judge.OPERATORS.values() for dtype in dtypes(op)]
        ids = [f"{op.full_name}-{judge.name_of(dtype)}" for op, dtype in pairs]
        metafunc.parametrize(("op", "dtype"), pairs, ids=ids)
    elif "op" in metafunc.fixturenames:
        ops = [op for op in judge.OPERATORS.values() if op.error_inputs_func is not None]
        metafunc.parametrize("op", ops, ids=[op.full_name for op in ops])


@pytest.fixture(scope="module")
def judged():
    return sweep.one_by_one(TIMEOUT)


@pytest.fixture
def quick(request):
    return request.config.getoption("opinfo") != "full"


def assert_as_listed(judged, op, dtype, checks, quick):
    surprises, refused = [], []
    for check in checks:
        row = EXPECTED.get((op.full_name, dtype, check))
        verdict = judged(sweep.Task(op.full_name, dtype, check, quick))
        unlisted = set(verdict["fell_back"]) - fallback.ON_CPU.keys()
        if unlisted:
            surprises.append(f"{check} ran on the CPU: {', '.join(unlisted)}")
        expected = row is not None and (row.quick or not quick)
        if hidden_in(verdict["error"] or ""):
            refused.append(f"{check}: {verdict['error'].splitlines()[0]}")
        elif verdict["failed"] and not expected:
            surprises.append(f"{check}: {verdict['failed']} of {verdict['judged']} failed: {verdict['error']}")
        if expected and not verdict["failed"]:
            surprises.append(f"{check} passes: take its row out of failures.json ({row.reason})")
    assert not surprises, "\n".join(surprises)
    if refused:
        pytest.skip(f"needs what PORTABLE_MPS_HIDE hides: {'; '.join(refused)}")


def test_operator(judged, op, dtype, quick):
    if op.full_name in IN_FLOAT64 and dtype == torch.float32:
        skip_without_float64("the recurrence is rounded at each step")
    checks = judge.quick_checks_of(op, dtype) if quick else judge.checks_of(op, dtype)
    assert_as_listed(judged, op, judge.name_of(dtype), checks, quick)


def test_errors(judged, op, quick):
    assert_as_listed(judged, op, judge.NO_DTYPE, ("errors", "messages"), quick)


def test_the_list_names_what_exists():
    for (operator, dtype, check), row in EXPECTED.items():
        if row.is_by_hand:
            continue
        op = judge.OPERATORS[operator]
        if dtype == judge.NO_DTYPE:
            assert check in ("errors", "messages")
        else:
            assert check in judge.checks_of(op, getattr(torch, dtype))


def test_a_wrong_result_is_noticed(monkeypatch):
    op = judge.OPERATORS["exp"]
    with monkeypatch.context() as patch:
        patch.setattr(op, "op", lambda x: torch.exp(x) * (1 + 1e-4 * (x.device.type == "mps")))
        verdict = judge.judge(op, torch.float32, "forward", quick=True)
    assert verdict.failed and verdict.ratio > 10


def _transposed(result):
    return result.mT.contiguous().mT if result.dim() > 1 else result


# What is wrong on the device alone, and the check that must say so. Named are an operator and the dtype of the samples.
WRONG = {
    "strides": ("add", torch.float32, lambda *args, **kwargs: _transposed(torch.add(*args, **kwargs))),
    "special": ("exp", torch.float32, lambda x: torch.exp(x).nan_to_num(0.5)),
    "dtypes": ("exp", torch.float8_e5m2, lambda x: x),
    "results": ("exp", torch.float32, lambda x, out=None: torch.exp(x) if out is None else out),
    "mixed": ("atan2", torch.float32, lambda a, b: torch.atan2(a.to("mps"), b.to("mps"))),
    "vmap": ("exp", torch.float32, lambda x: torch.exp(x) * (1 + (torch._C._functorch.maybe_current_level() or 0))),
    "vjp": ("exp", torch.float32, lambda x: torch.exp(x.detach()) + x),
    "jvp": ("exp", torch.float32, lambda x: torch.exp(x.detach()) + x),
}


@pytest.mark.parametrize("check", WRONG)
def test_each_further_check_notices(check, monkeypatch):
    name, dtype, wrong = WRONG[check]
    op = judge.OPERATORS[name]
    verdict = judge.judge(op, dtype, check, quick=True)
    if hidden_in(verdict.error or ""):
        pytest.skip(f"needs what PORTABLE_MPS_HIDE hides: {verdict.error}")
    assert not verdict.failed or (name, judge.name_of(dtype), check) in EXPECTED
    right = op.op

    def function(*args, **kwargs):
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_device = any(t.is_mps and not isinstance(t, FakeTensor) for t in tensors)
        return (wrong if on_device else right)(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(op, "op", function)
        assert judge.judge(op, dtype, check, quick=True).failed


def test_overlapping_memory_is_noticed(monkeypatch):
    op = judge.OPERATORS["exp"]
    assert not judge.judge(op, torch.float32, "overlap", quick=True).failed

    def careless(x, out):
        return out.copy_(torch.exp(x)) if not x.is_mps else out

    with monkeypatch.context() as patch:
        patch.setattr(op, "op", lambda x, out=None: torch.exp(x) if out is None else careless(x, out))
        assert judge.judge(op, torch.float32, "overlap", quick=True).failed


def test_the_sweep_survives_crashes_and_hangs():
    tasks = [sweep.Task(what, "float32", "forward", True) for what in ("crash", "pass", "hang", "pass as well")]
    verdicts = {v["op"]: v for v in sweep.sweep(tasks, workers=1, timeout=2, work=faulty)}
    assert verdicts["crash"]["error"] == "the process died of SIGSEGV"
    assert verdicts["hang"]["error"] == "no answer in 2 s"
    assert [v["status"] for v in verdicts.values()] == ["fail", "pass", "fail", "pass"]
