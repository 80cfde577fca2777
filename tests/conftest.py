"""Makes the `mps` device exist where the installed entry point has not done it already."""

import os

import pytest
import torch

os.environ.setdefault("PORTABLE_MPS_REPLAY", "always")
os.environ.setdefault("PORTABLE_MPS_SHIPPED", "0")  # what is compiled does not depend on whether a wheel was made here

if not torch._C._has_mps:
    import portable_mps

    portable_mps.autoload()


def pytest_addoption(parser):
    parser.addoption("--opinfo", choices=("quick", "full"), default="quick", help="torch's operator database: how much")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that needs what PORTABLE_MPS_HIDE hides does not apply there, and says so."""
    try:
        return (yield)
    except Exception as problem:
        from support import hidden_need

        if need := hidden_need(problem):
            pytest.skip(f"needs {need}, which PORTABLE_MPS_HIDE hides: {str(problem).splitlines()[0]}")
        raise


@pytest.fixture(autouse=True)
def nothing_to_replay():
    """Tests that change how operators run must not meet what others have recorded."""
    from portable_mps import _C

    _C.forget_replays()


def _shared_state() -> dict[str, object]:
    """What all tests of a worker have together, and the next one would meet."""
    # Of pytest, the phase of a test; of torch's compiler and of Lightning, set when they are first used.
    own = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_", "_TORCHINDUCTOR_", "PYTORCH_NVML_BASED_CUDA_CHECK")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return variables | {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
    }


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """A test that leaves a variable or a setting changed fails, not the one that happens to come after it."""
    before = _shared_state()
    yield
    after = _shared_state()
    changed = {name: after.get(name) for name in before | after if before.get(name) != after.get(name)}
    assert not changed, f"left behind: {changed}"
