"""portable-mps profile: the report, the trace, exit statuses, and what it says of wrong arguments."""

import json
import os
import re
import subprocess
import sys

import pytest

from portable_mps import profile
from portable_mps.runtime.profiler import Dispatch


def run(*arguments, **environment):
    command = [sys.executable, "-m", "portable_mps", "profile", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.fixture
def script(tmp_path):
    """Writes a script, beside which there is a module that it may import."""
    (tmp_path / "beside.py").write_text("factor = 0.5\n")

    def write(source):
        path = tmp_path / "script.py"
        path.write_text(source)
        return path

    return write


TRAIN = """
import sys, torch
from beside import factor

class Here:
    pass

if __name__ == "__main__":
    x = torch.ones(64, 64, device="mps")
    for _ in range(3):
        x = torch.exp(x * factor) @ x
    print("script", sys.argv[1:], sys.modules["__main__"].Here is Here, float(x[0, 0]) > 0)
"""


def test_report(script):
    done = run(script(TRAIN), "--trace", "its own")
    assert done.returncode == 0, done.stderr
    assert "script ['--trace', 'its own'] True True" in done.stdout
    lines = done.stdout.splitlines()
    exp = next(line.split() for line in lines if line.startswith("exp "))
    assert exp[1] == "3" and float(exp[2]) > 0 and exp[4].endswith("%")
    assert any("dispatches: busy" in line and "gaps" in line for line in lines)
    assert any("mul -> exp" in line for line in lines)


def test_trace(script, tmp_path):
    trace = tmp_path / "trace.json"
    done = run("--trace", trace, "--operators", script(TRAIN))
    assert done.returncode == 0 and f"The trace is in {trace}" in done.stdout, done.stderr
    events = json.loads(trace.read_text())["traceEvents"]
    device = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    host = [event for event in events if event["ph"] == "X" and event["pid"] == 2]
    assert {"exp", "mul", "fill"} <= {event["name"] for event in device}
    assert all(event["dur"] > 0 and len(event["args"]["workgroups"]) == 3 for event in device)
    assert [event["args"]["dispatch"] for event in device] == list(range(len(device)))
    starts = [event["ts"] for event in device]
    assert starts == sorted(starts) and min(event["ts"] for event in events if event["ph"] == "X") == 0
    # One clock: the first dispatch runs after the call that asked for it, the last before the host has its result.
    asked = min(event["ts"] for event in host if event["name"] == "aten::fill_")
    read = max(event["ts"] + event["dur"] for event in host if event["name"] == "aten::_local_scalar_dense")
    slack = 1e5  # microseconds: the clocks are matched while other processes may be running
    assert asked < device[0]["ts"] + slack and device[-1]["ts"] + device[-1]["dur"] < read + slack


@pytest.mark.parametrize(
    "ending,status,words",
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('in words')", 1, "in words"),
        ("raise ValueError('of the script')", 1, "ValueError: of the script"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_the_status_is_passed_on_and_the_report_comes(script, ending, status, words):
    done = run(script(f"import sys, torch\ntorch.ones(4, device='mps').exp()\n{ending}\n"))
    assert done.returncode == status and words in done.stderr
    assert "exp " in done.stdout and "profile.py" not in done.stderr


def test_a_script_without_torch_or_without_mps(script):
    for source in ("print('hello')", "import torch; print('hello', torch.ones(2).sum())"):
        done = run(script(source))
        assert done.returncode == 0 and "hello" in done.stdout and "No kernel ran on mps." in done.stdout


def test_a_script_that_does_not_compile(script):
    done = run(script("def f(:\n"))
    assert done.returncode == 1 and "SyntaxError" in done.stderr and "No kernel ran" in done.stdout


def test_beside_the_settings_that_log_a_profile(script):
    done = run(script("import torch; torch.ones(4, device='mps').exp()"), PYTORCH_MPS_LOG_PROFILE_INFO="1")
    assert done.returncode == 0 and "exp " in done.stdout


def test_what_compiling_took(script, tmp_path):
    there = script(f"{TRAIN}\nimport sys; sys.exit(3)")
    for made in (True, False):
        done = run("--compile", "--rows", 2, there, PORTABLE_MPS_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 3 and "script [] True True" in done.stdout, done.stderr
        *_, total, nothing, heads, first, second = done.stdout.splitlines()
        count, compiled = map(
            int, re.match(r"(\d+) kernels, (\d+) of them compiled from source here: ", total).groups()
        )
        assert count >= 3 and compiled == (count if made else 0) and (nothing, heads.split()[0]) == ("", "kernel")
        sums = [sum(map(float, line.split()[1:])) for line in (first, second)]
        assert sums == sorted(sums, reverse=True) and sums[1] > 0
    done = run("--compile", script("print('hello')"))
    assert done.returncode == 0 and done.stdout == "hello\nNo kernel ran on mps.\n"


def test_who_compiles_tells_no_times(script):
    done = run("--compile", script("import torch; torch.ones(4, device='mps')"), PORTABLE_MPS_COMPILERS="0")
    assert done.returncode == 0 and "slangpy compiled the kernels" in done.stdout


def test_wrong_arguments(script, tmp_path):
    there = script("print('ran')")
    for arguments, words in (
        ([tmp_path / "none.py"], "there is no script"),
        ([tmp_path], "there is no script"),
        (["--trace", tmp_path / "no" / "trace.json", there], "--trace: "),
        (["--operators", there], "name it with --trace FILE"),
        (["--compile", "--trace", tmp_path / "trace.json", there], "--compile: there is no trace of it"),
        ([], "script"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and words in done.stderr and "ran" not in done.stdout


def test_gaps_and_shares():
    times = [("a", 0, 1000), ("b", 3000, 4000), ("a", 4000, 6000), ("c", 6500, 6600)]
    dispatches = [Dispatch(name, start, end, (1, 1, 1)) for name, start, end in times]
    assert profile.gaps(dispatches) == [(2000, 1), (500, 3)]
    lines = profile.report(dispatches, 2).splitlines()
    assert lines[0] == "4 dispatches: busy 0.004 ms of 0.007 ms (62.1%), idle 0.003 ms in 2 gaps"
    assert [line.split()[0] for line in lines[2:5]] == ["kernel", "a", "b"] and lines[5].startswith("1 other kernel ")
    assert lines[-2].split() == ["2.0", "1", "a", "->", "b"]
