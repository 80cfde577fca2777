"""What is said on a terminal: that the driver is a software one, and that kernels are being compiled."""

import os
import sys

import pytest
from processes import run_script

from portable_mps.runtime import adapter, notices

pty = pytest.importorskip("pty", reason="there are no terminals to be had from Python here")
USE = "import torch; print(torch.ones(4, device='mps').exp().sum().item())"


def on_terminal(source: str, **environment: str) -> str:
    """What `python -c source` writes on a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update({"PORTABLE_MPS": "1"} | environment)
        os.execv(sys.executable, [sys.executable, "-c", source])
    output = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not part:
            break
        output += part
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0, output.decode()
    return output.decode()


def test_software_driver():
    expected = 1 if adapter.choose().is_software else 0
    output = on_terminal(USE)
    assert output.count("a software driver, which is much slower") == expected
    assert output.count("portable-mps: mps runs on ") == expected
    assert "portable-mps" not in on_terminal(USE, PORTABLE_MPS_QUIET="1")


def test_nothing_is_said_where_nobody_looks_on():
    assert run_script(USE).stderr == ""


def test_processes_that_share_an_adapter():
    """Said by the first of them alone."""
    count = len(adapter.best(adapter.adapters()))
    rank = {"LOCAL_WORLD_SIZE": str(count + 1), "PORTABLE_MPS_ADAPTER": ""}
    assert f"{count + 1} processes share {count} adapter" in on_terminal(USE, LOCAL_RANK="0", **rank)
    assert "share" not in on_terminal(USE, LOCAL_RANK=str(count), **rank)
    assert "share" not in on_terminal(USE, LOCAL_RANK="0", LOCAL_WORLD_SIZE=str(count))


SLOW = """
import time, torch
from portable_mps.runtime import device
class Slowly:
    is_compiling = True
    def __init__(self, recorder):
        self.recorder = recorder
    def prepare(self, batch):
        time.sleep({seconds})
        return self.recorder.prepare(batch)
    def __getattr__(self, name):
        return getattr(self.recorder, name)
stream = device.current().stream
stream.recorder = Slowly(stream.recorder)
x = torch.ones(4, device="mps")
print([getattr(x, name)().sum().item() for name in ("exp", "sin", "cos", "tan", "log")])
"""


@pytest.mark.parametrize("cache,reason", [("", "this happens once"), ("/proc/x", "this happens in each process")])
def test_compiling_for_long_is_said_once(tmp_path, cache, reason):
    output = on_terminal(SLOW.format(seconds=0.7), PORTABLE_MPS_CACHE=cache or str(tmp_path))
    assert output.count("portable-mps: compiling ") == 1 and reason in output
    assert "compiling" not in on_terminal(SLOW.format(seconds=0.7), PORTABLE_MPS_QUIET="1")


def test_one_long_compilation_is_said_while_it_lasts(monkeypatch):
    said = []
    monkeypatch.setattr(notices, "say", said.append)
    monkeypatch.setattr(notices, "_PATIENCE", 0.05)
    compiling = notices.Compiling(True, lambda: 3)
    with compiling:
        for _ in range(100):
            if said:
                break
            notices.time.sleep(0.05)
    assert said == ["compiling 3 kernels; this happens once, as each is kept."]
    with compiling:
        notices.time.sleep(0.2)
    assert len(said) == 1


def test_kernels_from_the_cache_are_not_spoken_of(monkeypatch):
    said = []
    monkeypatch.setattr(notices, "say", said.append)
    monkeypatch.setattr(notices, "_PATIENCE", 0.3)
    compiling = notices.Compiling(True, lambda: 3)
    for _ in range(100):
        with compiling:
            notices.time.sleep(0.005)
    assert said == []
