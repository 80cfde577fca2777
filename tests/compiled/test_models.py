"""A training step of a model, compiled, against eager; `make compiled` has transformers' architectures."""

import pytest

from compiled.models import MODELS
from compiled.step import step


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_step(name, dynamic):
    loss, gradients, breaks, _ = step(name, dynamic)
    assert loss <= 1e-5 and gradients <= 1e-4 and breaks == 0
