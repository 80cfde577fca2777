"""Complex numbers against torch on the CPU: arithmetic, functions, sums, matrix products, and their gradients."""

import math

import pytest
import torch
from support import assert_same, compare, skip_without_float64, to_mps

DTYPES = (torch.complex64, torch.complex128)
both_widths = pytest.mark.parametrize("dtype", DTYPES)


def sample(*shape, seed=0, dtype=torch.complex64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 2


def limits(dtype, scale=1.0):
    """Tolerances of a few rounding errors; `scale` for functions and gradients that lose digits."""
    return {"rtol": 1e-5 * scale, "atol": 1e-5 * scale} if dtype == torch.complex64 else {"rtol": 1e-12, "atol": 1e-12}


def compare_with_gradients(function, *arguments, **tolerance):
    """compare(..., grad=True) for complex leaves: of the real loss |f|^2, whose gradient torch defines."""
    leaves = [[a.clone().requires_grad_() for a in arguments]]
    leaves.append([to_mps(a).requires_grad_() for a in arguments])
    results = [function(*each) for each in leaves]
    assert_same(results[1], results[0], **tolerance)
    for result in results:
        (result * result.conj()).real.sum().backward()
    for mine, reference in zip(leaves[1], leaves[0], strict=True):
        assert_same(mine.grad, reference.grad, **tolerance)


BINARY = {
    "add": lambda a, b: torch.add(a, b, alpha=2),
    "add, complex alpha": lambda a, b: torch.add(a, b, alpha=2 - 1j),
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: torch.rsub(a, b, alpha=1j),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=2j),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3 + 0.1j) + torch.lerp(a, b, b / 4),
    "where": lambda a, b: torch.where(a.real > 0, a, b),
    "conjugate": lambda a, b: a.conj() * b,
    "numbers": lambda a, b: (a + 1) * 2j + b / 2 - 1 + 3 / b + 2**a + a**2 + a**0.5 + b**-1,
    "real operands": lambda a, b: a * b.real + a.imag - b.abs(),
    "in place": lambda a, b: a.clone().mul_(b).add_(1j).div_(2).conj_physical_(),
    "masked": lambda a, b: a.masked_fill(b.real > 0, 2j),
}


@both_widths
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic(name, dtype):
    x, y = sample(3, 4, dtype=dtype), sample(3, 4, seed=1, dtype=dtype)
    compare_with_gradients(BINARY[name], x, y, **limits(dtype, 10))
    compare(BINARY[name], sample(4, 3, dtype=dtype).t(), y[:1], **limits(dtype, 10))


UNARY = "abs acos acosh angle asin asinh atan atanh conj_physical cos cosh exp exp2 expm1 log log10 log1p log2 neg"
UNARY += " reciprocal rsqrt sgn sigmoid sin sinc sinh sqrt square tan tanh"


@both_widths
@pytest.mark.parametrize("name", UNARY.split())
def test_functions(name, dtype):
    function = getattr(torch, name)
    x = torch.cat(
        [
            sample(30, dtype=dtype),
            sample(30, dtype=dtype) / 10,
            torch.tensor([1 + 1e-3j, 0.9995, -1, 1j, -2j, 3, -1e-20 + 1e-20j], dtype=dtype),
        ]
    )
    if name in ("acosh", "atan", "atanh"):
        x = x[:60]  # on the cuts and at the poles the CPU takes either side
    compare(function, x, **limits(dtype, 10))
    compare(lambda t: function(t.view(-1, 6).t()[::2]), x[:60], **limits(dtype, 10))
    if name not in ("abs", "angle"):
        compare_with_gradients(function, x[:60], **limits(dtype, 100))


def test_logarithm_near_the_unit_circle():
    """Where the real part is the logarithm of nearly 1: against float64."""
    angle = torch.linspace(-3.1, 3.1, 1000, dtype=torch.float64)
    x = torch.polar(1 + torch.linspace(-1e-4, 1e-4, 1000, dtype=torch.float64), angle).to(torch.complex64)
    exact = x.to(torch.complex128).log()
    assert_same(x.to("mps").log(), exact.to(torch.complex64), rtol=1e-4, atol=1e-12)


def test_inverse_functions_far_away():
    x = torch.tensor([1e30 + 1j, -1e300 + 1e300j, 1e10j, 1e-200 - 3j], dtype=torch.complex128)
    for function in (torch.acos, torch.acosh, torch.asin, torch.asinh, torch.atan, torch.atanh):
        compare(function, x[[0, 2, 3]] if function is torch.acosh else x, rtol=1e-12, atol=1e-12)


