"""Sparse tensors in compressed form against torch on the CPU."""

import itertools
import re

import pytest
import torch
from support import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # beta state; invariants are not checked

LAYOUTS = {
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
    "bsr": lambda t: t.to_sparse_bsr((2, 2)),
    "bsc": lambda t: t.to_sparse_bsc((2, 2)),
}
EVERY = {"strided": lambda t: t, "coo": lambda t: t.to_sparse(), **LAYOUTS}


def matrix(rows=4, columns=6, dtype=torch.float64, seed=0, density=0.4):
    """The third row is empty."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn((rows, columns), generator=generator, dtype=torch.float64) * 5
    dense[torch.rand((rows, columns), generator=generator) > density] = 0
    dense[2 % rows] = 0
    return dense.to(dtype)


def to_mps(value):
    return value.to("mps") if isinstance(value, torch.Tensor) else value


def indices(value):
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return value.crow_indices(), value.col_indices()
    return value.ccol_indices(), value.row_indices()


def same(actual, expected, **tolerance):
    if isinstance(expected, (tuple, list)):
        for mine, reference in zip(actual, expected, strict=True):
            same(mine, reference, **tolerance)
    elif isinstance(expected, torch.Tensor) and expected.layout != torch.strided:
        assert (actual.layout, actual.shape, actual.dtype) == (expected.layout, expected.shape, expected.dtype)
        assert actual.device.type == "mps"
        if expected.layout == torch.sparse_coo:
            assert_same(actual.coalesce().indices(), expected.coalesce().indices())
            assert_same(actual.coalesce().values(), expected.coalesce().values(), **tolerance)
            return
        assert_same(indices(actual), indices(expected))
        assert_same(actual.values(), expected.values(), **tolerance)
    else:
        assert_same(actual, expected, **tolerance)


def check(function, *arguments, **tolerance):
    """function on the device and on the CPU: the same indices and values."""
    same(function(*(to_mps(a) for a in arguments)), function(*arguments), **tolerance)


def errors(function, *arguments):
    """function raises on the device what it raises on the CPU."""
    with pytest.raises(Exception) as expected:
        function(*arguments)
    with pytest.raises(expected.type, match=re.escape(str(expected.value).split("\n")[0])):
        function(*(to_mps(a) for a in arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_building(layout, dtype):
    x = LAYOUTS[layout](matrix(dtype=dtype))
    y = x.to("mps")
    same(y, x)
    assert torch.equal(y.cpu().to_dense(), x.to_dense())
    assert repr(y).count("mps:0") == 1
    check(lambda t: t.to_dense(), x)
    check(lambda t: t.clone(), x)
    check(lambda t: t.detach().to(torch.float32 if dtype != torch.complex64 else torch.complex128), x)
    check(lambda t: t.transpose(0, 1), x)
    check(lambda t: t[1], x) if layout == "csr" else None
    check(torch.zeros_like, x)
    check(lambda t: torch.full_like(t, 1), x)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_constructors(index):
    starts, columns, values = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 3.0])
    starts, columns = starts.to(index), columns.to(index)
    check(lambda *p: torch.sparse_csr_tensor(*p, size=(2, 3)), starts, columns, values)
    check(lambda *p: torch.sparse_csr_tensor(*p), starts, columns, values)
    check(lambda *p: torch.sparse_csc_tensor(*p, size=(3, 2)), starts, columns, values)
    blocks = torch.arange(12.0).view(3, 2, 2)
    check(lambda *p: torch.sparse_bsr_tensor(*p, size=(4, 6)), starts, columns, blocks)
    check(lambda *p: torch.sparse_bsc_tensor(*p, size=(6, 4)), starts, columns, blocks)
    check(
        lambda *p: torch.sparse_compressed_tensor(*p, size=(2, 3), layout=torch.sparse_csr, dtype=torch.float64),
        *(starts, columns, values),
    )
    made = torch.sparse_csr_tensor(starts.tolist(), columns.tolist(), values.tolist(), (2, 3), device="mps")
    same(made, torch.sparse_csr_tensor(starts.tolist(), columns.tolist(), values.tolist(), (2, 3)))
    same(torch.zeros((3, 4), layout=torch.sparse_csr, device="mps"), torch.zeros((3, 4), layout=torch.sparse_csr))
    assert torch.empty((3, 4), layout=torch.sparse_csr, device="mps").shape == (3, 4)


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_invariants(layout):
    make = torch.sparse_csr_tensor if layout == "csr" else torch.sparse_csc_tensor
    values = torch.tensor([1.0, 2.0, 3.0])
    for starts, places in (
        *(([1, 1, 3], [0, 0, 1]), ([0, 1, 2], [0, 0, 1]), ([0, 3, 3], [0, 0, 1]), ([0, 1, 3], [0, 1, 0])),
        *(([0, 1, 3], [0, 0, 2]), ([0, 1, 3], [0, 0, -1]), ([0, 1, 3], [0, 1, 1]), ([0, 1], [0, 1, 1])),
    ):
        parts = torch.tensor(starts), torch.tensor(places), values
        errors(lambda *p: make(*p, size=(2, 2), check_invariants=True), *parts)
    fine = torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), values
    check(lambda *p: make(*p, size=(2, 2), check_invariants=True), *fine)
    batch = torch.tensor([[0, 1, 2], [0, 2, 2]]), torch.tensor([[1, 0], [0, 1]]), torch.ones(2, 2)
    check(lambda *p: make(*p, size=(2, 2, 2), check_invariants=True), *batch)


@pytest.mark.parametrize(("start", "end"), itertools.product(EVERY, EVERY))
def test_conversions(start, end):
    if start in ("bsr", "bsc") and end in ("csr", "csc"):
        pytest.skip("torch has no such conversion")
    check(lambda t: EVERY[end](EVERY[start](t)), matrix())
    check(lambda t: EVERY[start](t).to_dense(), matrix(density=0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_and_dense_dimensions(layout):
    batch = torch.arange(1.0, 33).view(2, 4, 4) * torch.eye(4)
    check(LAYOUTS[layout], batch)
    check(lambda t: LAYOUTS[layout](t).to_dense(), batch)
    check(lambda t: LAYOUTS[layout](t).to_sparse(), batch)
    elements = torch.arange(1.0, 17).view(4, 4, 1).expand(4, 4, 3).contiguous()
    arguments = ((2, 2),) if layout.startswith("b") else ()
    check(lambda t: getattr(t, f"to_sparse_{layout}")(*arguments, dense_dim=1), elements)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elementwise(layout):
    x = LAYOUTS[layout](matrix())
    for function in (torch.abs, torch.neg, torch.sin, torch.sign, torch.trunc, torch.signbit, torch.erf, torch.isnan):
        check(function, x)
    check(lambda t: t * 2.5, x)
    if layout == "csr":
        check(lambda t: torch.ops.aten.mul.Scalar(t, 2 - 1j), x)
    check(lambda t: t.clone().mul_(2), x)
    check(lambda t: t.clone().neg_(), x)
    check(lambda t: t.clone().zero_(), x)
    check(lambda t: t.clone().fill_(3), x)
    check(lambda t: t.clone().copy_(t * 2), x)
    check(torch.relu, x)
    check(torch.sum, x)


def test_binary():
    x, y = matrix(), matrix(seed=1)
    for layout in ("csr", "csc"):
        check(lambda a, b, f=LAYOUTS[layout]: a + f(b), x, y)
        check(lambda a, b, f=LAYOUTS[layout]: torch.add(a, f(b), alpha=3), x, y)
    check(lambda a, b: a.to_sparse_csr() + b.to_sparse_csr(), x, y)
    check(lambda a, b: torch.add(a.to_sparse_csr(), b.to_sparse_csr(), alpha=-2), x, y)
    check(lambda a, b: a.to_sparse_csr().add_(b.to_sparse_csr()), x, y)
    check(lambda a, b: a.to_sparse_csr() * b.to_sparse_csr(), x, y)
    check(lambda a, b: a.to_sparse_csr() * b, x, y)
    check(lambda a, b: a.sparse_mask(b.to_sparse_csr()), x, y)
    errors(lambda a, b: a + b.to_sparse_csr(), x, y[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_products(dtype):
    a, b, c = matrix(dtype=dtype), matrix(6, 4, dtype=dtype, seed=1), matrix(4, 4, dtype=dtype, seed=2)
    for layout in ("csr", "csc", "bsr"):
        convert = LAYOUTS[layout]
        check(lambda x, y, f=convert: f(x) @ y, a, b)
        check(lambda x, y, z, f=convert: torch.addmm(z, f(x), y, beta=0.5, alpha=2), a, b, c)
        check(lambda x, y, f=convert: torch.mv(f(x), y[:, 0]), a, b)
    for layout in ("csr", "csc"):
        convert = LAYOUTS[layout]
        check(lambda x, y, f=convert: x @ f(y), a, b)
        check(lambda x, y, f=convert: x.conj() @ f(y), a, b)
        check(lambda x, y, f=convert: f(x) @ y.to_sparse_csr(), a, b)
        check(lambda x, y, f=convert: torch.nn.functional.linear(x, f(y.T.contiguous())), a, b)
    check(lambda x, y: torch.addmv(y[0], x.to_sparse_csr().transpose(0, 1), y[:, 0], beta=2), b, a.T)
    out = torch.empty(4, 4, dtype=dtype, device="mps")
    torch.mm(a.to("mps").to_sparse_csr(), b.to("mps"), out=out)
    assert_same(out, a @ b)


def test_products_refuse():
    a, b = matrix(), matrix(6, 4)
    errors(lambda x, y: x.to_sparse_csr() @ y[:3], a, b)
    for reduce, y in (("sum", b[:3]), ("prod", b)):
        errors(lambda x, y, r=reduce: torch.sparse.mm(x.to_sparse_csr(), y, r), a, y)
    errors(lambda x, y: torch.sparse.mm(x.to_sparse_csc(), y, "sum"), a, b)
    errors(lambda x, y: torch.sparse.sampled_addmm(x.to_sparse_csr(), y[:3], y), a, b)
    errors(lambda x, y: torch.sparse.sampled_addmm(x.to_sparse_csc(), y, y), a, b)
    errors(lambda x: torch.sum(x.to_sparse_csr(), 0), a)


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "amin"])
def test_reduced_products(reduce):
    def run(a, b):
        a, b = a.to_sparse_csr().detach().requires_grad_(), b.detach().requires_grad_()
        result = torch.sparse.mm(a, b, reduce)
        (result * torch.arange(result.numel(), device=result.device).view(result.shape)).sum().backward()
        return result.detach(), a.grad.detach(), b.grad

    check(run, matrix(), matrix(6, 3, seed=1))
    check(run, matrix(dtype=torch.float32), matrix(6, 3, dtype=torch.float32, seed=1))
    check(lambda a, b: torch.sparse.mm(a.to_sparse_csr(), b, reduce), matrix(density=0), matrix(6, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_sampled_products(dtype):
    pattern, a, b = (matrix(*s, dtype=dtype, seed=i) for i, s in enumerate(((4, 5), (4, 3), (3, 5))))
    check(lambda s, x, y: torch.sparse.sampled_addmm(s.to_sparse_csr(), x, y), pattern, a, b)
    check(lambda s, x, y: torch.sparse.sampled_addmm(s.to_sparse_csr(), x, y, beta=0.5, alpha=3), pattern, a, b)
    batch = torch.eye(4, dtype=dtype).expand(2, 4, 4) * 3
    left, right = torch.arange(24.0).view(2, 4, 3).to(dtype), torch.arange(24.0).view(2, 3, 4).to(dtype)
    check(lambda s, x, y: torch.sparse.sampled_addmm(s.to_sparse_csr(), x, y), batch, left, right)


def test_gradients():
    def run(a, b):
        values = a.to_sparse_csr().values().detach().requires_grad_()
        parts = a.to_sparse_csr()
        sparse = torch.sparse_csr_tensor(parts.crow_indices(), parts.col_indices(), values, a.shape)
        dense = b.detach().requires_grad_()
        (sparse @ dense).sin().sum().backward()
        leaf = a.detach().requires_grad_()
        (leaf.to_sparse_csr() @ b).sin().sum().backward()
        return values.grad, dense.grad, leaf.grad.to_dense()

    check(run, matrix(), matrix(6, 3, seed=1))


def test_along_dimensions():
    for dtype in (torch.float64, torch.int32):
        x = matrix(dtype=dtype)
        for dim in (0, 1, -1, (0, 1)):
            check(lambda t, d=dim: torch.sum(t.to_sparse_csr(), d, keepdim=True), x)
            check(lambda t, d=dim: torch._sparse_csr_prod(t.to_sparse_csr(), d, keepdim=True), x)
    check(lambda t: torch.sum(t.to_sparse_csr(), 0, keepdim=True), matrix(density=0))
    assert torch.sum(matrix(density=0).to("mps").to_sparse_csr(), (0, 1), keepdim=True)._nnz() == 0


@pytest.mark.parametrize("upper", [True, False])
def test_triangular_solve(upper):
    a = matrix(5, 5, density=0.9) + 9 * torch.eye(5, dtype=torch.float64)
    for options in ({}, {"transpose": True}, {"unitriangular": True}):
        check(
            lambda t, y, o=options: torch.triangular_solve(y, t.to_sparse_csr(), upper=upper, **o).solution,
            *(a, matrix(5, 2, seed=1)),
        )


def test_what_is_not_there_says_so():
    with pytest.raises(NotImplementedError, match=r"aten::bmm.out' .* from the 'SparseCsrMPS' backend"):
        torch.bmm(torch.ones(2, 3, 3, device="mps").to_sparse_csr(), torch.ones(2, 3, 3, device="mps"))
