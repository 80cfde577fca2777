"""QR factorisations against the CPU: the same signs, layout, modes and gradients; products with Q."""

import pytest
import torch
from support import assert_same, compare, to_mps

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
LIMITS = {"rtol": 1e-3, "atol": 1e-3}


def sample(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["reduced", "complete", "r"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_qr(dtype, mode):
    for shape in ((1, 1), (3, 3), (2, 5, 3), (2, 3, 5), (0, 3, 2), (3, 0), (0, 3), (2, 70, 40), (200, 150)):
        a = sample(*shape, dtype=dtype)
        compare(lambda x: torch.linalg.qr(x, mode), a, **LIMITS)
        expected, actual = torch.linalg.qr(a, mode), torch.linalg.qr(a.to("mps"), mode)
        assert [t.stride() for t in actual if t.numel()] == [t.stride() for t in expected if t.numel()]
    compare(lambda x: torch.linalg.qr(x, mode), sample(4, 6, 5, dtype=dtype)[::2, 1::2].mT, **LIMITS)
    if not dtype.is_complex:  # MKL leaves the last row of a large wide matrix as it is, in place of a real diagonal
        compare(lambda x: torch.linalg.qr(x, mode), sample(140, 300, dtype=dtype), **LIMITS)


def test_qr_of_zeros_and_of_extreme_sizes():
    compare(torch.linalg.qr, torch.zeros(3, 2))
    compare(torch.linalg.qr, torch.tensor([[1.0, 2], [0, 0], [0, 0]]))
    compare(lambda x: torch.linalg.qr(x).Q, sample(4, 3) * 1e25, **LIMITS)
    compare(lambda x: torch.linalg.qr(x).Q, sample(4, 3) * 1e-25, **LIMITS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_qr_gradients(dtype):
    for shape in ((3, 3), (2, 5, 3), (3, 5)):
        leaves = [sample(*shape, dtype=dtype).requires_grad_()]
        leaves.append(leaves[0].detach().to("mps").requires_grad_())
        for leaf in leaves:
            q, r = torch.linalg.qr(leaf)
            (q[0].real.sum() + r.abs().square().sum() + r.real[..., 0, -1].sum()).backward()
        assert_same(leaves[1].grad, leaves[0].grad, **LIMITS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reflections(dtype):
    for shape in ((3, 3), (2, 5, 3), (4, 2), (0, 3, 2)):
        a = sample(*shape, dtype=dtype)
        compare(torch.geqrf, a, **LIMITS)
        vectors, tau = torch.geqrf(a)
        compare(torch.linalg.householder_product, vectors, tau, **LIMITS)
        compare(torch.linalg.householder_product, vectors, tau[..., :1], **LIMITS)
        for left in (True, False):
            other = sample(*shape[:-1], 4, dtype=dtype)
            other = other if left else other.mT
            for transpose in (True, False):
                compare(lambda v, t, c: torch.ormqr(v, t, c, left, transpose), vectors, tau, other, **LIMITS)  # noqa: B023


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_large_products(dtype, transpose, left):
    vectors, tau = torch.geqrf(sample(2, 150, 90, dtype=dtype))
    tau[:, 3] = 0  # a reflection that is none
    other = sample(2, 150, 5, dtype=dtype, seed=1)
    other = other if left else other.mT
    compare(lambda v, t, c: torch.ormqr(v, t, c, left, transpose), vectors, tau, other, rtol=1e-9, atol=1e-9)


def test_gradients_of_products_of_reflections():
    vectors, tau = sample(2, 5, 3), sample(2, 3) / 3
    compare(torch.linalg.householder_product, vectors, tau, grad=True, **LIMITS)
    compare(torch.ormqr, vectors, tau, sample(2, 5, 4), grad=True, **LIMITS)


def test_out():
    vectors, tau = torch.geqrf(sample(5, 3))
    outs = [torch.empty(5, 3, device="mps"), torch.empty(3, device="mps")]
    torch.geqrf(sample(5, 3).to("mps"), out=outs)
    assert_same(outs, [vectors, tau], **LIMITS)
    out = torch.empty(0, device="mps")
    torch.linalg.householder_product(*to_mps((vectors, tau)), out=out)
    assert_same(out, torch.linalg.householder_product(vectors, tau), **LIMITS)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.linalg.qr(torch.ones(3, device=d)),
        lambda d: torch.linalg.qr(torch.ones(3, 3, device=d), "other"),
        lambda d: torch.linalg.qr(torch.ones(3, 3, device=d).half()),
        lambda d: torch.geqrf(torch.ones(3, 3, device=d).half()),
        lambda d: torch.geqrf(torch.ones(3, device=d)),
        lambda d: torch.linalg.householder_product(torch.ones(2, 3, device=d), torch.ones(2, device=d)),
        lambda d: torch.linalg.householder_product(torch.ones(3, 2, device=d), torch.ones(3, device=d)),
        lambda d: torch.ormqr(torch.ones(3, 2, device=d), torch.ones(2, device=d), torch.ones(2, 2, device=d)),
    ],
)
def test_errors(call):
    raised = []
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError) as info:
            call(device)
        raised.append(type(info.value))
    assert raised[0] is raised[1]
