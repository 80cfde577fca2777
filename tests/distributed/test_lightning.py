"""Lightning's strategies of several processes under torchrun, mps against the CPU."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed"),
    pytest.mark.slow,
]

TRAINING = """
import faulthandler, json, logging, os, sys, warnings
faulthandler.dump_traceback_later(170, exit=True)  # a process that hangs says where
import lightning, torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.fsdp import fully_shard
warnings.simplefilter("ignore")
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
generator = torch.Generator().manual_seed(0)
inputs, labels = torch.randn(32, 8, generator=generator), torch.randint(3, (32,), generator=generator)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=4)
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network, self.losses = network(), []
    def configure_model(self):
        if getattr(self, "device_mesh", None) is not None:
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])
    def training_step(self, batch, _):
        assert batch[0].device.type == DEVICE
        loss = nn.functional.cross_entropy(self.network(batch[0]).float(), batch[1])
        self.losses.append(self.all_gather(loss.detach()).mean().item())
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
def trained(strategy, precision="32-true", accelerator=None):
    model = Model()
    trainer = lightning.Trainer(
        accelerator=accelerator or DEVICE, devices=2, strategy=strategy, precision=precision, max_epochs=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(model, data)
    return model.losses
def by_fabric(strategy):
    fabric = lightning.Fabric(accelerator=DEVICE, devices=2, strategy=strategy)
    fabric.launch()
    model = fabric.setup_module(network())
    optimizer = fabric.setup_optimizers(torch.optim.SGD(model.parameters(), 0.1))
    losses = []
    for x, y in fabric.setup_dataloaders(data):
        assert x.device.type == DEVICE
        loss = nn.functional.cross_entropy(model(x), y)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(fabric.all_gather(loss.detach()).mean().item())
    return losses
DEVICE = sys.argv[1]
found = {"ddp": trained("ddp"), "fabric ddp": by_fabric("ddp")}
if DEVICE == "mps":
    found |= {
        "auto": trained("auto", accelerator="gpu"),
        "ddp bf16": trained("ddp", "bf16-mixed"),
        "ddp hook": trained(DDPStrategy(ddp_comm_hook=default_hooks.fp16_compress_hook)),
        "fsdp": trained("fsdp", accelerator="gpu"),
        "fsdp bf16": trained("fsdp", "bf16-mixed"),
        "fsdp 16": trained("fsdp", "16-mixed"),
        "fabric fsdp": by_fabric("fsdp"),
        "fsdp2": trained(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)),
    }
if torch.distributed.get_rank() == 0:
    print("LOSSES", json.dumps(found), flush=True)
torch.distributed.barrier()
os._exit(0)
"""


def losses_under_torchrun(script, device):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        device,
    ]
    environment = os.environ | {"PORTABLE_MPS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOSSES ")]
    assert done.returncode == 0 and len(lines) == 1, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("LOSSES "))


def test_strategies(tmp_path):
    pytest.importorskip("lightning", reason="lightning is not installed")
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    on_cpu, ours = (losses_under_torchrun(script, device) for device in ("cpu", "mps"))
    assert len(ours) == 10
    for way, losses in ours.items():
        expected = on_cpu["fabric ddp" if way.startswith("fabric") else "ddp"]
        assert losses == pytest.approx(expected, rel=2e-3 if "16" in way else 1e-5), way
