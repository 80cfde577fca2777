"""The scripts that need nothing but what is installed here; `make ecosystem` runs all."""

import pytest

from ecosystem import science, training, vision  # noqa: F401  (they fill the table)
from ecosystem.__main__ import _version
from ecosystem.check import CHECKS

FEW = ("einops", "safetensors", "torchdiffeq")


@pytest.mark.parametrize("library", FEW)
def test_runs_unchanged(library):
    check = CHECKS[library]
    if _version(library) is None:
        pytest.skip(f"{library} is not installed")
    check.function()


def test_every_script_says_what_it_tries():
    assert all(check.tried for check in CHECKS.values())
    assert len(CHECKS) >= 30, len(CHECKS)
