"""A few of the architectures, one of each kind; `make models` runs all."""

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")
from models.architectures import ARCHITECTURES
from models.compare import run

FEW = ("BERT", "GPT-2", "Llama", "Gemma 2", "T5", "ViT", "CLIP", "Wav2Vec2")


@pytest.mark.parametrize("name", FEW)
def test_agrees_with_the_cpu(name):
    report = run(name)
    assert report.right, report


def test_every_kind_has_a_batch():
    from models import inputs

    for name, row in ARCHITECTURES.items():
        assert callable(getattr(inputs, row.kind)), name
