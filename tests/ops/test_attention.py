"""Scaled dot-product attention and the modules built on it, against torch on the CPU."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from attention_reference import check, halves, normal, reference
from support import assert_same, compare, to_mps
from torch import nn

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LOOSE = {"rtol": 3e-2, "atol": 3e-2}
attend = F.scaled_dot_product_attention


def heads(rows=11, columns=13, width=8, depth=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, rows, width), (2, 3, columns, width), (2, 3, columns, depth))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype, causal):
    tolerance = CLOSE if dtype in (torch.float32, torch.float64) else LOOSE
    compare(lambda q, k, v: attend(q, k, v, is_causal=causal), *heads(dtype=dtype), grad=True, **tolerance)


@pytest.mark.parametrize("rows,columns,width,depth", [(1, 1, 4, 4), (1, 70, 16, 16), (70, 300, 5, 3), (5, 2000, 8, 8)])
def test_shapes(rows, columns, width, depth):
    compare(attend, *heads(rows, columns, width, depth), grad=True, rtol=1e-3, atol=1e-4)


def test_scale():
    compare(lambda q, k, v: attend(q, k, v, scale=0.3), *heads(), grad=True, **CLOSE)


@pytest.mark.parametrize("shape", [(11, 13), (2, 1, 11, 13), (2, 3, 11, 13), (1, 1, 1, 13)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(shape, kind):
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(shape, generator=generator) > 0.4 if kind == "bool" else torch.randn(shape, generator=generator)
    q, k, v = heads()
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m.detach()), q, k, v, mask, **CLOSE)
    mine, theirs = [t.clone().requires_grad_() for t in (q, k, v)], [to_mps(t).requires_grad_() for t in (q, k, v)]
    attend(*mine, attn_mask=mask).sum().backward()
    attend(*theirs, attn_mask=mask.to("mps")).sum().backward()
    for one, other in zip(theirs, mine, strict=True):
        assert_same(one.grad, other.grad, **CLOSE)


def test_a_mask_that_learns():
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m), *heads(), torch.randn(2, 3, 11, 13), grad=True, **CLOSE)


BOOLEAN = {
    "square": lambda: torch.ones(6, 6).tril().bool(),
    "padding": lambda: torch.arange(6) < torch.tensor([6, 4])[:, None, None, None],
    "a row with nothing": lambda: (torch.arange(6) != 2)[:, None].expand(6, 6),
    "nothing": lambda: torch.zeros(6, 6).bool(),
    "per head": lambda: torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(2)) > 0.3,
}


@pytest.mark.parametrize("mask", BOOLEAN)
@pytest.mark.parametrize("case", ["heads", "grouped", "dropout", "one", "two", "five"])
def test_boolean_masks_beyond_the_fused_kernels(mask, case):
    """A boolean mask says what takes part, on every path; dropout of 1e-9 drops nothing."""
    allowed = BOOLEAN[mask]()
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3))
    options = {"dropout": {"dropout_p": 1e-9}, "grouped": {"enable_gqa": True}}.get(case, {})
    if case == "grouped":
        k, v = k[:, :2], v[:, :2]
    elif case in ("one", "two"):  # three dimensions, two dimensions
        part = (0,) if case == "one" else (0, 0)
        q, k, v = q[part], k[part], v[part]
        allowed = allowed[part] if allowed.dim() == 4 else allowed
        allowed = allowed[0] if case == "two" and allowed.dim() == 3 else allowed
    elif case == "five":
        q, k, v = (t.expand(3, -1, -1, -1, -1) for t in (q, k, v))
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m, **options), q, k, v, allowed, grad=True, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"enable_gqa": True}, {"dropout_p": 1e-9}, {"scale": 0.3}])
def test_masks_of_float32_keep_their_range_beside_half_types(options):
    """finfo.min hides an element beside others and nothing where all have it; in float16 it is infinite."""
    q, k, v = (t.half() for t in heads(4, 4))
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), lowest)
    mask[2] = lowest
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m, **options), q, k, v, mask, **LOOSE)


def test_masks_and_causality_at_once():
    q, k, v = heads(5, 7)
    for mask in (torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) > 0.2, torch.randn(2, 1, 5, 7)):
        compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m, is_causal=True), q, k, v, mask, **CLOSE)
    with pytest.raises(RuntimeError, match="is_causal"):
        attend(*to_mps((q[0], k[0], v[0])), attn_mask=torch.ones(5, 7, device="mps"), is_causal=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64])
def test_masks_of_other_dtypes(dtype):
    with pytest.raises(RuntimeError, match="attn_mask dtype"):
        attend(*to_mps(heads()), attn_mask=torch.ones(11, 13, dtype=dtype, device="mps"))


def test_a_mask_of_more_dimensions_is_refused():
    for arguments in (heads(2, 3), to_mps(heads(2, 3))):
        with pytest.raises(RuntimeError, match="broadcast shape"):
            attend(*arguments, attn_mask=torch.ones(2, 1, 1, 2, 3, dtype=torch.bool, device=arguments[0].device))


def test_gradients_of_gradients():
    """Against torch's composition in double: the CPU's own kernel has none."""

    def penalty(attention, *inputs, **options):
        inputs = [t.detach().requires_grad_() for t in inputs]
        first = torch.autograd.grad(attention(*inputs, **options).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    def composed(q, k, v, attn_mask=None, is_causal=False):
        scores = q @ k.mT / math.sqrt(q.size(-1))
        hidden = torch.ones_like(scores).triu(1).bool() if is_causal else None
        hidden = ~attn_mask if attn_mask is not None else hidden
        return (scores if hidden is None else scores.masked_fill(hidden, -math.inf)).softmax(-1) @ v

    mask = torch.ones(4, 4).bool()
    mask[1, 2] = mask[3, 0] = False
    for options in ({}, {"is_causal": True}, {"attn_mask": mask}):
        inputs = [t.double() for t in heads(4, 4)]
        expected = penalty(composed, *inputs, **options)
        actual = penalty(attend, *to_mps([t.float() for t in inputs]), **to_mps(options))
        for mine, theirs in zip(actual, expected, strict=True):
            assert_same(mine, theirs.float(), rtol=1e-4, atol=1e-4)


def test_functional_transforms():
    q, k, v = heads(4, 4)
    mask = torch.ones(4, 4).tril().bool()

    def loss(q, k, v):
        return attend(q, k, v).square().sum()

    def along(q, k, v):
        return torch.func.jvp(lambda q: attend(q[0], k[0], v[0]), (q,), (k,))

    for function in (
        torch.func.grad(loss, (0, 1, 2)),
        torch.func.jacrev(loss),
        torch.func.vmap(attend),
        torch.func.vmap(lambda q, k, v: attend(q[None], k[None], v[None])),
        torch.func.vmap(torch.func.grad(loss)),
        along,
    ):
        compare(function, q, k, v, **CLOSE)
    compare(
        torch.func.vmap(lambda m, q: attend(q, q, q, attn_mask=m), (0, None)), torch.stack([mask, mask]), q, **CLOSE
    )
    # The CPU has no derivative of this kind for its kernel: against three dimensions, which it composes.
    others = to_mps((k, v))
    whole = torch.func.jvp(lambda q: attend(q, *others), to_mps((q,)), others[:1])
    assert_same(tuple(t[0] for t in whole), along(q, k, v), **CLOSE)


def test_exported_programs():
    class Attention(nn.Module):
        def forward(self, q, k, v):
            return attend(q, k, v)

    inputs = to_mps(heads())
    program = torch.export.export(Attention(), inputs).run_decompositions()
    assert_same(program.module()(*inputs), attend(*heads()), **CLOSE)


def test_what_programs_exported_on_a_mac_call():
    q, k, v = heads()
    mask = torch.rand(11, 13, generator=torch.Generator().manual_seed(0)) > 0.2
    output, weights = torch.ops.aten._scaled_dot_product_attention_math_for_mps(*to_mps((q, k, v, mask)))
    assert_same(output, attend(q, k, v, attn_mask=mask), **CLOSE)
    assert weights.shape == (2, 3, 11, 13) and weights.sum(-1).allclose(torch.ones((), device="mps"))


@pytest.mark.parametrize("training", [True, False])
def test_multihead_attention_with_padding(training):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
    mine = copy.deepcopy(module).to("mps")
    x, padding = torch.randn(2, 5, 8), torch.arange(5) >= torch.tensor([3, 5])[:, None]
    for mask in (None, torch.ones(5, 5).triu(1).bool(), torch.randn(5, 5)):
        for weights in (True, False):
            options = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": weights}
            expected, actual = module(x, x, x, **options), mine(*to_mps([x] * 3), **to_mps(options))
            assert_same(actual[0], expected[0], **CLOSE)


def test_rows_with_nothing_to_attend_to():
    q, k, v = heads(4, 5)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    compare(lambda q, k, v, m: attend(q, k, v, attn_mask=m), q, k, v, mask, **CLOSE)


def _band(rows, columns, before, behind):
    apart = torch.arange(columns) - torch.arange(rows)[:, None]
    return (-before <= apart) & (apart <= behind)


# Masks of which whole tiles leave nothing, by rows and columns.
SPARSE = {
    "causal": lambda r, c: _band(r, c, c, 0),
    "the future": lambda r, c: _band(r, c, -1, c),
    "window": lambda r, c: _band(r, c, 20, 5),
    "window, causal": lambda r, c: _band(r, c, 70, 0),
    "padding": lambda r, c: torch.arange(c) < torch.tensor([c - 1, 37])[:, None, None, None],
    "padding in front": lambda r, c: torch.arange(c) >= torch.tensor([0, c - 3])[:, None, None, None],
    "causal and padding": lambda r, c: _band(r, c, c, 0) & SPARSE["padding"](r, c),
    "documents": lambda r, c: (torch.arange(r)[:, None] // 30) == (torch.arange(c) // 30),
    "far apart": lambda r, c: (torch.arange(c) % 97 == 5) & (torch.arange(r)[:, None] % 41 < 2),
    "by head": lambda r, c: torch.stack([_band(r, c, 3, 3), _band(r, c, 0, c)]).expand(2, 2, r, c),
    "some rows with nothing": lambda r, c: _band(r, c, c, 0) & (torch.arange(r)[:, None] > 33),
    "nothing": lambda r, c: torch.zeros(r, c, dtype=torch.bool),
    "one of a batch with nothing": lambda r, c: torch.tensor([True, False])[:, None, None, None].expand(2, 1, r, c),
    "transposed": lambda r, c: _band(c, r, c, 0).T,
}


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("rows,columns,group", [(70, 300, 1), (129, 128, 2), (33, 131, 1)])
def test_tiles_that_a_mask_leaves_nothing_of(kind, rows, columns, group):
    q = normal(2, 2, rows, 8)
    k, v = normal(2, 2 // group, columns, 8, seed=1), normal(2, 2 // group, columns, 5, seed=2)
    check(q, k, v, SPARSE[kind](rows, columns))


def test_tiles_that_a_mask_leaves_nothing_of_in_half_types_and_parts(monkeypatch):
    from portable_mps.ops import attention

    monkeypatch.setattr(attention, "_split", halves)
    monkeypatch.setattr(attention, "_plans", {})
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (normal(2, 2, size, 16, seed=size).to(dtype) for size in (70, 300, 300))
        for kind in SPARSE:
            check(q, k, v, SPARSE[kind](70, 300), **({} if dtype == torch.float32 else LOOSE))


def test_infinite_scores_become_nan_as_on_the_cpu():
    q, k, v = heads(2, 3)
    q[0, 0, 0, 0] = math.inf
    assert attend(*to_mps((q, k, v))).cpu().isnan().equal(attend(q, k, v).isnan())


def test_grouped_queries():
    q, k, v = heads()
    compare(lambda q, k, v: attend(q, k, v, enable_gqa=True), q, k[:, :1], v[:, :1], grad=True, **CLOSE)


def test_strided_and_three_dimensions():
    q, k, v = heads()
    compare(
        lambda q, k, v: attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)), q, q, q, grad=True, **CLOSE
    )
    compare(attend, q[0], k[0], v[0], grad=True, **CLOSE)


def test_empty():
    q, k, v = heads()
    compare(attend, q[:, :, :0], k, v)
    # Heads of width zero still have rows, which causality is about.
    compare(lambda q, k, v: attend(q, k, v, is_causal=True), q[..., :0], k[..., :0], v, **CLOSE)


def test_dropout():
    torch.manual_seed(0)
    q, k, v = (torch.ones(1, 1, 64, 8, device="mps") for _ in range(3))
    out = attend(q, k, v, dropout_p=0.5)
    assert abs(out.mean().item() - 1) < 0.1 and out.std().item() > 0.01
    assert attend(q, k, v, dropout_p=0.0).cpu().allclose(torch.ones(1, 1, 64, 8))


def test_wrong_shapes():
    q, k, v = heads()
    for arguments in ((q, k[..., :4], v), (q, k, v[:, :, :4]), (q, k.half(), v)):
        with pytest.raises(RuntimeError):
            attend(*to_mps(arguments))


HALF = {"rtol": 2e-2, "atol": 2e-2}


@pytest.mark.parametrize(
    "rows,columns,width,depth,dtype,causal",
    [
        (130, 66, 7, 130, torch.float32, False),
        (67, 130, 20, 36, torch.bfloat16, True),
    ],
)
def test_tiles(rows, columns, width, depth, dtype, causal):
    q, k, v = (
        normal(1, 2, n, w, seed=i, dtype=dtype)
        for i, (n, w) in enumerate(((rows, width), (columns, width), (columns, depth)))
    )
    check(q, k, v, causal=causal, **(HALF if dtype != torch.float32 else {}))


@pytest.fixture
def tile_of_a_gpu(monkeypatch):
    """Software drivers take smaller ones, which they compile sooner."""
    from portable_mps.ops import attention, attention_tiles

    def tile(problem, rows, mode, smaller=attention_tiles.plain_tile):
        return {**smaller(problem, rows, mode), "RM": 4, "CN": 4}

    for module in (attention, attention_tiles):
        monkeypatch.setattr(module, "plain_tile", tile)
    monkeypatch.setattr(attention, "_plans", {})


@pytest.mark.parametrize("width", [256, 257])
def test_widest_heads(width):
    check(*(normal(1, 1, n, width, seed=n) for n in (18, 33, 33)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float", "half"])
@pytest.mark.parametrize(
    "shape",
    [(), (1,), (35,), (18, 1), (18, 35), (4, 1, 1), (2, 1, 18, 35), (2, 1, 1, 35), (1, 4, 18, 35), (2, 4, 18, 1)],
)
def test_masks_that_learn_and_causality(shape, kind, causal):
    q, k, v = normal(2, 4, 18, 8), normal(2, 2, 35, 8, seed=1), normal(2, 2, 35, 5, seed=2)
    mask = normal(*shape, seed=3)
    mask = mask > -0.5 if kind == "bool" else mask
    if kind == "half":
        q, k, v, mask = (t.half() for t in (q, k, v, mask))
    if causal and (kind != "bool" or len(shape) % 2):
        return  # torch takes both at once only where the CPU's kernel does
    check(q, k, v, mask, causal=causal, **(HALF if kind == "half" else {}))


def test_masks_of_any_strides():
    q, k, v = (normal(2, 3, 18, 8, seed=i) for i in range(3))
    mask = normal(18, 36, 2, seed=3)[:, ::2].permute(2, 1, 0)[:, None]
    moved = torch.empty_strided(mask.shape, mask.stride(), device="mps").copy_(mask)
    assert_same(attend(*to_mps((q, k, v)), attn_mask=moved), attend(q, k, v, attn_mask=mask), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_behind_rows_are_read_in_place(dtype):
    """As a projection leaves them: (batch, rows, heads, width). The output has the query's layout."""

    def exchanged(t):
        return t.transpose(1, 2).contiguous().to("mps").transpose(1, 2)

    q, k, v = (normal(2, 4, 20, 12, seed=i, dtype=dtype) for i in range(3))
    check(q, k[:, :2], v[:, :2], wide=exchanged, **(HALF if dtype != torch.float32 else {}))
    q, k, v = (exchanged(t).requires_grad_() for t in (q, k, v))
    output = attend(q, k, v)
    assert output.transpose(1, 2).is_contiguous()
    assert torch.autograd.grad(output.sum(), k)[0].transpose(1, 2).is_contiguous()


