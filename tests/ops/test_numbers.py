"""Numbers among an operator's arguments that its dtype does not hold: torch's errors on the CPU, and its values."""

import pytest
import torch
import torch.nn.functional as F

CALLS = {
    "clamp": lambda x, v: torch.clamp(x, 0, v),
    "clamp min": lambda x, v: torch.clamp(x, min=v),
    "clamp_max_": lambda x, v: x.clone().clamp_max_(v),
    "hardtanh": lambda x, v: F.hardtanh(x, 0, v),
    "threshold": lambda x, v: F.threshold(x, v, 1),
    "threshold's value": lambda x, v: F.threshold(x, 1, v),
    "hardshrink": lambda x, v: F.hardshrink(x, v),
    "leaky_relu": lambda x, v: F.leaky_relu(x, v),
    "elu": lambda x, v: F.elu(x, v),
    "softplus": lambda x, v: F.softplus(x, v),
    "pow": lambda x, v: x.pow(v),
    "pow of a number": lambda x, v: torch.pow(v, x),
    "add": lambda x, v: torch.add(x, x, alpha=v),
    "sub": lambda x, v: torch.sub(x, x, alpha=v),
    "addcmul": lambda x, v: torch.addcmul(x, x, x, value=v),
    "addcdiv": lambda x, v: torch.addcdiv(x, x, x, value=v),
    "lerp": lambda x, v: torch.lerp(x, x, v),
    "fill_": lambda x, v: x.clone().fill_(v),
    "full_like": torch.full_like,
    "full": lambda x, v: torch.full((2,), v, dtype=x.dtype, device=x.device),
    "where": lambda x, v: torch.where(x > 0, x, v),
    "masked_fill": lambda x, v: x.masked_fill(x > 0, v),
    "index_fill": lambda x, v: x.index_fill(0, torch.tensor([0], device=x.device), v),
    "scatter": lambda x, v: x.scatter(0, torch.tensor([0], device=x.device), v),
    "pad": lambda x, v: F.pad(x, (1, 1), value=v),
    "nan_to_num": lambda x, v: torch.nan_to_num(x, nan=float(v.real)),
    "_foreach_add": lambda x, v: torch._foreach_add([x], v)[0],
    "_foreach_pow": lambda x, v: torch._foreach_pow([x], v)[0],
    "_foreach_clamp_max": lambda x, v: torch._foreach_clamp_max([x], v)[0],
    "_foreach_addcmul": lambda x, v: torch._foreach_addcmul([x], [x], [x], v)[0],
}
NUMBERS = (
    (torch.float16, 1e9),
    (torch.float16, float("inf")),
    (torch.bfloat16, 1e39),
    (torch.float32, 1e39),
    (torch.int8, 1000),
    (torch.int8, -3),
    (torch.uint8, -3),
    (torch.uint8, 300),
    (torch.int32, 2**40),
    (torch.int64, 2.5),
    (torch.bool, 3),
)


def outcome(call, device, dtype, number):
    try:
        return call(torch.tensor([1, 2, 0], dtype=dtype, device=device), number).cpu()
    except (RuntimeError, ValueError) as error:
        return type(error)


@pytest.mark.parametrize("dtype,number", NUMBERS)
def test_as_on_the_cpu(dtype, number):
    for name, call in CALLS.items():
        expected, seen = (outcome(call, device, dtype, number) for device in ("cpu", "mps"))
        if isinstance(expected, torch.Tensor):
            assert isinstance(seen, torch.Tensor), f"{name}: {seen}"
            torch.testing.assert_close(seen, expected, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}")
        else:
            assert seen is expected, f"{name}: {seen}"


def test_an_element_of_a_half_may_become_infinite():
    """torch asks less of a single element: scripts mask with -1e9 so."""
    for device in ("cpu", "mps"):
        x = torch.zeros(3, 2, dtype=torch.float16, device=device)
        x[1, 0] = -1e9
        assert x[1, 0].item() == float("-inf") and x.isinf().sum().item() == 1
