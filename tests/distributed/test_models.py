"""GPT-2 and ResNet-18, small, and what goes on after a process has been killed: against one process on the CPU."""

import os
import subprocess
import sys

import pytest
import torch
from processes import RANK_BEGINS, RANK_ENDS, outputs_of

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed"),
    pytest.mark.slow,
]

# 20 steps over the same batch, at rates at which float32 stays within 1e-6 of float64 on the CPU: at 1e-3 ResNet's does
# not, as rounding turns a ReLU.
MODELS = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification
from transformers.utils import logging
logging.set_verbosity_error()
size = dist.get_world_size()
def gpt2():
    sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, **dropout, bos_token_id=None, eos_token_id=None))
    text = torch.randint(64, (8, 16))
    return model, {"input_ids": text, "labels": text}, 0.1
def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [2, 2, 2, 2]}
    model = ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=10, **sizes)).eval()
    return model, {"pixel_values": torch.randn(8, 3, 32, 32), "labels": torch.randint(10, (8,))}, 3e-4
def made(kind, device):
    torch.manual_seed(0)
    model, batch, rate = kind()
    return model.to(device), batch, rate
def losses(model, batch, rate, device, rank=0, size=1):
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    share = {name: value.chunk(size)[rank].to(device) for name, value in batch.items()}
    found = []
    for _ in range(20):
        loss = model(**share).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach() / size)
    found = torch.stack(found)
    if size > 1:
        dist.all_reduce(found)
    return found.cpu()
for kind in (gpt2, resnet):
    expected = losses(*made(kind, "cpu"), "cpu")
    assert expected[-1] < 0.9 * expected[0], expected
    for way in (DistributedDataParallel, lambda model: fully_shard(model, mesh=init_device_mesh("mps", (size,)))):
        model, batch, rate = made(kind, "mps")
        found = losses(way(model), batch, rate, "mps", rank, size)
        torch.testing.assert_close(found, expected, atol=0, rtol=1e-5)
print("done")
"""


@pytest.mark.parametrize("ranks", [2, 4])
def test_losses_are_those_of_one_process(ranks):
    pytest.importorskip("transformers", reason="transformers is not installed")
    assert outputs_of(RANK_BEGINS + MODELS + RANK_ENDS, ranks) == ["done"] * ranks


# Under torchrun, which starts all processes again when one has died.
RESTARTED = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
folder, kills = sys.argv[1], sys.argv[2] == "kill"
dist.init_process_group()
rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to("mps")
fully_shard(model, mesh=init_device_mesh("mps", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).chunk(2)[rank].to("mps")
def state(step):
    weights, moments = get_state_dict(model, optimizer)
    return {"weights": weights, "moments": moments, "step": step}
begin = 0
if attempt:
    loaded = state(0)
    checkpoint.load(loaded, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=loaded["weights"], optim_state_dict=loaded["moments"])
    begin = loaded["step"]
for step in range(begin, 6):
    if kills and not attempt and step == 3 and rank == 1:
        os._exit(9)
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(loss.detach())
    checkpoint.save(state(step + 1), checkpoint_id=folder)
    if rank == 0:
        print("LOSS", step, loss.item(), flush=True)
dist.barrier()
os._exit(0)
"""


def losses_under_torchrun(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(RESTARTED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / name), name],
        # torchrun keeps its store for all attempts, where gloo may find the address of a process that was killed.
        env=os.environ | {"PORTABLE_MPS": "1", "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("LOSS")]


def test_training_goes_on_from_a_checkpoint_after_a_process_was_killed(tmp_path):
    whole, restarted = (losses_under_torchrun(tmp_path, name) for name in ("none", "kill"))
    assert len(whole) == 6 and restarted == whole
