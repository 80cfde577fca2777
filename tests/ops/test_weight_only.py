"""Products with weights of 8 and 4 bits: against torch's CPU, or a float64 product where the CPU packs otherwise."""

import pytest
import torch
from support import assert_same, compare, to_mps

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def codes(low, high, *shape, dtype=torch.int8):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m,k,n", [(1, 32, 32), (5, 96, 70), (40, 64, 33)])
def test_eight_bits(dtype, m, k, n):
    weights, scales = codes(-128, 128, n, k), torch.linspace(0.01, 0.05, n).to(dtype)
    expected = (sample(m, k, dtype=dtype).double() @ weights.double().t() * scales.double()).to(dtype)
    actual = torch._weight_int8pack_mm(*to_mps((sample(m, k, dtype=dtype), weights, scales)))
    assert_same(actual, expected, **({"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}))


def test_eight_bits_as_the_cpu():
    arguments = sample(4, 64), codes(-128, 128, 32, 64), torch.linspace(0.01, 0.05, 32)
    compare(torch._weight_int8pack_mm, *arguments, rtol=1e-4, atol=1e-3)


def packed(n, k):
    values = codes(0, 16, n, k, dtype=torch.uint8)
    return values, values[:, ::2] << 4 | values[:, 1::2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m,k,n,size,tiles", [(1, 128, 8, 32, 2), (5, 256, 40, 128, 8), (20, 96, 16, 64, 2)])
def test_four_bits(dtype, m, k, n, size, tiles):
    values, pairs = packed(n, k)
    x, ranges = sample(m, k, dtype=dtype), sample(-(-k // size), n, 2, dtype=dtype, seed=2)
    scale, zero = ranges.double().repeat_interleave(size, dim=0)[:k].unbind(2)
    expected = (x.double() @ ((values.double().t() - 8) * scale + zero)).to(dtype)
    weights = torch._convert_weight_to_int4pack(pairs.to("mps"), tiles)
    assert weights.shape == (n // 8, k // (16 * tiles), 32, tiles // 2)
    actual = torch._weight_int4pack_mm(x.to("mps"), weights, size, ranges.to("mps"))
    assert_same(actual, expected, **({"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}))


def test_packed_bytes():
    """The lower four bits come first, eight codes a word: weights packed on a Mac can be loaded."""
    values, pairs = packed(8, 32)
    words = torch._convert_weight_to_int4pack(pairs.to("mps"), 2).cpu()
    unpacked = [words.view(8, 4) >> 4 * i & 15 for i in range(8)]
    assert torch.equal(torch.stack(unpacked, 2).view(8, 32), values.int())


def four(x=None, weights=None, size=32, ranges=None):
    weights = torch.zeros(1, 1, 32, 1, dtype=torch.int32) if weights is None else weights
    arguments = (
        torch.zeros(1, 32) if x is None else x,
        weights,
        size,
        torch.zeros(1, 8, 2) if ranges is None else ranges,
    )
    return lambda: torch._weight_int4pack_mm(*to_mps(arguments))


def eight(x=None, weights=None, scales=None):
    arguments = (
        torch.zeros(2, 32) if x is None else x,
        torch.zeros(4, 32, dtype=torch.int8) if weights is None else weights,
        torch.ones(4) if scales is None else scales,
    )
    return lambda: torch._weight_int8pack_mm(*to_mps(arguments))


ERRORS = {
    "activations": four(torch.zeros(1, 32).double()),
    "vector": four(torch.zeros(32)),
    "transposed": four(torch.zeros(32, 2).t()),
    "columns": four(torch.zeros(1, 64)),
    "weights": four(weights=torch.zeros(1, 1, 32, 1)),
    "matrix of weights": four(weights=torch.zeros(8, 4, dtype=torch.int32)),
    "group": four(size=16),
    "ranges": four(ranges=torch.zeros(2, 8, 2)),
    "packing": lambda: torch._convert_weight_to_int4pack(torch.zeros(8, 16, device="mps"), 2),
    "tiles": lambda: torch._convert_weight_to_int4pack(torch.zeros(8, 16, dtype=torch.uint8, device="mps"), 3),
    "part of a tile": lambda: torch._convert_weight_to_int4pack(torch.zeros(9, 16, dtype=torch.uint8, device="mps"), 2),
    "8 bits: activations": eight(torch.zeros(2, 32).double()),
    "8 bits: weights": eight(weights=torch.zeros(4, 32)),
    "8 bits: columns": eight(torch.zeros(2, 16)),
    "8 bits: scales": eight(scales=torch.ones(5)),
    "8 bits: scales' dtype": eight(scales=torch.ones(4).half()),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    with pytest.raises(RuntimeError):
        ERRORS[name]()
