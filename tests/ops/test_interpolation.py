"""Resizing and its gradients against torch on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, assert_same, compare

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIZES = {1: [(3,), (7,), (14,), (1,), (30,)], 2: [(3, 5), (14, 10), (7, 1), (8, 12)], 3: [(3, 5, 2), (14, 2, 8)]}
INPUTS = {1: (2, 3, 7), 2: (2, 3, 7, 5), 3: (1, 2, 7, 1, 4)}


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area"])
def test_nearest(mode, dims):
    for size in SIZES[dims]:
        compare(lambda x, s=size: F.interpolate(x, s, mode=mode), sample(*INPUTS[dims]), grad=True, **CLOSE)
    for factor in (0.4, 1.7, 3):
        compare(
            lambda x, f=factor: F.interpolate(x[..., 1:], scale_factor=f, mode=mode),
            sample(*INPUTS[dims][:2], *(5, 6, 7)[:dims]),
            grad=True,
            **CLOSE,
        )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode,dims", [("linear", 1), ("bilinear", 2), ("trilinear", 3), ("bicubic", 2)])
def test_weighted(mode, dims, align_corners):
    def resize(x, size=None, factor=None):
        return F.interpolate(x, size, factor, mode, align_corners)

    for size in SIZES[dims]:
        compare(lambda x, s=size: resize(x, s), sample(*INPUTS[dims]), grad=True, **CLOSE)
    for factor in (0.4, 1.7, 3):
        compare(
            lambda x, f=factor: resize(x, factor=f), sample(*INPUTS[dims][:2], *(5, 6, 7)[:dims]), grad=True, **CLOSE
        )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialiased(mode, align_corners):
    for size in ((3, 4), (20, 9), (1, 1), (7, 30)):
        compare(
            lambda x, s=size: F.interpolate(x, s, mode=mode, align_corners=align_corners, antialias=True),
            sample(2, 2, 13, 11),
            grad=True,
            **CLOSE,
        )
    compare(
        lambda x: F.interpolate(x, scale_factor=0.3, mode=mode, align_corners=align_corners, antialias=True),
        sample(1, 2, 13, 11),
        grad=True,
        **CLOSE,
    )


@pytest.mark.skipif(not hasattr(torch.ops.aten, "_upsample_lanczos2d_aa"), reason="torch before it had this filter")
def test_lanczos():
    for size in ((3, 4), (20, 9)):
        compare(
            lambda x, s=size: torch.ops.aten._upsample_lanczos2d_aa(x, s, False),
            sample(2, 2, 13, 11),
            grad=True,
            **CLOSE,
        )


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_dtypes(mode, dtype):
    x = sample(2, 3, 6, 5, dtype=torch.float64)
    # The CPU keeps weights of half types in them; here they are as of float32.
    exact = x.to(dtype).to(torch.promote_types(dtype, torch.float32))
    for antialias in (False, True) if mode.startswith("bi") else (False,):
        expected = F.interpolate(exact, (9, 4), mode=mode, antialias=antialias).to(dtype)
        assert_same(F.interpolate(x.to("mps", dtype), (9, 4), mode=mode, antialias=antialias), expected)


@pytest.mark.parametrize("size", [(5, 13), (40, 3), (9, 33), (20, 20)])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_bytes(mode, size):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (2, 3, 20, 17), dtype=torch.uint8, generator=generator)
    edges = noise[:1, :1] // 128 * 255  # cubic sums leave the range of bytes
    variants = [{}]
    if mode.startswith("bi"):
        variants = [{"antialias": a, "align_corners": c} for a in (False, True) for c in (False, True)]
    for options in variants:
        for x in (noise, edges, noise.view(1, 6, 20, 17)):
            compare(lambda x, o=options: F.interpolate(x, size, mode=mode, **o), x, rtol=0, atol=0)
    options = {k: False for k in variants[0]}
    compare(lambda x: F.interpolate(x, scale_factor=(0.37, 1.7), mode=mode, **options), noise, rtol=0, atol=0)
    assert F.interpolate(noise[:0].to("mps"), size, mode=mode).shape == (0, 3, *size)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_layouts(mode):
    x = sample(2, 4, 5, 6)
    compare(lambda x: F.interpolate(x.transpose(2, 3), (7, 8), mode=mode), x, grad=True, **CLOSE)
    last = x.contiguous(memory_format=torch.channels_last)
    result = F.interpolate(last.to("mps"), (7, 8), mode=mode)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert_same(result, F.interpolate(last, (7, 8), mode=mode), **CLOSE)
    compare(lambda x: F.interpolate(x[:0], (7, 8), mode=mode), x)
    out = torch.empty(0, device="mps")
    name = {"nearest": "nearest2d", "bilinear": "bilinear2d", "bicubic": "bicubic2d"}[mode]
    arguments = ([7, 8],) if mode == "nearest" else ([7, 8], False)
    getattr(torch.ops.aten, f"upsample_{name}").out(x.to("mps"), *arguments, out=out)
    assert_same(out, F.interpolate(x, (7, 8), mode=mode), **CLOSE)


def test_a_scale_that_does_not_fit_the_size():
    for scale in (0.2, 5.0):
        for name in ("upsample_bilinear2d", "upsample_bicubic2d"):
            function = getattr(torch.ops.aten, name)
            compare(lambda x, f=function, s=scale: f(x, [9, 4], False, s, s), sample(1, 2, 5, 6), grad=True, **CLOSE)


def test_errors():
    for device in ("cpu", "mps"):
        x = sample(1, 2, 3, 4).to(device)
        with pytest.raises(RuntimeError):
            F.interpolate(x, (0, 4), mode="bilinear")
        with pytest.raises(NotImplementedError):
            F.interpolate(x.long(), (5, 4), mode="nearest")
