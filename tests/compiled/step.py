"""A training step of a model, compiled, against eager."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.utils import counters

from compiled.models import MODELS, gradients


def _built(name: str) -> tuple[torch.nn.Module, dict[str, Any], Callable[..., Any]]:
    """A model, its batch on the device, and what gives the loss and the gradients."""
    if name in MODELS:
        torch.manual_seed(0)
        model, batch = MODELS[name]()
        return model, {key: value.to("mps") for key, value in batch.items()}, gradients
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from models import compare, inputs
    from models.architectures import ARCHITECTURES

    model, config = compare.build(name)
    batch = compare._moved(getattr(inputs, ARCHITECTURES[name].kind)(config))
    compare._with_dropout(model)
    return model, batch, compare._gradients


def step(name: str, dynamic: bool) -> tuple[float, float, int, float]:
    """(Difference of the loss, of the gradients, graph breaks, seconds of the first step)."""
    warnings.simplefilter("ignore")
    model, batch, gradients_of = _built(name)
    model.to("mps")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    loss, known = gradients_of(model, batch)
    model.load_state_dict(state)
    torch._dynamo.reset()
    counters.clear()
    begin = time.perf_counter()
    with torch._dynamo.config.patch(allow_rnn=True):  # else Dynamo leaves what has recurrent layers alone
        compiled_loss, compiled = gradients_of(torch.compile(model, dynamic=dynamic), batch)
    torch.mps.synchronize()
    seconds = time.perf_counter() - begin
    pairs = [(mine.cpu(), theirs.cpu()) for mine, theirs in zip(compiled, known, strict=True)]
    scale = max(float(theirs.abs().max()) for _, theirs in pairs)
    worst = max(float((mine - theirs).abs().max()) for mine, theirs in pairs) / scale
    difference = float((compiled_loss - loss).abs() / loss.abs())
    return difference, worst, sum(counters["graph_break"].values()), seconds
