"""flex_attention compiled, with gradients, against eager's."""

import pytest
import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

LENGTH, HEADS = 48, 4


def _bias() -> torch.Tensor:
    return torch.randn(2, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)).to("mps")


def _captured(bias):
    return lambda s, b, h, i, j: s + bias[b, i, j]


SCORES = {
    "plain": lambda: lambda s, b, h, i, j: s,
    "causal": lambda: lambda s, b, h, i, j: torch.where(i >= j, s, -float("inf")),
    "distance": lambda: lambda s, b, h, i, j: s - (i - j).abs() * 0.1 * (h + 1),
    "captured": lambda: _captured(_bias()),
    "capped": lambda: lambda s, b, h, i, j: 20 * torch.tanh(s / 20),
}
MASKS = {"causal": lambda b, h, i, j: i >= j, "window": lambda b, h, i, j: (i - j).abs() < 8}


def _as_eager(dynamic, key_heads, score_mod=None, block_mask=None):
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, HEADS, LENGTH, 16), (2, key_heads, LENGTH, 16), (2, key_heads, LENGTH, 16))
    tensors = [torch.randn(shape, generator=generator).to("mps").requires_grad_() for shape in shapes]

    def attend(q, k, v):
        return flex_attention(q, k, v, score_mod, block_mask, enable_gqa=key_heads != HEADS)

    results = []
    for function in (attend, torch.compile(attend, dynamic=dynamic)):
        output = function(*tensors)
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    torch.testing.assert_close(*reversed(results), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("score", SCORES)
def test_scores(score, dynamic):
    _as_eager(dynamic, HEADS if score == "plain" else 2, score_mod=SCORES[score]())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", MASKS)
def test_block_masks(mask):
    block_mask = create_block_mask(MASKS[mask], 2, HEADS, LENGTH, LENGTH, device="mps", BLOCK_SIZE=16)
    _as_eager(False, HEADS, block_mask=block_mask)


def _attended(q, k, v, grads=True, **options):
    """Results and gradients of eager and of compiled code, in this order."""
    torch._dynamo.reset()

    def attend(q, k, v):
        return flex_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1], **options)

    results = []
    for function in (attend, torch.compile(attend)):
        result = function(q, k, v)
        parts = result if isinstance(result, tuple) else (result,)
        parts = [p for p in (parts[0], *parts[1:]) if isinstance(p, torch.Tensor)]
        if grads:
            total = sum(part.float().square().sum() for part in parts)
            parts += torch.autograd.grad(total, (q, k, v))
        results.append(parts)
    return results


