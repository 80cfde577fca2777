"""Every call of torch.mps as the first thing that a process does with the device: it works, and what it sets lasts."""

import torch.mps
import torch.mps.profiler
from processes import output_of

# The call, and whether it may open the device; what follows on the device must see its effect.
CALLS = {
    "compile_shader": """
library = torch.mps.compile_shader('''
[shader("compute")] [numthreads(4, 1, 1)]
void fill(uint3 id : SV_DispatchThreadID, uniform float* out) { out[id.x] = 2; }''')
x = torch.zeros(4, device="mps")
library.fill(x)
assert x.tolist() == [2.0] * 4""",
    "load_metallib": """
try:
    torch.mps.load_metallib(b"")
    assert False
except NotImplementedError:
    assert not is_open()""",
    "device_count": "assert torch.mps.device_count() == 1 and not is_open()",
    "is_available": "assert torch.mps.is_available() and not is_open()",
    "get_rng_state": """
state = torch.mps.get_rng_state()
assert not is_open()
x = torch.rand(4, device="mps")
torch.mps.set_rng_state(state)
assert torch.rand(4, device="mps").equal(x)""",
    "set_rng_state": """
state = torch.mps.get_rng_state()
state[0] += 1
torch.mps.set_rng_state(state)
assert not is_open()
x = torch.rand(4, device="mps")
torch.mps.set_rng_state(state)
assert torch.rand(4, device="mps").equal(x)""",
    "manual_seed": """
torch.mps.manual_seed(7)
assert not is_open()
x = torch.rand(4, device="mps")
torch.manual_seed(7)
assert torch.rand(4, device="mps").equal(x)""",
    "seed": """
before = torch.mps.get_rng_state()
torch.mps.seed()
assert not is_open() and not before.equal(torch.mps.get_rng_state())
torch.rand(4, device="mps")""",
    "synchronize": "torch.mps.synchronize(); assert not is_open()",
    "empty_cache": "torch.mps.empty_cache(); assert not is_open()",
    "set_per_process_memory_fraction": """
torch.mps.set_per_process_memory_fraction(0.05)
assert not is_open()
try:
    torch.empty(int(torch.mps.recommended_max_memory() * 0.06), dtype=torch.uint8, device="mps")
    assert False
except torch.OutOfMemoryError as error:
    assert "max allowed" in str(error)
torch.mps.set_per_process_memory_fraction(0.1)
torch.empty(int(torch.mps.recommended_max_memory() * 0.06), dtype=torch.uint8, device="mps")""",
    "current_allocated_memory": "assert torch.mps.current_allocated_memory() == 0 and not is_open()",
    "driver_allocated_memory": "assert torch.mps.driver_allocated_memory() == 0 and not is_open()",
    "recommended_max_memory": "assert torch.mps.recommended_max_memory() > 0",
    "Event": """
start, end = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)
assert start.query() and not is_open()
start.wait(), start.synchronize()
assert not is_open()
start.record()
torch.ones(10, device="mps").exp()
end.record()
end.synchronize()
assert start.elapsed_time(end) > 0""",
    "profiler.start": """
torch.mps.profiler.start()
torch.ones(10, device="mps").exp()
torch.mps.profiler.stop()
from portable_mps.runtime import profiler
assert profiler.last["exp"].count == 1""",
    "profiler.stop": "torch.mps.profiler.stop(); assert not is_open()",
    "profiler.profile": """
with torch.mps.profiler.profile():
    torch.ones(10, device="mps").exp()
from portable_mps.runtime import profiler
assert profiler.last["exp"].count == 1""",
    "profiler.metal_capture": """
try:
    torch.mps.profiler.metal_capture("x").__enter__()
    assert False
except NotImplementedError:
    assert not is_open()""",
    "profiler.is_metal_capture_enabled": """
assert not torch.mps.profiler.is_metal_capture_enabled() and not is_open()""",
    "profiler.is_capturing_metal": "assert not torch.mps.profiler.is_capturing_metal() and not is_open()",
}

# Forked children of one process, in which the device was never open.
RUNNER = """
import os, sys, traceback, torch
from portable_mps.runtime.device import is_open
failed = []
for name, source in eval(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        try:
            exec(source)
            assert torch.ones(3, device="mps").sum().item() == 3
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print("failed:", *failed)
"""


def test_every_function_is_called_here():
    functions = {name for name in torch.mps.__all__ if name != "profiler"}
    functions |= {f"profiler.{name}" for name in torch.mps.profiler.__all__}
    assert functions <= set(CALLS)


def test_first_use(tmp_path):
    present = {
        name: source
        for name, source in CALLS.items()
        if hasattr(torch.mps.profiler if "." in name else torch.mps, name.split(".")[-1])
    }
    # A cache of its own: children that do not end orderly leave their entries in its table of readers.
    output = output_of(RUNNER, repr(present), PORTABLE_MPS_CACHE=str(tmp_path))
    assert output.splitlines()[-1] == "failed:"
