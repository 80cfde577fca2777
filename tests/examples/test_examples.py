"""The examples, started as a user starts them, for a few steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEVICE = "mps"
SMALL_GPT = ["--layers=1", "--width=32", "--heads=2", "--context=16", "--batch=4", "--generate=8"]


def run(script: str, *arguments: str, folder: Path) -> str:
    """What the script printed; fails with all of its output where its exit status is not 0."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), f"--device={DEVICE}", *arguments],
        cwd=folder,
        env=os.environ | {"PORTABLE_MPS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def validation_losses(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"validation loss (\S+)", printed)]


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_is_an_ordinary_script(script: str) -> None:
    assert "portable" not in (EXAMPLES / script).read_text()


def test_digits(tmp_path: Path) -> None:
    printed = run("digits.py", "--steps=40", folder=tmp_path)
    assert float(re.search(r"final loss +(\S+)", printed)[1]) < 1.5  # it starts at 2.3, that is log 10
    assert re.search(r"operators on CPU +0\b", printed), printed
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("amp", [[], ["--amp"]], ids=["float32", "bfloat16"])
def test_gpt_trains_saves_and_resumes(tmp_path: Path, amp: list[str]) -> None:
    before, after = validation_losses(run("gpt.py", "--steps=12", *SMALL_GPT, *amp, folder=tmp_path))
    assert after < before - 0.1
    resumed = run("gpt.py", "--steps=16", "--resume", *SMALL_GPT, *amp, folder=tmp_path)
    assert "resumed at step 12" in resumed
    assert validation_losses(resumed)[0] == pytest.approx(after, abs=2e-3)
