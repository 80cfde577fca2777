"""Connectionist temporal classification against torch on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from support import assert_same, compare
from torch.fx.experimental.proxy_tensor import make_fx

STEPS, BATCH, CLASSES = 12, 5, 6
INPUT_LENGTHS = (12, 10, 7, 0, 6)
TARGET_LENGTHS = (5, 3, 0, 2, 5)


def sample(classes: int = CLASSES, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, BATCH, classes, generator=generator).to(dtype).log_softmax(2)


def targets(*shape: int, classes: int = CLASSES) -> torch.Tensor:
    return torch.randint(1, classes, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("padded", [False, True])
def test_lengths(padded, reduction, zero_infinity):
    labels = targets(BATCH, 5) if padded else targets(sum(TARGET_LENGTHS))
    compare(
        lambda x, t: F.ctc_loss(x, t, INPUT_LENGTHS, TARGET_LENGTHS, reduction=reduction, zero_infinity=zero_infinity),
        sample(),
        labels,
        grad=True,
        rtol=1e-5,
    )


@pytest.mark.parametrize("classes", [2, 200])
def test_classes_repeated_labels_and_another_blank(classes):
    full = (STEPS,) * BATCH
    for labels in (targets(BATCH, 4, classes=classes), torch.ones(BATCH, 4, dtype=torch.int32)):
        compare(lambda x, t: F.ctc_loss(x, t, full, (4,) * BATCH), sample(classes), labels, grad=True, rtol=1e-5)
    zeros = torch.zeros(BATCH, 3, dtype=torch.int64)
    compare(lambda x, t: F.ctc_loss(x, t, full, (3,) * BATCH, blank=1), sample(classes), zeros, grad=True, rtol=1e-5)


def test_lengths_on_the_device_and_one_sample():
    lengths = torch.tensor(INPUT_LENGTHS), torch.tensor(TARGET_LENGTHS)
    compare(
        lambda x, t, i, n: F.ctc_loss(x, t, i, n, zero_infinity=True), sample(), targets(BATCH, 5), *lengths, rtol=1e-5
    )
    compare(lambda x, t: F.ctc_loss(x, t, (STEPS,), (3,)), sample()[:, 0], targets(3), grad=True, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_transforms_take_lengths_on_the_cpu(reduction):
    lengths = torch.tensor(INPUT_LENGTHS), torch.tensor(TARGET_LENGTHS)

    def loss(x, t):
        return F.ctc_loss(x, t, *lengths, reduction=reduction, zero_infinity=True)

    compare(torch.func.grad(loss), sample(), targets(BATCH, 5), rtol=1e-5)
    x, t = sample().to("mps"), targets(BATCH, 5).to("mps")
    assert_same(make_fx(loss)(x, t)(x, t), loss(x.cpu(), t.cpu()))


def test_more_states_than_threads():
    x = torch.randn(90, 1, 4, generator=torch.Generator().manual_seed(1)).log_softmax(2)
    compare(lambda x, t: F.ctc_loss(x, t, (90,), (40,)), x, targets(1, 40, classes=4), grad=True, rtol=1e-4, atol=1e-4)


def test_errors():
    x, labels, full = sample().to("mps"), targets(BATCH, 5).to("mps"), (STEPS,) * BATCH
    with pytest.raises(RuntimeError, match="blank"):
        F.ctc_loss(x, labels, full, TARGET_LENGTHS, blank=CLASSES)
    with pytest.raises(RuntimeError, match="input_lengths"):
        F.ctc_loss(x, labels, (STEPS + 1,) * BATCH, TARGET_LENGTHS)
    with pytest.raises(RuntimeError, match="targets"):
        F.ctc_loss(x, labels, full, (6,) * BATCH)
    with pytest.raises(NotImplementedError):
        F.ctc_loss(x.half(), labels, full, TARGET_LENGTHS)
    F.ctc_loss(x, labels.fill_(CLASSES), full, TARGET_LENGTHS)
    with pytest.raises(IndexError, match=f"target {CLASSES} is out of bounds"):
        torch.mps.synchronize()
