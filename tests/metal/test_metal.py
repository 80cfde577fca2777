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
# Rows with barriers, sums by atomics, several elements of memory a thread.
FAMILIES = ("ops/test_softmax.py", "ops/test_embedding.py", "ops/test_rrelu.py", "test_autograd.py")
PRODUCTS = ("ops/test_matmul.py", "ops/test_attention.py")
RACES = ("ops/test_softmax.py", "ops/test_scan.py")


def run(folder: Path, *arguments: str) -> results.Results:
    if not adapter.choose().is_software:
        pytest.skip("a device address is the host's own on the software driver alone")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "metal.plugin", "-p", "no:cacheprovider"]
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PORTABLE_MPS_HIDE": HIDDEN, "PYTHONPATH": os.pathsep.join(paths)}
    command += [f"--metal-results={folder}", *arguments]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    made = results.read(folder.glob("*.json"))
    assert not any(each.refused for each in made.variants.values())
    assert not any(each.on_driver for each in made.families.values())
    return made


def dispatches(made: results.Results) -> int:
    return sum(each.dispatches for each in made.families.values())


@pytest.mark.slow
def test_some_families_run_as_metal(tmp_path):
    made = run(tmp_path, "--metal-order=reversed", *(str(TESTS / each) for each in FAMILIES))
    assert len(made.variants) > 100 and dispatches(made) > 300


@pytest.mark.slow
def test_no_races(tmp_path):
    files = (str(TESTS / each) for each in RACES)
    made = run(tmp_path, "--metal-watch", *files, "-k", "shapes or special")
    assert dispatches(made) > 200


@pytest.mark.slow
def test_products_by_simdgroup_matrices(tmp_path):
    files = (str(TESTS / each) for each in PRODUCTS)
    made = run(tmp_path, "--metal-matrices", *files, "-k", "half_types or dtypes")
    names = {each.name for each in made.variants.values() if each.multiplies and each.runs}
    assert {"matmul_matmul", "attention_subgroup_forward_forward"} <= names
