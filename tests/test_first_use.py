"""What a process may do first with the device. Operators are registered by the first allocation, not by `import torch`:
what can come before it works too. Every call of torch.mps does, and what it sets lasts."""

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

# What needs an operator; the first allocation has them registered.
OPERATORS = {
    "factory": "assert torch.ones(3, device='mps').exp().cpu().allclose(torch.ones(3).exp())",
    "copy": "assert torch.arange(3).to('mps').add(1).tolist() == [1, 2, 3]",
    "no elements": "assert torch.empty(0, device='mps').sum().item() == 0",
    "no tensor": "assert torch.tril_indices(2, 2, device='mps').tolist() == torch.tril_indices(2, 2).tolist()",
    "window": "assert torch.kaiser_window(4, device='mps').cpu().allclose(torch.kaiser_window(4))",
    "zeros": "assert torch._efficientzerotensor((2,), device='mps').add(1).tolist() == [1, 1]",
    "sparse": "assert torch.sparse_coo_tensor(size=(2, 3), device='mps').to_dense().sum().item() == 0",
    "sparse empty": "assert torch.empty(2, 3, layout=torch.sparse_coo, device='mps')._nnz() == 0",
    "compressed": "assert torch.empty(2, 3, layout=torch.sparse_csr, device='mps')._nnz() == 0",
    "compressed with dims": """
made = torch.ops.aten._sparse_compressed_tensor_with_dims(
    2, 0, (4, 4), (), torch.int64, dtype=torch.float32, layout=torch.sparse_csr, device=torch.device("mps"))
assert made._nnz() == 2""",
    "quantised": """
made = torch._empty_affine_quantized((3,), scale=0.5, zero_point=1, dtype=torch.quint8, device="mps")
assert made.q_scale() == 0.5""",
    "default device": """
with torch.device("mps"):
    assert torch.ones(3).sum().item() == 3""",
    "inference": """
with torch.inference_mode():
    assert torch.nn.Linear(2, 2).to("mps")(torch.ones(1, 2, device="mps")).shape == (1, 2)""",
    "load": """
import io
file = io.BytesIO()
torch.save(torch.arange(3.0), file)
file.seek(0)
assert torch.load(file, map_location="mps").exp()[0].item() == 1""",
    "trace": """
traced = torch.jit.trace(lambda x: x.to("mps").exp(), torch.ones(2))
assert traced(torch.zeros(2)).tolist() == [1, 1]""",
    "fake": """
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    x = torch.empty(2, 3, 4, 8, device="mps")
    y = torch.nn.functional.scaled_dot_product_attention(x, x, x)
    assert y.shape == x.shape and y.device.type == "mps"
    assert torch.nn.functional.dropout(x).shape == torch.renorm(x, 2, 0, 1.0).shape == x.shape
assert not is_open()""",
    "threads": """
import threading
results = []
def work(i):
    results.append((torch.full((3,), float(i), device="mps") * 2).sum().item())
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
assert sorted(results) == [6.0 * i for i in range(8)]""",
    "backward in a worker": """
x = torch.ones(3, requires_grad=True)
x.to("mps").exp().sum().backward()
assert x.grad.allclose(torch.ones(3).exp())""",
    "a kernel of the script's own": """
library = torch.library.Library("aten", "IMPL", "MPS")
library.impl("neg.out", lambda self, *, out: out.fill_(7))
library.impl("trace", lambda self: self.new_tensor(8))
assert torch.zeros(2, device="mps").neg().tolist() == [7, 7]
assert torch.zeros(1, 1, device="mps").trace().item() == 8""",
    "what the registration knows": """
schemas = {f"{s.name}.{s.overload_name}".rstrip("."): s for s in torch._C._jit_get_all_schemas()}
operators = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
factories = [name for name in operators if not any("Tensor" in str(a.type) for a in schemas[name].arguments)]
def known(key, names):
    return {name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)}
def first():
    return known("SparseMPS", factories), known("SparseCsrMPS", factories), known("AutogradMPS", operators)
before = first()
assert "portable_mps.ops" not in sys.modules
torch.empty(0, device="mps")
assert before == first() and "portable_mps.ops" in sys.modules""",
}

# Forked children of one process, in which the device was never open.
RUNNER = """
import os, sys, traceback, torch
from portable_mps.runtime.device import is_open
failed = []
assert "portable_mps.ops" not in sys.modules
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


def failed(calls, folder) -> list[str]:
    # A cache of its own: children that do not end orderly leave their entries in its table of readers.
    return output_of(RUNNER, repr(calls), PORTABLE_MPS_CACHE=str(folder)).splitlines()[-1].split()[1:]


def test_first_operator(tmp_path):
    assert failed(OPERATORS, tmp_path) == []


def test_first_use(tmp_path):
    present = {
        name: source
        for name, source in CALLS.items()
        if hasattr(torch.mps.profiler if "." in name else torch.mps, name.split(".")[-1])
    }
    assert failed(present, tmp_path) == []


def test_an_operator_that_this_version_of_torch_lacks():
    from portable_mps.dispatch import registry

    assert registry.reserve("operator_of_another_version", None)
    del registry.registered["operator_of_another_version"]
    assert not registry.reserve("empty.memory_format", None)  # csrc/factories.cpp has it
    del registry.registered["empty.memory_format"]
