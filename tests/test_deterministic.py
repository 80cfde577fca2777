"""torch.use_deterministic_algorithms: the order of additions is fixed, or the operator refuses."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from support import compare


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def places(count: int, size: int) -> torch.Tensor:
    return torch.randint(-size, size, (count,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32])
def test_equal_to_the_cpu(dtype):
    x, index = sample(5, 6, dtype=dtype), places(40, 5)
    up, loose = index % 5, {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.float16 else {}
    compare(lambda t, i, v: t.index_put((i,), v, accumulate=True), x, index, sample(40, 6, dtype=dtype), **loose)
    compare(lambda t, i, v: t.t().index_add(1, i, v.t()), x, up, sample(40, 6, dtype=dtype), **loose)
    compare(lambda t, i, v: t.scatter_add(0, i, v), x, up.view(10, 4) % 5, sample(10, 4, dtype=dtype), **loose)
    compare(lambda t, i, v: t.scatter_reduce(1, i, v, "prod"), x, up.view(5, 8) % 5, sample(5, 8, dtype=dtype), **loose)
    compare(lambda t, i, v: t.put(i, v, accumulate=True), x, index, sample(40, dtype=dtype), **loose)


def test_the_last_of_several_writes_stays():
    index = torch.tensor([3, 1, 3, 3, 1])
    compare(lambda t, i, v: t.scatter(0, i, v), torch.zeros(5), index, torch.arange(5.0))


def test_two_runs_agree():
    weights, index = sample(20_000).to("mps"), places(20_000, 3).to("mps") % 3
    first, second = (torch.zeros(3, device="mps").index_add(0, index, weights) for _ in range(2))
    assert torch.equal(first, second)


def test_gradients_of_embedding_and_indexing():
    words = places(30, 7).abs() % 7
    compare(lambda w, i: F.embedding(i, w), sample(7, 4), words, grad=True)
    compare(lambda t, i: t[i], sample(7, 4), words, grad=True)


def test_an_index_out_of_range_is_reported():
    with pytest.raises(IndexError):
        torch.zeros(3, device="mps").index_add_(0, torch.tensor([7], device="mps"), torch.ones(1, device="mps"))
        torch.mps.synchronize()


def test_what_has_no_order_refuses():
    image = sample(1, 1, 4, 4).to("mps").requires_grad_()
    sampled = F.grid_sample(image, torch.zeros(1, 2, 2, 2, device="mps"), align_corners=False)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        sampled.sum().backward(retain_graph=True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampled.sum().backward()
    assert any("deterministic" in str(w.message) for w in caught)


def test_memory_is_filled_where_it_would_be_unknown():
    for dtype in (torch.float32, torch.float16, torch.int16, torch.uint8, torch.bool, torch.complex64):
        expected, actual = torch.empty(3, dtype=dtype), torch.empty(3, dtype=dtype, device="mps")
        assert torch.equal(actual.cpu().view(torch.uint8), expected.view(torch.uint8))
    assert torch.empty_strided((2, 2), (2, 1), device="mps").isnan().all()
    assert torch.ones(2, device="mps").resize_(4)[2:].isnan().all()