def test_rows_that_are_not_contiguous_and_parts_of_rows():
    q, k, v = (normal(2, 2, 10, 30, seed=i) for i in range(3))
    check(q[..., 1::2], k[..., 1::2], v[..., :7], wide=lambda t: t.mT.contiguous().to("mps").mT)
    whole = to_mps(torch.cat([q, k, v], -1))
    assert_same(attend(*whole.split(30, -1)), attend(q, k, v), **CLOSE)


@pytest.mark.parametrize("rows,columns,options", [(1, 5, {}), (20, 70, {"causal": True})])
def test_dropout_is_made_again_in_the_backward_pass(rows, columns, options):
    """What bernoulli_ with the same seed keeps: that is how gradients of gradients know."""
    q, k, v = normal(2, 4, rows, 8), normal(2, 2, columns, 8, seed=1), normal(2, 2, columns, 8, seed=2)
    mask = normal(rows, columns, seed=3) if options.get("mask") else None
    causal = options.get("causal", False)
    torch.mps.manual_seed(7)
    state = torch.mps.get_rng_state()
    kept = torch.empty(2, 4, rows, -(-columns // 4) * 4, device="mps").bernoulli_(0.7)[..., :columns].cpu().double()
    inputs = [t for t in (q, k, v, mask) if t is not None]
    ours, theirs = [t.double().requires_grad_() for t in inputs], [to_mps(t).requires_grad_() for t in inputs]
    expected = reference(*ours, causal=causal, kept=kept, dropout=0.3)
    torch.mps.set_rng_state(state)
    actual = attend(*theirs, dropout_p=0.3, is_causal=causal, enable_gqa=True)
    torch.mps.manual_seed(7)
    assert attend(*theirs, dropout_p=0.3, is_causal=causal, enable_gqa=True).equal(actual)
    cotangent = torch.randn(expected.shape, dtype=torch.float64)
    first = torch.autograd.grad(expected, ours, cotangent, create_graph=True)
    mine = torch.autograd.grad(actual, theirs, cotangent.float().to("mps"), retain_graph=True)
    twice = torch.autograd.grad(actual, theirs, cotangent.float().to("mps"), create_graph=True)
    for have, again, want in zip(mine, twice, first, strict=True):
        torch.testing.assert_close(have.cpu().double(), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.cpu().double(), want, rtol=1e-4, atol=1e-5)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), ours)
    for have, want in zip(torch.autograd.grad(sum(g.square().sum() for g in twice), theirs), second, strict=True):
        torch.testing.assert_close(have.cpu().double(), want, rtol=1e-3, atol=1e-3)


