"""What most programs launch, asked for on an adapter that need not be there: kernels that do nothing stand for its own.

python scripts/ship_workloads.py CARD, with PORTABLE_MPS_COLLECT: the sources are what is wanted (scripts/ship.py).
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from dry import pretend
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

_HALVES = ("f16", "bf16")
_MATRICES = tuple((16, 16, 16, kind, "f32") for kind in _HALVES)
_DISCRETE = {"kind": "discrete GPU", "max_push_constants": 256, "max_workgroup": 1024}
# What decides about a kernel's text (runtime.adapter.Adapter), beside what the software driver has.
CARDS: dict[str, dict[str, Any]] = {
    "software": {},
    "nvidia": _DISCRETE
    | {
        "driver": "NVIDIA",
        "cores": 132,
        "subgroup_size": 32,
        "max_shared_memory": 48 << 10,
        "registers": 255,
        "coop_matrices": _MATRICES,
        "workgroup_matrices": {(kind, "f32", threads): (16, 16, 16) for kind in _HALVES for threads in (128, 256)},
    },
    "amd": _DISCRETE
    | {
        "cores": 96,
        "subgroup_size": 64,
        "max_shared_memory": 64 << 10,
        "registers": 224,
        "coop_matrices": _MATRICES,
        "spread": 16,
    },
    "intel": _DISCRETE | {"cores": 32, "subgroup_size": 32, "max_shared_memory": 64 << 10, "registers": 64},
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor], dtype: Any) -> None:
    """Two steps, under autocast where a half type is asked for, and one of inference."""
    for _ in range(2):
        with torch.autocast("mps", dtype=dtype, enabled=dtype != torch.float32):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value.item()
    model.eval()
    with torch.no_grad(), torch.autocast("mps", dtype=dtype, enabled=dtype != torch.float32):
        loss()
    model.train()


def networks() -> Iterator[tuple[str, nn.Module, Callable[[], torch.Tensor]]]:
    """Models with a loss on data of their own."""
    labels = torch.zeros(64, dtype=torch.int64, device="mps")

    def classifying(model: nn.Module, *shape: int) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
        images = torch.empty(64, *shape, device="mps")
        model = model.to("mps")
        return model, lambda: F.cross_entropy(model(images), labels)

    layers = (nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 10))
    yield "perceptron", *classifying(nn.Sequential(*layers), 1, 28, 28)
    layers = (nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25))
    head = (nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10), nn.LogSoftmax(1))
    yield "convolutions", *classifying(nn.Sequential(*layers, *head), 1, 28, 28)

    def block(inner: int, outer: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(inplace=True),
            nn.Conv2d(outer, outer, 1, bias=False),
            nn.GroupNorm(4, outer),
            nn.SiLU(),
        ]

    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    stages = [layer for size, stride in ((64, 1), (128, 2), (256, 2)) for layer in block(size // stride, size, stride)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)]
    yield "images", *classifying(nn.Sequential(*stem, *stages, *head), 3, 64, 64)
    layer = nn.TransformerEncoderLayer(256, 4, batch_first=True, dropout=0.1)
    layers = (nn.Linear(32, 256), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten())
    yield "encoder", *classifying(nn.Sequential(*layers, nn.Linear(256 * 16, 10)), 16, 32)


def optimizers(model: nn.Module) -> Iterator[torch.optim.Optimizer]:
    parameters = list(model.parameters())
    yield torch.optim.SGD(parameters, lr=0.1)
    yield torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    yield torch.optim.Adam(parameters)
    yield torch.optim.AdamW(parameters)


def models() -> None:
    """Those of benchmarks/training.py that transformers builds, and its ViT and ResNet-50; tiles follow the batch."""
    import transformers as t
    from training import bert, gpt2

    images, labels = torch.empty(128, 3, 224, 224, device="mps"), torch.zeros(128, dtype=torch.int64, device="mps")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for build, batch, length in ((bert, 32, 128), (gpt2, 8, 1024)):
            workload = build("mps", batch, length)
            train(workload.model, workload.optimizer, lambda w=workload: w.loss(w.model, *w.data), dtype)
            if build is gpt2:
                with torch.no_grad():
                    workload.model.to(dtype).generate(workload.data[0][:1, :8], max_new_tokens=4, pad_token_id=0)
        for made in (t.ViTForImageClassification(t.ViTConfig()), t.ResNetForImageClassification(t.ResNetConfig())):
            model = made.to("mps")
            optimizer = torch.optim.AdamW(model.parameters())
            for batch in (32, 64, 128):
                of_batch = {"pixel_values": images[:batch], "labels": labels[:batch]}
                train(model, optimizer, lambda m=model, b=of_batch: m(**b).loss, dtype)


def operators() -> None:
    """What scripts call beside their models, for the dtypes that they have."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32):
        x = torch.empty(64, 48, dtype=dtype, device="mps")
        y, scalar = x.clone(), torch.empty((), dtype=dtype, device="mps")
        for other in (y, y[0], y[:, :1], scalar, 2):
            _ = x + other, x - other, x * other, x / other, x == other, x < other, x > other, x >= other, x <= other
        _ = -x, x.abs(), x**2, x.sum(), x.sum(1), x.max(), x.min(), x.argmax(1), x.max(1), x.sort(1), x.topk(3)
        _ = x.cumsum(1), x.t().contiguous(), torch.cat([x, y]), torch.stack([x, y]), torch.where(x > 0, x, y), x[x > 0]
        _ = x[torch.zeros(3, dtype=torch.int64, device="mps")], x.gather(1, torch.zeros_like(x, dtype=torch.int64))
        _ = x.float(), x.half(), x.to(torch.bfloat16), x.long(), x.int()
        _ = x.bool(), x.tolist(), (x > 0).any(), x.unique()
        _ = torch.arange(5, dtype=dtype, device="mps"), torch.ones(5, dtype=dtype, device="mps"), x.clamp(0, 1)
        if dtype.is_floating_point:
            _ = x.exp(), x.log(), x.sqrt(), x.rsqrt(), x.sin()
            _ = x.cos(), x.tanh(), x.sigmoid(), x.pow(0.5), x.reciprocal()
            _ = x.mean(), x.mean(1), x.std(), x.var(1), x.norm()
            _ = x.softmax(1), x.log_softmax(1), x.isnan(), x.isfinite()
            _ = F.relu(x), F.gelu(x), F.silu(x), F.softplus(x), F.leaky_relu(x), F.mse_loss(x, y), F.l1_loss(x, y)
            _ = torch.rand(5, dtype=dtype, device="mps"), torch.randn(5, dtype=dtype, device="mps"), F.dropout(x)
            _ = x @ y.t(), x @ y[0], torch.bmm(x[None], y.t()[None]), torch.einsum("ij,kj->ik", x, y), x.lerp(y, 0.5)


