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


@pytest.fixture(autouse=True)
def nothing_to_replay():
    """Tests that change how operators run must not meet what others have recorded."""
    from portable_mps import _C

    _C.forget_replays()