def test_dropout_with_larger_tiles(tile_of_a_gpu):
    test_dropout_is_made_again_in_the_backward_pass(67, 130, {"mask": True})


def test_everything_dropped():
    q, k, v = to_mps(heads())
    assert attend(q, k, v, dropout_p=1.0).eq(0).all()


@pytest.mark.parametrize("group", [1, 4])
def test_decoding_splits_the_keys(group, monkeypatch):
    from portable_mps.ops import attention

    monkeypatch.setattr(attention, "_split", halves)
    monkeypatch.setattr(attention, "_plans", {})
    q, k, v = normal(2, 4, 1, 16), normal(2, 4 // group, 1100, 16, seed=1), normal(2, 4 // group, 1100, 8, seed=2)
    check(q, k, v)
    check(q, k, v, normal(1100, seed=3) > 0.5)
    check(q, k, v, torch.zeros(1100).bool())
    check(normal(2, 4, 5, 16), k, v, causal=True)


def test_the_backward_operator_makes_do_without_statistics():
    """Compiled graphs hand over what torch's meta function promises: no more than the logarithms of the sums."""
    q, k, v = (t.requires_grad_() for t in to_mps(heads()))
    mask = torch.rand(11, 13, device="mps") > 0.5
    mask[3] = False
    with torch.no_grad():
        output, sums, _, _, *rest, _ = torch.ops.aten._scaled_dot_product_fused_attention_overrideable(q, k, v, mask)
        mine = torch.ops.aten._scaled_dot_product_fused_attention_overrideable_backward(
            torch.ones_like(output), q, k, v, mask, [True] * 3 + [False], output, sums, None, None, *rest[:2],
            0.0, False, *rest[2:],
        )  # fmt: skip
    for have, want in zip(mine, torch.autograd.grad(attend(q, k, v, mask).sum(), (q, k, v)), strict=False):
        assert have.allclose(want, rtol=1e-4, atol=1e-5)


def test_large_scores_keep_their_digits():
    """Weights are of the same scores in both passes, however large."""
    q, k, v = (normal(1, 1, 20, 8, seed=i) for i in range(3))
    check(q * 300, k, v, rtol=1e-3, atol=1e-3)


def test_infinities_in_masks_and_values():
    q, k, v = heads(4, 5)
    mask = torch.zeros(4, 5)
    mask[0, 1], mask[1] = math.inf, -math.inf
    actual = attend(*to_mps((q, k, v, mask))).cpu()
    assert actual[:, :, 0].isnan().all() and actual[:, :, 1].eq(0).all() and not actual[:, :, 2:].isnan().any()
    v[0, 0, 2, 0] = math.nan
    compare(attend, q, k, v)


def test_many_heads():
    """More than a dimension of a dispatch takes workgroups, in the launcher's second dimension."""
    q, k, v = (normal(40000, 1, 2, 1, seed=i) for i in range(3))
    assert_same(attend(*to_mps((q, k, v))), attend(q, k, v), **CLOSE)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MultiheadAttention(12, 3, batch_first=True),
        lambda: nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True),
        lambda: nn.TransformerDecoderLayer(12, 3, 24, dropout=0.0, batch_first=True),
        lambda: nn.LSTM(12, 7, num_layers=2, bidirectional=True),
        lambda: nn.GRU(12, 7),
        lambda: nn.RNN(12, 7),
    ],
    ids=["attention", "encoder", "decoder", "lstm", "gru", "rnn"],
)
def test_modules(make, training):
    torch.manual_seed(0)
    module = make().train(training)
    mine = copy.deepcopy(module).to("mps")
    x = torch.randn(3, 5, 12)
    count = {nn.MultiheadAttention: 3, nn.TransformerDecoderLayer: 2}.get(type(module), 1)

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    a, b = x.to("mps").requires_grad_(training), x.clone().requires_grad_(training)
    with torch.set_grad_enabled(training):
        out, expected = first(mine(*[a] * count)), first(module(*[b] * count))
    assert_same(out, expected, **CLOSE)
    if training:
        out.square().sum().backward()
        expected.square().sum().backward()
        assert_same(a.grad, b.grad, rtol=1e-3, atol=1e-4)
        for one, other in zip(mine.parameters(), module.parameters(), strict=True):
            assert_same(one.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_encoder_with_padding_in_evaluation():
    """torch.nn's fast path asks whether the mask is aligned, then sees that the device has no nested tensors."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False, False, False]])
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=padding)
        actual = encoder.to("mps")(x.to("mps"), src_key_padding_mask=padding.to("mps"))
    assert_same(actual[~padding.to("mps")], expected[~padding], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_to_the_nearest(dtype):
    """Truncated, each would be too small by a quarter of a percent in bfloat16."""
    tensors = [normal(2, 2, 130, 64, dtype=dtype, seed=seed) for seed in range(4)]
    query, key, value, grad = (tensor.double() for tensor in tensors)
    exact = [tensor.requires_grad_() for tensor in (query, key, value)]
    rounded = [tensor.detach().to(dtype).to("mps").requires_grad_() for tensor in exact]
    expected = attend(*exact)
    expected = (expected, *torch.autograd.grad(expected, exact, grad))
    got = attend(*rounded)
    got = (got, *torch.autograd.grad(got, rounded, grad.to(dtype).to("mps")))
    for ours, theirs in zip(got, expected, strict=True):
        bias = ((ours.detach().cpu().double() - theirs) * theirs.sign()).sum() / theirs.abs().sum()
        assert abs(bias.item()) < 5e-4
