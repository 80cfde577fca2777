"""The stand-in for Metal's library against its specification: texts as Slang writes them, run."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from metal import build

INF, NAN = float("inf"), float("nan")
KERNEL = """#include <metal_stdlib>
using namespace metal;
struct Params {{ {fields} }};
{before}
[[kernel]] void main_0(uint3 t [[thread_position_in_threadgroup]], uint3 g [[threadgroup_position_in_grid]], \
Params constant* p [[buffer(0)]])
{{
{body}
}}
"""


def library(body: str, fields: str, threads: int = 1, before: str = "", watched: bool = False) -> build.Library:
    text = KERNEL.format(body=body, fields=fields, before=before)
    return build.Library("test", build.Emitted(text, (threads, 1, 1)), watched)


def run(body, results, *arrays, threads=1, groups=1, order=0, before=""):
    """What the kernel leaves in p->out; p->a, p->b, … are the arrays."""
    out = np.ascontiguousarray(results)
    arrays = [np.ascontiguousarray(each) for each in arrays]
    names = [_NAMES[each.dtype.name] for each in (out, *arrays)]
    fields = " ".join(f"{name} device* {field};" for name, field in zip(names, ("out", "a", "b", "c"), strict=False))
    addresses = struct.pack(f"{1 + len(arrays)}Q", *(each.ctypes.data for each in (out, *arrays)))
    library(body, fields, threads, before).run(addresses, (groups, 1, 1), order)
    return out


_NAMES = {"float32": "float", "float16": "half", "int32": "int", "uint32": "uint", "int64": "long", "uint64": "ulong"}
_NAMES |= {"int16": "short", "uint16": "ushort", "int8": "int8_t", "uint8": "uchar"}


def values(expression, *arrays, dtype=np.float32):
    """The expression of a and b, for each of their elements."""
    text = re.sub(r"\b([ab])\b", r"p->\1[i]", expression)
    body = f"for (uint i = 0; i < {arrays[0].size}u; ++i) p->out[i] = {text};"
    return run(body, np.zeros(arrays[0].size, dtype), *arrays)


def f32(*numbers):
    return np.array(numbers, np.float32)


@pytest.mark.parametrize("name", ["max", "fmax", "min", "fmin"])
def test_of_a_nan_and_a_number_it_is_the_number(name):
    a, b = f32(NAN, 1, NAN, 1, -INF), f32(2, NAN, NAN, 3, INF)
    expected = f32(2, 1, NAN, *((3, INF) if "max" in name else (1, -INF)))
    np.testing.assert_array_equal(values(f"{name}(a, b)", a, b), expected)


def test_leading_and_trailing_zeros_of_zero_are_all_bits():
    a = np.array([0, 1, 0x80000000, 0x00010000], np.uint32)
    body = "for (uint i = 0; i < 4u; ++i) { p->out[2 * i] = clz(p->a[i]); p->out[2 * i + 1] = ctz(p->a[i]); }"
    assert run(body, np.zeros(8, np.uint32), a).tolist() == [32, 32, 31, 0, 0, 31, 15, 16]
    body = "p->out[0] = clz(p->a[0]); p->out[1] = clz(p->a[1]); p->out[2] = popcount(p->a[2]);"
    assert run(body, np.zeros(3, np.uint64), np.array([0, 1, 2**64 - 1], np.uint64)).tolist() == [64, 63, 64]


@pytest.mark.parametrize("to, least, most", [("int", -(2**31), 2**31 - 1), ("uint", 0, 2**32 - 1), ("uchar", 0, 255),
                                             ("short", -(2**15), 2**15 - 1), ("long", -(2**63), 2**63 - 1),
                                             ("ulong", 0, 2**64 - 1)])  # fmt: skip
def test_a_cast_to_an_integer_saturates(to, least, most):
    a = f32(NAN, INF, -INF, 1e30, -1e30, 2.9, -2.9, -0.9)
    body = f"for (uint i = 0; i < 8u; ++i) p->out[i] = {to}(p->a[i]);"
    result = run(body, np.zeros(8, "uint64" if to == "ulong" else "int64"), a).tolist()
    assert result == [0, most, least, most, least, 2, max(-2, least), 0]


def test_a_cast_between_integers_keeps_the_low_bits():
    body = "p->out[0] = long(uchar(p->a[0])); p->out[1] = long(int8_t(p->a[0])); p->out[2] = long(uint(p->a[0]));"
    assert run(body, np.zeros(3, np.int64), np.array([-3], np.int64)).tolist() == [253, -3, 2**32 - 3]


def test_literals_are_single_precision():
    np.testing.assert_array_equal(values("a * 0.1 + 1.0", f32(3)), f32(3) * np.float32(0.1) + np.float32(1))


def test_nothing_is_contracted():
    a, b = f32(1 + 2**-12), f32(-(1 + 2**-11))
    np.testing.assert_array_equal(values("a * a + b", a, b), a * a + b)
    exact = np.float64(a) * a + b
    assert exact != 0
    body = "p->out[0] = fma(p->a[0], p->a[0], p->b[0]);"
    np.testing.assert_array_equal(run(body, np.zeros(1, np.float32), a, b), exact.astype(np.float32))


def test_denormals_are_kept():
    assert values("a * 0.5", f32(1e-38))[0] == np.float32(1e-38) * np.float32(0.5) != 0


def test_halves_are_rounded_at_every_step():
    a = np.arange(1, 200, dtype=np.float16) / np.float16(7)
    expected = (a * a + a) / np.float16(3)
    np.testing.assert_array_equal(values("(a * a + a) / half(3.0)", a, dtype=np.float16), expected)


def test_a_half_s_product_and_sum_are_rounded_once():
    a, b = np.float16([1 + 2**-10]), np.float16([-1 - 2**-9])
    result = run("p->out[0] = fma(p->a[0], p->a[0], p->b[0]);", np.zeros(1, np.float16), a, b)
    assert result[0] == np.float16(2**-20) and (a * a + b)[0] == 0


def test_bfloats_are_rounded_to_even_and_keep_nans():
    a = f32(1, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, NAN, -0.0)
    body = "for (uint i = 0; i < 6u; ++i) p->out[i] = as_type<ushort>(bfloat(p->a[i]));"
    result = run(body, np.zeros(6, np.uint16), a).tolist()
    assert result[:4] == [0x3F80, 0x3F80, 0x3F82, 0x7F80] and result[4] & 0x7FFF > 0x7F80 and result[5] == 0x8000


def test_rounding_to_integers():
    a = f32(0.5, 1.5, -0.5, -2.5, 2.7)
    body = ("for (uint i = 0; i < 5u; ++i) { p->out[3 * i] = rint(p->a[i]); p->out[3 * i + 1] = round(p->a[i]); "
            "p->out[3 * i + 2] = trunc(p->a[i]); }")  # fmt: skip
    expected = f32(0, 1, 0, 2, 2, 1, -0.0, -1, -0.0, -2, -3, -2, 3, 3, 2)
    np.testing.assert_array_equal(run(body, np.zeros(15, np.float32), a), expected)


def test_packed_vectors_are_no_larger_than_their_elements():
    before = 'static_assert(sizeof(packed_float3) == 12 && alignof(packed_float4) == 4 && sizeof(float3) == 16, "");'
    body = "float4 v = float4(*(packed_float4 device*)(p->a + 1)); p->out[0] = v.x + v[3]; p->out[1] = (v * v).y;"
    assert run(body, np.zeros(2, np.float32), f32(9, 1, 2, 3, 4), before=before).tolist() == [5, 4]


def test_an_integer_divided_by_zero_does_not_end_the_process():
    a, b = np.array([7, -(2**31), 9], np.int32), np.array([0, -1, 2], np.int32)
    assert values("a / b", a, b, dtype=np.int32)[2] == 4
    assert values("a % b", a, b, dtype=np.int32)[1:].tolist() == [0, 1]
    assert values("a / b", a.astype(np.int64), b.astype(np.int64), dtype=np.int64)[2] == 4


@pytest.mark.parametrize("order", range(3))
def test_barriers_and_workgroup_memory(order):
    """A sum of the workgroup by halves: wrong without its barriers in every order but one."""
    body = """
    threadgroup array<float, 64> shared;
    shared[t.x] = p->a[g.x * 64u + t.x];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint half_0 = 32u; half_0 > 0u; half_0 = half_0 >> 1u) {
        if (t.x < half_0) shared[t.x] = shared[t.x] + shared[t.x + half_0];
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (t.x == 0u) p->out[g.x] = shared[0];
    """
    a = np.arange(192, dtype=np.float32)
    result = run(body, np.zeros(3, np.float32), a, threads=64, groups=3, order=order)
    np.testing.assert_array_equal(result, a.reshape(3, 64).sum(1))


def test_an_order_finds_a_missing_barrier():
    body = """
    threadgroup array<float, 64> shared;
    threadgroup_barrier(mem_flags::mem_none);
    shared[t.x] = p->a[t.x];
    p->out[t.x] = shared[t.x == 0u ? 0u : t.x - 1u];
    """
    a = np.arange(1, 65, dtype=np.float32)
    expected = np.r_[a[:1], a[:-1]]
    forward, backward = (run(body, np.zeros(64, np.float32), a, threads=64, order=order) for order in (0, 1))
    assert (forward == expected).all() and not (backward == expected).all()


def test_workgroup_memory_is_not_initialised():
    body = "threadgroup array<float, 4> shared; p->out[0] = shared[2]; shared[2] = 1.0; p->out[1] = shared[2];"
    result = run(body, np.zeros(2, np.float32))
    assert np.isnan(result[0]) and result[1] == 1


@pytest.mark.parametrize(
    "body, words",
    [
        ("array<int, 4> own; own[int(p->out[0]) + 4] = 1;", "an index outside of an array (4 of 4)"),
        ("if (t.x == 0u) return; threadgroup_barrier(mem_flags::mem_none);", "ended before its workgroup's barrier"),
        ("if (t.x == 0u) threadgroup_barrier(mem_flags::mem_none);\nelse threadgroup_barrier(mem_flags::mem_none);",
         "different barriers"),
    ],
)  # fmt: skip
def test_what_a_kernel_may_not_do_is_told(body, words):
    with pytest.raises(RuntimeError, match=words.replace("(", r"\(").replace(")", r"\)")):
        run(body, np.zeros(1, np.float32), threads=2)


def test_atomics():
    body = """
    atomic_uint device* count = (atomic_uint device*)p->out;
    atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);
    atomic_fetch_max_explicit(count + 1, t.x, memory_order_relaxed);
    uint expected = p->out[2];
    while (!atomic_compare_exchange_weak_explicit(count + 2, &expected, expected + 2u, memory_order_relaxed, \
memory_order_relaxed)) {}
    uint once = 0u;
    atomic_compare_exchange_weak_explicit(count + 4 + t.x, &once, 1u, memory_order_relaxed, memory_order_relaxed);
    """
    result = run(body, np.zeros(1028, np.uint32), threads=1024)
    assert result[:3].tolist() == [1024, 1023, 2048]
    assert 512 < result[4:].sum() < 1024, "a weak exchange may fail although it finds what it expects"


@pytest.mark.parametrize("order", range(3))
def test_simdgroups_exchange_values(order):
    body = "p->out[t.x] = simd_shuffle_xor(p->a[t.x], ushort(5)) + simd_shuffle(p->a[t.x], ushort(3));"
    a = np.arange(64, dtype=np.float32)
    lanes = np.arange(64)
    expected = a[lanes ^ 5] + a[lanes // 32 * 32 + 3]
    np.testing.assert_array_equal(run(body, np.zeros(64, np.float32), a, threads=64, order=order), expected)


@pytest.mark.parametrize("element", ["float", "half", "bfloat"])
@pytest.mark.parametrize("transposed", [False, True])
def test_simdgroup_matrices(element, transposed):
    body = f"""
    simdgroup_matrix<{element}, 8, 8> left, right;
    simdgroup_matrix<float, 8, 8> sums = make_filled_simdgroup_matrix<float, 8, 8>(1.0);
    simdgroup_load(left, ({element} device*)p->a, 8, ulong2(0, 0), {str(transposed).lower()});
    simdgroup_load(right, ({element} device*)p->b, 8);
    simdgroup_multiply_accumulate(sums, left, right, sums);
    simdgroup_store(sums, p->out, 8);
    """
    a, b = (np.arange(64, dtype=np.float32).reshape(8, 8) % modulus - 2 for modulus in (5, 7))
    expected = (a.T if transposed else a) @ b + 1
    if element == "half":
        a, b = a.astype(np.float16), b.astype(np.float16)
    elif element == "bfloat":
        a, b = ((each.view(np.uint32) >> 16).astype(np.uint16) for each in (a, b))
    result = run(body, np.zeros((8, 8), np.float32), a, b, threads=32)
    np.testing.assert_array_equal(result, expected)


def watch(body, threads=64, groups=1, order=0):
    """What a watch says of a kernel that may read the 64 numbers of p->a and write those of p->out; "" for nothing."""
    out, a = np.zeros(64, np.float32), np.arange(64, dtype=np.float32)
    kernel = library(body, "float device* out; float device* a;", threads, watched=True)
    own, other = ((each.ctypes.data, each.ctypes.data + each.nbytes) for each in (out, a))
    try:
        kernel.run(struct.pack("2Q", own[0], other[0]), (groups, 1, 1), order, 0, [other], [own])
    except RuntimeError as error:
        return str(error)
    return ""


SHARED = "threadgroup array<float, 64> shared; shared[t.x] = p->a[t.x]; "
FLIPPED = "threadgroup_barrier(mem_flags::{}); p->out[t.x] = shared[63u - t.x];"


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize(
    "body, words",
    [
        (SHARED + FLIPPED.format("mem_threadgroup"), ""),
        (SHARED + FLIPPED.format("mem_device"), "a write and a read of workgroup memory"),
        (SHARED + "p->out[t.x] = shared[63u - t.x];", "workgroup memory without a barrier"),
        (SHARED + "shared[t.x / 2u] = 1.0;", "two writes of workgroup memory"),
        ("float x = p->out[63u - t.x]; threadgroup_barrier(mem_flags::mem_none); p->out[t.x] = x;", ""),
        ("p->out[t.x] = 1.0; threadgroup_barrier(mem_flags::mem_device); p->out[63u - t.x] += 1.0;", ""),
        ("p->out[t.x] = 1.0; threadgroup_barrier(mem_flags::mem_threadgroup); p->out[63u - t.x] += 1.0;",
         "a write and a read of device memory"),
        ("p->out[t.x] = p->a[t.x + 1u];", "a read outside"),
        ("if (t.x == 0u) p->a[0] = 1.0;", "a write outside"),
        ("atomic_fetch_add_explicit((atomic_uint device*)p->out, 1u, memory_order_relaxed);", ""),
        ("atomic_fetch_add_explicit((atomic_uint device*)p->out, 1u, memory_order_relaxed); p->out[1] = p->out[0];",
         "device memory without a barrier"),
    ],
)  # fmt: skip
def test_a_watch_finds_missing_barriers_and_what_lies_outside(body, words, order):
    said = watch(body, order=order)
    assert words in said if words else said == ""


def test_a_watch_finds_workgroups_that_meet():
    assert "two writes of device memory" in watch("p->out[t.x] = 1.0;", groups=2)
    assert watch("if (g.x == 0u) p->out[t.x] = 1.0;", groups=2) == ""