WITH_SPECIAL_PARTS = "sin cos sinh cosh asin acos atan asinh acosh atanh log exp sqrt"


@both_widths
@pytest.mark.parametrize("name", WITH_SPECIAL_PARTS.split())
def test_functions_of_special_parts(name, dtype):
    """Zeros with their signs, infinities and NaN as in annex G of the C standard, up to signs that it leaves open."""
    parts = (0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan)
    x = torch.tensor([complex(a, b) for a in parts for b in parts], dtype=dtype)
    compare(getattr(torch, name), x, rtol=1e-6, atol=1e-7)
    compare(torch.log, torch.tensor([complex(3e38, 3e38)], dtype=dtype), rtol=1e-6, atol=0)


def test_a_real_nan_is_not_lost():
    """Where a factor's imaginary part is known to be zero, compilers take its product with a NaN for zero."""
    for real in (torch.float32, torch.float64):
        x = torch.tensor([complex(math.nan, 1), 1 + 1j, 2 - 1j], dtype=real.to_complex())
        divisor = torch.tensor([math.nan, 2.0, math.nan], dtype=real)
        compare(torch.div, x, divisor)
        compare(torch.nn.functional.softsign, x)
        compare(lambda t: torch.nn.functional.normalize(t, dim=0), x)
        assert (x.to("mps") * divisor.to("mps")).isnan().cpu().tolist() == [True, False, True]


def test_logaddexp():
    inf = float("inf")
    for dtype in DTYPES:
        x, y = sample(20, dtype=dtype), sample(20, seed=1, dtype=dtype)
        compare_with_gradients(torch.logaddexp, x, y, **limits(dtype, 100))
    x = torch.tensor([complex(-inf, 1), complex(inf, 0), 1, complex(float("nan"), 1)])
    compare(torch.logaddexp, x, torch.tensor([complex(-inf, 0), 1, complex(-inf, 2), 1]), rtol=1e-5, atol=1e-5)


def test_half_width():
    """complex32 is stored as two halves and computed with in float32."""
    x, y = (sample(3, 5, seed=s).to(torch.complex32) for s in (0, 1))
    compare(lambda a, b: (a + b, a - b, a * b, -a, a * 2j, a.real, a.conj().resolve_conj(), a.mT.clone()), x, y)
    compare(lambda a: (a.to(torch.complex64), a.to(torch.complex128), torch.view_as_real(a)), x)
    compare(lambda a: a.to(torch.complex32), sample(4))


def test_zeros_and_infinities():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([0j, complex(inf, 1), complex(-inf, 0), complex(nan, 0), complex(1, nan), 1e30 + 1e30j])
    for function in (torch.sgn, torch.isnan, torch.isinf, torch.isfinite, torch.abs, torch.logical_not):
        compare(function, x)
    compare(torch.sqrt, x[[0, 5]])
    compare(lambda t: t / torch.zeros_like(t), x[4:])
    compare(lambda t: torch.pow(t, 2), x[:1])


def test_powers_keep_their_digits():
    skip_without_float64("the logarithm is rounded before it is multiplied")
    bases = torch.polar(torch.tensor([0.1, 0.9, 1.0, 3.0, 9.0]), torch.tensor([-3.1, -1.0, 0.2, 2.0, 3.0]))
    exponents = sample(200) * 4
    exact = torch.pow(bases[:, None].to(torch.complex128), exponents.to(torch.complex128)).to(torch.complex64)
    for function in (torch.pow, lambda a, b: a.clone().expand(5, 200).contiguous().pow_(b)):
        assert_same(function(bases[:, None].to("mps"), exponents.to("mps")), exact)
    exact = torch.pow(9.0, exponents.to(torch.complex128)).to(torch.complex64)
    assert_same(torch.pow(9.0, exponents.to("mps")), exact)


def test_comparisons():
    a, b = sample(5), sample(5)
    b[2] += 1
    compare(lambda x, y: (x == y, x != y, x == 1j, torch.isclose(x, y), x.logical_and(y)), a, b)
    compare(lambda x, y: (torch.equal(x, y), torch.allclose(x, x)), a, b)
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError):
            a.to(device) < b.to(device)  # noqa: B015


