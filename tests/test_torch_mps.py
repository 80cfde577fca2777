"""torch.mps and torch.backends.mps beyond memory, events and shaders: the profiler, what needs Metal."""

import logging
import os

import pytest
import torch
from processes import run_script

from portable_mps.runtime import adapter, clock, profiler


@pytest.mark.parametrize("wait", [False, True])
def test_profiler(wait, caplog):
    x = torch.ones(64, 64, device="mps")
    with caplog.at_level(logging.INFO, logger="portable_mps.profiler"), torch.mps.profiler.profile("interval", wait):
        for _ in range(3):
            x = torch.exp(x * 0.5)
    assert profiler.last["exp"].count == 3 and profiler.last["exp"].milliseconds > 0
    assert "exp" in caplog.text and "total" in caplog.text
    torch.exp(x)
    assert profiler.last["exp"].count == 3


def test_profiler_over_many_pools(monkeypatch):
    """Times are read before all is over; each dispatch is there, in the stream's order."""
    monkeypatch.setattr(clock, "_CAPACITY", 3)
    monkeypatch.setattr(profiler, "_MOST_HELD", 6)
    x = torch.ones(8, device="mps")
    profiler.start("interval", False, keep=True)
    for _ in range(10):
        x = x.exp().sin()
    dispatches = profiler.stop().dispatches
    assert [dispatch.name for dispatch in dispatches] == ["exp", "sin"] * 10
    stamps = [stamp for dispatch in dispatches for stamp in (dispatch.start_ns, dispatch.end_ns)]
    assert stamps == sorted(stamps) and profiler.last["exp"].count == 10


def test_profiler_errors():
    with pytest.raises(RuntimeError, match="Invalid Signpost trace mode"):
        torch.mps.profiler.start("sometimes")
    torch.mps.profiler.stop()


def test_profile_of_a_process():
    done = run_script("import torch; torch.ones(4, device='mps').exp()", PYTORCH_MPS_LOG_PROFILE_INFO="1")
    assert done.returncode == 0 and "exp" in done.stderr and "dispatches" in done.stderr


def test_what_needs_metal_says_so():
    calls = [lambda: torch.mps.profiler.metal_capture("x").__enter__()]
    if hasattr(torch.mps, "load_metallib"):  # not before torch 2.13
        calls += [lambda: torch.mps.load_metallib(b""), lambda: torch.mps.load_metallib("kernels.metallib")]
    for call in calls:
        with pytest.raises(NotImplementedError, match="needs Metal"):
            call()
    assert not torch.mps.profiler.is_metal_capture_enabled() and not torch.mps.profiler.is_capturing_metal()


def test_backends():
    assert torch.backends.mps.is_built() and torch.backends.mps.is_available()
    assert torch.backends.mps.is_macos_or_newer(14, 0) and torch.backends.mps.is_macos13_or_newer()
    assert isinstance(torch.backends.mps.get_name(), str)
    chosen = adapter.choose()
    count = len(os.sched_getaffinity(0)) if chosen.is_software and hasattr(os, "sched_getaffinity") else chosen.cores
    assert torch.backends.mps.get_core_count() == count


def test_rng_state():
    torch.mps.manual_seed(5)
    state = torch.mps.get_rng_state()
    first = torch.rand(10, device="mps")
    torch.mps.set_rng_state(state)
    assert torch.rand(10, device="mps").equal(first)
    torch.manual_seed(5)
    assert torch.rand(10, device="mps").equal(first)
    torch.mps.seed()
    assert not torch.rand(10, device="mps").equal(first)
    with torch.random.fork_rng(devices=[0], device_type="mps"):
        torch.rand(3, device="mps")
