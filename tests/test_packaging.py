"""What a source distribution holds, and what versions say."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import portable_mps

REPOSITORY = Path(portable_mps.__file__).parent.parent
TORCH = ".".join(torch.__version__.split(".")[:2])

pytestmark = pytest.mark.skipif(not (REPOSITORY / "setup.py").exists(), reason="not a checkout")


def setup(*arguments):
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_a_wheel_says_which_torch_it_is_for():
    assert setup("--version")[-1] == f"{portable_mps.__version__}+torch{TORCH}"


def test_source_distribution(tmp_path):
    setup("egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    name = f"portable_mps-{portable_mps.__version__}"
    with tarfile.open(tmp_path / f"{name}.tar.gz") as archive:
        held = {Path(member).relative_to(name).as_posix() for member in archive.getnames()}
        metadata = archive.extractfile(f"{name}/PKG-INFO").read().decode()
    assert "Requires-Dist: torch>=2.11\n" in metadata and "License-File: LICENSE" in metadata
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split()
    wanted = [path for path in tracked if path.startswith(("portable_mps/", "csrc/", "examples/"))]
    assert not {*wanted, "LICENSE", "README.md", "CHANGELOG.md", "setup.py", "pyproject.toml"} - held
    assert not [path for path in held if path.startswith(("tests/", "scripts/", "docs/"))]
