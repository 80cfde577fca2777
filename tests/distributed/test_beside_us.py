"""torch.distributed beside us: CPU tensors communicate as without us; and operators of others, whose schemas do not say
what they write, are refused."""

import os
import subprocess
import sys

import pytest
import torch
from processes import output_of, rendezvous

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

# Without a backend: torch picks one by the accelerator.
COLLECTIVES = """
import os, torch, torch.distributed as dist
dist.init_process_group()
rank, size = dist.get_rank(), dist.get_world_size()
x = torch.full((3,), rank + 1.0)
dist.all_reduce(x)
parts = [torch.zeros(1) for _ in range(size)]
dist.all_gather(parts, torch.tensor([float(rank)]))
objects = [None] * size
dist.all_gather_object(objects, {"rank": rank})
dist.broadcast(x, 0)
dist.barrier()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1, bias=False))
model(torch.full((1, 2), float(rank))).sum().backward()
grads = model.module.weight.grad[0].tolist()
half = dist.new_group([0])
if rank == 0:
    dist.all_reduce(x, group=half)
dist.destroy_process_group()
print(f"{x.tolist()} {[p.item() for p in parts]} {objects} {grads}\\n", end="", flush=True)
# Gloo's threads may free a tensor of Python's while the interpreter ends, which kills the process, with or without us:
# https://github.com/pytorch/pytorch/issues/190489
os._exit(0)
"""
ONE = "[1.0, 1.0, 1.0] [0.0] [{'rank': 0}] [0.0, 0.0]"
TWO = "[3.0, 3.0, 3.0] [0.0, 1.0] [{'rank': 0}, {'rank': 1}] [0.5, 0.5]"


def test_one_process():
    assert output_of(COLLECTIVES, RANK="0", WORLD_SIZE="1", **rendezvous()) == ONE


def test_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(COLLECTIVES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, env=os.environ | {"PORTABLE_MPS": "1"}, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [TWO, TWO]


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with torch.library._scoped_library("portable_mps_test", "DEF") as scoped:
        yield scoped


@pytest.mark.parametrize("schema", ["f(Tensor a) -> Tensor", "f(Tensor(a!) a) -> Tensor(a!)", "f(Tensor a) -> ()"])
def test_operators_of_others_do_not_fall_back(library, schema):
    """Whatever the schema says: it may lie, as c10d's do."""
    library.define(schema)
    library.impl("f", lambda a: a.add_(1), "CPU")
    x = torch.zeros(2, device="mps")
    with pytest.raises(NotImplementedError, match="'portable_mps_test::f' has no kernel for the MPS device"):
        torch.ops.portable_mps_test.f(x)
    assert x.tolist() == [0, 0]


def test_custom_operators(monkeypatch):
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")

    @torch.library.custom_op("portable_mps_test2::increased", mutates_args=())
    def increased(a: torch.Tensor) -> torch.Tensor:
        return a + 1

    @torch.library.custom_op("portable_mps_test2::increase", mutates_args=("a",))
    def increase(a: torch.Tensor) -> None:
        a.add_(1)

    @torch.library.custom_op("portable_mps_test2::on_cpu", mutates_args=("a",), device_types="cpu")
    def on_cpu(a: torch.Tensor) -> None:
        a.add_(1)

    x = torch.zeros(2, device="mps")
    assert increased(x).tolist() == [1, 1]
    increase(x)
    assert x.tolist() == [1, 1]
    with pytest.raises(NotImplementedError, match="on_cpu' has no kernel for the MPS device"):
        on_cpu(x)

    @on_cpu.register_kernel("mps")
    def on_mps(a: torch.Tensor) -> None:
        a.add_(2)

    on_cpu(x)
    assert x.tolist() == [3, 3]


def test_prims():
    """They are torch's own compositions of aten."""
    x = torch.tensor([0.5, 1.5], device="mps")
    torch.testing.assert_close(torch.ops.prims.sin(x).cpu(), x.cpu().sin())
    assert torch.ops.prims.iota(3, start=1, step=2, dtype=torch.int64, device="mps", requires_grad=False).tolist() == [
        1,
        3,
        5,
    ]
