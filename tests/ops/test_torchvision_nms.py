"""torchvision's non-maximum suppression against torchvision on the CPU."""

import pytest
import torch
from support import assert_same, compare

pytest.importorskip("torchvision", reason="torchvision is not installed")
from torchvision.extension import _has_ops
from torchvision.ops import batched_nms, nms

pytestmark = pytest.mark.skipif(not _has_ops(), reason="torchvision is not built for this torch")


def boxes(n: int, size: float = 20.0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 4, generator=generator, dtype=dtype) * 50
    corners[:, 2:] = corners[:, :2] + torch.rand(n, 2, generator=generator, dtype=dtype) * size
    return corners, torch.rand(n, generator=generator, dtype=dtype)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 64, 100, 1000, 9000])
def test_counts(n):
    corners, scores = boxes(n)
    for threshold in (0.0, 0.3, 0.7, 1.0):
        compare(lambda b, s, t=threshold: nms(b, s, t), corners, scores)


def test_many_passes(monkeypatch):
    from portable_mps.ops import torchvision_nms

    monkeypatch.setattr(torchvision_nms, "_BYTES", 1)  # 32 rows of the table at a time
    compare(lambda b, s: nms(b, s, 0.4), *boxes(700))


def test_doubles_and_float16():
    compare(lambda b, s: nms(b, s, 0.4), *boxes(300, dtype=torch.float64))
    corners, scores = (t.half() for t in boxes(300))  # the CPU has no float16: as of the same numbers in float32
    order = scores.argsort(stable=True, descending=True)
    kept = nms(corners[order].float(), torch.arange(300, 0, -1.0), 0.4)
    assert_same(nms(corners.to("mps"), scores.to("mps"), 0.4), order[kept])


def test_equal_scores_and_boxes_keep_their_order():
    corners, scores = boxes(500)
    compare(lambda b, s: nms(b, s, 0.5), corners, (scores * 4).round())
    compare(lambda b, s: nms(b, s, 0.5), corners[:1].expand(70, 4), torch.ones(70))


@pytest.mark.parametrize("threshold", [0.5, 1 / 3, 0.1, 0.2, 0.7, -1.0, 2.0, float("nan"), float("inf")])
def test_pairs_at_the_threshold(threshold):
    # Overlaps of 1/2, 1/3, 1/10 and so on, which round to either side of the threshold's double.
    left = torch.arange(0, 11.0)
    corners = torch.stack([left, torch.zeros(11), left + 10, torch.ones(11)], 1)
    for scale in (1.0, 0.1, 1e-18, 1e18):
        compare(lambda b, s: nms(b, s, threshold), corners * scale, torch.arange(11.0))


def test_degenerate_boxes():
    nan, inf = float("nan"), float("inf")
    corners = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [5, 5, 1, 1], [5, 5, 1, 1], [0, 0, inf, inf], [0, 0, 2, inf],
                            [nan, 0, 3, 3], [0, 0, 3, nan], [0, 0, 3, 3], [0, 0, 3, 3]])  # fmt: skip
    for seed in range(4):
        scores = torch.rand(10, generator=torch.Generator().manual_seed(seed))
        compare(lambda b, s: nms(b, s, 0.5), corners, scores)


def test_strides():
    corners, scores = boxes(90)
    compare(
        lambda b, s: nms(b.T[1:5].T, s[::2], 0.5),
        torch.cat([scores[:, None], corners, scores[:, None]], 1)[:45],
        scores,
    )


@pytest.mark.parametrize("n", [50, 1500])  # the CPU goes class by class from 1001 boxes
def test_batched(n):
    corners, scores = boxes(n)
    classes = torch.arange(n) % 7
    compare(lambda b, s, c: batched_nms(b, s, c, 0.4), corners, scores, classes)


def test_autocast():
    corners, scores = boxes(200)
    with torch.autocast("mps", dtype=torch.float16):
        assert_same(nms(corners.to("mps"), scores.to("mps"), 0.4), nms(corners, scores, 0.4))


def test_errors():
    corners, scores = boxes(4)
    for arguments in ((corners[0], scores), (corners[:, :3], scores), (corners, scores[:, None]), (corners, scores[:3]),
                      (corners, scores.double()), (corners.int(), scores.int())):  # fmt: skip
        with pytest.raises((RuntimeError, NotImplementedError)) as expected:
            nms(*arguments, 0.5)
        with pytest.raises(expected.type):
            nms(*(t.to("mps") for t in arguments), 0.5)
    with pytest.raises(RuntimeError):
        nms(corners.to("mps"), scores, 0.5)
