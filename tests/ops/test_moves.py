"""Copies that only move memory: transposed in tiles, in words wider than an element, apart in one memory or not."""

import dataclasses

import pytest
import torch
from support import assert_same, to_mps

from portable_mps.dispatch import moves
from portable_mps.runtime import device

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(moves, "_LEAST", 0)


def numbers(*shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    return torch.arange(count).remainder(251).view(shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape,order",
    [
        ((70, 130), (1, 0)),
        ((3, 40, 17, 5), (0, 2, 3, 1)),
        ((2, 33, 4, 20), (0, 2, 1, 3)),
        ((20, 3, 2, 5, 40), (4, 1, 3, 2, 0)),
        ((2, 2, 18, 2, 3, 17), (3, 5, 1, 0, 4, 2)),
        ((16, 1, 16), (2, 1, 0)),
    ],
)
def test_permuted(shape, order, dtype):
    x = numbers(*shape, dtype=dtype)
    ours = to_mps(x)
    assert_same(ours.permute(order).contiguous(), x.permute(order).contiguous())
    target = torch.zeros([shape[d] for d in order], dtype=dtype)
    back = to_mps(target).permute(tuple(order.index(d) for d in range(len(order))))
    back.copy_(ours)
    assert_same(back, x)


@pytest.mark.parametrize("shared", [16 << 10, 32 << 10, 48 << 10])
def test_tiles_fit_into_shared_memory(monkeypatch, shared):
    torch.ones(1, device="mps")
    opened = device.current()
    has_as_much = shared <= opened.adapter.max_shared_memory
    monkeypatch.setattr(opened, "adapter", dataclasses.replace(opened.adapter, max_shared_memory=shared))
    for item in (1, 2, 4, 8, 16):
        tile = moves._tile(item)
        assert tile * (tile + 1) * item <= shared
        if has_as_much and (opened.adapter.features["float64"] or item < 16):
            dtype = {1: torch.uint8, 2: torch.int16, 4: torch.float32, 8: torch.int64, 16: torch.complex128}[item]
            x = numbers(70, 130, dtype=dtype)
            assert_same(to_mps(x).t().contiguous(), x.t().contiguous())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("start", [0, 1, 2, 4, 8])
def test_parts_of_rows(dtype, start):
    x = numbers(6, 40, dtype=dtype)
    ours = to_mps(x)
    for width in (16, 17, 18, 20):
        assert_same(ours[:, start : start + width].clone(), x[:, start : start + width].clone())
        theirs, target = torch.zeros(6, 64, dtype=dtype), torch.zeros(6, 64, dtype=dtype, device="mps")
        theirs[1:, start : start + width] = x[1:, :width]
        target[1:, start : start + width] = ours[1:, :width]
        assert_same(target, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whole(dtype):
    for count in (1, 7, 16, 1 << 12):
        x = numbers(count, dtype=dtype)
        assert_same(to_mps(x).clone(), x)
        assert_same(torch.cat([to_mps(x), to_mps(x)]), torch.cat([x, x]))


def test_bits_are_kept():
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        ours = to_mps(bits).view(dtype)
        assert torch.equal(ours.clone().view(torch.int16).cpu(), bits)
        assert torch.equal(ours.view(256, 256).t().contiguous().view(torch.int16).cpu(), bits.view(256, 256).t())


def test_one_memory():
    x, ours = numbers(64, 64), to_mps(numbers(64, 64))
    for t in (x, ours):
        t[:32].copy_(t[32:])
        t[:, :20].copy_(t[:, 40:60])
    assert_same(ours, x)
    for t in (x, ours):
        with pytest.raises(RuntimeError, match="refer to a single memory location"):
            t.copy_(t.t())


def test_expanded_source():
    x = numbers(1, 40, 1)
    target = torch.zeros(20, 40, 33, device="mps")
    target.copy_(to_mps(x).expand(20, 40, 33))
    assert_same(target, x.expand(20, 40, 33).contiguous())
