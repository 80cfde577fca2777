"""SPIR-V that comes with the package: it is taken where it fits, and is that of the kernels that programs launch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import output_of

from portable_mps import _C
from portable_mps.runtime import device, kernel

ROOT = Path(kernel.__file__).resolve().parents[2]
USE = "import torch; x = torch.arange(4.0, device='mps'); print(x.exp().sum().item(), (x * 2).sin().sum().item())"
# How many kernels there were, and how many were compiled from source.
WITH = """
from pathlib import Path
import torch
from portable_mps.runtime import device, kernel
kernel.SHIPPED = Path({folder!r})
{use}
times = device.current().pool.times()
print(len(times), sum(slang > 0 for _, slang, _ in times))
"""


@pytest.fixture(scope="module", autouse=True)
def compiled_by_threads():
    if device.current().pool is None:
        pytest.skip("slangpy compiles here")


@pytest.fixture
def shipped(tmp_path):
    """A folder with the SPIR-V of what USE launches."""
    output_of(USE, PORTABLE_MPS_COLLECT=str(tmp_path / "sources"))
    front_end = _C.FrontEnd(kernel.front_end_options(device.current().adapter.profile))
    (tmp_path / "spirv").mkdir()
    for source in (tmp_path / "sources").iterdir():
        first, text = source.read_text().split("\n", 1)
        front_end.keep(text, first.split()[2], str(tmp_path / "spirv" / f"{source.stem}.spv"))
    return tmp_path / "spirv"


def counts(folder, **environment):
    *printed, line = output_of(WITH.format(folder=str(folder), use=USE), **environment).splitlines()
    assert printed == output_of(USE).splitlines()
    return tuple(map(int, line.split()))


def test_what_is_shipped_is_taken_and_not_kept_again(shipped, tmp_path):
    count, compiled = counts(shipped, PORTABLE_MPS_SHIPPED="1", PORTABLE_MPS_CACHE=str(tmp_path / "cache"))
    assert count == len(list(shipped.iterdir())) and compiled == 0
    assert not list((tmp_path / "cache").rglob("*.spv"))


@pytest.mark.parametrize("setting", [{"PORTABLE_MPS_SHIPPED": "0"}, {"PYTORCH_MPS_FAST_MATH": "1"}])
def test_what_is_shipped_is_left_where_it_does_not_fit(shipped, tmp_path, setting):
    settings = {"PORTABLE_MPS_SHIPPED": "1", "PORTABLE_MPS_CACHE": str(tmp_path / "cache")} | setting
    count, compiled = counts(shipped, **settings)
    assert compiled == count == len(list(shipped.iterdir()))


def test_what_is_damaged_or_absent_is_compiled(shipped, tmp_path):
    damaged, absent, *_ = sorted(shipped.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-4])
    absent.unlink()
    _, compiled = counts(shipped, PORTABLE_MPS_SHIPPED="1", PORTABLE_MPS_CACHE=str(tmp_path / "cache"))
    assert compiled == 2


def collected(folder, *command):
    environment = os.environ | {"PORTABLE_MPS": "1", "PORTABLE_MPS_COLLECT": str(folder)}
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, cwd=folder.parent, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return {path.stem for path in folder.glob("*.slang")}


@pytest.mark.slow
def test_how_many_kernels_of_the_examples_would_be_shipped(tmp_path):
    """Those of scripts/ship_workloads.py, which are asked for without computing anything."""
    shipped = collected(tmp_path / "shipped", ROOT / "scripts/ship_workloads.py", "software")
    digits = collected(tmp_path / "digits", ROOT / "examples/digits.py", "--steps", 2)
    size = ("--layers", 2, "--width", 64, "--heads", 2, "--context", 32, "--batch", 4)
    gpt = collected(tmp_path / "gpt", ROOT / "examples/gpt.py", "--steps", 2, *size)
    found = {name: (len(kernels & shipped), len(kernels)) for name, kernels in (("digits", digits), ("gpt", gpt))}
    print("shipped, of all:", found)
    assert all(count > 0.9 * of > 30 for count, of in found.values()), found