def test_from_real_numbers():
    radius, angle = torch.rand(3, 4) + 0.5, torch.randn(4)
    compare(torch.polar, radius, angle, rtol=1e-5, atol=1e-6)
    compare(torch.complex, radius, angle)
    leaf = radius.to("mps").requires_grad_()
    torch.polar(leaf, angle.to("mps")).abs().sum().backward()
    assert_same(leaf.grad, torch.ones(3, 4))
    compare(lambda x: x * (1 + 2j), radius)
    compare(lambda x: torch.full((3,), 2 - 1j, device=x.device), radius)
    compare(lambda x: torch.tensor([1j, 2], device=x.device), radius)


def test_sums():
    x = sample(3, 4, 5)
    for call in (
        torch.sum,
        torch.mean,
        lambda t: t.sum(1),
        lambda t: t.mean((0, -1), keepdim=True),
        lambda t: t[:0].sum(0),
    ):
        compare(call, x, rtol=1e-5, atol=1e-5)
    compare(lambda t: t.conj().sum(-1), x, rtol=1e-5, atol=1e-5)
    compare(lambda t: t.real.sum(dtype=torch.complex64), x, rtol=1e-5, atol=1e-5)
    compare(lambda t: (t.norm(), torch.linalg.vector_norm(t, 1, dim=1)), x, rtol=1e-5, atol=1e-5)
    compare_with_gradients(lambda t: t.sum(1), x)


def test_truth_and_running_sums():
    x = sample(3, 4)
    x[0, 1] = x[1] = 0
    compare(lambda t: (t.any(), t.all(), t.any(1), t.all(0), torch.count_nonzero(t), t.nonzero()), x)
    compare(lambda t: (t.cumsum(0), t.cumsum(-1), t.t().cumsum(1), t[0, 0].cumsum(0)), x, rtol=1e-5, atol=1e-5)
    compare_with_gradients(lambda t: t.cumsum(1), x, rtol=1e-5, atol=1e-4)


def test_indexing():
    x, rows = sample(4, 5), torch.tensor([0, 2, 2])
    places = torch.tensor([[0, 1, 1], [2, 0, 2]])

    for call in (
        lambda t: t[rows.to(t.device)],
        lambda t: t[:, rows.to(t.device)].t(),
        lambda t: t.gather(0, places.to(t.device)),
        lambda t: t.index_select(1, rows.to(t.device)),
        lambda t: t.index_add(0, rows.to(t.device), t[:3], alpha=1j),
        lambda t: t.scatter_add(1, places.to(t.device), t[:2, :3]),
        lambda t: t.index_put((rows.to(t.device), rows.to(t.device)), t[0, :3], accumulate=True),
        lambda t: t.take(places.to(t.device)),
        lambda t: torch.cat([t, t[:1]]).roll(1, 0).flip(1),
        lambda t: t.unfold(0, 2, 1),
    ):
        compare_with_gradients(call, x, rtol=1e-5, atol=1e-4)


@both_widths
def test_products_and_scans(dtype):
    x = sample(3, 4, 20, dtype=dtype) / 2
    for call in (
        lambda t: t.prod(1),
        lambda t: t[0, :, :6].prod(),
        lambda t: t.cumprod(1),
        lambda t: t.cumsum(-1),
        lambda t: t.logcumsumexp(2),
        lambda t: t.transpose(0, 2).logcumsumexp(0),
    ):
        compare(call, x, **limits(dtype, 10))
        compare_with_gradients(call, x[:, :, :5] / 2, **limits(dtype, 100))
    compare(lambda t: (t.prod(), t[:0].prod(0), t.cumprod(0)), x[:1, :, :3], **limits(dtype, 10))


@both_widths
def test_spread(dtype):
    x = sample(3, 4, 5, dtype=dtype)
    compare(lambda t: (t.var(), t.std(1), t.var((0, 2), keepdim=True, correction=0)), x, **limits(dtype))
    compare(lambda t: (torch.var_mean(t, 1), torch.std_mean(t)), x, **limits(dtype))
    compare_with_gradients(lambda t: t.std(1), x, **limits(dtype, 100))


