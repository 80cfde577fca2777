"""Import, activation, first use, fork and exit: each in a process of its own."""

import pytest
from processes import output_of, run_script

IS_OPEN = "from portable_mps.runtime import device; print(device.is_open())"


def test_import_opens_no_device_and_loads_no_gpu_layer():
    source = "import sys, torch; print(torch.backends.mps.is_built(), 'slangpy' in sys.modules); " + IS_OPEN
    assert output_of(source).split() == ["True", "False", "False"]


def test_import_registers_no_operator():
    """Nor reads what opens the device: `import torch` must not take longer with us (benchmarks/start.py)."""
    source = "import sys, torch; print(*(name for name in sys.modules if name.startswith('portable_mps.')))"
    loaded = set(output_of(source).split())
    assert "portable_mps.dispatch.first" in loaded
    assert not {name for name in loaded if name.startswith(("portable_mps.ops", "portable_mps.runtime"))}
    assert len(loaded) < 14


def test_asking_whether_it_is_available_opens_no_device():
    assert output_of("import torch; print(torch.backends.mps.is_available()); " + IS_OPEN).split() == ["True", "False"]


def test_first_use_opens_it():
    assert output_of("import torch; torch.ones(2, device='mps'); " + IS_OPEN) == "True"


def test_accelerator_is_mps():
    source = """
import torch
print(torch.accelerator.current_accelerator(), torch.accelerator.device_count(), torch.mps.device_count())
print(torch.get_default_device(), torch.accelerator.is_available())
with torch.device("mps"):
    print(torch.ones(1).device)
"""
    assert output_of(source).split() == ["mps", "1", "1", "cpu", "True", "mps:0"]


def test_switched_off():
    source = "import torch, portable_mps; print(torch.backends.mps.is_built(), portable_mps.inactive_reason)"
    assert output_of(source, PORTABLE_MPS="0").split() == ["False", "PORTABLE_MPS=0"]


def test_stays_out_beside_another_accelerator():
    source = """
import os
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
os.environ.pop("PORTABLE_MPS")
import torch, portable_mps
torch.cuda.is_available = lambda: True
portable_mps.autoload()
print(torch.backends.mps.is_built(), portable_mps.inactive_reason)
os.environ["PORTABLE_MPS"] = "1"
portable_mps.autoload()
print(torch.backends.mps.is_built())
"""
    first, second = output_of(source).splitlines()
    assert first.startswith("False torch already has the accelerator 'cuda'") and "PORTABLE_MPS=1" in first
    assert second == "True"


@pytest.mark.parametrize(
    "use", ["torch.ones(2, device='mps')", "torch.ones(2).to('mps')", "torch.nn.Linear(2, 2).to('mps')"]
)
def test_no_driver(use):
    source = f"import torch; print(torch.backends.mps.is_available()); {use}"
    done = run_script(source, VK_DRIVER_FILES="/nonexistent.json", VK_ICD_FILENAMES="/nonexistent.json")
    assert done.stdout.strip() == "False"
    assert done.returncode == 1 and "found no driver" in done.stderr and "apt-get install" in done.stderr


def test_unknown_adapter():
    done = run_script("import torch; torch.ones(2, device='mps')", PORTABLE_MPS_ADAPTER="no such card")
    assert "PORTABLE_MPS_ADAPTER='no such card' names none of the adapters (0: " in done.stderr


def test_adapter_by_index_and_name():
    name = output_of("import torch; print(torch.backends.mps.get_name())", PORTABLE_MPS_ADAPTER="0")
    assert (
        output_of("import torch; print(torch.backends.mps.get_name())", PORTABLE_MPS_ADAPTER=name[:5].upper()) == name
    )
    assert output_of("import torch; print(torch.backends.mps.get_name())", LOCAL_RANK="0") == name


FORK = """
import os, sys, torch
{before}
child = os.fork()
if child == 0:
    try:
        print(torch.ones(3, device="mps").sum().item(), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(torch.full((2,), 5.0, device="mps").sum().item())
"""


@pytest.mark.parametrize("before", ["", "torch.backends.mps.is_available()"], ids=["imported", "asked"])
def test_fork_before_the_first_use(before):
    assert output_of(FORK.format(before=before)).split() == ["3.0", "10.0"]


def test_fork_after_the_first_use_is_refused_in_the_child():
    child, parent = output_of(FORK.format(before="torch.ones(1, device='mps')")).splitlines()
    assert child.startswith("Cannot re-initialize MPS in forked subprocess") and parent == "10.0"


def test_data_loader_workers():
    source = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.ones(1, device="mps")
loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2, num_workers=2)
print(sum(batch.to("mps").sum().item() for batch, in loader))
"""
    assert output_of(source) == "28.0"


def test_exit_with_work_in_flight():
    source = """
import torch
x = torch.ones(256, 256, device="mps")
for _ in range(50):
    y = x @ x
print("done")
"""
    done = run_script(source)
    assert done.returncode == 0 and done.stdout == "done\n" and done.stderr == ""


def test_autograd_worker_is_left_asleep_at_exit():
    """torch would wake it when the interpreter is gone; what a child inherits stays as it was."""
    source = """
import atexit, os
limit = lambda: os.environ.get("TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT")
atexit.register(lambda: print(limit()))
import torch
torch.ones(2, requires_grad=True).sum().backward()
print(limit())
"""
    assert output_of(source).split() == ["None", "0"]
    assert output_of(source, TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT="3").split() == ["3", "3"]


def test_exit_after_an_error_in_a_backward_pass():
    """The worker frees the graph after the error has arrived here: nodes of Python ask for the GIL then."""
    source = """
import time, torch

class Slow:
    def __del__(self):
        time.sleep(0.2)

class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.slow = Slow()
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("in the backward pass")

def run():
    x = torch.ones(3, device="mps", requires_grad=True)
    torch.stack([Fails.apply(x) for _ in range(4)]).sum().backward()

try:
    run()
except ValueError as error:
    print(error)
"""
    done = run_script(source)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == "in the backward pass\n"
