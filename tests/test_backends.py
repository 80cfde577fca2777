"""Ways to an adapter other than our own recording on Vulkan: what a Mac's would take, as far as it runs elsewhere."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run_script

from portable_mps.runtime import adapter, device
from portable_mps.runtime.adapter import metal, objective_c

TESTS = Path(__file__).resolve().parent
# Copies, events, captured graphs, errors that kernels report, users' kernels, transfers of collectives, memory.
RECORDED = (
    "test_events.py",
    "test_graphs.py",
    "test_errors.py",
    "test_memory.py",
    "test_shader.py",
    "ops/test_scan.py",
)


@pytest.mark.slow
def test_slangpy_compiles_and_records():
    """What Metal would have, on Vulkan: no pipelines, commands or buffers of ours."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(TESTS / each) for each in RECORDED),
    ]
    environment["PORTABLE_MPS_BACKEND"] = "slangpy"
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


COLLECTIVE = """
import torch
import torch.distributed as dist
from portable_mps.runtime import device
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
x = torch.arange(6.0, device="mps").view(2, 3).t()
dist.all_reduce(x)
gathered = [torch.empty(3, 2, device="mps")]
dist.all_gather(gathered, x)
assert device.current().pool is None and device.current().host_buffers.take(4).handle is None
print(gathered[0].tolist())
"""


def test_collectives_without_mapped_buffers():
    done = run_script(COLLECTIVE, PORTABLE_MPS_BACKEND="slangpy")
    assert done.stdout.splitlines()[-1] == "[[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]", done.stdout + done.stderr


# Kernels whose threads have nothing to do with each other, nor report errors: the others do not compile for slangpy's
# device on the CPU.
ALONE = """
import torch
torch.manual_seed(0)
a, b = torch.randn(7, 33), torch.rand(33) + 0.5
def check(what, function):
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.float64):
        x, y = (a * 4).to(dtype), (b * 4).to(dtype)
        expected, seen = function(x, y), function(x.to("mps"), y.to("mps")).cpu()
        torch.testing.assert_close(seen, expected, msg=lambda words: f"{what} of {dtype}: {words}")
check("add", lambda x, y: x + y)
check("where", lambda x, y: torch.where(x > 0, x, y))
check("a copy with strides", lambda x, y: x.t()[::2].contiguous())
check("pad", lambda x, y: torch.nn.functional.pad(x, (1, 2)))
check("sum", lambda x, y: (x - x).add_(y))
for name in ("exp", "log1p", "sin", "tanh", "sigmoid", "erf"):
    x = a.to("mps")
    torch.testing.assert_close(getattr(torch, name)(x).cpu(), getattr(torch, name)(a), equal_nan=True)
x = a.to("mps").requires_grad_()
(x.sin() * x).backward(torch.ones_like(x))
torch.testing.assert_close(x.grad.cpu(), a.sin() + a * a.cos())
events = [torch.mps.Event(enable_timing=True) for _ in range(2)]
events[0].record(); y = x.detach() + 1; events[1].record(); torch.mps.synchronize()
assert events[0].elapsed_time(events[1]) >= 0
assert torch.rand(1000, device="mps").cpu().unique().numel() > 900
torch.mps.manual_seed(3); first = torch.randn(9, device="mps").cpu(); torch.mps.manual_seed(3)
assert torch.equal(first, torch.randn(9, device="mps").cpu())
try:
    x.detach().softmax(1)
    print("it should not compile")
except RuntimeError as error:
    print("GroupMemoryBarrierWithGroupSync" in str(error))
print(torch.mps.recommended_max_memory() > 0, torch.mps.driver_allocated_memory() > 0)
"""


def test_slangpys_own_device_on_the_cpu():
    done = run_script(ALONE, PORTABLE_MPS_BACKEND="cpu")
    assert done.stdout.splitlines()[-2:] == ["True", "True True"], done.stdout + done.stderr


def test_a_backend_that_there_is_not(monkeypatch):
    monkeypatch.setenv("PORTABLE_MPS_BACKEND", "directx")
    with pytest.raises(
        RuntimeError, match="invalid PORTABLE_MPS_BACKEND 'directx': expected vulkan, metal, slangpy or"
    ):
        adapter.adapters()


@pytest.mark.skipif(sys.platform == "darwin", reason="there is Metal")
def test_metal_where_there_is_none(monkeypatch):
    monkeypatch.setenv("PORTABLE_MPS_BACKEND", "metal")
    metal.forget()
    with pytest.raises(adapter.NoAdapterError, match=r"there is no Metal here .*macOS 15"):
        adapter.choose()


class Messages:
    """Stands for the Objective-C runtime: an MTLDevice, and a command buffer that counts who keeps it."""

    def __init__(self, monkeypatch):
        self.kept = 0
        self.answers = {
            "maxBufferLength": 1 << 33,
            "recommendedMaxWorkingSetSize": 12 << 30,
            "currentAllocatedSize": 2 << 30,
            "hasUnifiedMemory": True,
            "name": 7,
            "UTF8String": b"Apple M1",
            "GPUStartTime": 1.25,
            "GPUEndTime": 1.5,
        }
        monkeypatch.setattr(objective_c, "send", self.send)
        monkeypatch.setattr(objective_c, "default_metal_device", lambda: 5)
        metal.forget()

    def send(self, receiver, selector, result=ctypes.c_uint64):
        self.kept += {"retain": 1, "release": -1}.get(selector, 0)
        return self.answers.get(selector)


@pytest.fixture
def messages(monkeypatch):
    yield Messages(monkeypatch)
    metal.forget()


def test_what_metal_is_taken_for(messages, monkeypatch):
    monkeypatch.setenv("PORTABLE_MPS_BACKEND", "metal")
    chosen = adapter.choose()
    assert (chosen.name, chosen.kind, chosen.backend) == ("Apple M1", "integrated GPU", "Metal")
    assert not chosen.missing and not chosen.features["float64"] and not chosen.features["int64_atomics"]
    assert chosen.memory == 12 << 30 and chosen.max_buffer == 1 << 33 and chosen.subgroup_size == 32
    assert adapter.free_memory(chosen, 0) == 10 << 30 and adapter.native() is None
    monkeypatch.setenv("PORTABLE_MPS_HIDE", "cooperative_matrix,shared=16384")
    metal.forget()
    assert adapter.choose().coop_matrices == () and adapter.choose().max_shared_memory == 16384


def test_metals_times_are_those_of_command_buffers(messages):
    """A mark's end is that of the command buffer that it ends, its begin that of the one that follows."""
    opened = device.current().stream
    clock = metal.CommandBuffers()
    with opened.lock:
        torch.ones(4, device="mps").exp()
        begun = clock.mark(opened, is_end=False)
        submission = opened._last_submission
        torch.ones(4, device="mps").sin()
        ended = clock.mark(opened, is_end=True)
        assert opened._last_submission > submission
        opened.wait()
    assert (begun(), ended()) == (1.25e9, 1.5e9) and messages.kept == 2
    del begun, ended
    for _ in range(3):  # slangpy keeps the commands of the last submissions, and what they call
        torch.ones(4, device="mps").exp()
        opened.wait()
    assert messages.kept == 0