@both_widths
def test_moving_elements(dtype):
    """16 bytes each: flip, triangles, padding, windows, joining, and their gradients."""
    x = sample(2, 3, 6, 5, dtype=dtype)
    for call in (
        lambda t: t.flip(1, 3),
        lambda t: t.triu(1) + t.tril(-1),
        lambda t: torch.nn.functional.pad(t, (2, 1, 1, 2), "reflect"),
        lambda t: torch.nn.functional.pad(t, (2, 1, 1, 2), "replicate"),
        lambda t: torch.nn.functional.pad(t, (1, -1, 0, 1), value=2),
        lambda t: torch.nn.functional.unfold(t, 3, padding=1),
        lambda t: torch.nn.functional.fold(t.reshape(2, 18, 5)[:, :12], (2, 6), 2),
        lambda t: torch.cat([t, *t.split(1, 2)] * 2, 2),
        lambda t: t.roll((1, 2), (0, 3)).rot90(1, (2, 3)),
        lambda t: t.repeat_interleave(2, 1)[:, ::3],
        lambda t: t.masked_select(t.real > 0),
        lambda t: t.unfold(3, 2, 1),
    ):
        compare_with_gradients(call, x, **limits(dtype, 10))


@both_widths
def test_ramps(dtype):
    for make in (
        lambda d, n: torch.linspace(1j, 2 - 1j, n, dtype=dtype, device=d),
        lambda d, n: torch.logspace(1j, 2 - 1j, n, base=3, dtype=dtype, device=d),
    ):
        for count in (0, 1, 7):
            assert_same(make("mps", count), make("cpu", count), **limits(dtype))


@both_widths
def test_convolution(dtype):
    image, weight, bias = sample(2, 3, 6, 5, dtype=dtype), sample(4, 3, 3, 2, dtype=dtype), sample(4, dtype=dtype)
    function = torch.nn.functional.conv2d
    compare_with_gradients(lambda i, w, b: function(i, w, b, (2, 1), 1), image, weight, bias, **limits(dtype, 100))
    across = weight.transpose(0, 1).contiguous()
    compare(lambda i, w: torch.nn.functional.conv_transpose2d(i, w, stride=2), image, across, **limits(dtype, 10))


@both_widths
def test_products_of_matrices(dtype):
    a, b, c = (sample(*shape, seed=s, dtype=dtype) for s, shape in enumerate(((4, 5), (5, 3), (4, 3))))
    for call in (
        lambda x, y, z: x @ y,
        lambda x, y, z: (x.mH @ z).conj() + y.conj(),
        lambda x, y, z: torch.addmm(z, x, y, alpha=2j, beta=1 - 1j),
        lambda x, y, z: x[None].expand(2, -1, -1) @ y,
        lambda x, y, z: torch.einsum("ij,jk,ik->i", x, y, z),
        lambda x, y, z: torch.outer(x[0], y[:, 0]),
        lambda x, y, z: torch.dot(x[0], y[:, 0]) + torch.vdot(x[0], y[:, 0]),
        lambda x, y, z: torch.nn.functional.linear(x, y.t(), z[0]),
    ):
        compare(call, a, b, c, **limits(dtype, 10))
    compare_with_gradients(torch.matmul, a, b, **limits(dtype, 100))


def test_rotary_embedding():
    """What language models do with complex numbers: turn pairs of channels by an angle of the position."""

    def rotate(x):
        frequencies = torch.outer(torch.arange(6.0, device=x.device), 1 / 10 ** torch.arange(4.0, device=x.device))
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(
            torch.ones_like(frequencies), frequencies
        )
        return torch.view_as_real(turned).flatten(-2)

    compare(rotate, torch.randn(2, 6, 8), grad=True, rtol=1e-4, atol=1e-5)


def test_what_is_missing_says_so():
    x = sample(3).to("mps")
    with pytest.raises(NotImplementedError, match="not implemented for"):
        torch.erf(x)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_training(optimiser):
    torch.manual_seed(0)
    reference = torch.nn.Linear(3, 2, dtype=torch.complex64)
    mine = torch.nn.Linear(3, 2, dtype=torch.complex64, device="mps")
    mine.load_state_dict(reference.state_dict())
    for model, x in ((reference, sample(4, 3)), (mine, sample(4, 3).to("mps"))):
        steps = optimiser(model.parameters(), lr=0.1)
        for _ in range(3):
            steps.zero_grad()
            model(x).abs().square().mean().backward()
            steps.step()
    assert_same(list(mine.parameters()), list(reference.parameters()), rtol=1e-4, atol=1e-4)


def test_printing_and_saving(tmp_path):
    x = sample(2, 3)
    assert repr(x.to("mps")) == repr(x)[:-1] + ", device='mps:0')"
    torch.save(x.to("mps"), tmp_path / "x.pt")
    assert torch.equal(torch.load(tmp_path / "x.pt").cpu(), x)
