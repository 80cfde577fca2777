"""Fourier transforms against torch on the CPU in float64: every length, dimension, normalisation and direction."""

import numpy as np
import pytest
import torch
from support import assert_same, compare, to_mps

from portable_mps.ops import fft

# Radices and their products, lengths in one and in several passes, primes that have no radix.
LENGTHS = [*range(1, 9), 11, 13, 16, 17, 30, 31, 64, 97, 210, 1000, 1001, 1009, 2048, 2002, 4096, 4099, 20000]
WIDTHS = {torch.complex64: 4e-7, torch.complex128: 8e-16}
both_widths = pytest.mark.parametrize("dtype", WIDTHS)


def sample(*shape, dtype, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def assert_near(actual, reference, dtype, looseness=1.0):
    """In the norm, which is how a transform's rounding errors behave (Higham, "Accuracy and Stability", chapter 24)."""
    assert actual.device.type == "mps"
    assert actual.dtype == dtype
    error = (actual.cpu().to(reference.dtype) - reference).norm() / reference.norm()
    assert error < WIDTHS[dtype.to_complex()] * looseness


@both_widths
@pytest.mark.parametrize("n", LENGTHS)
def test_lengths(n, dtype):
    x = sample(3, n, dtype=dtype)
    exact = x.to(torch.complex128)
    assert_near(torch.fft.fft(x.to("mps")), torch.fft.fft(exact), dtype, 2)
    assert_near(torch.fft.ifft(x.to("mps")), torch.fft.ifft(exact), dtype, 2)
    assert_near(torch.fft.rfft(x.real.to("mps")), torch.fft.rfft(exact.real), dtype, 2)
    half = x[:, : n // 2 + 1]
    assert_near(torch.fft.irfft(half.to("mps"), n), torch.fft.irfft(exact[:, : n // 2 + 1], n), dtype.to_real(), 2)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 11, 13])
def test_radices_round_as_little_as_the_cpu(n):
    x = sample(500, n, dtype=torch.complex64)
    exact = torch.fft.fft(x.to(torch.complex128))
    error = (torch.fft.fft(x.to("mps")).cpu() - exact).norm()
    assert error <= 1.1 * (torch.fft.fft(x) - exact).norm()


def test_a_length_of_three_passes(monkeypatch):
    """With a workgroup that holds 8 numbers, 512 needs three."""
    monkeypatch.setattr(fft, "_capacity", lambda dtype: 8)
    x = sample(2, 3, 512, dtype=torch.complex128)
    assert_near(torch.fft.fft(x.to("mps")), torch.fft.fft(x), x.dtype)
    assert_near(torch.fft.ifft(x.to("mps").movedim(-1, 0), dim=0), torch.fft.ifft(x.movedim(-1, 0), dim=0), x.dtype)
    assert_near(torch.fft.irfft(x.to("mps"), 700), torch.fft.irfft(x, 700), torch.float64, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 360, 1009, 65537])
def test_roots_of_unity(n):
    """Rounded correctly: against mpmath at places in every octant."""
    mpmath = pytest.importorskip("mpmath")
    places = np.unique(np.linspace(0, n - 1, 50).astype(np.int64))
    with mpmath.workdps(40):
        for k, root in zip(places, fft._unit_roots(places, n), strict=True):
            exact = mpmath.expjpi(mpmath.mpf(-2) * int(k) / n)
            assert abs(root.real - float(exact.real)) <= np.spacing(abs(float(exact.real)))
            assert abs(root.imag - float(exact.imag)) <= np.spacing(abs(float(exact.imag)))


DIMS = [None, (0,), (1,), (-1,), (0, 1), (2, 0), (1, 2), (0, 1, 2), (2, 1, 0)]


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("dim", DIMS)
def test_dimensions(dim, norm):
    x = sample(4, 6, 5, dtype=torch.complex128)
    for call in (
        lambda t: torch.fft.fftn(t, dim=dim, norm=norm),
        lambda t: torch.fft.ifftn(t, dim=dim, norm=norm),
        lambda t: torch.fft.rfftn(t.real, dim=dim, norm=norm),
        lambda t: torch.fft.irfftn(t, dim=dim, norm=norm),
        lambda t: torch.fft.fftn(t.real, dim=dim, norm=norm),
        lambda t: torch.fft.hfft(t, n=9, dim=(dim or (1,))[0], norm=norm),
        lambda t: torch.fft.ihfft(t.real, dim=(dim or (1,))[0], norm=norm),
    ):
        compare(call, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [12, 1009, 5000])
def test_strides(n):
    x = sample(2, n, 3, dtype=torch.complex128)
    for call in (
        lambda t: torch.fft.fft(t, dim=1),
        lambda t: torch.fft.fft(t.transpose(0, 2)[:, ::2], dim=1),
        lambda t: torch.fft.ifft(t[:, :, 1:].conj(), dim=1),
        lambda t: torch.fft.fft(t[:1].expand(4, n, 3), dim=1),
        lambda t: torch.fft.rfft(t.real, dim=1),
        lambda t: torch.fft.rfft(t.imag.transpose(1, 2)),
        lambda t: torch.fft.irfft(t.flip(1), dim=1),
    ):
        compare(call, x, rtol=1e-11, atol=1e-11)
    many = sample(2, 3, 2, 3, 8, 2, dtype=torch.complex128).permute(5, 0, 4, 3, 1, 2)
    compare(lambda t: torch.fft.fft(t[:, :, ::2], dim=2), many, rtol=1e-12, atol=1e-12)


def test_twosided():
    for dim in ([1], [0, 1], [0]):
        compare(lambda t: torch.ops.aten._fft_r2c(t, dim, 2, False), torch.randn(4, 9).double(), rtol=1e-12, atol=1e-12)  # noqa: B023


def test_a_half_spectrum_may_be_inconsistent():
    """The imaginary parts at 0 and at the middle, which a real signal has not, are ignored."""
    x = sample(3, 5, dtype=torch.complex128)
    compare(lambda t: (torch.fft.irfft(t, 8), torch.fft.irfft(t, 9), torch.fft.irfft(t, 3)), x, rtol=1e-12, atol=1e-12)


def test_special_values():
    inf, nan = float("inf"), float("nan")
    for value in (inf, nan):
        assert torch.fft.fft(torch.tensor([1.0, value, 2, 3], device="mps")).isfinite().sum() == 0
    compare(torch.fft.fft, torch.zeros(3, 4))
    compare(lambda t: torch.fft.fftn(t, dim=()), sample(3, 2, dtype=torch.complex64))
    assert torch.fft.fft(torch.ones(0, 3, device="mps")).shape == (0, 3)


def test_gradients():
    x, y = sample(4, 6, dtype=torch.complex128), sample(4, 6, dtype=torch.float64)
    for call, argument in (
        (lambda t: torch.fft.fft(t), x),
        (lambda t: torch.fft.ifft2(t, norm="ortho"), x),
        (lambda t: torch.fft.rfft2(t), y),
        (lambda t: torch.fft.irfft2(t, s=(4, 9)), x),
        (lambda t: torch.fft.hfft(t), x),
    ):
        leaves = [argument.clone().requires_grad_(), to_mps(argument).requires_grad_()]
        for leaf in leaves:
            call(leaf).abs().square().sum().backward()
        assert_same(leaves[1].grad, leaves[0].grad, rtol=1e-11, atol=1e-11)
        assert torch.autograd.gradcheck(call, (to_mps(argument[:2, :3]).requires_grad_(),))


def test_short_time():
    x, window = sample(2, 300, dtype=torch.float64), torch.hann_window(64, dtype=torch.float64)

    def spectrum(signal, window):
        return torch.stft(signal, 64, 16, window=window, return_complex=True)

    compare(spectrum, x, window, grad=True, rtol=1e-11, atol=1e-11)
    compare(lambda s, w: torch.istft(s, 64, 16, window=w, length=300), spectrum(x, window), window, rtol=1e-11)
    single = to_mps((x.float(), window.float()))
    back = torch.istft(spectrum(*single), 64, 16, window=single[1], length=300)
    assert_same(back, x.float(), rtol=1e-5, atol=1e-5)


def test_outputs():
    x = sample(4, 5, dtype=torch.complex64).to("mps")
    out = torch.empty(5, 4, dtype=torch.complex64, device="mps").t()
    assert torch.fft.fft(x, out=out) is out
    assert_same(out, torch.fft.fft(x.cpu()), rtol=1e-5, atol=1e-5)
    assert_same(torch.fft.fft(x, out=x.clone()), torch.fft.fft(x.cpu()), rtol=1e-5, atol=1e-5)
    real = torch.empty(0, device="mps")
    torch.fft.irfft(x, out=real)
    assert_same(real, torch.fft.irfft(x.cpu()), rtol=1e-5, atol=1e-5)
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError):
            torch.fft.fft(x.to(device), out=torch.empty(4, 5, device=device))


ERRORS = {
    "no elements": lambda d: torch.fft.fft(torch.ones(0, device=d)),
    "negative length": lambda d: torch.fft.fft(torch.ones(3, device=d), n=-2),
    "dimension": lambda d: torch.fft.fft(torch.ones(3, device=d), dim=1),
    "dimension twice": lambda d: torch.fft.fftn(torch.ones(3, 3, device=d), dim=(0, 0)),
    "norm": lambda d: torch.fft.fft(torch.ones(3, device=d), norm="none"),
    "complex input": lambda d: torch.fft.rfft(torch.ones(3, dtype=torch.complex64, device=d)),
    "half": lambda d: torch.fft.fft(torch.ones(4, dtype=torch.float16, device=d)),
    "half complex": lambda d: torch.fft.fft(torch.ones(4, device=d).to(torch.complex32)),
    "bfloat16": lambda d: torch.fft.fft(torch.ones(4, dtype=torch.bfloat16, device=d)),
    "real c2c": lambda d: torch.ops.aten._fft_c2c(torch.ones(4, device=d), [0], 0, True),
    "complex r2c": lambda d: torch.ops.aten._fft_r2c(torch.ones(4, device=d) + 0j, [0], 0, True),
    "short half spectrum": lambda d: torch.ops.aten._fft_c2r(torch.ones(3, device=d) + 0j, [0], 0, 9),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    with pytest.raises(Exception) as on_cpu:
        ERRORS[name]("cpu")
    with pytest.raises(on_cpu.type):
        ERRORS[name]("mps")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("name,options", [
    ("fft", {"dim": 0}), ("fft", {"dim": 1}), ("rfft", {"dim": 1}), ("irfft", {"dim": 0}), ("hfft", {"dim": 1}),
    ("fft2", {}), ("rfft2", {}), ("fftn", {}), ("irfftn", {}), ("ihfftn", {}),
])  # fmt: skip
def test_results_lie_as_the_cpus(name, options, order):
    x = torch.randn(4, 5, 6).permute(order).contiguous().permute([order.index(i) for i in range(3)])
    function = getattr(torch.fft, name)
    assert function(x.to("mps"), **options).stride() == function(x, **options).stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_outputs_of_another_precision(dtype):
    x = torch.randn(5, dtype=torch.complex64)
    expected = torch.fft.irfft(x, out=torch.empty(8, dtype=dtype))
    actual = torch.fft.irfft(x.to("mps"), out=torch.empty(8, dtype=dtype, device="mps"))
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-3)
