"""A padded batch for each kind of architecture, on the CPU: what `model(**batch)` takes, labels included."""

from __future__ import annotations

from typing import Any

import torch

from models.architectures import WORDS

Batch = dict[str, Any]
LENGTH = 12
_SIZE = 32


def _words(seed: int, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, WORDS, (3, length), generator=torch.Generator().manual_seed(seed))


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def _padding(left: bool = False, length: int = LENGTH) -> torch.Tensor:
    """1 where there are words: all, two thirds, a quarter."""
    mask = (torch.arange(length) < torch.tensor([[length], [length * 2 // 3], [length // 4]])).long()
    return mask.flip(1) if left else mask


def masked(config: Any) -> Batch:
    words, mask = _words(0), _padding()
    return {"input_ids": words * mask, "attention_mask": mask, "labels": words.masked_fill(mask == 0, -100)}


def causal(config: Any) -> Batch:
    words, mask = _words(0), _padding(left=True)
    return {"input_ids": words * mask, "attention_mask": mask, "labels": words.masked_fill(mask == 0, -100)}


def seq2seq(config: Any) -> Batch:
    words, mask = _words(0), _padding()
    return {"input_ids": words * mask, "attention_mask": mask, "labels": _words(1, 6)}


def copied(config: Any) -> Batch:
    """For an architecture that takes the decoder's words from the encoder's."""
    batch = masked(config)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 3)}


def image(config: Any) -> Batch:
    size = getattr(config, "image_size", _SIZE)
    size = size if isinstance(size, int) and size <= 64 else _SIZE
    return {"pixel_values": _noise(3, 3, size, size), "labels": torch.tensor([0, 3, 1])}


def segmentation(config: Any) -> Batch:
    labels = torch.randint(0, 5, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    return {"pixel_values": _noise(3, 3, 64, 64), "labels": labels}


def detection(config: Any) -> Batch:
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.3, 0.4]])
    mask = torch.ones(2, 64, 64, dtype=torch.long)
    mask[1, 40:] = 0
    labels = [
        {"class_labels": torch.tensor([1, 2]), "boxes": boxes},
        {"class_labels": torch.tensor([0]), "boxes": boxes[:1]},
    ]
    return {"pixel_values": _noise(2, 3, 64, 64), "pixel_mask": mask, "labels": labels}


def autoencoder(config: Any) -> Batch:
    return {"pixel_values": _noise(3, 3, _SIZE, _SIZE), "noise": _noise(3, 16)}


def towers(config: Any) -> Batch:
    words, mask = _words(0), _padding()
    batch = {"input_ids": words * mask, "attention_mask": mask, "pixel_values": _noise(3, 3, _SIZE, _SIZE)}
    return batch | ({} if config.model_type == "blip" else {"return_loss": True})


def question(config: Any) -> Batch:
    words, mask = _words(0), _padding()
    batch = {"input_ids": words * mask, "attention_mask": mask, "pixel_values": _noise(3, 3, _SIZE, _SIZE)}
    return batch | {"labels": torch.rand(3, 5, generator=torch.Generator().manual_seed(0))}


def sound(config: Any) -> Batch:
    return {"input_features": _noise(3, 8, 40), "labels": _words(1, 6)}


def speech(config: Any) -> Batch:
    mask = _padding(length=400)
    labels = _words(1, 3)
    return {"input_values": _noise(3, 400) * mask, "attention_mask": mask, "labels": labels}


def spectrogram(config: Any) -> Batch:
    return {"input_values": _noise(3, 24, 16), "labels": torch.tensor([0, 3, 1])}
