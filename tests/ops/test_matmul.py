"""Matrix products of every kind and stride against torch on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, INTEGERS, assert_same, compare, to_mps

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(*shape, dtype=torch.int64):
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(
    "m,k,n", [(1, 1, 1), (3, 5, 7), (64, 16, 64), (65, 17, 66), (1, 300, 1), (130, 4, 3), (128, 128, 128), (2, 1000, 2)]
)
def test_sizes(m, k, n):
    compare(torch.mm, sample(m, k), sample(k, n, seed=1), grad=True, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("a", ["plain", "transposed", "sliced", "expanded", "offset"])
@pytest.mark.parametrize("b", ["plain", "transposed", "sliced", "expanded", "offset"])
def test_strides(a, b):
    def laid_out(kind, rows, columns, seed):
        if kind == "transposed":
            return sample(columns, rows, seed=seed).t()
        if kind == "sliced":
            return sample(rows * 2, columns * 3, seed=seed)[::2, ::3]
        if kind == "expanded":
            return sample(1, columns, seed=seed).expand(rows, columns)
        if kind == "offset":
            return sample(rows, columns + 1, seed=seed)[:, 1:]
        return sample(rows, columns, seed=seed)

    x, y = laid_out(a, 12, 8, 0), laid_out(b, 8, 20, 1)
    assert_same(to_mps(x) @ to_mps(y), x @ y, **CLOSE)


@pytest.mark.parametrize("dtype", FLOATS)
def test_half_types_accumulate_in_float32(dtype):
    x, y = sample(33, 500, dtype=dtype), sample(500, 20, dtype=dtype, seed=1)
    tolerance = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}[dtype]
    product = (x.to("mps") @ y.to("mps")).cpu()
    torch.testing.assert_close(product.double(), x.double() @ y.double(), rtol=2e-2, atol=tolerance)


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.float64])
def test_other_dtypes(dtype):
    x, y = whole(7, 9, dtype=dtype), whole(9, 5, dtype=dtype)
    compare(torch.mm, x, y)
    compare(torch.bmm, x.view(1, 7, 9).expand(3, 7, 9), y.view(1, 9, 5).expand(3, 9, 5))
    compare(torch.mv, x, y[:, 0])
    compare(torch.dot, x[0], y[:, 0])


@pytest.mark.parametrize("beta,alpha", [(1, 1), (0, 1), (0.5, 2), (1, -1)])
def test_added_terms(beta, alpha):
    numbers = {"beta": beta, "alpha": alpha}
    x, y = sample(5, 6), sample(6, 7, seed=1)
    for added in (sample(5, 7), sample(7), sample(5, 1), sample(1)):
        compare(lambda c, x, y: torch.addmm(c, x, y, **numbers), added, x, y, grad=True, **CLOSE)
    compare(lambda c, x, v: torch.addmv(c, x, v, **numbers), sample(5), x, sample(6), grad=True, **CLOSE)
    batches = sample(3, 5, 6), sample(3, 6, 7, seed=1)
    compare(lambda c, x, y: torch.baddbmm(c, x, y, **numbers), sample(3, 5, 7), *batches, grad=True, **CLOSE)
    compare(lambda c, x, y: torch.baddbmm(c, x, y, **numbers), sample(7), *batches, grad=True, **CLOSE)
    compare(lambda c, x, y: torch.addbmm(c, x, y, **numbers), sample(5, 7), *batches, grad=True, **CLOSE)
    compare(lambda c, u, v: torch.addr(c, u, v, **numbers), sample(5, 7), sample(5), sample(7), grad=True, **CLOSE)


def test_beta_zero_ignores_nan():
    added = torch.full((2, 2), math.nan)
    compare(lambda c, x, y: torch.addmm(c, x, y, beta=0), added, sample(2, 3), sample(3, 2))


def test_factors_that_share_memory_with_the_result():
    """In place they are read first; out= may not be a part of an input, or one in another order.

    What the CPU makes of these depends on the processor: some of its kernels read what they have written.
    """
    a, b, batch = sample(3, 3), sample(3, 3, seed=1), sample(2, 3, 3)
    for call, expected in (
        (lambda x, y: x.addmm_(y, y), a + b @ b),
        (lambda x, y: x.addmm_(x, y, beta=0.2, alpha=0.6), 0.2 * a + 0.6 * a @ b),
        (lambda x, y: x.addmm_(y, x), a + b @ a),
        (lambda x, y: x.addmm_(x.t(), x), a + a.t() @ a),
        (lambda x, y: x.addbmm_(x[None], y[None]), a + a @ b),
        (lambda x, y: torch.mm(x, y, out=x), a @ b),
    ):
        assert_same(call(a.to("mps"), b.to("mps")), expected, **CLOSE)
    own = batch.to("mps")
    assert_same(own.baddbmm_(own, own), batch + batch @ batch, **CLOSE)
    row = a[0].to("mps")
    torch.testing.assert_close(row.addmv_(b.to("mps"), row).cpu(), torch.addmv(a[0], b, a[0]), **CLOSE)

    memory = torch.arange(20.0, device="mps")
    first, second = memory[:9].view(3, 3), memory[1:10].view(3, 3)
    for call in (
        lambda: torch.addmm(first, first.clone(), first.clone(), out=second),
        lambda: torch.addmm(first.t(), first.clone(), first.clone(), out=first),
        lambda: torch.addmm(first.clone(), first, first.clone(), out=second),
        lambda: torch.addmv(memory[:3], first.clone(), memory[10:13].clone(), out=memory[1:4]),
        lambda: torch.baddbmm(first[None], first[None].clone(), first[None].clone(), out=second[None]),
    ):
        with pytest.raises(RuntimeError, match="single memory location"):
            call()
    apart = memory[:16].view(4, 4)  # columns that lie between each other are not parts of each other
    compare(lambda x: torch.mm(x[:, :2], x[:2, :2], out=x[:, 2:]), apart.cpu(), **CLOSE)


SHAPES = [((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((2, 3, 4), (4,)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5))]
SHAPES += [((2, 1, 3, 4), (5, 4, 2)), ((1, 2, 3, 4), (2, 1, 4, 3))]


@pytest.mark.parametrize("shapes", SHAPES)
def test_matmul_broadcasts(shapes):
    compare(torch.matmul, *(sample(*shape, seed=k) for k, shape in enumerate(shapes)), grad=True, **CLOSE)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 2, 3, 6), (0, 6)])
def test_linear(shape, bias):
    b = sample(5) if bias else None
    compare(lambda x, w, b: torch.nn.functional.linear(x, w, b), sample(*shape), sample(5, 6), b, grad=True, **CLOSE)


def test_contractions():
    x, y = sample(3, 4, 5), sample(5, 4, 2)
    compare(lambda x, y: torch.einsum("ijk,kjl->il", x, y), x, y, grad=True, **CLOSE)
    compare(lambda x, y: torch.tensordot(x, y, dims=([2, 1], [0, 1])), x, y, grad=True, **CLOSE)
    compare(torch.outer, sample(3), sample(4), grad=True)
    compare(torch.inner, sample(2, 3), sample(4, 3), grad=True, **CLOSE)
    compare(torch.kron, sample(2, 3), sample(2, 2), grad=True)
    compare(torch.chain_matmul, sample(2, 3), sample(3, 4), sample(4, 2), **CLOSE)
    compare(lambda x: torch.linalg.matrix_power(x, 3), sample(4, 4), **CLOSE)
    compare(torch.nn.functional.bilinear, sample(3, 2), sample(3, 4), sample(5, 2, 4), sample(5), grad=True, **CLOSE)


def test_empty():
    compare(torch.mm, sample(3, 0), sample(0, 4), grad=True)
    compare(torch.mm, sample(0, 3), sample(3, 4), grad=True)
    compare(torch.bmm, sample(0, 3, 2), sample(0, 2, 4))
    compare(lambda c, x, y: torch.addmm(c, x, y, beta=2), sample(3, 4), sample(3, 0), sample(0, 4))
    compare(lambda c, x, y: torch.addbmm(c, x, y, beta=2), sample(3, 4), sample(2, 3, 0), sample(2, 0, 4))


def test_out():
    x, y = sample(3, 4), sample(4, 5)
    out = torch.empty(5, 3, device="mps").t()
    assert torch.mm(to_mps(x), to_mps(y), out=out) is out
    assert_same(out, x @ y, **CLOSE)
    with pytest.raises(RuntimeError):
        torch.mm(to_mps(x), to_mps(y), out=torch.empty(3, 5, dtype=torch.float64, device="mps"))


def test_special_values_spread_as_ieee_says():
    x = sample(4, 4)
    x[0, 0], x[1, 1], x[2, 2] = math.inf, -math.inf, math.nan
    assert_same(to_mps(x) @ to_mps(torch.ones(4, 4)), x @ torch.ones(4, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.mm(torch.ones(2, 3, device=d), torch.ones(4, 2, device=d)),
        lambda d: torch.mm(torch.ones(2, 3, 1, device=d), torch.ones(3, 2, device=d)),
        lambda d: torch.bmm(torch.ones(2, 3, 4, device=d), torch.ones(3, 4, 2, device=d)),
        lambda d: torch.mv(torch.ones(2, 3, device=d), torch.ones(2, device=d)),
        lambda d: torch.dot(torch.ones(3, device=d), torch.ones(4, device=d)),
        lambda d: torch.dot(torch.ones(3, 1, device=d), torch.ones(3, device=d)),
        lambda d: torch.addmm(torch.ones(3, 3, device=d), torch.ones(2, 3, device=d), torch.ones(3, 2, device=d)),
        lambda d: torch.mm(torch.ones(2, 3, device=d), torch.ones(3, 2, device=d).half()),
        lambda d: torch.matmul(torch.ones((), device=d), torch.ones(3, device=d)),
        lambda d: torch.addmm(*[torch.ones(3, 3, dtype=torch.int8, device=d)] * 3, alpha=300),
        lambda d: torch.addmm(*[torch.ones(3, 3, dtype=torch.int32, device=d)] * 3, beta=2**40),
        lambda d: torch.addmm(*[torch.ones(3, 3, device=d)] * 3, alpha=1j),
        lambda d: torch.addmm(*[torch.ones(3, 3, device=d)] * 3, beta=1e39),
    ],
)
def test_errors(call):
    with pytest.raises(Exception) as expected:
        call("cpu")
    with pytest.raises(expected.type):
        call("mps")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_factors_keep_their_width(dtype):
    a = torch.arange(6).view(2, 3).to(dtype)
    alpha, beta = (0.1, 0.2) if dtype == torch.float64 else (2**40 + 1, 2**30 + 1)
    compare(lambda c, x, y: torch.addmm(c, x, y, alpha=alpha, beta=beta), a @ a.t(), a, a.t())


def test_integer_products():
    a, b = (torch.arange(-60, 60).view(s).to(torch.int8) for s in ((10, 12), (12, 10)))
    compare(torch._int_mm, a.repeat(2, 1), b)
    for call in (lambda: torch._int_mm(to_mps(a), to_mps(a)), lambda: torch._int_mm(to_mps(a).float(), to_mps(b))):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("use_gelu", [False, True])
def test_product_and_activation(use_gelu):
    a, b, c = (torch.linspace(-1, 1, 12).view(s) for s in ((3, 4), (4, 3), (12,)))
    compare(lambda z, x, y: torch._addmm_activation(z, x, y, use_gelu=use_gelu), c[:3], a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outer_products_of_half_types_are_rounded_once(dtype):
    added, a, b = (sample(*shape, seed=i).to(dtype) for i, shape in enumerate(((9, 11), (9,), (11,))))
    result = torch.addr(added.to("mps"), a.to("mps"), b.to("mps"), beta=0.3, alpha=-2.7)
    right = 0.3 * added.double() - 2.7 * a.double()[:, None] * b.double()
    torch.testing.assert_close(result.cpu(), right.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_outer_products_of_other_types():
    whole = torch.arange(6).view(2, 3)
    compare(lambda c, x, y: torch.addr(c, x, y, beta=2, alpha=3), whole, whole[:, 0].int(), whole[0].to(torch.uint8))
    compare(lambda c, x, y: torch.addr(c, x, y, beta=1j, alpha=2), whole + 1j, whole[:, 0] + 2j, whole[0] - 1j)
    compare(lambda c, x, y: torch.addr(c, x, y, beta=0), torch.full((2, 3), math.nan), sample(2), sample(3))
    truths = whole % 2 == 0, whole[:, 1] > 2, whole[1] > 4
    for beta, alpha in ((True, True), (False, True), (True, False), (1, 2)):
        compare(lambda c, x, y, beta=beta, alpha=alpha: torch.addr(c, x, y, beta=beta, alpha=alpha), *truths)


@pytest.mark.parametrize(
    "message, call",
    {
        "Expected 1-D argument vec1, but got 2-D": lambda x, a, b: torch.addr(x, x, b),
        "Expected 1-D argument vec2, but got 2-D": lambda x, a, b: torch.addr(x, a, x),
        "Boolean alpha only supported": lambda x, a, b: torch.addr(x, a, b, alpha=True),
        "argument beta must not be a floating": lambda x, a, b: torch.addr(x.int(), a.int(), b.int(), beta=0.5),
        "2D tensor expected, got 1D": lambda x, a, b: b.addr_(a, b),
        "size mismatch, input": lambda x, a, b: x[:1].addr_(a, b),
        "can't be cast": lambda x, a, b: x.int().addr_(a, b),
        "expanded size": lambda x, a, b: torch.addr(x, b, a),
    }.items(),
)
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_what_outer_products_refuse(device, message, call):
    with pytest.raises(RuntimeError, match=message):
        call(*(torch.ones(shape, device=device) for shape in ((2, 3), 2, 3)))


def test_outer_product_into_an_output():
    compare(lambda x, a, b: torch.addr(x, a, b, beta=2, alpha=3, out=x.new_empty(0)), *map(torch.randn, ((4, 3), 4, 3)))
    for wrong in (torch.empty(4, 3), torch.empty(4, 3, dtype=torch.int64, device="mps")):
        with pytest.raises(RuntimeError):
            torch.addr(*(torch.ones(shape, device="mps") for shape in ((4, 3), 4, 3)), out=wrong)


def test_products_of_nothing_fill_even_an_expanded_output():
    out = torch.ones(1, device="mps").expand(2, 3)
    assert not torch.mm(torch.ones(2, 0, device="mps"), torch.ones(0, 3, device="mps"), out=out).any()


def test_an_expanded_output_is_refused():
    a, b = torch.ones(3, 3, device="mps"), torch.ones(3, device="mps")
    matrix, vector = torch.zeros(3, 1, device="mps").expand(3, 3), torch.zeros(1, device="mps").expand(3)
    for call in (
        lambda: torch.mm(a, a, out=matrix),
        lambda: torch.addmm(a, a, a, out=matrix),
        lambda: matrix.addmm_(a, a),
        lambda: torch.addmv(b, a, b, out=vector),
        lambda: torch.addbmm(a, a[None], a[None], out=matrix),
        lambda: torch.baddbmm(a[None], a[None], a[None], out=matrix[None]),
    ):
        with pytest.raises(RuntimeError, match="single memory location"):
            call()


def test_cross_products():
    a, b = torch.randn(2, 3, 4), torch.randn(1, 3, 4)
    torch.testing.assert_close(
        torch.linalg.cross(a.to("mps"), b.to("mps"), dim=1).cpu(), torch.linalg.cross(a, b, dim=1)
    )
    c = a[0].to("mps")
    with pytest.raises(RuntimeError, match="single memory location"):
        torch.linalg.cross(c, c, dim=0, out=c)
    with pytest.raises(RuntimeError, match="dtype"):
        torch.linalg.cross(c, c, dim=0, out=torch.empty(3, 4, dtype=torch.float16, device="mps"))
    with pytest.raises(NotImplementedError):
        torch.linalg.cross(c > 0, c > 0, dim=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", [(300, 2, 4, 2), (40000, 1, 3, 2), (7, 16, 64, 32), (5, 1, 1, 1), (3, 4, 0, 4)])
def test_many_tiny_matrices(shape, dtype):
    batch, m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    a, b, added = (
        (torch.randn(size, generator=generator) * 4).to(dtype) for size in ((batch, m, k), (batch, k, n), (batch, m, n))
    )
    limits = {"rtol": 2e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    compare(torch.bmm, a, b, **limits)
    compare(lambda a, b: a.mT.contiguous().mT @ b.transpose(0, 1).contiguous().transpose(0, 1), a, b, **limits)
    compare(lambda c, a, b: torch.baddbmm(c, a, b, beta=2, alpha=3), added, a, b, **limits)


@pytest.mark.parametrize(
    ("a", "b", "ends"),
    [
        ((60, 32), (3, 32, 48), (10, 40, 60)),
        ((3, 16, 32), (3, 32, 48), None),
        ((32, 64), (64, 48), (8, 40, 64)),
        ((3, 16, 32), (32, 64), (8, 40, 64)),
    ],
)
def test_grouped_products(a, b, ends):
    """A product for each group of rows, of columns, or of the inner dimension: with gradients."""
    grouped_mm = getattr(F, "grouped_mm", torch._grouped_mm)
    operands = [
        torch.randn(shape, generator=torch.Generator().manual_seed(i)).bfloat16() for i, shape in enumerate((a, b))
    ]
    results = []
    for device in ("cpu", "mps"):
        leaves = [t.to(device, copy=True).requires_grad_() for t in operands]
        result = grouped_mm(
            *leaves, offs=None if ends is None else torch.tensor(ends, dtype=torch.int32, device=device)
        )
        gradients = torch.autograd.grad(result, leaves, torch.ones_like(result))
        results.append([t.detach().cpu() for t in (result, *gradients)])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 3), (0, 3, 2), (2, 3, 0)])
@pytest.mark.parametrize("on_cpu", [0, 1])
def test_factors_of_two_devices(shape, on_cpu):
    """Empty ones, too."""
    m, k, n = shape
    factors = [torch.ones(m, k), torch.ones(k, n)]
    factors[1 - on_cpu] = factors[1 - on_cpu].to("mps")
    a, b = factors
    added = torch.ones(m, n, device="mps")
    for call in (lambda: a @ b, lambda: torch.addmm(added, a, b), lambda: torch.bmm(a[None], b[None])):
        with pytest.raises(RuntimeError, match=r"same device|mps"):
            call()
