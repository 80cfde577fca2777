"""Training by several processes against one with the same global batch. Run by test_training.py."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

BATCH, STEPS = 12, 6


class Branches(nn.Module):
    """Convolutions with two heads: both are used, unless a step asks for one."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3), norm(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head, self.rare = nn.Linear(54, 10), nn.Linear(54, 10)

    def forward(self, x, rare=None):
        features = self.features(x)
        if rare is None:
            return self.head(features) + self.rare(features)
        return (self.rare if rare else self.head)(features)


def network(device, norm=nn.GroupNorm):
    """norm: one that does not depend on how the batch is divided, unless another is asked for."""
    torch.manual_seed(0)
    return Branches((lambda n: nn.GroupNorm(2, n)) if norm is nn.GroupNorm else norm).to(device)


def losses(model, optimizer, device, rank=0, size=1, rare=None, parts=1):
    """Of each step, over the whole batch.

    rare: steps that use the rare head alone, where the others leave it out. parts: into how many a step's own share is
    divided, and accumulated.
    """
    generator, found = torch.Generator().manual_seed(1), []
    for step in range(STEPS):
        x, y = torch.randn(BATCH, 1, 8, 8, generator=generator), torch.randint(10, (BATCH,), generator=generator)
        share = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
        pieces = list(zip(x[share].to(device).chunk(parts), y[share].to(device).chunk(parts), strict=True))
        total = torch.zeros((), device=device)
        for place, (images, labels) in enumerate(pieces):
            last = place == len(pieces) - 1
            with torch.enable_grad() if last or size == 1 else model.no_sync():
                loss = (
                    nn.functional.cross_entropy(model(images, None if rare is None else step in rare).float(), labels)
                    / parts
                )
                loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        if size > 1:
            dist.all_reduce(total)
        found.append(total.item() / size)
    return found


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def wrapped(name, rank, size):
    """Losses of that way to train."""
    arguments = {"rank": rank, "size": size}
    model = network("mps", nn.SyncBatchNorm if name == "sync batch norm" else nn.GroupNorm)
    if name == "fsdp of before":
        model = FullyShardedDataParallel(model)
        return losses(model, adam(model.parameters()), "mps", **arguments)
    if name.startswith("fsdp"):
        mesh, more = init_device_mesh("mps", (size,)), {}
        if name == "fsdp, bfloat16":
            more["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if name == "fsdp, offloaded":
            more["offload_policy"] = CPUOffloadPolicy()
        for part in (model.head, model.rare, model):
            fully_shard(part, mesh=mesh, **more)
        return losses(model, adam(model.parameters()), "mps", **arguments)
    # Not where it is not needed: PowerSGD's callbacks communicate, and over gloo their order among other collectives is
    # not the same in all processes, on the CPU neither.
    options = {"find_unused_parameters": name == "unused parameters"}
    if name == "many buckets":
        options |= {"bucket_cap_mb": 0.001, "gradient_as_bucket_view": True}
    model = DistributedDataParallel(model, **options)
    match name:
        case "hook to bfloat16":
            model.register_comm_hook(None, default_hooks.bf16_compress_hook)
        case "hook to float16":
            model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        case "hook powersgd":
            state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=8, start_powerSGD_iter=2)
            model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        case "accumulated":
            arguments["parts"] = 2
        case "unused parameters":
            arguments["rare"] = (1, 4)
        case "sharded optimizer":
            optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
            return losses(model, optimizer, "mps", **arguments)
    return losses(model, adam(model.parameters()), "mps", **arguments)


def alone(name):
    """Losses of one process, on the CPU."""
    model = network("cpu", nn.BatchNorm2d if name == "sync batch norm" else nn.GroupNorm)
    return losses(model, adam(model.parameters()), "cpu", rare=(1, 4) if name == "unused parameters" else None)


# How far a loss may be from that of one process.
EXACT = ("plain", "many buckets", "sync batch norm", "accumulated", "unused parameters", "sharded optimizer")
WAYS = dict.fromkeys((*EXACT, "fsdp of before", "fsdp", "fsdp, offloaded"), 2e-4)
WAYS |= {"hook to bfloat16": 0.02, "hook to float16": 0.005, "hook powersgd": 0.1, "fsdp, bfloat16": 0.05}


def compare():
    """Print the ways whose losses are not those of one process, and how many are."""
    rank, size, count = dist.get_rank(), dist.get_world_size(), 0
    for name, tolerance in WAYS.items():
        ours, expected = wrapped(name, rank, size), alone(name)
        if all(abs(a - b) <= tolerance * b for a, b in zip(ours, expected, strict=True)):
            count += 1
        else:
            print(name, ours, expected, flush=True)
    print(count)
