"""torch._foreach_* against the CPU: what the kernels take, and what runs in torch's loop."""

import pytest
import torch
from support import FLOATS, assert_same, to_mps

SHAPES = [(3, 5), (), (0,), (2, 3, 4, 5), (5000,)]
UNARY = ["abs", "acos", "atan", "ceil", "erf", "exp", "frac", "lgamma", "log", "neg"]
UNARY += ["reciprocal", "round", "rsqrt", "sigmoid", "sign", "sqrt", "tanh", "trunc"]
BINARY = ["add", "sub", "mul", "div", "pow", "clamp_min", "clamp_max", "maximum", "minimum"]


def tensors(seed: int, dtype: torch.dtype = torch.float32, shapes=SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.rand(s, generator=generator) * 3 + 0.1 for s in shapes]
    return [t.to(dtype) if dtype.is_floating_point else (t * 5).to(dtype) for t in made]


def check(name: str, *arguments, **tolerance) -> None:
    """The functional and the in-place form."""
    on_device = to_mps(arguments)
    function = getattr(torch, f"_foreach_{name}")
    assert_same(function(*on_device), function(*arguments), **tolerance)
    in_place = getattr(torch, f"_foreach_{name}_")
    in_place(*on_device)
    in_place(*arguments)
    assert_same(on_device[0], arguments[0], **tolerance)


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    check(name, tensors(0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64])
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, dtype):
    loose = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for other in (tensors(1, dtype), 2, [2, 3, 4, 5, 6]):
        if dtype == torch.int64 and name == "div":
            continue  # the result is no integer: nothing to do in place
        check(name, tensors(0, dtype), other, **loose)


@pytest.mark.parametrize("name", ["add", "mul", "div"])
@pytest.mark.parametrize("scalar", [torch.tensor(1.5), torch.tensor(1.5, dtype=torch.float64), torch.tensor(2)])
def test_tensor_scalar(name, scalar):
    check(name, tensors(0), scalar)
    check(name, tensors(0, torch.bfloat16), scalar)


def test_cpu_scalar():
    assert_same(torch._foreach_mul(to_mps(tensors(0)), torch.tensor(2.0)), torch._foreach_mul(tensors(0), 2.0))


def test_complex_numbers():
    for function in (torch._foreach_add, torch._foreach_mul):
        assert_same(function(to_mps(tensors(0)), 2 - 1j), function(tensors(0), 2 - 1j))


def test_alpha():
    a, b = tensors(0), tensors(1)
    for function in (torch._foreach_add, torch._foreach_sub):
        assert_same(function(to_mps(a), to_mps(b), alpha=0.3), function(a, b, alpha=0.3))


@pytest.mark.parametrize("name", ["addcmul", "addcdiv"])
@pytest.mark.parametrize("value", [1, 0.5, [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_three(name, value):
    check(name, tensors(0), tensors(1), tensors(2), value)


def test_three_with_numbers_in_a_tensor():
    lists, numbers = [tensors(i) for i in range(3)], torch.arange(5.0)
    assert_same(torch._foreach_addcmul(*to_mps(lists), numbers), torch._foreach_addcmul(*lists, numbers))


@pytest.mark.parametrize("weight", [0.25, 0.75, [0.1, 0.2, 0.3, 0.4, 0.9], "tensors"])
def test_lerp(weight):
    check("lerp", tensors(0), tensors(1), tensors(2) if weight == "tensors" else weight, rtol=1e-5)


def test_layouts():
    a, b = tensors(0), tensors(1)
    a[3] = a[3].contiguous(memory_format=torch.channels_last)
    check("mul", a, b)
    b[3] = b[3].contiguous(memory_format=torch.channels_last)
    check("mul", a, b)
    a[4], b[4] = a[4][::2], b[4][1::2]
    check("add", a, b)
    check("add", [torch.rand(3, 1)], [torch.rand(3, 1)])
    check("mul", [torch.rand(3, 4)], [torch.rand(4)])


def test_mixed_dtypes():
    a = [torch.rand(3), torch.rand(3).half(), torch.arange(3)]
    assert_same(torch._foreach_mul(to_mps(a), 2), torch._foreach_mul(a, 2))
    assert_same(torch._foreach_add(to_mps(a[:1]), to_mps(a[2:])), torch._foreach_add(a[:1], a[2:]))


def test_copy_and_zero():
    for dtype in (torch.float32, torch.bfloat16, torch.int32):
        a, b = to_mps(tensors(0)), to_mps(tensors(1, dtype))
        torch._foreach_copy_(a, b)
        assert_same(a, [t.float() for t in tensors(1, dtype)])
        torch._foreach_zero_(b)
        assert_same(b, [torch.zeros_like(t) for t in tensors(1, dtype)])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("order", [0, 1, 2, 3, float("inf")])
def test_norm(order, dtype):
    a = [t for t in tensors(0, dtype) if t.numel()]
    assert_same(
        torch._foreach_norm(to_mps(a), order), torch._foreach_norm(a, order), rtol=1e-2 if a[0].itemsize == 2 else 1e-5
    )


def test_norm_special_values():
    a = [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf"), 1.0]), torch.empty(0)]
    assert_same(torch._foreach_norm(to_mps(a)), torch._foreach_norm(a))
    assert_same(torch._foreach_norm(to_mps(a[:2]), float("inf")), torch._foreach_norm(a[:2], float("inf")))


def test_many_tensors_take_one_dispatch():
    from portable_mps.runtime import device

    a = [torch.rand(7, device="mps") for _ in range(300)]
    torch._foreach_add_(a, 1.0)
    before = device.current().stream.recorder.dispatched
    torch._foreach_add_(a, 1.0)
    assert device.current().stream.recorder.dispatched == before + 1


def test_errors():
    a = to_mps(tensors(0))
    with pytest.raises(RuntimeError):
        torch._foreach_add([], 1.0)
    with pytest.raises(RuntimeError):
        torch._foreach_add(a, a[:2])
    with pytest.raises(RuntimeError):
        torch._foreach_add_(a, [1.0, 2.0])


def test_gradients():
    a = [t.requires_grad_() for t in to_mps(tensors(0)[:2])]
    torch._foreach_mul(a, 3.0)[0].sum().backward()
    assert_same(a[0].grad, torch.full((3, 5), 3.0))
