"""Copies and casts between host and device and on the device, against the same copies on the CPU."""

import copy
import math

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, denormal, to_mps

REAL = (*FLOATS, torch.float64, *INTEGERS, torch.bool)
COMPLEX = (torch.complex64, torch.complex128)
FLOAT8 = [getattr(torch, f"float8_{kind}") for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")]


def values(dtype=torch.float32):
    if dtype.is_complex:
        return torch.complex(torch.arange(6.0), torch.arange(6.0) - 3).to(dtype).view(2, 3)
    return torch.tensor([0.0, -1.5, 2.5, 100.0, 1.0, -3.0]).to(dtype).view(2, 3)


@pytest.mark.parametrize("source", REAL)
def test_every_pair_of_dtypes(source):
    x = values(source)
    for target in REAL:
        compare(lambda t, d=target: t.to(d), x)
        compare(lambda t, d=target: torch.empty(2, 3, dtype=d, device=t.device).copy_(t), x)
        uploaded = torch.empty(2, 3, dtype=target, device="mps").copy_(x)
        assert_same(uploaded, x.to(target))
        assert torch.equal(torch.empty(2, 3, dtype=target).copy_(to_mps(x)), x.to(target))


def test_numbers_out_of_range():
    x = torch.tensor([math.nan, math.inf, -math.inf, 1e20, -1e20, 300.0, -5.0, 2.7, -2.7, 65520.0, 1e-8, -0.0, 1e-40])
    for dtype in (torch.int32, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64):
        compare(lambda t, d=dtype: t.to(d), x)
    for dtype in (torch.uint8, torch.int8, torch.int16):
        compare(lambda t, d=dtype: t[5:9].to(d), x)
    compare(lambda t: t.to(torch.int8), torch.tensor([300, -200, 2**40 + 7]))
    compare(lambda t: t.float(), torch.tensor([2**24 + 1, 2**53 + 1, -(2**63)]))


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8(dtype):
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    finite = torch.linspace(-500, 500, 2001)
    wild = torch.tensor([math.nan, math.inf, -math.inf, 1e9, -1e9, -0.0, 1e-9, -1e-9, 1e-40, 57344.0, 61440.0, 6e4])
    x = torch.cat([finite, wild, finite / 1e4, finite / 1e6])
    bits = every.view(torch.uint8)
    assert torch.equal(every.to("mps").cpu().view(torch.uint8), bits)
    assert torch.equal(
        every.to("mps").clone().view(16, 16).t().contiguous().cpu().view(torch.uint8), bits.view(16, 16).t()
    )
    for wide in (torch.float32, torch.float16, torch.bfloat16):
        compare(lambda t, d=wide: t.to(d), every)
        compare(lambda t: t.to(dtype).view(torch.uint8), x.to(wide))
    compare(lambda t: torch.zeros(3, dtype=dtype, device=t.device).view(torch.uint8), x)


LAYOUTS = {
    "transposed": lambda t: t.transpose(0, 2),
    "sliced": lambda t: t[::2, 1:, ::3],
    "flipped": lambda t: t.flip(1),
    "expanded": lambda t: t[:1].expand(5, -1, -1),
    "channels last": lambda t: t[None].to(memory_format=torch.channels_last),
    "one element": lambda t: t[0, 0, 0],
    "empty": lambda t: t[:, :0],
    "overlapping windows": lambda t: t.reshape(-1).unfold(0, 5, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    view = LAYOUTS[layout]
    x = torch.arange(4 * 3 * 7.0).view(4, 3, 7)
    for dtype in (torch.float32, torch.int8, torch.complex64):
        on_host, on_device = view(x.to(dtype)), view(to_mps(x.to(dtype)))
        assert torch.equal(on_device.cpu(), on_host)
        assert on_device.cpu().stride() == on_host.clone().stride()
        assert_same(on_host.to("mps"), on_host)
        assert_same(on_device.contiguous(), on_host)
        assert on_device.clone().stride() == on_host.clone().stride()
        assert_same(on_device.to(torch.complex64), on_host.to(torch.complex64))


def test_into_views():
    def write(target, source):
        target[::2, 1:].copy_(source)
        target.t()[0].copy_(source[0, 0])
        return target

    x, source = torch.zeros(4, 5), torch.arange(8.0).view(2, 4)
    expected = write(x.clone(), source)
    assert_same(write(to_mps(x), to_mps(source)), expected)
    assert_same(write(to_mps(x), source), expected)
    assert torch.equal(write(x.clone(), to_mps(source)), expected)
    compare(lambda t: torch.zeros(3, 2, 4, device=t.device).copy_(t[:, :1]), source)
    compare(lambda t: torch.zeros(2, 4, dtype=torch.float16, device=t.device).copy_(t[0]), source)


def test_large_copies_go_through_the_copy_engine():
    x = torch.arange(1 << 19)
    assert_same(to_mps(x).clone(), x)
    target = torch.zeros(1 << 20, dtype=torch.int64, device="mps")
    target[: 1 << 19] = target[1 << 19 :].copy_(to_mps(x))
    assert_same(target, x.repeat(2))


def test_overlap_within_a_storage():
    for call in (lambda t: t[1:].copy_(t[:-1]), lambda t: t.view(4, 4).copy_(t.view(4, 4).t())):
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError, match="single memory location"):
                call(torch.arange(16.0, device=device))
    compare(lambda t: t[:8].copy_(t[8:]), torch.arange(16.0))
    compare(lambda t: t.copy_(t), torch.arange(16.0))


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex(dtype):
    x = values(dtype)
    other = COMPLEX[dtype == torch.complex64]
    for call in (
        lambda t: t.clone(),
        lambda t: t.t().contiguous(),
        lambda t: t[:, ::2].to(other),
        lambda t: t.real,
        lambda t: t.imag.contiguous(),
        lambda t: torch.view_as_real(t.clone()),
        lambda t: t.real.to(dtype),
        lambda t: t.conj(),
        lambda t: t.conj().resolve_conj(),
        lambda t: t.conj().imag,
        lambda t: t.conj().t().clone().imag.resolve_neg(),
        lambda t: torch.zeros_like(t.real).to(dtype).copy_(t[0]),
        lambda t: t.clone().conj().copy_(t),
        lambda t: t.conj().copy_(t),
        lambda t: torch.complex(t.real.contiguous(), t.imag.contiguous()),
    ):
        compare(call, x)
    assert torch.equal(to_mps(x).conj().cpu(), x.conj())
    assert to_mps(x).tolist() == x.tolist()
    assert to_mps(x)[1, 2].item() == x[1, 2].item()
    compare(lambda t: torch.zeros(2, 3, dtype=dtype, device=t.device).conj().copy_(x), x)
    with pytest.warns(UserWarning, match="discards the imaginary part"):
        assert_same(to_mps(x).float(), x.real.float())


def test_negative_views():
    x = torch.arange(5.0)
    compare(torch._neg_view, x)
    compare(lambda t: torch._neg_view(t).clone(), x)
    compare(lambda t: torch._neg_view(t) + 1, x)
    assert torch.equal(torch._neg_view(to_mps(x)).cpu(), -x)

    def fill(target, source):
        torch._neg_view(target).copy_(source)
        return target

    for source in (x, to_mps(x)):
        assert_same(fill(torch.zeros(5, device="mps"), source), -x)
    assert torch.equal(fill(torch.zeros(5), to_mps(x)), -x)


def test_leaving_the_device():
    x = to_mps(values())
    assert x[1, 0].item() == 100.0
    assert x.bool()[0, 0].item() is False
    assert x.int().tolist() == [[0, -1, 2], [100, 1, -3]]
    assert x.cpu().numpy().tolist() == values().tolist()
    assert int(x[1, 0]) == 100
    assert list(range(5))[x[1, 1].int()] == 1
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    with pytest.raises(RuntimeError, match="cannot be converted to Scalar"):
        x.item()


def test_between_devices():
    x = values()
    assert x.to("mps", non_blocking=True).device.type == "mps"
    assert torch.equal(x.to("mps", torch.float16, non_blocking=True).to("cpu", non_blocking=True), x.half())
    on_device = to_mps(x)
    assert on_device.to("mps") is on_device
    assert on_device.to("mps", copy=True).data_ptr() != on_device.data_ptr()
    assert_same(copy.deepcopy(on_device), x)
    assert_same(on_device.type(torch.float16), x.half())
    assert on_device.type() == "torch.mps.FloatTensor"
    assert_same(torch.asarray(x.numpy(), device="mps"), x)
    assert_same(torch.tensor([[1, 2], [3, 4]], device="mps"), torch.tensor([[1, 2], [3, 4]]))
    assert_same(torch.tensor([1.5, to_mps(x)[1, 0]], device="mps"), torch.tensor([1.5, 100.0]))


def test_gradients_cross_devices():
    x = values().requires_grad_()
    (x.to("mps").half().float() * 3).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), 3.0))
    y = to_mps(values()).requires_grad_()
    (y.cpu() * 3).sum().backward()
    assert_same(y.grad, torch.full((2, 3), 3.0))


