"""Indexing with tensors, masks and along one dimension, and embedding, against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, to_mps

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)
I = torch.tensor  # noqa: E741


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)


def raises_later(call, message: str | None = None, kind: type[Exception] = IndexError) -> None:
    """The error comes with the call or at the synchronisation after it, once."""
    with pytest.raises(kind, match=message):
        call()
        torch.mps.synchronize()
    torch.mps.synchronize()


INDICES = {
    "one": (I([0, 2, 2, -1]),),
    "two": (I([0, 2, -3]), I([1, -1, 0])),
    "broadcast": (I([[0], [2]]), I([1, 3, -4])),
    "second": (slice(None), I([3, 0, 1])),
    "third": (slice(None), slice(1, 3), I([[4, 0], [-1, -5]])),
    "apart": (I([0, 1]), slice(None), I([2, -2])),
    "int and tensor": (1, I([0, 3])),
    "tensor and int": (I([0, 2]), slice(None), 3),
    "new axis": (None, I([0, 2]), None),
    "ellipsis": (Ellipsis, I([0, 4])),
    "scalar tensor": (I(1), I(-1)),
    "int32": (I([0, 2], dtype=torch.int32), I([1, 1])),
    "mask": (I([True, False, True]),),
    "mask and index": (I([True, False, True]), I([0, 3])),
    "mask of two": (torch.arange(12).view(3, 4) % 3 == 0,),
    "mask of all": (torch.arange(60).view(3, 4, 5) % 7 == 0,),
    "second mask": (slice(None), I([False, True, True, False])),
    "empty index": (I([], dtype=torch.int64),),
    "empty mask": (torch.zeros(3, dtype=torch.bool),),
    "strided": (slice(None, None, 2), I([1, 0]), slice(4, 0, None)),
    "all": (I([0, 2]), I([1, 3]), I([4, -5])),
}


@pytest.mark.parametrize("name", INDICES)
def test_getitem(name):
    index = INDICES[name]
    compare(lambda x, i: x[i], sample(3, 4, 5), index, grad=True)
    compare(lambda x, i: x[i], sample(5, 4, 3).permute(2, 1, 0), index)


@pytest.mark.parametrize("name", [n for n in INDICES if n != "one"])
def test_setitem(name):
    index = INDICES[name]

    def assign(x, i, value):
        x = x.clone()
        x[i] = value
        return x

    compare(assign, sample(3, 4, 5), index, 7.5)
    values = sample(3, 4, 5)[index] + 1
    compare(assign, sample(3, 4, 5), index, values)
    compare(lambda x, i, v: assign(x.permute(2, 1, 0), i, v), sample(5, 4, 3), index, values, grad=True)


@pytest.mark.parametrize("name", INDICES)
def test_index_put_accumulates(name):
    index = INDICES[name]
    if not all(isinstance(i, torch.Tensor) for i in index):
        index = (I([0, 0, 2, 0]), I([1, 1, -1, 1]))
    x = sample(3, 4, 5).round()
    values = torch.ones_like(x[index])
    compare(lambda t, i, v: t.index_put(i, v, accumulate=True), x, index, values)
    compare(lambda t, i, v: t.index_put(i, v, accumulate=True), x, index, values[..., :1] if values.dim() else values)
    compare(lambda t, i, v: t.index_put(i, v, accumulate=True), x.half(), index, values.half())


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x, index = sample(4, 6, dtype=dtype), I([3, 0, 0, -1])
    compare(lambda t, i: t[i], x, index)
    compare(lambda t, i: t[:, i], x, index)
    compare(lambda t, m: t[m], x, sample(4, 6) > 0)
    compare(lambda t, i: t.index_select(1, i), x, index.abs())
    compare(lambda t, i: t.take(i), x, index)
    compare(lambda t, i: t.index_copy(0, i, t[:2].flip(1)), x, I([3, 1]))
    compare(lambda t, i: t.index_fill(0, i, 1), x, I([3, -3]))
    compare(lambda t, m: t.masked_fill(m, 1), x, sample(4, 6) > 0)
    compare(lambda t, i: t.put(i, t[0, :3]), x, I([5, -1, 7]))
    if dtype != torch.bool:
        values = torch.ones(4, 6, dtype=dtype)
        compare(lambda t, i, v: t.index_add(0, i, v), x, I([1, 1, 0, 1]), values)
        compare(lambda t, i, v: t.index_add(0, i, v, alpha=2), x, I([1, 1, 0, 1]), values)
        compare(lambda t, i, v: t.index_put((i,), v, accumulate=True), x, I([1, 1, 0, 1]), values)
        compare(lambda t, i, v: t.put(i, v, accumulate=True), x, I([5, 5, 5]), values[0, :3])


def test_complex_moves_are_refused_or_right():
    z = torch.randn(3, 2, dtype=torch.complex64)
    assert z.dtype.itemsize == 8  # as wide as a word, so that kernels that only move can do it
    try:
        device = z.to("mps")
    except TypeError:
        return
    assert_same(device[torch.tensor([2, 0], device="mps")], z[[2, 0]])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_one_dimension(dim):
    x, index = sample(3, 4, 5), I([2, 0, 0])
    source = sample(3, 4, 5).narrow(dim, 0, 3)
    compare(lambda t, i: t.index_select(dim, i), x, index, grad=True)
    compare(lambda t, i, s: t.index_add(dim, i, s, alpha=0.5), x, index, source, grad=True, atol=1e-5)
    compare(lambda t, i, s: t.index_copy(dim, i, s), x, I([2, 0, 1]), source, grad=True)
    compare(lambda t, i: t.index_fill(dim, i, 2.5), x, index, grad=True)
    compare(lambda t, i, v: t.index_fill(dim, i, v), x, index, torch.tensor(1.5))
    compare(lambda t, i: t.transpose(0, 2).index_select(dim, i), x, index)
    compare(lambda t, i: t.index_select(dim, i[:0]), x, index)
    out = torch.empty(0, device="mps")
    torch.index_select(x.to("mps"), dim, index.to("mps"), out=out)
    assert_same(out, x.index_select(dim, index))


def test_scalars():
    zero = I([0])
    compare(lambda t, i: t.index_select(0, i), torch.tensor(3.0), zero)
    compare(lambda t, i, s: t.index_add(0, i, s), torch.tensor(3.0), zero, torch.tensor(2.0))
    compare(lambda t, i, s: t.index_copy(0, i, s), torch.tensor(3.0), zero, torch.tensor(2.0))
    compare(lambda t, i: t.index_fill(0, i, 5.0), torch.tensor(3.0), zero)
    compare(lambda t, i: t.take(i), torch.tensor(3.0), zero)
    compare(lambda t, m: t.masked_fill(m, 1.0), torch.tensor(3.0), torch.tensor(True))
    compare(lambda t, m: t[m], torch.tensor(3.0), torch.tensor(True))
    compare(lambda t: (t[None], t[...]), torch.tensor(3.0))


def test_take_and_put_of_strided_tensors():
    x, index = sample(12, 2), I([[0, 5], [-1, 3]])
    compare(lambda t, i: t[:, 0].take(i), x, index, grad=True)
    compare(lambda t, i: t.t().take(i), x, index, grad=True)
    compare(lambda t, i: t[:1, :1].expand(4, 3).take(i), x, index)
    compare(lambda t, i: t.t().put(i, t[:2]), x, index, grad=True)
    out = torch.empty(0, device="mps")
    torch.take(x.to("mps"), index.to("mps"), out=out)
    assert_same(out, x.take(index))


def test_masked_fill():
    x, mask = sample(3, 4), sample(3, 1) > 0
    compare(lambda t, m: t.masked_fill(m, -torch.inf), x, mask, grad=True)
    compare(lambda t, m, v: t.masked_fill(m, v), x, mask, torch.tensor(2.0), grad=True)
    compare(lambda t, m: t.t().masked_fill(m.t(), 2), x, mask)
    compare(lambda t, m: t[0].masked_fill(m, 2), x, mask)
    compare(lambda t, m: t.masked_fill(m, 0.5), x[:0], mask[:0])
    with pytest.raises(RuntimeError):
        x.to("mps").masked_fill(mask.to("mps").int(), 1)
    with pytest.raises(RuntimeError):
        x.long().to("mps").masked_fill_(mask.to("mps"), torch.zeros(2, device="mps"))


OUT_OF_RANGE = {
    "getitem": lambda x, i: x[i],
    "getitem second": lambda x, i: x[:, i],
    "setitem": lambda x, i: x.__setitem__(i, 1.0),
    "index_put": lambda x, i: x.index_put_((i,), torch.ones(1, device="mps"), accumulate=True),
    "index_select": lambda x, i: x.index_select(0, i),
    "index_add": lambda x, i: x.index_add_(0, i, torch.ones(2, 4, device="mps")),
    "index_copy": lambda x, i: x.index_copy_(0, i, torch.ones(2, 4, device="mps")),
    "index_fill": lambda x, i: x.index_fill_(0, i, 1.0),
    "take": lambda x, i: x.take(i * 9),
    "put": lambda x, i: x.put_(i * 9, torch.ones(2, device="mps")),
    "embedding": lambda x, i: torch.nn.functional.embedding(i, x),
}


@pytest.mark.parametrize("index", [[3, 99], [-99, -1000]])
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_out_of_range_raises_and_writes_nothing(name, index):
    guard = torch.zeros(20, 4, device="mps")
    inside = guard[8:11]
    raises_later(lambda: OUT_OF_RANGE[name](inside, I(index).to("mps")), "out of (bounds|range)")
    assert guard.eq(0).all().item()


def test_the_message_names_the_index():
    raises_later(lambda: torch.zeros(3, 4, device="mps")[:, I([0, 7]).to("mps")], "index 7 .* dimension 1 with size 4")


def test_more_indices_than_a_kernel_takes():
    x, at = sample(*[2] * 10), I([0, 1, -1])

    def move(x, at):
        written, added = x.clone(), x.clone()
        written[(at,) * 10] = 5
        added.index_put_((at,) * 10, torch.ones(3, device=x.device), accumulate=True)
        turned = x.transpose(2, 7)
        return x[x > 1], turned[turned > 0.5], turned[(slice(None), *(at,) * 9)], written, added

    compare(move, x, at)
    for wrong in (2, -3):
        raises_later(lambda wrong=wrong: to_mps(x)[(*(I([0, 1]).to("mps"),) * 9, I([0, wrong]).to("mps"))])


def test_errors():
    x = sample(3, 4).to("mps")
    calls = [
        (lambda: x[I([True, False]).to("mps")], IndexError),
        (lambda: x[I([0]).to("mps"), I([0]).to("mps"), I([0]).to("mps")], IndexError),
        (lambda: x[I([0, 1]).to("mps"), I([0, 1, 2]).to("mps")], IndexError),
        (lambda: x[I([0.5]).to("mps")], IndexError),
        (lambda: x.index_select(2, I([0]).to("mps")), IndexError),
        (lambda: x.index_select(0, I([[0]]).to("mps")), IndexError),
        (lambda: x.index_put_((I([0]).to("mps"),), torch.ones(1, dtype=torch.int64, device="mps")), RuntimeError),
        (lambda: x.index_put_((I([0]).to("mps"),), torch.ones(3, device="mps")), RuntimeError),
        (lambda: x.index_add(0, I([0]).to("mps"), torch.ones(2, 4, device="mps")), (RuntimeError, IndexError)),
        (lambda: x.index_copy(0, I([0]).to("mps"), torch.ones(1, 5, device="mps")), (RuntimeError, IndexError)),
        (lambda: x.take(I([0.0]).to("mps")), RuntimeError),
        (lambda: x.put_(I([0]).to("mps"), torch.ones(2, device="mps")), RuntimeError),
    ]
    for call, kind in calls:
        with pytest.raises(kind):
            call()
    raises_later(lambda: x[:0][I([0]).to("mps")])
    assert_same(x, sample(3, 4))


@pytest.mark.parametrize("dtype", FLOATS)
def test_embedding(dtype):
    weight, index = sample(7, 5, dtype=dtype), I([[1, 6, 1], [0, 1, 3]])
    embed = torch.nn.functional.embedding
    loose = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    compare(lambda w, i: embed(i, w), weight, index, grad=True, **loose)
    compare(lambda w, i: embed(i, w, padding_idx=1), weight, index, grad=True, **loose)
    compare(lambda w, i: embed(i, w, padding_idx=-7), weight, index.int(), grad=True, **loose)
    compare(lambda w, i: embed(i, w, scale_grad_by_freq=True), weight, index, grad=True, **loose)
    compare(lambda w, i: embed(i[:0], w), weight, index, grad=True)
    compare(lambda w, i: embed(i[0, 0], w), weight, index, grad=True)


def test_embedding_renormalises():
    weight, index = sample(7, 5), I([[1, 6, 1], [0, 1, 3]])

    def embed(w, i):
        w = w.clone()
        return torch.nn.functional.embedding(i, w, max_norm=1.5), w

    compare(embed, weight, index, rtol=1e-5)


def test_int32_indices():
    """Widened to 64 bits in the kernel, where a driver once compared them wrongly with 0."""
    x, index = torch.arange(10.0), torch.tensor([-1, 3, -10], dtype=torch.int32)
    compare(lambda t, i: t[i], x, index)
    compare(lambda t, i: t.index_put((i,), torch.ones((), device=t.device)), x, index)
    for call in (lambda t, i: torch.index_select(t, 0, i), lambda t, i: torch.nn.functional.embedding(i, t[:, None])):
        with pytest.raises((IndexError, RuntimeError)):
            call(x.to("mps"), index.to("mps"))
            torch.mps.synchronize()


def test_masks_and_indices_from_the_cpu():
    mask, at = torch.tensor([True, False, True]), torch.tensor([2, 0])

    def write(t):
        t = t.clone()
        t[mask] = 0
        t[at] += 1
        t[mask] = torch.arange(2.0, device=t.device)
        t.index_put_((at,), torch.tensor(7.0))
        return t, t[mask], t[at], t[at.int()]

    compare(write, torch.arange(3.0) + 5)
    compare(lambda t: (t[mask], t[:, at[:1]], t[mask, 1]), torch.arange(12.0).view(3, 4))
    x = torch.zeros(3, device="mps")
    for call in (
        lambda: x.index_put_((at,), torch.ones(2)),
        lambda: x.masked_fill_(mask, 1.0),
        lambda: x.gather(0, at),
        lambda: x.index_select(0, at),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            call()


def test_bytes_as_a_mask_warn():
    mask = torch.tensor([1, 0, 1], dtype=torch.uint8, device="mps")
    with pytest.warns(UserWarning, match="torch.uint8 is now deprecated"):
        assert torch.arange(3.0, device="mps")[mask].tolist() == [0.0, 2.0]


def test_writing_into_expanded_tensors_warns():
    with pytest.warns(UserWarning, match="masked_fill_ on expanded tensors is deprecated"):
        torch.zeros(1, device="mps").expand(3).masked_fill_(torch.ones(3, dtype=torch.bool, device="mps"), 2.0)


def test_masked_scatter_of_too_few():
    x, mask = torch.zeros(3, device="mps"), torch.tensor([True, True, False], device="mps")
    with pytest.raises(RuntimeError, match="source < number of ones in mask"):
        x.masked_scatter_(mask, torch.ones(1, device="mps"))
    assert not x.any()
    compare(lambda t, m: t.masked_scatter(m, torch.ones(2, device=t.device)), torch.zeros(3), mask.cpu())


def test_results_lie_as_the_cpu_s():
    x = torch.arange(60.0).view(3, 4, 5)
    for view in (x.transpose(1, 2), x.permute(2, 0, 1), x[:, ::2]):
        compare(lambda t: (t[torch.tensor([0, 2])].stride(), t[:, torch.tensor([1, 0, 1])].stride()), view)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.complex64], ids=str)
@pytest.mark.parametrize("width", [1, 2, 3, 8, 12, 16, 32])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_rows_that_are_moved_in_words(dtype, width, start):
    table = torch.arange(9 * 40).remainder(251).view(9, 40).to(dtype)
    index = torch.tensor([[3, 0, 8], [8, 7, -1]])
    ours = to_mps(table)
    part, our_part = table[:, start : start + width], ours[:, start : start + width]
    assert_same(our_part[to_mps(index)], part[index])
    assert_same(our_part.index_select(0, to_mps(index[0])), part.index_select(0, index[0]))
    assert_same(our_part[:, None][to_mps(index), 0], part[:, None][index, 0])
    part[index[0]] = part[4:7].clone()
    our_part[to_mps(index[0])] = our_part[4:7].clone()
    assert_same(ours, table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64, torch.int32, torch.bool], ids=str)
@pytest.mark.parametrize("terms", [997, 4096])
@pytest.mark.parametrize("dim", [0, 1])
def test_many_terms_into_few_places(dtype, terms, dim):
    exact_dtype = {torch.complex64: torch.complex128, torch.int32: torch.int32, torch.bool: torch.bool}
    shape = (3, 5) if dim == 0 else (5, 3)
    source = sample(*(terms, 5) if dim == 0 else (5, terms), dtype=dtype)
    index = torch.randint(3, (terms,), generator=torch.Generator().manual_seed(2))
    base = torch.ones(shape, dtype=dtype)
    exact = base.to(exact_dtype.get(dtype, torch.float64))
    exact = exact.index_add(dim, index, source.to(exact.dtype))
    spread = (index.unsqueeze(1 - dim)).expand(source.shape)
    for ours in (
        to_mps(base).index_add(dim, to_mps(index), to_mps(source)),
        to_mps(base).scatter_add(dim, to_mps(spread), to_mps(source)),
    ):
        if dtype in (torch.int32, torch.bool):
            assert torch.equal(ours.cpu(), exact)
        else:  # a few roundings, not one a term
            unit = torch.finfo(dtype if dtype == torch.float16 else torch.float32).eps
            assert (ours.cpu().to(exact.dtype) - exact).abs().max() <= 4 * unit * exact.abs().max()
    raises_later(lambda: to_mps(base).index_add(dim, to_mps(index) + 1, to_mps(source)))
