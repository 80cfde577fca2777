"""Elementwise operators on what is large enough for vectors: aligned or not, odd ends, repeated rows and columns."""

import pytest
import torch
from support import assert_same, to_mps

from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.ops import creation

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.complex64]
MANY, LARGE = 1 << 14, 1 << 22  # elements, as in csrc/iterator.cpp


def numbers(count, dtype):
    if dtype.is_complex:
        return torch.complex(numbers(count, torch.float32), numbers(count, torch.float32).flip(0))
    return (torch.arange(count).remainder(251) - 100).to(dtype)


def parts(tensor):
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def there(tensor):
    """The tensor on the device, at the same place of its memory."""
    memory = tensor if tensor._base is None else tensor._base
    return to_mps(memory).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def assert_like_cpu(function, *tensors):
    assert_same(function(*map(there, tensors)), function(*tensors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, MANY, MANY + 1, MANY + 3])
def test_ends(count, dtype):
    check_ends(count, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [LARGE, LARGE + 1021, LARGE + 1026])
def test_two_vectors_a_thread(count, dtype):
    check_ends(count, dtype)


def check_ends(count, dtype):
    x, y = numbers(count, dtype), numbers(count, dtype).flip(0)
    assert_like_cpu(torch.mul, x, y)
    assert_like_cpu(torch.clone, x)
    assert_like_cpu(lambda x: x.logical_not(), x)
    # What lies around a part is left alone, and a part may begin anywhere.
    for start in (0, 1, 4) if count > 16 else ():
        ours, theirs = to_mps(x), x.clone()
        for target, source in ((ours, to_mps(y)), (theirs, y)):
            target[start : count - 5].copy_(source[start : count - 5])
            target[start : count - 7].mul_(source[: count - 7 - start])
        assert_same(ours, theirs)
        for target in (ours, theirs):
            target[start : count - 9].fill_(1)
        assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex32, torch.complex128], ids=str)
def test_fills_in_words(dtype):
    value = 2 - 3j if dtype.is_complex else -3
    for count in (0, 3, creation._LEAST, creation._LEAST + 1, creation._LEAST + 6):
        for start in (0, 1, 2):
            ours, theirs = (torch.zeros(count, dtype=dtype, device=device) for device in ("mps", "cpu"))
            for t in (ours, theirs):
                t[start:].fill_(value)
                t[start + 100 : start + 200].fill_(1)
            assert_same(parts(ours), parts(theirs))
    ours, theirs = (torch.zeros(512, 4096, dtype=dtype, device=device) for device in ("mps", "cpu"))
    for t in (ours, theirs):
        t[1:, 4:-4].fill_(value)
        t[:, 0].fill_(value)
        t.t()[9] = value
        if dtype.is_complex:
            t[3].conj().fill_(value)
            t[4].imag.fill_(5)
    assert_same(parts(ours), parts(theirs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [128, 130, 131])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_rows_and_columns(columns, start, dtype):
    x = numbers(160 * 140, dtype).view(160, 140)[:, start : start + columns]
    row, column, one = x[3], x[:, 5:6], x[7, 7]
    for other in (row, column, one, column.flip(0), row.clone(), x.clone()):
        assert_like_cpu(torch.mul, x, other)
        assert_like_cpu(torch.mul, other, x)
        assert_like_cpu(lambda x, other: torch.where(x == other, other, x), x, other)
    assert_like_cpu(lambda x, row: torch.add(x, row, out=torch.zeros(160, 144).to(x)[:, 4 : 4 + columns]), x, row)
    assert_like_cpu(lambda row: torch.empty(300, 160, columns).to(row).copy_(row), row)
    assert_like_cpu(lambda x: torch.empty(2, 160, columns).to(x).copy_(x[:, :1]), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_elements_a_thread(dtype):
    x = numbers(2 * LARGE + 2, dtype)[1:].view(-1, 3)
    for other in (x.clone(), x[7], x[:, 1:2], x.flip(0)):
        assert_like_cpu(torch.mul, x[:, 1:], other[..., -2:] if other.shape[-1] == 3 else other)
    assert_like_cpu(lambda x: torch.cat([x, x[:, 1:].logical_not().to(x)], 1), x)
    assert_like_cpu(lambda x: x.view(-1)[1:] * x.view(-1)[:-1], x)


def test_dtypes_of_different_widths():
    x = numbers(MANY, torch.float32).view(128, 128)
    for narrow in (torch.int8, torch.bool, torch.float16):
        for wide in (torch.int64, torch.float32):
            assert_like_cpu(lambda a, b: a * b, x.to(narrow), x.to(wide)[0])
            assert_like_cpu(lambda a, b: a * b, x.to(narrow)[:, :1], x.to(wide))
            assert_like_cpu(lambda a, b: a == b, x.to(narrow).view(-1), x.to(wide).view(-1))
            assert_like_cpu(lambda a, wide=wide: a.to(wide), x.to(narrow)[:, 4:])


def test_in_place_on_a_part_of_itself():
    x = numbers(1 << 16, torch.float32).view(256, 256)
    assert_like_cpu(lambda x: x.clone().add_(x[0]), x)
    assert_like_cpu(lambda x: (x := x.clone())[1:].add_(x[:1]), x)
    for t in (x, to_mps(x)):
        with pytest.raises(RuntimeError, match="memory location"):
            t.view(-1)[4:].add_(t.view(-1)[:-4])


class Noted(Pointwise):
    """A row whose variants are written down: whether of vectors, of two a thread, and the rank of their offsets."""

    def _compile(self, dtypes, common, shape, parameter_bytes):
        self.variants.append((shape >> 1 & 1, shape >> 2 & 1, shape >> 3 & 127))
        return super()._compile(dtypes, common, shape, parameter_bytes)


def test_variants():
    row = Noted("sum_of_two", ("a + b",), inputs=2)

    def variant(*tensors):
        row.variants = []
        assert_same(row((None,), tuple(map(there, tensors)))[0], torch.add(*tensors))
        return row.variants

    small, many, large = (numbers(count, torch.float32) for count in (3, MANY + 2, LARGE + 2))
    halves = large.half()
    assert variant(small, small) == [(0, 0, 0)]
    assert variant(many, many) == [(1, 0, 0)]
    assert variant(large, large) == [], "what two operands bring is enough for a thread"
    assert variant(halves, halves) == [(1, 1, 0)]
    table = large[: LARGE // 2].view(-1, 64)
    assert variant(table, table[0]) == [(1, 0, 2)]
    assert variant(table, table[1]) == []
    assert variant(table, table[:, :1]) == [(1, 0, 2)]
    assert variant(table, table[0, 1:2]) == [(1, 0, 1)]
    assert variant(table[:, 1:], table[:, 1:]) == [(0, 0, 2)]
    assert variant(large[1:], large[:-1]) == [(0, 1, 0)]
    assert variant(large[1:].view(-1, 5), large[:5]) == [(0, 1, 2)]