@pytest.mark.parametrize(
    "target,source",
    [((3,), (2,)), ((3,), (1, 3)), ((3,), (2, 3)), ((2, 3), (3, 2)), ((0,), (2,))],
)
def test_shapes_that_do_not_fit(target, source):
    for to, origin in (("mps", "mps"), ("mps", "cpu"), ("cpu", "mps")):
        with pytest.raises(RuntimeError):
            torch.zeros(target, device=to).copy_(torch.ones(source, device=origin))


def test_a_target_whose_elements_share_memory():
    for origin in ("cpu", "mps"):
        with pytest.raises(RuntimeError, match="single memory location"):
            torch.zeros(1, device="mps").expand(3).copy_(torch.ones(3, device=origin))


def test_pinned_memory():
    x = values().pin_memory()
    assert x.is_pinned()
    assert x[1, 1:].is_pinned()
    assert not values().is_pinned()
    assert_same(x.to("mps", non_blocking=True), values())
    batches = torch.utils.data.DataLoader(torch.arange(4.0), batch_size=2, pin_memory=True)
    assert [b.to("mps", non_blocking=True).tolist() for b in batches] == [[0, 1], [2, 3]]


EVERY = (*REAL, torch.uint16, torch.uint32, torch.uint64, torch.complex32, *COMPLEX)
SPECIAL = [
    0.0, -0.0, math.nan, math.inf, -math.inf, 1.2e-38, 3.4028235e38, -3.4028235e38, 1e300, 65504.0,
    65520.0, 6e-8, 2.98e-8, 1.0, -1.0, 0.5, 2.5, -2.7, 127.0, -129.0, 255.0, 256.0, 32768.0, -32769.0, 65535.0,
    2.0**24 + 1,
    2.0**31 - 1, 2.0**31, -(2.0**31), 2.0**32 - 1, 2.0**53 + 1, 2.0**62, 2.0**63, 1e19,
]  # fmt: skip
_INTEGERS = [0, 1, -1, 127, -128, 255, 256, 32768, 65535, 65536, 2**24 + 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1]


