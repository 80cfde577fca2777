"""benchmarks/suite: the whole path with tiny cases on mps and the CPU, and what happens to cases that fail."""

import json
import subprocess
import sys
import time

import pytest
import torch
from suite import clock, page, processes, side
from suite.case import Case, Work, scaled
from suite.families import FAMILIES
from suite.selection import select

ABOUT = {"device": "mps", "adapter": "a card", "driver": "its driver", "torch": "2.0"}


def suite(*arguments):
    command = [sys.executable, "-m", "suite", *map(str, arguments)]
    return subprocess.run(
        command, env=processes.environment("mps"), capture_output=True, text=True, timeout=300, check=False
    )


def entry(ours, reference):
    return {"family": "products", "name": "a product", "ours": ours, "reference": reference}


def timing(seconds, flops=0.0):
    return {"seconds": seconds, "calls": 5, "sets": 1, "flops": flops, "bytes": 0.0}


def test_two_cases_to_the_page(tmp_path):
    out, written, again = tmp_path / "run.json", tmp_path / "page.md", tmp_path / "again.md"
    choice = ["--families", "products", "host", "--cases", "products/f32 1024", "add"]
    done = suite("--quick", "--reference", "cpu", *choice, "--out", out, "--write", written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cases in" in done.stdout and "Matrix products" in done.stdout

    run = json.loads(out.read_text())
    assert [(case["family"], case["name"]) for case in run["cases"]] == [("products", "f32 1024"), ("host", "add")]
    assert all(case[one]["seconds"] > 0 for case in run["cases"] for one in ("ours", "reference"))
    assert run["ours"]["torch"] == torch.__version__ and run["ours"]["driver"] and run["reference"]["device"] == "cpu"
    lines = written.read_text().splitlines()
    assert any(line.startswith("| mps | " + run["ours"]["adapter"]) for line in lines)
    assert any(line.startswith("| f32 1024 | ") and "TFLOP/s" in line for line in lines)
    assert "## Host time of small operators" in lines and any(line.startswith("| add | ") for line in lines)
    assert any("Sizes are for" in line for line in lines)

    assert suite("--from", out, "--write", again).returncode == 0
    assert again.read_text() == written.read_text()


@pytest.mark.parametrize("arguments", [["--cases", "no such case"], ["--scale", "2"], ["--from", "no such file"]])
def test_wrong_arguments(arguments):
    done = suite(*arguments)
    assert done.returncode == 2 and "error: --" in done.stderr


def test_selection():
    assert set(select(["products"], [])) == {f"products/{case.name}" for case in FAMILIES["products"].CASES}
    assert list(select([], ["f32 add 2^28", "host/e*"])) == ["elementwise/f32 add 2^28", "host/empty", "host/exp"]


def test_names_are_unique():
    for family in FAMILIES.values():
        names = [case.name for case in family.CASES]
        assert len(set(names)) == len(names)


def test_scaled():
    assert scaled((4096, 512, 3), 1.0) == (4096, 512, 3)
    assert scaled((4096, 512, 3), 1 / 8) == (512, 512, 3)
    assert scaled((4096, 512, 3), 1e-9) == (4, 4, 3)


def test_operands_are_rotated_and_rounds_grow():
    made, called = [], []

    def make():
        made.append(torch.zeros(256))
        number = len(made)
        return Work(lambda: called.append(number), (made[-1],), flops=1.0)

    found = clock.measure(make, lambda: None, warmup_s=0.01, time_s=0.01, rotated_bytes=4096)
    assert found.sets == len(made) == 4 and called[:5] == [1, 2, 3, 4, 1]
    assert found.calls > 100 and 0 < found.seconds < 1e-3 and found.flops == 1.0


def test_a_slow_call_is_made_three_times():
    calls = []

    def call():
        calls.append(1)
        time.sleep(0.02)

    found = clock.measure(lambda: Work(call), lambda: None, warmup_s=0.01, time_s=0.005)
    assert len(calls) == 3 and found.calls == 2 and found.seconds >= 0.02


def test_a_case_that_raises():
    def build(inputs):
        raise ValueError("of this | kind\nand more")

    order = side.Order("mps", [], 1.0, 0.0, 0.0)
    result = side.run(Case("it", build), order)
    assert result == {"error": "ValueError: of this | kind", "is_missing": False}
    cells = page.row(entry(result, timing(1e-3)))
    assert cells == ["a product", "failed: ValueError: of this \\| kind", "", "1.00 ms", "", ""]


def test_an_operator_that_the_reference_lacks():
    missing = {"error": "NotImplementedError: none", "is_missing": True}
    assert page.row(entry(timing(2e-6, 4e6), missing)) == ["a product", "2.00 us", "2.00 TFLOP/s", "", "", ""]
    assert page.row(entry(missing, timing(1.0)))[1] == "failed: NotImplementedError: none"


def test_speed_and_summary():
    cases = [entry(timing(2.0), timing(1.0)), entry(timing(1.0), timing(1.5)), entry({"error": "x"}, timing(1.0))]
    run = {"cases": cases, "ours": ABOUT, "reference": ABOUT, "scale": 1, "warmup_s": 0.35, "time_s": 0.15}
    assert [page.speed(case) for case in cases] == [0.5, 1.5, None]
    assert page.summary(run) == "3 rows; speed 1.00 in the median, at least 0.9 in 1, below 0.5 in 0; 1 failed on mps"
    assert "Sizes are for" not in page.page(run | {"date": "today"})


FAKE = """
import os, sys, time
from types import SimpleNamespace
from suite import side
from suite.case import Case, Work
calls = {"good": lambda: None, "ends": lambda: os._exit(7), "hangs": lambda: time.sleep(60)}
cases = [Case(name, lambda inputs, call=call: Work(call)) for name, call in calls.items()]
side.FAMILIES = {"fake": SimpleNamespace(CASES=cases)}

sys.exit(side.main())
"""


def test_a_process_that_ends_or_hangs_costs_one_case(monkeypatch):
    monkeypatch.setattr(processes, "SIDE", [sys.executable, "-c", FAKE])
    told = []
    order = side.Order("cpu", ["fake/ends", "fake/hangs", "fake/good"], 1.0, 0.0, 0.0)
    about, results = processes.run_side(order, 2.0, lambda key, result: told.append(key))
    assert about["adapter"] == "CPU" and told == order.cases
    assert results["fake/ends"]["error"] == "the process ended with status 7"
    assert results["fake/hangs"]["error"] == "no result within 2 s"
    assert "seconds" in results["fake/good"]


def test_a_side_that_does_not_start(monkeypatch):
    monkeypatch.setattr(processes, "SIDE", [sys.executable, "-c", "raise SystemExit(5)"])
    with pytest.raises(RuntimeError, match="cpu side did not start: the process ended with status 5"):
        processes.run_side(side.Order("cpu", ["fake/good"], 1.0, 0.0, 0.0), 2.0, lambda key, result: None)
