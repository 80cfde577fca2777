"""The operators of gradient scaling, and torch.amp.GradScaler with them."""

import pytest
import torch
from support import assert_same

INF, NAN = float("inf"), float("nan")


def unscale(grads: list[torch.Tensor], inverse: float) -> float:
    found = torch.zeros((), device="mps")
    torch._amp_foreach_non_finite_check_and_unscale_(grads, found, torch.tensor(inverse, device="mps"))
    return found.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [None, INF, -INF, NAN])
def test_unscale(dtype, bad):
    grads = [torch.full((5000,), 4.0, dtype=dtype), torch.full((3, 4), 8.0, dtype=dtype).t(), torch.ones(0)]
    if bad is not None:
        grads[1][2, 1] = bad
    on_device = [g.to("mps") for g in grads]
    on_device[1] = on_device[1].t().contiguous().t()
    assert unscale(on_device, 0.25) == (bad is not None)
    assert_same(on_device, [g * 0.25 for g in grads])


def test_unscale_of_odd_strides():
    base = torch.full((4, 6), 2.0, device="mps")
    assert unscale([base[::2, ::3]], 0.5) == 0
    expected = torch.full((4, 6), 2.0)
    expected[::2, ::3] = 1.0
    assert_same(base, expected)


def test_unscale_errors():
    grads = [torch.ones(3, device="mps")]
    one = torch.ones((), device="mps")
    with pytest.raises(RuntimeError):
        torch._amp_foreach_non_finite_check_and_unscale_(grads, torch.ones(2, device="mps"), one)
    with pytest.raises(RuntimeError):
        torch._amp_foreach_non_finite_check_and_unscale_([torch.ones(3, device="mps").int()], one, one)


@pytest.mark.parametrize("found", [0.0, 1.0])
@pytest.mark.parametrize("tracker", [0, 1])
@pytest.mark.parametrize("scale", [8.0, 3e38])
def test_update_scale(found, tracker, scale):
    def updated(device):
        values = [torch.tensor(v, device=device) for v in (scale, tracker, found)]
        values[1] = values[1].int()
        torch._amp_update_scale_(*values, 2.0, 0.5, 2)
        return values

    assert_same(updated("mps"), updated("cpu"))


def test_grad_scaler_skips_infinite_steps():
    weight = torch.nn.Parameter(torch.ones(4, device="mps"))
    stepper = torch.optim.SGD([weight], lr=0.5)
    scaler = torch.amp.GradScaler("mps", init_scale=1024.0, growth_interval=2)
    scales, weights = [], []
    for factor in (1.0, 1.0, INF, 1.0):
        stepper.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(stepper)
        scaler.update()
        scales.append(scaler.get_scale())
        weights.append(weight[0].item())
    assert scales == [1024.0, 2048.0, 1024.0, 1024.0]
    assert weights == [0.5, 0.0, 0.0, -0.5]
