"""A training step of an architecture of transformers, compiled, against eager."""

from __future__ import annotations

import os
import time
import warnings

import torch
from torch._dynamo.utils import counters


def step(name: str, dynamic: bool) -> tuple[float, float, int, float]:
    """(Difference of the loss, of the gradients, graph breaks, seconds of the first step)."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from models import compare, inputs
    from models.architectures import ARCHITECTURES

    model, config = compare.build(name)
    batch = compare._moved(getattr(inputs, ARCHITECTURES[name].kind)(config))
    compare._with_dropout(model)
    model.to("mps")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    loss, gradients = compare._gradients(model, batch)
    model.load_state_dict(state)
    torch._dynamo.reset()
    counters.clear()
    begin = time.perf_counter()
    compiled_loss, compiled = compare._gradients(torch.compile(model, dynamic=dynamic), batch)
    torch.mps.synchronize()
    seconds = time.perf_counter() - begin
    pairs = [(mine.cpu(), theirs.cpu()) for mine, theirs in zip(compiled, gradients, strict=True)]
    scale = max(float(theirs.abs().max()) for _, theirs in pairs)
    worst = max(float((mine - theirs).abs().max()) for mine, theirs in pairs) / scale
    difference = float((compiled_loss - loss).abs() / loss.abs())
    return difference, worst, sum(counters["graph_break"].values()), seconds
