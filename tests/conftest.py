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
