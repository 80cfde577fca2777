"""A few families with every dispatch as Metal; `make metal` has them all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metal import results
from metal.__main__ import HIDDEN
from portable_mps.runtime import adapter

TESTS = Path(__file__).resolve().parent.parent
# Elementwise, rows with barriers, sorting and atomics.
CHOSEN = ("ops/test_softmax.py", "ops/test_embedding.py", "ops/test_rrelu.py", "ops/test_search.py", "test_modules.py")


@pytest.mark.slow
def test_some_families_run_as_metal(tmp_path):
    if not adapter.choose().is_software:
        pytest.skip("a device address is the host's own on the software driver alone")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "metal.plugin", "-p", "no:cacheprovider"]
    command += ["--metal-results", str(tmp_path), "--metal-order", "reversed", *(str(TESTS / each) for each in CHOSEN)]
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PORTABLE_MPS_HIDE": HIDDEN, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    made = results.read(tmp_path.glob("*.json"))
    assert len(made.variants) > 100 and not any(each.refused for each in made.variants.values())
    families = made.families.values()
    assert sum(each.dispatches for each in families) > 300 and not any(each.on_driver for each in families)
