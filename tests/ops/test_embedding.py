"""embedding_bag against torch on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from support import FLOATS, compare

MODES = ("sum", "mean", "max")
INDICES = [2, 0, 5, 5, 1, 3, 2, 2, 4]
OFFSETS = [0, 3, 3, 4, 9]  # an empty bag inside and one at the end


def weight(rows: int = 6, width: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def bags(mode: str, indices=INDICES, offsets=OFFSETS, types=(torch.int64, torch.int64), **options):
    """A function of the weight: indices and offsets have no gradient."""

    def function(w: torch.Tensor) -> torch.Tensor:
        i, o = torch.tensor(indices, dtype=types[0], device=w.device), offsets
        if offsets is not None:
            o = torch.tensor(offsets, dtype=types[1], device=w.device)
        return F.embedding_bag(i, w, o, mode=mode, **options)

    return function


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    compare(bags(mode), weight(), grad=True)
    compare(bags(mode, padding_idx=2), weight(), grad=True)
    compare(bags(mode, include_last_offset=True), weight(), grad=True)
    compare(bags(mode, types=(torch.int32, torch.int64)), weight(), grad=True)
    compare(bags(mode, types=(torch.int32, torch.int32)), weight(), grad=True)
    compare(bags(mode, indices=[[1, 2, 3], [3, 3, 0]], offsets=None), weight(), grad=True)
    compare(bags(mode, indices=[], offsets=[0, 0]), weight(), grad=True)
    compare(bags(mode), weight(300, 70), grad=True)


def test_indices_past_the_last_bag_count_for_nothing():
    compare(bags("sum", offsets=[0, 3, 5], include_last_offset=True), weight())
    w = weight().to("mps").requires_grad_()
    bags("sum", offsets=[0, 3, 5], include_last_offset=True)(w).sum().backward()
    expected = torch.zeros(6, 1).index_add_(0, torch.tensor(INDICES[:5]), torch.ones(5, 1)).expand(6, 5)
    torch.testing.assert_close(w.grad.cpu(), expected)


@pytest.mark.parametrize("mode", MODES[:2])
def test_scaled_by_frequency(mode):
    """The CPU takes some counts from other rows' indices, so the reference is the documented definition."""
    plain, scaled = (weight().to("mps").requires_grad_() for _ in range(2))
    bags(mode)(plain).square().sum().backward()
    bags(mode, scale_grad_by_freq=True)(scaled).square().sum().backward()
    counts = torch.bincount(torch.tensor(INDICES), minlength=6).clamp(min=1).unsqueeze(1)
    torch.testing.assert_close(scaled.grad.cpu(), plain.grad.cpu() / counts)


@pytest.mark.parametrize("padding", [None, 5])
def test_weighted_samples(padding):
    def function(w: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        i, o = (torch.tensor(v, device=w.device) for v in (INDICES, OFFSETS))
        return F.embedding_bag(i, w, o, mode="sum", per_sample_weights=factors, padding_idx=padding)

    compare(function, weight(), torch.rand(len(INDICES)), grad=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(mode, dtype):
    loose = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    compare(bags(mode), weight(dtype=dtype), grad=True, **loose)


def test_module_and_its_norm():
    torch.manual_seed(0)
    modules = [torch.nn.EmbeddingBag(6, 5, max_norm=1.0) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    i, o = torch.tensor(INDICES), torch.tensor(OFFSETS)
    expected, actual = modules[0](i, o), modules[1].to("mps")(i.to("mps"), o.to("mps"))
    torch.testing.assert_close(actual.cpu(), expected)


@pytest.mark.parametrize("indices, offsets, message", [
    ([0, 6], [0], "found idx to be 6"),
    ([0, -1], [0], "found idx to be -1"),
    ([0, 1], [1], "has to be 0"),
    ([0, 1], [0, 9], "within the 2 indices"),
    ([0, 1], [0, -3], "within the 2 indices"),
])  # fmt: skip
def test_indices_and_offsets_out_of_bounds(indices, offsets, message):
    bags("sum", indices=indices, offsets=offsets)(weight().to("mps"))
    with pytest.raises(RuntimeError, match=message):
        torch.mps.synchronize()


def test_errors():
    for device in ("cpu", "mps"):
        w = weight().to(device)
        i, o = torch.tensor(INDICES, device=device), torch.tensor(OFFSETS, device=device)
        with pytest.raises(NotImplementedError):
            F.embedding_bag(i, w, o, mode="mean", per_sample_weights=torch.ones(9, device=device))
        with pytest.raises(RuntimeError):
            F.embedding_bag(i.float(), w, o)
        with pytest.raises((RuntimeError, ValueError)):
            F.embedding_bag(i, w, o, mode="sum", per_sample_weights=torch.ones(4, device=device))
        with pytest.raises(RuntimeError):
            F.embedding_bag(i, w, o, mode="sum", per_sample_weights=torch.ones(9, device=device).double())


@pytest.mark.parametrize("mode", MODES)
def test_many_indices_of_few_rows(mode):
    """Each row's gradient has a thousand terms: no less exact than those of a sum."""
    indices = torch.randint(3, (4001,), generator=torch.Generator().manual_seed(2))
    gradients = []
    for device, dtype in (("mps", torch.float32), ("cpu", torch.float64)):
        w = weight(3).to(device, dtype).requires_grad_()
        result = F.embedding_bag(indices.to(device), w, torch.arange(0, 4001, 2, device=device), mode=mode)
        cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
        gradients.append(torch.autograd.grad(result, w, cotangent.to(device, dtype))[0].cpu().double())
        embedded = F.embedding(indices.to(device), w).sum(1)
        gradients.append(torch.autograd.grad(embedded, w, embedded.detach())[0].cpu().double())
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=2e-5)
    torch.testing.assert_close(gradients[1], gradients[3], rtol=1e-6, atol=2e-5)