def _special(dtype):
    if dtype.is_complex:
        parts = torch.tensor([*SPECIAL, -denormal()], dtype=torch.float64)
        return torch.complex(parts.repeat_interleave(len(parts)), parts.repeat(len(parts))).to(dtype)
    if dtype.is_floating_point:
        return torch.tensor([*SPECIAL, -denormal()], dtype=torch.float64).to(dtype)
    return torch.tensor(_INTEGERS).to(dtype)


def _defined(value, target):
    """Where C++ says what the conversion gives: NaN and what lies outside of an integer type are the compiler's."""
    if target.is_floating_point or target.is_complex or target == torch.bool:
        return torch.ones(value.shape, dtype=torch.bool)
    if not (value.is_floating_point() or value.is_complex()):
        return torch.ones(value.shape, dtype=torch.bool)
    real = (value.real if value.is_complex() else value).double()
    top = 2.0**64 if target == torch.uint64 else 2.0**63 if target == torch.int64 else 2.0**31
    return (real > -min(top, 2.0**63)) & (real < top)


@pytest.mark.parametrize("source", EVERY)
def test_special_values_between_every_two_dtypes(source):
    value = _special(source)
    for target in EVERY:
        defined = _defined(value, target)
        on_device = to_mps(value)
        for result in (on_device.to(target), torch.empty(value.shape, dtype=target, device="mps").copy_(on_device)):
            have, want = result.cpu()[defined], value.to(target)[defined]
            if target.is_floating_point or target.is_complex:
                parts = (torch.view_as_real(t) if t.is_complex() else t for t in (have, want))
                have, want = (t.double() for t in parts)
                assert torch.equal(have.isnan(), want.isnan()), target
                assert torch.equal(have.nan_to_num(0.0), want.nan_to_num(0.0)), target
                assert torch.equal(have.signbit() & ~have.isnan(), want.signbit() & ~want.isnan()), target
            else:
                assert torch.equal(have, want), target


def test_a_complex_number_is_true_where_either_part_is():
    x = torch.tensor([2j, 0, 1, complex(0, math.nan), -0j])
    for dtype in (torch.complex64, torch.complex128, torch.complex32):
        for call in (
            lambda t: t.bool(),
            lambda t: t.conj().bool(),
            lambda t: torch.empty(5, dtype=torch.bool, device=t.device).copy_(t),
            lambda t: torch._neg_view(t).to(torch.bool),
            lambda t: t[::2].to(torch.bool),
        ):
            compare(call, x.to(dtype))


def test_gradients_without_memory():
    nothing = torch._efficientzerotensor(3, device="mps")
    assert torch.ones(3, device="mps").copy_(nothing).tolist() == [0.0] * 3
    assert torch.ones(3).copy_(nothing).tolist() == [0.0] * 3
    compare(lambda t: torch.func.jvp(torch.sgn, (t,), (t,)), torch.tensor([-2.0, 0.0, 3.0]))
