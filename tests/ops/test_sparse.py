"""Sparse tensors in coordinate form against torch on the CPU."""

import pytest
import torch
from support import assert_same

DTYPES = (torch.float32, torch.float64, torch.int64, torch.complex64)


def sample(*shape, dense=(), nnz=9, dtype=torch.float64, seed=0, coalesced=False):
    """Some indices come twice."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(0, size, (nnz,), generator=generator) for size in shape])
    values = torch.randn((nnz, *dense), generator=generator, dtype=torch.float64) * 5
    result = torch.sparse_coo_tensor(indices, values.to(dtype), (*shape, *dense))
    return result.coalesce() if coalesced else result


def to_mps(value):
    return value.to("mps") if isinstance(value, torch.Tensor) else value


def parts(value):
    return (value._indices(), value._values(), value.shape, value.is_coalesced()) if value.is_sparse else value


def check(function, *arguments, **tolerance):
    """function on the device and on the CPU: the same dense tensors, the same indices where they are in order."""
    expected, actual = function(*arguments), function(*(to_mps(a) for a in arguments))
    assert actual.layout == expected.layout
    assert actual.device.type == "mps"
    if expected.is_sparse:
        assert (actual.sparse_dim(), actual.is_coalesced()) == (expected.sparse_dim(), expected.is_coalesced())
        if expected.is_coalesced():
            assert_same(actual.indices(), expected.indices())
        actual, expected = actual.to_dense(), expected.to_dense()
    assert_same(actual, expected, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_building_and_converting(dtype):
    for x in (sample(4, 5, dtype=dtype), sample(3, 4, 2, dense=(2,), dtype=dtype), sample(4, 5, nnz=0, dtype=dtype)):
        check(lambda t: t, x)
        check(lambda t: t.coalesce(), x)
        check(lambda t: t.to_dense(), x)
        check(lambda t: t.to_dense().to_sparse(), x)
        check(lambda t: t.to_dense().to_sparse(1), x)
        check(lambda t: t.transpose(0, 1).coalesce(), x)
        check(lambda t: t.unsqueeze(0).clone(), x)
        assert_same(parts(x.to("mps")), parts(x))
        assert torch.equal(x.to("mps").cpu().to_dense(), x.to_dense())
    check(lambda t: torch.sparse_coo_tensor(t._indices(), t._values(), (6, 7), is_coalesced=False), sample(4, 5))
    assert repr(sample(2, 3).to("mps")).count("mps:0") == 1


def test_elementwise():
    x, y = sample(4, 5), sample(4, 5, seed=1)
    number = torch.tensor(2.0, dtype=torch.float64)
    for call in (
        lambda a, b: a + b,
        lambda a, b: torch.add(a, b, alpha=3),
        lambda a, b: a - b,
        lambda a, b: a.coalesce() + b.coalesce(),
        lambda a, b: a.to_dense() + b,
        lambda a, b: a.to_dense().sub(b, alpha=2),
        lambda a, b: a.clone().add_(b),
        lambda a, b: a.to_dense().add_(b),
        lambda a, b: a * b,
        lambda a, b: a * b.to_dense(),
        lambda a, b: a.to_dense() * b,
        lambda a, b: a * 2 - b / 4,
        lambda a, b: a * number.to(a.device),
        lambda a, b: -a.coalesce(),
        lambda a, b: a.coalesce().sin() + b.coalesce().abs().sqrt(),
        lambda a, b: a.relu(),
        lambda a, b: a.coalesce().pow(2),
        lambda a, b: torch.cat([a, b], 1),
        lambda a, b: a.float(),
        lambda a, b: a.coalesce().isnan(),
    ):
        check(call, x, y, rtol=1e-12, atol=1e-12)
    z = sample(3, 4, dense=(2,))
    check(lambda a, b: a + a * b.to_dense(), z, sample(3, 4, dense=(2,), seed=1), rtol=1e-12)


def test_products():
    x, dense, vector = sample(4, 5), torch.randn(5, 3).double(), torch.randn(5).double()
    for call in (
        torch.mm,
        torch.matmul,
        torch.sparse.mm,
        lambda a, d: torch.addmm(d[:4], a, d, beta=2, alpha=0.5),
        lambda a, d: torch.sparse.addmm(d[:4], a, d, beta=0),
        lambda a, d: d[:4].clone().addmm_(a, d),
        lambda a, d: torch.mm(a, d, out=d.new_empty(0)),
        lambda a, d: d.t() @ a.t(),
    ):
        check(call, x, dense, rtol=1e-12, atol=1e-12)
    check(torch.mv, x, vector, rtol=1e-12, atol=1e-12)
    check(torch.hspmm, sample(4, 5), torch.randn(5, 3).double(), rtol=1e-12, atol=1e-12)
    check(torch.bmm, sample(2, 4, 5), torch.randn(2, 5, 3).double(), rtol=1e-12, atol=1e-12)
    check(torch.sparse.mm, x, sample(5, 6, seed=1), rtol=1e-12, atol=1e-12)
    check(lambda a: (a.t() @ a).coalesce(), sample(5, 4, nnz=0))


def test_reductions_and_selection():
    x = sample(4, 5, 3, dense=(2,))
    for call in (
        lambda t: t.sum(),
        lambda t: torch.sparse.sum(t),
        lambda t: torch.sparse.sum(t, 0),
        lambda t: torch.sparse.sum(t, (1, 3)),
        lambda t: torch.sparse.sum(t, (0, 1, 2)),
        lambda t: t.coalesce().norm(),
        lambda t: t.index_select(1, torch.tensor([4, 0, 0, 2], device=t.device)),
        lambda t: t.index_select(-1, torch.tensor([1, 1], device=t.device)),
        lambda t: t[2],
        lambda t: t.narrow_copy(0, 1, 2),
        lambda t: t.to_dense().sparse_mask(t.coalesce()),
        lambda t: (t * 2).sparse_mask(t.coalesce()),
    ):
        check(call, x, rtol=1e-12, atol=1e-12)


def test_gradients():
    dense, y = torch.randn(5, 3).double(), sample(4, 5, seed=1)
    for call in (
        lambda a, d, b: torch.sparse.mm(a, d),
        lambda a, d, b: torch.sparse.addmm(d[:4], a, d),
        lambda a, d, b: (a + b).to_dense(),
        lambda a, d, b: a.to_dense() * 2,
        lambda a, d, b: torch.sparse.sum(a, 1).to_dense(),
        lambda a, d, b: torch.sparse.sum(a, (0, 1)),
    ):
        gradients = []
        for device in ("cpu", "mps"):
            leaves = [t.detach().to(device).requires_grad_() for t in (sample(4, 5, coalesced=True), dense)]
            call(*leaves, y.to(device)).square().sum().backward()
            gradients.append([leaf.grad for leaf in leaves])
        for mine, reference in zip(gradients[1], gradients[0], strict=True):
            assert (mine is None) == (reference is None)
            if reference is not None:
                mine, reference = (t.to_dense() if t.is_sparse else t for t in (mine, reference))
                assert_same(mine, reference, rtol=1e-12, atol=1e-12)


def test_embedding_with_sparse_gradients():
    layer = torch.nn.Embedding(6, 3, sparse=True)
    mine = torch.nn.Embedding(6, 3, sparse=True, device="mps")
    mine.load_state_dict(layer.state_dict())
    for model in (layer, mine):
        words = torch.tensor([1, 4, 1, 0], device=model.weight.device)
        steps = torch.optim.SGD(model.parameters(), lr=0.1)
        model(words).square().sum().backward()
        steps.step()
    assert mine.weight.grad.is_sparse
    assert_same(mine.weight, layer.weight.detach())


def test_diagonals():
    diagonals, offsets = torch.arange(1.0, 10).view(3, 3), torch.tensor([0, -1, 2])
    for shape in ((3, 3), (4, 5), (2, 3)):
        check(lambda d, o: torch.sparse.spdiags(d.cpu(), o.cpu(), shape).to(d.device), diagonals, offsets)  # noqa: B023
        check(lambda d, o: torch.ops.aten._spdiags(d, o, shape).coalesce(), diagonals, offsets)  # noqa: B023


ERRORS = {
    "sparse plus dense": lambda x: x + x.to_dense(),
    "shapes": lambda x: x + sample(4, 6).to(x.device),
    "matmul": lambda x: x @ torch.ones(3, 3, dtype=x.dtype, device=x.device),
    "sparse matmul": lambda x: torch.sparse.mm(x, x),
    "uncoalesced indices": lambda x: x.indices(),
    "dimension": lambda x: x.index_select(3, torch.tensor([0], device=x.device)),
    "repeated diagonals": lambda x: torch.ops.aten._spdiags(
        torch.ones(2, 3, device=x.device), torch.tensor([1, 1], device=x.device), (3, 3)
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    with pytest.raises(Exception) as on_cpu:
        ERRORS[name](sample(4, 5))
    with pytest.raises(on_cpu.type):
        ERRORS[name](sample(4, 5).to("mps"))


def test_what_is_missing_says_so():
    with pytest.raises(NotImplementedError, match=r"aten::cos.* from the 'SparseMPS' backend"):
        sample(4, 5).to("mps").cos()


@pytest.mark.parametrize("log", [False, True])
def test_softmax(log):
    function = torch.sparse.log_softmax if log else torch.sparse.softmax

    def gradient(x, dim):
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x, dim).to_dense().cos().sum(), x)[0]

    for x in (sample(4, 5), sample(3, 4, 2, dense=(3,)), sample(4, 5, nnz=0), sample(4, 5, dtype=torch.float32)):
        check(lambda t: function(t, -1), x)
        for dim in range(x.dim()):
            check(lambda t, d=dim: function(t, d), x)
            check(lambda t, d=dim: gradient(t, d), x.coalesce())
    # The CPU's gradient takes -1 for the first dimension.
    x = sample(4, 5, coalesced=True).to("mps")
    assert_same(gradient(x, -1).to_dense(), gradient(x.cpu(), 1).to_dense())


def test_gradient_of_relu():
    def run(x):
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(torch.relu(x).to_dense().sin().sum(), x)[0]

    check(run, sample(4, 5, coalesced=True))


def test_a_number_cannot_be_added():
    sparse = torch.eye(2).to_sparse().to("mps")
    for call in (lambda: sparse + 2, lambda: sparse.add_(2), lambda: 2 - sparse, lambda: sparse.sub_(2)):
        with pytest.raises(RuntimeError, match="add"):
            call()
