"""portable-mps info, doctor and cache."""

import os
import re
import subprocess
import sys

import pytest
import torch
from processes import output_of

import portable_mps
from portable_mps.runtime import adapter


def cli(*arguments, environment=None):
    command = [sys.executable, "-m", "portable_mps", *arguments]
    return subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=180)


def test_info():
    printed = cli("info", environment={"PORTABLE_MPS": "1"}).stdout
    assert f"portable-mps   {portable_mps.__version__}" in printed and "mps is active  yes" in printed
    name = adapter.choose().name
    assert f"{name}  <- mps:0" in printed
    facts = ["driver", "cores", "memory", "allocation", "subgroup", "float16", "float64", "int64", "matrices", "torch"]
    for fact in (*facts, "cache folder"):
        assert fact in printed


def test_info_says_why_it_is_inactive():
    printed = cli("info", environment={"PORTABLE_MPS": "0"}).stdout
    assert "mps is active  no: PORTABLE_MPS=0" in printed


def test_info_without_a_driver():
    done = cli("info", environment={"VK_DRIVER_FILES": "/nonexistent.json"})
    assert done.returncode == 0 and "adapter        none: " in done.stdout and "apt-get install" in done.stdout


def test_doctor():
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("All is well.\n") and "FAIL" not in done.stdout


@pytest.mark.parametrize(
    "environment,words",
    [
        ({"PORTABLE_MPS": "0"}, "Set PORTABLE_MPS=1"),
        ({"VK_DRIVER_FILES": "/nonexistent.json"}, "apt-get install"),
        ({"PORTABLE_MPS_CACHE": "/proc/nowhere"}, "Set PORTABLE_MPS_CACHE"),
        ({"PORTABLE_MPS_ADAPTER": "no such card"}, "names none of the adapters"),
    ],
)
def test_doctor_says_what_to_do(environment, words):
    done = cli("doctor", environment=environment)
    assert done.returncode == 1 and "FAIL" in done.stdout and words in done.stdout


def test_the_page_that_doctor_leaves_to_fill_in(tmp_path):
    """With what was found, also where a check has failed."""
    page = tmp_path / "page.md"
    done = cli("doctor", "--page", str(page), environment={"PORTABLE_MPS_ADAPTER": "no such card"})
    text = page.read_text()
    assert done.returncode == 1 and f"The page to fill in is {page}" in done.stdout
    assert "| torch and mps | ok |" in text and "| adapter | FAIL |" in text and "names none of the adapters" in text
    assert "portable-mps   " in text and "`portable-mps demo`" in text and text.count("…") > 5
    done = cli("doctor", "--page", str(tmp_path / "nowhere" / "page.md"))
    assert done.returncode == 2 and "--page" in done.stderr


def test_doctor_on_a_mac(monkeypatch, capsys):
    from portable_mps import doctor

    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(portable_mps, "inactive_reason", "this build of torch has an mps device of its own")
    assert doctor.run() == 1
    assert "USE_MPS=0" in capsys.readouterr().out


def test_self_test():
    """Each line says how far off it is: a wrong result, or an error, is a line that fails."""
    from portable_mps import selftest

    done = cli("test")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = len(selftest.CHECKS) + 1
    assert f"{rows} of {rows} agree with the CPU" in done.stdout and "FAIL" not in done.stdout


def test_self_test_sees_what_is_wrong(monkeypatch, capsys):
    from portable_mps import doctor, selftest

    def raising(device):
        raise RuntimeError("out of order")

    wrong = ("wrong", lambda device: torch.ones(2, device=device) * (2 if device == "mps" else 1), 0.5)
    undefined = ("undefined", lambda device: torch.full((2,), float("nan" if device == "mps" else 1), device=device), 1)
    monkeypatch.setattr(selftest, "CHECKS", (wrong, undefined, ("raising", raising, 1), ("fine", wrong[1], 1)))
    monkeypatch.setattr(doctor, "run", lambda: 0)
    monkeypatch.setenv("PATH", "")  # no compiler: without torch.compile
    assert selftest.run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["FAIL", "FAIL", "FAIL", "ok"]
    assert "out of order" in lines[3] and lines[-1].startswith("1 of 4 agree")


def test_demo(tmp_path):
    command = [sys.executable, "-m", "portable_mps", "demo", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and "examples/digits.py" in done.stdout
    done = cli("demo", "--steps", "2", "--out", str(tmp_path / "digits.png"))
    assert done.returncode == 0 and (tmp_path / "digits.png").is_file(), done.stdout + done.stderr


def test_built_for_another_torch(tmp_path):
    """One sentence when torch is imported, which works by itself."""
    script = """
import sys, types, warnings
other = types.ModuleType("portable_mps._built_for")
other.TORCH = "2.12"
sys.modules["portable_mps._built_for"] = other
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
print([str(warning.message) for warning in caught if "portable-mps" in str(warning.message)])
print(torch.backends.mps.is_available(), torch.ones(2).sum().item())
"""
    printed = output_of(script).splitlines()
    assert len(eval(printed[0])) == 1 and "was built for torch 2.12, here is torch 2." in printed[0]
    assert printed[1] == "False 2.0"


@pytest.mark.parametrize("asked", ["1", "0", None])
def test_on_a_mac_torch_keeps_its_own_device(asked, monkeypatch, recwarn):
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setenv("PORTABLE_MPS", asked) if asked else monkeypatch.delenv("PORTABLE_MPS", raising=False)
    assert portable_mps._reason_to_stay_out() == "this build of torch has an mps device of its own"
    assert ["PORTABLE_MPS=1 changes nothing" in str(each.message) for each in recwarn] == [True] * (asked == "1")


def test_no_command_is_an_error():
    assert cli().returncode == 2


def test_cache(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, torch\nprint(torch.ones(3, device='mps').exp().sum().item(), sys.argv[1:])\n")
    environment = {"PORTABLE_MPS_CACHE": str(tmp_path / "kept")}
    assert "nothing is kept" in cli("cache", environment=environment).stdout
    warmed = cli("cache", "warm", script, "--flag", environment=environment)
    assert warmed.returncode == 0 and warmed.stdout.startswith("8.15484") and "['--flag']" in warmed.stdout, warmed
    count = re.search(r"(\d+) kernels more are kept, \1 in all", warmed.stdout)[1]
    assert "0 kernels more" in cli("cache", "warm", script, environment=environment).stdout
    shown = cli("cache", environment=environment).stdout
    assert str(tmp_path / "kept") in shown and f": {count} kernels, " in shown
    (adapter_folder,) = (tmp_path / "kept").iterdir()
    (adapter_folder / "tiles.json").write_text("{}")
    assert " MB are free again" in cli("cache", "empty", environment=environment).stdout
    assert "nothing is kept" in cli("cache", environment=environment).stdout
    assert [path.name for path in adapter_folder.iterdir()] == ["tiles.json"]
    assert "there is no script" in cli("cache", "warm", tmp_path / "none.py", environment=environment).stderr
