"""Models that are not transformers': a diffusion model's U-Net and a language model of LSTMs. Each returns its loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Built = tuple[nn.Module, dict[str, torch.Tensor]]


class _Block(nn.Module):
    """Two convolutions around a step's embedding, and a way past them."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(4, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.step = nn.Linear(embedding, out)
        self.second_norm, self.second = nn.GroupNorm(4, out), nn.Conv2d(out, out, 3, padding=1)
        self.past = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        inner = self.first(F.silu(self.first_norm(x))) + self.step(F.silu(step))[:, :, None, None]
        return self.past(x) + self.second(F.silu(self.second_norm(inner)))


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(4, channels)
        self.inward, self.outward = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.inward(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4)
        attended = F.scaled_dot_product_attention(parts[:, 0], parts[:, 1], parts[:, 2])
        return x + self.outward(attended.transpose(2, 3).reshape(x.shape))


class UNet(nn.Module):
    """Ho et al., "Denoising Diffusion Probabilistic Models", 2020: image (batch, 3, height, width), its noise, and
    steps (batch,) of 1,000; the squared error of the predicted noise."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = _Block(width, width, 4 * width)
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.low, self.attention = _Block(width, 2 * width, 4 * width), _Attention(2 * width, 4)
        self.middle = _Block(2 * width, 2 * width, 4 * width)
        self.up = _Block(3 * width, width, 4 * width)
        self.norm, self.last = nn.GroupNorm(4, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        remaining = torch.cos(steps / 1000 * math.pi / 2)[:, None, None, None]
        noisy = remaining * image + (1 - remaining**2).sqrt() * noise
        rates = torch.exp(-math.log(10000) * torch.arange(self.width // 2, device=steps.device) / (self.width // 2))
        angles = steps[:, None] * rates
        step = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        high = self.down(self.first(noisy), step)
        low = self.middle(self.attention(self.low(self.shrink(high), step)), step)
        joined = torch.cat([F.interpolate(low, scale_factor=2.0, mode="nearest"), high], 1)
        return F.mse_loss(self.last(F.silu(self.norm(self.up(joined, step)))), noise)


class Language(nn.Module):
    """Words (batch, length): the cross entropy of each next one."""

    def __init__(self, vocabulary: int = 100, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.layers(self.embedding(words[:, :-1]))
        return F.cross_entropy(self.head(hidden).flatten(0, 1), words[:, 1:].flatten())


def _unet() -> Built:
    image, noise = torch.randn(2, 2, 3, 16, 16)
    return UNet(), {"image": image, "noise": noise, "steps": torch.tensor([10.0, 700.0])}


def _language() -> Built:
    return Language(), {"words": torch.randint(100, (3, 12))}


MODELS: dict[str, Callable[[], Built]] = {"diffusion U-Net": _unet, "LSTM": _language}


def gradients(model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch)
    loss.backward()
    return loss, [p.grad for p in model.parameters() if p.grad is not None]
