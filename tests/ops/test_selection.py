"""nonzero, masked_select and masked_scatter against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare, denormal

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """About half of the elements are zero."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4
    return torch.where(x > 0, x + 1, 0.0).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x = sample(5, 7, dtype=dtype)
    compare(torch.nonzero, x)
    compare(torch.argwhere, x)
    compare(lambda t, m: t.masked_select(m), x, sample(5, 7) > 0)
    compare(lambda t, m: t.masked_scatter(m, t.flip(0)), x, sample(5, 7) > 0)
    compare(torch.count_nonzero, x)


# One chunk, several, more than a workgroup scans at once.
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1023,), (2049,), (3, 5, 700), (2, 2, 2, 2, 2, 2)])
def test_shapes(shape):
    x = sample(*shape)
    compare(torch.nonzero, x)
    compare(lambda t: torch.nonzero(t, as_tuple=True), x)
    compare(lambda t: t.masked_select(t > 0), x)
    compare(lambda t: t.masked_scatter(t == 0, torch.arange(float(t.numel()), device=t.device) + 1), x)
    compare(lambda t: torch.nonzero_static(t, size=5, fill_value=-7), x)
    compare(lambda t: t[t > 2], x)


def test_many_chunks():
    x = torch.zeros(300_000)
    places = torch.tensor([0, 1023, 1024, 131_071, 262_144, 262_145, 299_999])
    x[places] = 1
    assert_same(x.to("mps").nonzero().flatten(), places)
    assert_same((1 - x).to("mps").nonzero().flatten(), (1 - x).nonzero().flatten())


def test_nan_and_negative_zero():
    compare(torch.nonzero, torch.tensor([torch.nan, -0.0, 0.0, torch.inf, denormal()]))


def test_layouts_and_broadcasting():
    x = sample(6, 5)
    compare(lambda t: t.t().nonzero(), x)
    compare(lambda t: t[::2, 1:].nonzero(), x)
    compare(lambda t: t[0].masked_select(t > 0), x)
    compare(lambda t: t.masked_select(t[:, :1] > 0), x)
    compare(lambda t: t[0, 0].masked_select(t > 0), x)
    compare(lambda t: t[0, 0].expand(9).masked_scatter(t[0, 0].expand(9) == 0, t[:, 1].flip(0).repeat(2)), x)
    compare(lambda t: t.masked_scatter(t[:1] > 0, t.t()), x)
    compare(lambda t: t.masked_scatter(t > 0, t[:1, :1].expand(6, 5)), x)
    compare(lambda t: t.masked_scatter(t > 0, torch.arange(60.0, device=t.device)[::2]), x)


def test_gradients():
    x, y = sample(4, 5), sample(4, 5) + 1
    mask = x > 0
    compare(lambda t, m: t.masked_select(m), x, mask, grad=True)
    compare(lambda t, m, s: t.masked_scatter(m, s), x, mask, y, grad=True)


def test_outputs_and_errors():
    x = sample(4, 5)
    device = x.to("mps")
    out = torch.empty(0, 2, dtype=torch.int64, device="mps")
    torch.nonzero(device, out=out)
    assert_same(out, x.nonzero())
    out = torch.empty(0, device="mps")
    torch.masked_select(device, device > 0, out=out)
    assert_same(out, x.masked_select(x > 0))
    calls = [
        lambda: device.masked_select(device),
        lambda: torch.nonzero(device, out=torch.empty(0, 2, device="mps")),
        lambda: device.masked_scatter(device > 0, device.long()),
        lambda: device.masked_scatter(device, device),
        lambda: torch.nonzero_static(device, size=-1),
    ]
    for call in calls:
        with pytest.raises(RuntimeError):
            call()
    guard = torch.zeros(30, device="mps")
    with pytest.raises(RuntimeError, match="source < number of ones in mask"):
        guard[5:15].masked_scatter_(torch.ones(10, dtype=torch.bool, device="mps"), torch.ones(3, device="mps"))
        torch.mps.synchronize()
    assert guard[:5].eq(0).all().item() and guard[15:].eq(0).all().item()
