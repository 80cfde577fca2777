"""torchvision's deformable convolution against torchvision on the CPU."""

import pytest
import torch
from support import assert_same, compare

pytest.importorskip("torchvision", reason="torchvision is not installed")
from torchvision.extension import _has_ops
from torchvision.ops import DeformConv2d, deform_conv2d

pytestmark = pytest.mark.skipif(not _has_ops(), reason="torchvision is not built for this torch")

CLOSE = {"rtol": 1e-4, "atol": 2e-4}


def case(
    groups: int = 1,
    offset_groups: int = 1,
    kernel: tuple[int, int] = (3, 2),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 0),
    dilation: tuple[int, int] = (1, 1),
    batch: int = 2,
    reach: float = 1.5,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, tuple[int, int]], list[torch.Tensor]]:
    """The keywords, and input, offset, weight, bias and mask."""
    generator = torch.Generator().manual_seed(3)

    def sample(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    size = (9, 8)
    out = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    taps = kernel[0] * kernel[1]
    tensors = [
        sample(batch, 12, *size),
        sample(batch, 2 * offset_groups * taps, *out) * reach,
        sample(6, 12 // groups, *kernel),
        sample(6),
        sample(batch, offset_groups * taps, *out),
    ]
    return {"stride": stride, "padding": padding, "dilation": dilation}, tensors


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": 3, "offset_groups": 2},
        {"groups": 2, "offset_groups": 12, "stride": (2, 3), "padding": (2, 1)},
        {"dilation": (2, 1), "kernel": (1, 1), "padding": (0, 0)},
        {"dilation": (3, 2), "padding": (3, 2), "offset_groups": 4},
        {"reach": 20.0},
        {"batch": 1},
    ],
)
def test_values_and_gradients(options):
    keywords, tensors = case(**options)
    compare(lambda x, o, w, b, m: deform_conv2d(x, o, w, b, mask=m, **keywords), *tensors, grad=True, **CLOSE)
    compare(lambda x, o, w: deform_conv2d(x, o, w, **keywords), *tensors[:3], grad=True, **CLOSE)


def test_a_batch_in_parts(monkeypatch):
    from portable_mps.ops import torchvision_deform_conv

    monkeypatch.setattr(torchvision_deform_conv, "_COLUMN_BYTES", 1)  # a sample at a time
    keywords, tensors = case(groups=2, offset_groups=3, batch=3)
    compare(lambda x, o, w, b, m: deform_conv2d(x, o, w, b, mask=m, **keywords), *tensors, grad=True, **CLOSE)


def test_doubles_exactly():
    keywords, tensors = case(groups=2, offset_groups=2, dtype=torch.float64)
    function = lambda x, o, w, b, m: deform_conv2d(x, o, w, b, mask=m, **keywords)  # noqa: E731
    compare(function, *tensors, grad=True, rtol=1e-11, atol=1e-11)


def test_offsets_of_whole_pixels_at_the_edges():
    keywords, tensors = case(kernel=(3, 3), padding=(1, 1))
    tensors[1] = tensors[1].round()
    compare(lambda x, o, w, b, m: deform_conv2d(x, o, w, b, mask=m, **keywords), *tensors, grad=True, **CLOSE)


def test_float16_is_computed_in_float32():
    keywords, tensors = case(groups=2, offset_groups=2)
    half = [(t / 4).half() for t in tensors]
    wide = [t.float().requires_grad_() for t in half]
    mine = [t.to("mps").requires_grad_() for t in half]
    results = []
    for x, o, w, b, m in (wide, mine):
        results.append(deform_conv2d(x, o, w, b, mask=m, **keywords))
        results[-1].sum().backward()
    assert_same(results[1], results[0].half())
    for have, want in zip(mine, wide, strict=True):
        assert_same(have.grad, want.grad.half(), rtol=2e-3, atol=2e-3)


def test_module_and_autocast():
    torch.manual_seed(0)
    layer, offset, x = DeformConv2d(3, 4, 3, padding=1), torch.randn(2, 18, 6, 6), torch.randn(2, 3, 6, 6)
    expected = layer(x, offset)
    mine = layer.to("mps")
    assert_same(mine(x.to("mps"), offset.to("mps")), expected, **CLOSE)
    with torch.autocast("mps", dtype=torch.bfloat16):
        assert_same(mine(x.to("mps"), offset.to("mps")), expected, **CLOSE)


def test_layouts_and_empty_batches():
    keywords, (x, o, w, b, m) = case()
    function = lambda x, o, w, b, m: deform_conv2d(x.permute(0, 3, 1, 2), o, w, b, mask=m, **keywords)  # noqa: E731
    compare(function, x.permute(0, 2, 3, 1).contiguous(), o, w, b, m, **CLOSE)
    compare(lambda x, o, w, b, m: deform_conv2d(x[:0], o[:0], w, b, mask=m[:0], **keywords), x, o, w, b, m, grad=True)


def test_offsets_that_are_no_numbers_touch_nothing():
    keywords, (x, o, w, b, m) = case()
    o.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])
    leaves = [t.to("mps").requires_grad_() for t in (x, o, w, b, m)]
    result = deform_conv2d(*leaves[:4], mask=leaves[4], **keywords)
    result.sum().backward()
    torch.mps.synchronize()
    assert result.isnan().any() and not result.isnan().all()


def test_determinism_is_asked_for():
    keywords, tensors = case()
    x, o, w, b, m = (t.to("mps").requires_grad_() for t in tensors)
    result = deform_conv2d(x, o, w, b, mask=m, **keywords)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            result.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_errors():
    keywords, (x, o, w, b, m) = case()
    cases = [
        (x, o[:, :-1], w, b, m),
        (x, o, w, b, m[:, :-1]),
        (x, o[..., :-1], w, b, m),
        (x, o, w, b, m[..., :-1]),
        (x[:1], o, w, b, m),
        (x[:, :11], o, w, b, m),
        (x[:, :, :1, :1], o, w, b, m),
        (x.int(), o.int(), w.int(), b.int(), m.int()),
        (x, o.double(), w, b, m),
    ]
    for arguments in cases:
        with pytest.raises((RuntimeError, NotImplementedError)) as expected:
            deform_conv2d(*arguments[:4], mask=arguments[4], **keywords)
        moved = [t.to("mps") for t in arguments]
        with pytest.raises(expected.type):
            deform_conv2d(*moved[:4], mask=moved[4], **keywords)
    for wrong in ({"stride": 0}, {"padding": -1}, {"dilation": 0}):
        with pytest.raises(RuntimeError):
            deform_conv2d(*(t.to("mps") for t in (x, o, w, b)), mask=m.to("mps"), **wrong)