def _inputs(query, key, depth=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = query, key, (*key[:3], depth or key[3])
    return [torch.randn(s, generator=generator).to("mps", dtype).requires_grad_() for s in shapes]


def _document_mask(length):
    document = (torch.arange(length, device="mps") // 37).to(torch.int32)
    return lambda b, h, i, j: (document[i] == document[j]) & (i >= j)


LISTED = {
    "causal": lambda b, h, i, j: i >= j,
    "window": lambda b, h, i, j: (i - j).abs() < 20,
    "each head's own": lambda b, h, i, j: i >= j + 16 * h,
    "each batch's own": lambda b, h, i, j: j < 50 + 30 * b,
    "nothing in the first rows": lambda b, h, i, j: i >= 40,
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", [*LISTED, "documents"])
def test_blocks_of_a_mask(mask):
    """Blocks of one size and another, some of them full, some empty, and the last ones cut off."""
    rows, columns = 110, 150
    function = LISTED[mask] if mask in LISTED else _document_mask(columns)
    block_mask = create_block_mask(function, 2, 4, rows, columns, device="mps", BLOCK_SIZE=(32, 64))
    inputs = _inputs((2, 4, rows, 16), (2, 2, columns, 16), depth=24)
    eager, compiled = _attended(*inputs, block_mask=block_mask)
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    def score(s, b, h, i, j):
        return s + (j - i) * 0.01

    inputs = _inputs((1, 2, 70, 32), (1, 2, 70, 32), dtype=dtype)
    eager, compiled = _attended(*inputs, score_mod=score)
    exact = _attended(*(t.detach().float().requires_grad_() for t in inputs), score_mod=score)
    for ours, theirs, right in zip(compiled, eager, exact[0], strict=True):
        assert ours.dtype == dtype
        assert (ours - right).abs().max() <= 1.5 * (theirs - right).abs().max()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_sums():
    """Rows that attend to nothing have none."""
    block_mask = create_block_mask(LISTED["nothing in the first rows"], 1, 1, 64, 64, device="mps", BLOCK_SIZE=32)
    auxiliary = AuxRequest(lse=True)

    def attend(q, k, v):
        output, extra = flex_attention(q, k, v, block_mask=block_mask, return_aux=auxiliary)
        return output, extra.lse

    q, k, v = _inputs((1, 2, 64, 16), (1, 2, 64, 16))
    eager, compiled = attend(q, k, v), torch.compile(attend)(q, k, v)
    torch.testing.assert_close(compiled, eager)
    gradients = [
        torch.autograd.grad((output.square().sum() + sums[..., 40:].square().sum()), (q, k, v))
        for output, sums in (eager, compiled)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("query", "key"),
    [((3, 2, 33, 16), (1, 2, 40, 16)), ((2, 4, 1, 32), (2, 1, 90, 32)), ((1, 1, 17, 8), (1, 1, 5, 8))],
    ids=["one batch of keys", "one query", "few"],
)
def test_shapes(query, key):
    mask = create_block_mask(LISTED["window"], query[0], None, query[2], key[2], device="mps", BLOCK_SIZE=16)

    def score(s, b, h, i, j):
        return s * (1 + b) - j * 0.1

    eager, compiled = _attended(*_inputs(query, key), score_mod=score, block_mask=mask)
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_layouts():
    """Heads beside rows in memory, as a projection gives them; what the function reads is a view."""
    bias = torch.randn(64, 9, generator=torch.Generator().manual_seed(2)).to("mps")[:, 2:6].t()
    q, k, v = (t.detach().transpose(1, 2).requires_grad_() for t in _inputs((2, 40, 4, 16), (2, 40, 4, 16)))
    eager, compiled = _attended(q, k, v, score_mod=lambda s, b, h, i, j: s + bias[h, j])
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
    assert compiled[0].transpose(1, 2).is_contiguous()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_what_the_dense_composition_serves():
    """Small blocks, wide heads."""
    inputs = _inputs((1, 2, 24, 16), (1, 2, 24, 16))
    small = create_block_mask(LISTED["causal"], None, None, 24, 24, device="mps", BLOCK_SIZE=8)
    eager, compiled = _attended(*inputs, block_mask=small)
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
    eager, compiled = _attended(*_inputs((1, 1, 5, 272), (1, 1, 6, 272)))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_mask_made_of_blocks():
    """Without a function: what its lists leave out takes no part."""
    counts = torch.tensor([[[1, 2]]], dtype=torch.int32, device="mps")
    indices = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.int32, device="mps")
    blocks = BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16)
    q, k, v = _inputs((1, 2, 32, 16), (1, 2, 32, 16))
    allowed = torch.zeros(32, 32, dtype=torch.bool, device="mps")
    allowed[:16, 16:] = allowed[16:] = True
    compiled = torch.compile(flex_attention)(q, k, v, block_mask=blocks)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(compiled, expected)
    gradients = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (compiled, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_what_is_captured(dtype):
    inputs = _inputs((2, 4, 40, 16), (2, 2, 50, 16), dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(4, 101, generator=generator).to("mps", dtype).requires_grad_()
    slope = torch.randn(4, generator=generator).to("mps", dtype).requires_grad_()
    known = torch.randn(50, generator=generator).to("mps", dtype)

    def attend(q, k, v):
        def score(s, b, h, i, j):
            return (s + bias[h, i - j + 50]) * torch.sigmoid(slope[h]) + known[j]

        return flex_attention(q, k, v, score, enable_gqa=True)

    wanted = (*inputs, bias, slope)
    eager, compiled = (
        torch.autograd.grad(f(*inputs).float().square().sum(), wanted) for f in (attend, torch.compile(attend))
    )
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(compiled, eager, **tolerance)


def test_a_gradient_that_is_not_to_be_had():
    bias = torch.zeros(24, device="mps", requires_grad=True)
    small = create_block_mask(LISTED["causal"], None, None, 24, 24, device="mps", BLOCK_SIZE=8)
    attend = torch.compile(lambda q, k, v: flex_attention(q, k, v, lambda s, b, h, i, j: s + bias[j], small))
    with pytest.raises(Exception, match="no gradient of what score_mod captures"):
        attend(*_inputs((1, 2, 24, 16), (1, 2, 24, 16))).sum().backward()


def test_an_index_out_of_range():
    table = torch.ones(20, device="mps")
    attend = torch.compile(lambda q, k, v: flex_attention(q, k, v, lambda s, b, h, i, j: s + table[j]))
    q, k, v = (t.detach() for t in _inputs((1, 1, 32, 16), (1, 1, 32, 16)))
    attend(q, k, v)
    with pytest.raises(IndexError, match=r"flex_attention: index \d+ is out of bounds"):
        torch.mps.synchronize()


def test_scores_are_not_in_memory():
    length = 2048
    mask = create_block_mask(LISTED["window"], None, None, length, length, device="mps")
    q, k, v = _inputs((1, 1, length, 16), (1, 1, length, 16))
    attend = torch.compile(lambda q, k, v: flex_attention(q, k, v, lambda s, b, h, i, j: s * 2, mask))
    attend(q, k, v).sum().backward()
    torch.mps.synchronize()
    before = torch.mps.current_allocated_memory()
    torch.accelerator.reset_peak_memory_stats()
    attend(q, k, v).sum().backward()
    assert torch.accelerator.max_memory_allocated() - before < length * length * 4 // 4