def sampling() -> None:
    """Rows picked at random, noise, predictions, and text by its next token."""
    data, images = torch.empty(1000, dtype=torch.uint8, device="mps"), torch.empty(100, 3, 8, 8, device="mps")
    labels = torch.zeros(100, dtype=torch.int64, device="mps")
    starts = torch.randint(900, (8, 1), device="mps")
    _ = data[starts + torch.arange(9, device="mps")].long(), data.long()[starts + torch.arange(9, device="mps")]
    for rows in torch.randperm(100, device="mps").split(32):
        _ = images[rows], labels[rows], images.view(100, -1)[rows]
    _ = torch.rand(3, 4, device="mps"), torch.randn(3, 4, device="mps")
    _ = torch.bernoulli(images), torch.randn_like(images)
    images.uniform_(-1, 1), images.normal_(0, 0.02), nn.init.kaiming_uniform_(images), nn.init.trunc_normal_(images)
    scores = torch.empty(100, 10, device="mps")
    right = scores.argmax(1) == labels
    _ = right.sum().item(), right.float().mean().item(), (~right).any().item(), right.int().argsort(stable=True)
    chances = scores.softmax(-1)
    _ = torch.multinomial(chances, 1), torch.multinomial(chances[:1], 1)
    _ = chances.topk(5), chances.gather(1, labels[:, None])
    _ = scores.sort(descending=True), scores.masked_fill(scores < 0, -torch.inf), F.one_hot(labels, 10)


def attention() -> None:
    """Widths and lengths of heads, with the masks that models have: a training step, and one query as in decoding."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for width in (32, 64, 80, 96, 128):
            for length in (32, 256, 1024):
                for more in ({}, {"is_causal": True}, {"attn_mask": torch.empty(length, length, dtype=torch.bool)}):
                    given = {k: v.to("mps") if isinstance(v, torch.Tensor) else v for k, v in more.items()}
                    q, k, v = (torch.empty(2, 4, length, width, dtype=dtype, device="mps") for _ in range(3))
                    q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
                    F.scaled_dot_product_attention(q, k, v, **given).sum().backward()
                with torch.no_grad():
                    F.scaled_dot_product_attention(q[:, :, :1], k, v)


def main() -> None:
    warnings.simplefilter("ignore")
    pretend(lambda real: dataclasses.replace(real, **CARDS[sys.argv[1]]))
    operators()
    sampling()
    attention()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, model, loss in networks():
            for optimizer in optimizers(model):
                train(model, optimizer, loss, dtype)
            print(sys.argv[1], name, dtype, flush=True)
    models()


if __name__ == "__main__":
    main()
