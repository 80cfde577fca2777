"""torchvision's pooling of regions of interest against torchvision on the CPU."""

import pytest
import torch
from support import assert_same, compare

pytest.importorskip("torchvision", reason="torchvision is not installed")
from torchvision import ops
from torchvision.extension import _has_ops

pytestmark = pytest.mark.skipif(not _has_ops(), reason="torchvision is not built for this torch")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
POOLS = {
    "align": lambda x, r, **o: ops.roi_align(x, r, (3, 2), **o),
    "pool": lambda x, r, **o: ops.roi_pool(x, r, (3, 2), **o),
    "ps_align": lambda x, r, **o: ops.ps_roi_align(x, r, (3, 2), **o),
    "ps_pool": lambda x, r, **o: ops.ps_roi_pool(x, r, (3, 2), **o),
}
OPTIONS = [
    ("align", {"sampling_ratio": ratio, "aligned": aligned}) for ratio in (-1, 0, 1, 2, 5) for aligned in (False, True)
] + [("ps_align", {"sampling_ratio": ratio}) for ratio in (-1, 1, 3)] + [("pool", {}), ("ps_pool", {})]  # fmt: skip


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def regions(n: int = 12, batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Inside, across the edge, outside, inverted and of no size."""
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(n, 4, generator=generator, dtype=dtype) * 30 - 8
    corners[: n // 2, 2:] = corners[: n // 2, :2] + torch.rand(n // 2, 2, generator=generator, dtype=dtype) * 20
    corners[-1, 2:] = corners[-1, :2]
    sample = torch.randint(batch, (n, 1), generator=generator).to(dtype)
    return torch.cat([sample, corners], 1)


@pytest.mark.parametrize("kind,options", OPTIONS)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_values_and_gradients(kind, options, scale):
    rois = regions()
    if kind == "align" and options["sampling_ratio"] <= 0 and options["aligned"]:
        # Where a region is inverted along one axis, the CPU fails to allocate a negative number of samples.
        rois[:, 1:] = torch.cat([rois[:, 1:3].minimum(rois[:, 3:]), rois[:, 1:3].maximum(rois[:, 3:])], 1)

    def function(x):
        return POOLS[kind](x, rois.to(x.device), spatial_scale=scale, **options)

    compare(function, image(2, 12, 14, 17), grad=True, **CLOSE)


@pytest.mark.parametrize("kind", POOLS)
def test_doubles_exactly(kind):
    rois = regions(dtype=torch.float64)
    x = image(2, 12, 9, 11, dtype=torch.float64)
    compare(lambda x: POOLS[kind](x, rois.to(x.device), spatial_scale=0.8), x, grad=True, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", POOLS)
def test_float16_is_computed_in_float32(kind):
    x, rois = image(2, 12, 14, 17).half(), regions().half()
    wide = x.float().requires_grad_()
    expected = POOLS[kind](wide, rois.float(), spatial_scale=0.5)
    expected.nan_to_num().sum().backward()
    mine = x.to("mps").requires_grad_()
    pooled = POOLS[kind](mine, rois.to("mps"), spatial_scale=0.5)
    assert_same(pooled, expected.half())
    pooled.nan_to_num().sum().backward()
    assert_same(mine.grad, wide.grad.half())


@pytest.mark.parametrize("kind", POOLS)
def test_layouts_and_empty_ones(kind):
    pool = POOLS[kind]
    rois = regions()
    compare(
        lambda x, r: pool(x.permute(0, 3, 1, 2), r.T[:5].T), image(2, 14, 17, 12), torch.cat([rois, rois], 1), **CLOSE
    )
    compare(lambda x, r: pool(x, r[:0]), image(2, 12, 5, 5), rois)
    compare(lambda x, r: pool(x[:, :0], r), image(2, 12, 5, 5), rois)
    expanded = image(12, 12, 3, 2)[:, :, :1].expand(12, 12, 3, 2)
    x = image(2, 12, 14, 17)
    mine, theirs = x.to("mps").requires_grad_(), x.requires_grad_()
    for leaf, r in ((mine, rois.to("mps")), (theirs, rois)):
        pooled = pool(leaf, r)
        pooled.backward(expanded[:, : pooled.size(1)].to(leaf.device))
    assert_same(mine.grad, theirs.grad, **CLOSE)


def test_lists_of_boxes_and_modules():
    boxes = [torch.tensor([[0.0, 0, 5, 5], [2, 3, 9, 8]]), torch.tensor([[1.0, 1, 4, 4]])]
    for module in (ops.RoIAlign(4, 0.5, 2), ops.RoIPool(4, 0.5), ops.MultiScaleRoIAlign(["a"], 4, 2)):
        multi = isinstance(module, ops.MultiScaleRoIAlign)
        compare(
            lambda x, b, m=module, w=multi: m({"a": x}, b, [(16, 16)] * 2) if w else m(x, b), image(2, 3, 8, 8), boxes
        )


def test_regions_that_are_no_numbers_touch_nothing():
    nan, inf = float("nan"), float("inf")
    rois = torch.tensor([[0, nan, 0, 4, 4], [0, 0, nan, 4, 4], [0, 1, 1, nan, 4], [0, -inf, 0, -inf, 4]]).to("mps")
    x = image(1, 12, 6, 6).to("mps").requires_grad_()
    for kind, options in (
        ("align", {"sampling_ratio": 2}),
        ("ps_align", {"sampling_ratio": 2}),
        ("pool", {}),
        ("ps_pool", {}),
    ):
        POOLS[kind](x, rois, **options).sum().backward()
    torch.mps.synchronize()
    assert_same(ops.roi_align(x, rois[:3], 2, sampling_ratio=2)[:2], torch.zeros(2, 12, 2, 2))


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("sample", [-1.0, 2.0, 1e30, float("nan")])
def test_a_region_of_no_sample_raises(kind, sample):
    rois = torch.tensor([[sample, 0.0, 0.0, 4.0, 4.0]]).to("mps")
    x = image(2, 12, 6, 6).to("mps").requires_grad_()
    pooled = POOLS[kind](x, rois)
    with pytest.raises(IndexError, match=r"sample .* is out of bounds"):
        torch.mps.synchronize()
    pooled.sum().backward()
    with pytest.raises(IndexError, match=r"sample .* is out of bounds"):
        torch.mps.synchronize()
    assert x.grad.abs().sum().item() == 0


def test_a_wrong_argmax_raises():
    rois = torch.tensor([[0.0, 0, 0, 4, 4]]).to("mps")
    grad, argmax = torch.ones(1, 1, 1, 1, device="mps"), torch.full((1, 1, 1, 1), 99, dtype=torch.int32, device="mps")
    torch.ops.torchvision._roi_pool_backward(grad, rois, argmax, 1.0, 1, 1, 1, 1, 5, 5)
    with pytest.raises(IndexError, match="99 of a maximum is out of bounds"):
        torch.mps.synchronize()


def test_autocast():
    x, rois = image(2, 12, 14, 17), regions()
    for kind, pool in POOLS.items():
        expected = pool(x.half().float(), rois)
        with torch.autocast("mps", dtype=torch.float16):
            pooled = pool(x.half().to("mps"), rois.to("mps"))
        assert pooled.dtype == torch.float16, kind
        assert_same(pooled, expected.half())


def test_determinism_is_asked_for():
    x = image(2, 12, 8, 8).to("mps").requires_grad_()
    pooled = ops.roi_pool(x, regions().to("mps"), 2)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            pooled.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"])
def test_errors(name):
    x, rois = image(2, 12, 6, 6), regions()
    more = {"roi_align": (1, False), "ps_roi_align": (1,)}.get(name, ())
    operator = getattr(torch.ops.torchvision, name)
    cases = [(x, rois.double(), (2, 2)), (x.int(), rois.int(), (2, 2)), (x.bfloat16(), rois.bfloat16(), (2, 2))]
    if name != "roi_pool":  # which does not look
        cases.append((x, rois[:, :4], (2, 2)))
    if name.startswith("ps"):
        cases.append((x, rois, (5, 2)))
    for image_, regions_, size in cases:
        with pytest.raises((RuntimeError, NotImplementedError)) as expected:
            operator(image_, regions_, 1.0, *size, *more)
        with pytest.raises(expected.type):
            operator(image_.to("mps"), regions_.to("mps"), 1.0, *size, *more)
    with pytest.raises(RuntimeError):
        operator(x.to("mps"), rois, 1.0, 2, 2, *more)
