"""DistributedDataParallel, FSDP2 and the like on mps, by processes that share an adapter."""

from pathlib import Path

import pytest
import torch
from processes import RANK_BEGINS, RANK_ENDS, outputs_of

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed"),
    pytest.mark.slow,
]

BEGIN = f"{RANK_BEGINS}sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
WAYS = 13  # in ways.py


@pytest.mark.parametrize("ranks", [2, 3])
def test_losses_are_those_of_one_process(ranks):
    source = f"{BEGIN}import ways; assert len(ways.WAYS) == {WAYS}; ways.compare(){RANK_ENDS}"
    assert outputs_of(source, ranks) == [str(WAYS)] * ranks


def test_tensor_parallelism_and_redistribution():
    source = """
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
def trained(device, mesh=None):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).to(device), torch.randn(3, 8).to(device)
    if mesh is not None:
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    model(x).square().sum().backward()
    gradient = model[0].weight.grad
    return (gradient.full_tensor() if mesh is not None else gradient).cpu()
mesh = init_device_mesh("mps", (2,))
torch.testing.assert_close(trained("mps", mesh), trained("cpu"))
whole = torch.arange(24.0).reshape(4, 6)
rows = distribute_tensor(whole.to("mps"), mesh, [Shard(0)])
columns = rows.redistribute(mesh, [Shard(1)])
assert columns.to_local().shape == (4, 3) and torch.equal(columns.full_tensor().cpu(), whole)
assert torch.equal((rows @ columns.redistribute(mesh, [Replicate()]).t()).full_tensor().cpu(), whole @ whole.t())
drawn = torch.distributed.tensor.rand(6, 4, device_mesh=mesh, placements=[Shard(0)]).full_tensor()
assert drawn.unique().numel() == 24
"""
    outputs_of(BEGIN + source + RANK_ENDS, 2)


def test_checkpoints_and_pipelines(tmp_path):
    source = f"""
import torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
torch.manual_seed(0)
model = nn.Linear(8, 8).to("mps")
fully_shard(model, mesh=init_device_mesh("mps", (2,)))
optimizer = torch.optim.AdamW(model.parameters())
def step():
    model(torch.ones(2, 8, device="mps")).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model.weight.full_tensor().cpu()
step()
for save in (checkpoint.save, lambda *a, **k: checkpoint.async_save(*a, **k).result()):
    weights, state = get_state_dict(model, optimizer)
    folder = {str(tmp_path)!r} + f"/{{save.__name__}}"
    save({{"model": weights, "optimizer": state}}, checkpoint_id=folder)
    expected = step()
    step()
    weights, state = get_state_dict(model, optimizer)
    checkpoint.load({{"model": weights, "optimizer": state}}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    assert torch.equal(step(), expected)

stages, x = [nn.Linear(8, 8), nn.Linear(8, 8)], torch.randn(8, 8)
whole = nn.Sequential(*stages)
whole(x).square().mean().backward()
expected = stages[rank].weight.grad.clone()
whole.zero_grad()
stage = stages[rank].to("mps")
stage_of_two = PipelineStage(stage, rank, 2, torch.device("mps"))
schedule = Schedule1F1B(stage_of_two, 4, loss_fn=lambda y, t: (y - t).square().mean())
schedule.step(x.to("mps")) if rank == 0 else schedule.step(target=torch.zeros(8, 8, device="mps"))
torch.testing.assert_close(stage.weight.grad.cpu(), expected)
"""
    outputs_of(BEGIN + source + RANK_ENDS, 2)


def test_compiled():
    source = """
from torch import nn
torch.manual_seed(0)
plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
x = torch.randn(4, 8)
plain(x).square().mean().backward()
expected = plain[0].weight.grad.clone()
plain.zero_grad()
model = torch.compile(nn.parallel.DistributedDataParallel(plain.to("mps")))
model(x.chunk(2)[rank].to("mps")).square().mean().backward()
torch.testing.assert_close(plain[0].weight.grad.cpu(), expected)
"""
    outputs_of(BEGIN + source + RANK_ENDS, 2)


def test_join_and_samplers():
    """Processes with more batches than others, and each with a share of the data."""
    source = """
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader, DistributedSampler
def trained(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to(device)
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
    x = torch.randn(10, 8, generator=torch.Generator().manual_seed(1))
    with Join([model, optimizer]):
        for batch in x[: 4 + 2 * rank].split(2):
            model(batch.to(device)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    sampler = DistributedSampler(x, seed=1)
    sampler.set_epoch(1)
    with torch.no_grad():
        seen = torch.cat([model.module(batch.to(device)) for batch in DataLoader(x, batch_size=2, sampler=sampler)])
    gathered = torch.empty(10, 3, device=device)
    dist.all_gather_into_tensor(gathered, seen)
    return gathered.cpu()
torch.testing.assert_close(trained("mps"), trained("cpu"))
"""
    outputs_of(BEGIN + source + RANK_ENDS, 2)


ACCELERATED = """
import os, sys, torch
from accelerate import Accelerator
from torch import nn
accelerator = Accelerator(cpu=sys.argv[1] == "cpu")
torch.manual_seed(0)
inputs, labels = torch.randn(32, 8), torch.randint(3, (32,))
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=4)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
model, optimizer, data = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1), data)
for x, y in data:
    assert x.device.type == sys.argv[1]
    loss = nn.functional.cross_entropy(model(x), y)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
print(accelerator.num_processes, [round(value, 4) for value in accelerator.gather(loss.detach()).tolist()], flush=True)
torch.distributed.barrier()
os._exit(0)
"""


def test_accelerate():
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    ours, on_cpu = (outputs_of(ACCELERATED, 2, device) for device in ("mps", "cpu"))
    assert ours == on_cpu and ours[0].startswith("2 [")
