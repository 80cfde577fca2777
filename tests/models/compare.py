"""One architecture on the device against the CPU: evaluation, training, generation with a cache.

Everything is compared in float32 with the same weights. In training, every dropout is active with a probability of
1e-9, so that attention takes the path that it takes with dropout while no element falls out.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map

from models import inputs
from models.architectures import ARCHITECTURES

DROPOUT = 1e-9
LIMIT = 1e-3  # of the largest difference over the largest value


class Report(NamedTuple):
    """The largest relative differences; None for what the architecture does not have."""

    evaluation: float
    loss: float | None
    gradients: float | None
    chunks: float | None
    tokens: bool | None

    @property
    def right(self) -> bool:
        differences = (self.evaluation, self.loss, self.gradients, self.chunks)
        return all(d is None or d <= LIMIT for d in differences) and self.tokens is not False


def _moved(value: Any) -> Any:
    return tree_map(lambda v: v.to("mps") if isinstance(v, torch.Tensor) else v, value)


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def _difference(mine: Any, theirs: Any) -> float:
    """The largest over the tensors of two nests, relative to each tensor's largest value."""
    worst = 0.0
    pairs = zip(tree_flatten(mine)[0], tree_flatten(theirs)[0], strict=True)
    for have, want in pairs:
        if not isinstance(want, torch.Tensor) or not want.is_floating_point() or want.numel() == 0:
            continue
        have = have.detach().cpu()
        assert have.shape == want.shape, f"{have.shape} where the CPU has {want.shape}"
        finite = want.isfinite()
        assert torch.equal(have[~finite].nan_to_num(), want[~finite].nan_to_num()), "not finite elsewhere"
        scale = want[finite].abs().max().clamp(min=1e-6) if finite.any() else 1.0
        worst = max(worst, float(((have - want)[finite].abs().max() if finite.any() else torch.zeros(())) / scale))
    return worst


def build(name: str) -> tuple[torch.nn.Module, Any]:
    """The model of an architecture on the CPU, in evaluation mode, and its configuration."""
    import transformers

    row = ARCHITECTURES[name]
    config = getattr(transformers, row.config)(**copy.deepcopy(row.options))
    torch.manual_seed(0)
    return getattr(transformers, row.model)(config).eval(), config


def _with_dropout(model: torch.nn.Module) -> None:
    """Every dropout of the model, modules and numbers that functions are called with, at DROPOUT."""
    for module in model.modules():
        for owner in (module, getattr(module, "config", None)):
            for key, value in vars(owner).items() if owner is not None else ():
                if "drop" in key and isinstance(value, float):
                    setattr(owner, key, 0.0 if "layer" in key else DROPOUT)  # whole layers would be drawn
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT


def _outputs(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The loss and all other tensors."""
    _seed()
    result = model(**batch)
    rest = [v for k, v in result.items() if k != "loss" and "past" not in k and "cache" not in k]
    return result.get("loss"), [t for t in tree_flatten(rest)[0] if isinstance(t, torch.Tensor)]


def _at_words(outputs: list[torch.Tensor], batch: dict[str, Any]) -> list[torch.Tensor]:
    """Without the rows of padded words, which attend to nothing where padding is on the left."""
    mask = batch.get("attention_mask")
    if mask is None:
        return outputs
    return [t[mask.bool()] if t.dim() > 1 and t.shape[:2] == mask.shape else t for t in outputs]


def _gradients(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.train()
    model.zero_grad()
    loss, outputs = _outputs(model, batch)
    if loss is None:
        loss = sum(t.float().square().mean() for t in _at_words(outputs, batch) if t.requires_grad)
    loss.backward()
    return loss, [p.grad for p in model.parameters() if p.grad is not None and p.numel()]


def _chunks(model: torch.nn.Module, batch: dict[str, Any]) -> list[torch.Tensor]:
    """The outputs for a prompt in three pieces over a cache."""
    words, mask = batch["input_ids"], batch["attention_mask"]
    cache, outputs = None, []
    for start, end in ((0, 5), (5, 8), (8, inputs.LENGTH)):
        result = model(
            input_ids=words[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True
        )
        cache = result.past_key_values
        outputs.append(result.logits[mask[:, start:end].bool()])
    return outputs


def _both(function: Callable[..., Any], pair: tuple[torch.nn.Module, torch.nn.Module], batch: Any) -> tuple[Any, Any]:
    theirs, mine = pair
    return function(mine, _moved(batch)), function(theirs, batch)


def run(name: str) -> Report:
    """Compare one architecture; what either device raises is raised."""
    model, config = build(name)
    batch = getattr(inputs, ARCHITECTURES[name].kind)(config)
    pair = (model, copy.deepcopy(model).to("mps"))
    chunks = tokens = None
    with torch.no_grad():
        mine, theirs = _both(lambda m, b: _at_words(_outputs(m, b)[1], b), pair, batch)
        assert max(float(t.abs().max()) for t in theirs if t.is_floating_point()) > 1e-4, "nothing to compare"
        evaluation = _difference(mine, theirs)
        if ARCHITECTURES[name].kind == "causal" and _takes_chunks(name):
            chunks = _difference(*_both(_chunks, pair, batch))
        if ARCHITECTURES[name].kind in ("causal", "seq2seq", "copied", "sound") and model.can_generate():
            mine, theirs = _both(_generated, pair, {k: v for k, v in batch.items() if k != "labels"})
            tokens = mine.cpu().tolist() == theirs.tolist()
    for each in pair:
        _with_dropout(each)
    (my_loss, mine), (their_loss, theirs) = _both(_gradients, pair, batch)
    gradients = _apart(mine, theirs)
    if gradients > LIMIT:  # which may be the CPU's own: both are held to the CPU in float64
        exact = _gradients(model.double(), tree_map(_doubled, batch))[1]
        gradients = max(0.0, _apart(mine, exact) - 3 * _apart(theirs, exact))
    return Report(evaluation, _difference(my_loss, their_loss.detach()), gradients, chunks, tokens)


def _apart(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference of gradients over each one's largest value.

    Those that should be 0, as of a bias before a normalisation, are rounding alone: the largest of all measures them.
    """
    largest = max(float(g.abs().max()) for g in theirs)
    return max(
        float((a.cpu().double() - b.double()).abs().max()) / max(float(b.abs().max()), largest * 1e-3)
        for a, b in zip(mine, theirs, strict=True)
    )


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _generated(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    _seed()
    return model.generate(**batch, max_new_tokens=6, do_sample=False)


# Caches of another kind than keys and values, which take a word at a time.
_NO_CHUNKS = ("Mamba", "Mamba 2", "Falcon Mamba", "RWKV", "RecurrentGemma", "XLNet", "CTRL", "GPT-1")


def _takes_chunks(name: str) -> bool:
    return name not in _NO_CHUNKS
