"""Sampling at the places of a grid against torch on the CPU."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from support import assert_same, compare

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PADDINGS = ("zeros", "border", "reflection")
KINDS = list(itertools.product(("bilinear", "nearest", "bicubic"), PADDINGS, (False, True)))


def sample(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def places(*shape: int, reach: float = 1.7) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1) * reach


@pytest.mark.parametrize("mode,padding,align_corners", KINDS)
def test_images(mode, padding, align_corners):
    def function(x, grid):
        return F.grid_sample(x, grid, mode, padding, align_corners)

    compare(function, sample(2, 3, 5, 6), places(2, 4, 7, 2), grad=True, **CLOSE)
    compare(function, sample(1, 2, 1, 3), places(1, 3, 3, 2, reach=5.0), grad=True, **CLOSE)


@pytest.mark.parametrize("mode,padding,align_corners", [k for k in KINDS if k[0] != "bicubic"])
def test_volumes(mode, padding, align_corners):
    def function(x, grid):
        return F.grid_sample(x, grid, mode, padding, align_corners)

    compare(function, sample(2, 2, 3, 5, 4), places(2, 2, 3, 4, 3), grad=True, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    # The CPU computes places of half types in them; here they are as of float32.
    x, grid = sample(1, 2, 5, 6).to(dtype), places(1, 4, 4, 2).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    for mode in ("bilinear", "bicubic"):
        expected = F.grid_sample(x.to(wide), grid.to(wide), mode, align_corners=False).to(dtype)
        assert_same(F.grid_sample(x.to("mps"), grid.to("mps"), mode, align_corners=False), expected)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_places_that_are_no_numbers_touch_nothing(mode, padding):
    grid = torch.tensor([math.inf, -math.inf, math.nan, 1e30, -1e30, 3e9]).view(1, 1, 3, 2).to("mps")
    x = sample(1, 2, 4, 4).to("mps").requires_grad_()
    F.grid_sample(x, grid.requires_grad_(), mode, padding, align_corners=False).sum().backward()
    torch.mps.synchronize()


def test_layouts_and_gradients_of_one():
    x, grid = sample(2, 5, 6, 3), places(2, 2, 4, 3)
    compare(lambda x, g: F.grid_sample(x.permute(0, 3, 1, 2), g.permute(0, 2, 3, 1), align_corners=True), x, grid,
            grad=True, **CLOSE)  # fmt: skip
    fixed = places(2, 3, 3, 2)
    compare(lambda x: F.grid_sample(x, fixed.to(x.device), align_corners=True), sample(2, 3, 4, 4), grad=True, **CLOSE)
    compare(lambda g: F.grid_sample(sample(2, 3, 4, 4).to(g.device), g, align_corners=True), fixed, grad=True, **CLOSE)
    compare(lambda x, g: F.grid_sample(x[:0], g[:0], align_corners=True), sample(2, 3, 4, 4), fixed)


def test_errors():
    for device in ("cpu", "mps"):
        for x, grid in (
            (sample(2, 3, 4, 4), places(1, 3, 3, 2)),
            (sample(2, 3, 4, 4), places(2, 3, 3, 3)),
            (sample(2, 3, 4, 4), places(2, 3, 3, 2).double()),
        ):
            with pytest.raises(RuntimeError):
                F.grid_sample(x.to(device), grid.to(device), align_corners=False)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_places_that_are_no_numbers(mode, padding):
    """NaN where the CPU has it: its weights of what is outside are NaN in two modes."""
    places = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [-math.inf, math.nan], [0.0, 0.5], [3e38, 0.0]])
    image = torch.arange(9.0).view(1, 1, 3, 3)
    compare(
        lambda i, g: F.grid_sample(i, g, mode=mode, padding_mode=padding, align_corners=False),
        image,
        places.view(1, 1, 5, 2),
    )
