"""torch.autocast("mps"): which operators run in half precision, and training through it."""

import warnings

import pytest
import torch
from support import assert_same
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

HALVES = (torch.float16, torch.bfloat16)


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to("mps")


@pytest.mark.parametrize("dtype", HALVES)
def test_products_run_in_half_precision(dtype):
    a, b = weight(4, 8), weight(8, 3)
    with torch.autocast("mps", dtype=dtype):
        results = [
            a @ b,
            torch.nn.functional.linear(a, b.t()),
            torch.bmm(a[None], b[None]),
            torch.einsum("ij,jk", a, b),
        ]
        results.append(torch.nn.functional.conv2d(weight(1, 2, 5, 5), weight(3, 2, 3, 3), weight(3)))
        q = weight(1, 2, 4, 8)
        results.append(torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert {r.dtype for r in results} == {dtype}
    assert_same(results[0].float(), a.cpu() @ b.cpu(), rtol=3e-2, atol=5e-2)


@pytest.mark.parametrize("dtype", HALVES)
def test_sensitive_functions_run_in_single_precision(dtype):
    x = weight(4, 8).to(dtype)
    target = torch.tensor([0, 1, 2, 3], device="mps")
    with torch.autocast("mps", dtype=dtype):
        results = [x.softmax(-1), x.log_softmax(-1), x.exp(), x.norm(), x.cumsum(0), x.pow(2)]
        results += [torch.nn.functional.cross_entropy(x, target), torch.nn.functional.layer_norm(x, (8,))]
    assert {r.dtype for r in results} == {torch.float32}


def test_promotion_to_the_widest():
    half, single = weight(4).half(), weight(4)
    with torch.autocast("mps", dtype=torch.float16):
        assert torch.stack([half, single]).dtype == torch.float32
        assert torch.addcmul(half, half, single).dtype == torch.float32
        assert (half + half).dtype == torch.float16


def test_default_dtype_disabling_and_nesting():
    a = weight(4, 4)
    assert torch.get_autocast_dtype("mps") == torch.float16
    with torch.autocast("mps"):
        assert (a @ a).dtype == torch.float16
        with torch.autocast("mps", enabled=False):
            assert (a @ a).dtype == torch.float32
        assert torch.is_autocast_enabled("mps")
    assert not torch.is_autocast_enabled("mps")


def test_custom_function():
    class Square(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="mps", cast_inputs=torch.float32)
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.amp.custom_bwd(device_type="mps")
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    x = weight(3).half().requires_grad_()
    with torch.autocast("mps"):
        y = Square.apply(x)
    y.sum().backward()
    assert y.dtype == torch.float32
    assert_same(x.grad, 2 * x.detach().cpu())


@pytest.mark.parametrize("dtype", HALVES)
def test_training(dtype):
    """The loss falls as in single precision; parameters, their gradients and the state stay float32."""

    def train(autocast: bool) -> tuple[list[float], torch.nn.Module]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 4)
        )
        x, target = torch.randn(32, 8).to("mps"), torch.randint(4, (32,)).to("mps")
        model.to("mps")
        stepper = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("mps", enabled=autocast and dtype == torch.float16)
        losses = []
        for _ in range(8):
            with torch.autocast("mps", dtype=dtype, enabled=autocast):
                loss = torch.nn.functional.cross_entropy(model(x), target)
            stepper.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(stepper)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(stepper)
            scaler.update()
            losses.append(loss.item())
        return losses, model

    (half, model), (single, _) = train(True), train(False)
    assert half[-1] < half[0]
    assert half == pytest.approx(single, rel=3e-2)
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_kernels_are_not_made_of_cast_parts():
    x = weight(4, 4)
    image = weight(1, 2, 6, 6).half()
    pooled, places = torch.nn.functional.max_pool2d(image, 2, return_indices=True)
    with torch.autocast("mps", dtype=torch.bfloat16):
        assert torch.equal(torch.matrix_exp(x), torch.matrix_exp(x.clone()))
        inside = torch.matrix_exp(x), torch.nn.functional.max_unpool2d(pooled, places, 2)
    outside = torch.matrix_exp(x), torch.nn.functional.max_unpool2d(pooled, places, 2)
    for one, other in zip(inside, outside, strict=True):
        assert torch.equal(one, other)


# Torch's own compositions, whose parts are cast on every device, and what stands in for tensors without memory is not.
COMPOSED = ("mvlgamma", "pinverse", "linalg.pinv", "svd_lowrank", "pca_lowrank", "nn.functional.linear_cross_entropy")
# Statistics are float32 without autocast, too; a sample reaches out of its memory; promotion refuses the dtypes.
OTHERWISE = ("native_group_norm", "as_strided", "_unsafe_masked_index_put_accumulate")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtypes_are_those_of_tensors_without_memory(dtype):
    def dtypes(info, arguments):
        first, rest, named = arguments
        with torch.autocast("mps", dtype=torch.bfloat16):
            leaves = pytree.tree_leaves(info.op(first, *rest, **named))
        return [t.dtype for t in leaves if isinstance(t, torch.Tensor)]

    wrong = {}
    warnings.simplefilter("ignore")
    for info in op_db:
        if dtype not in info.dtypes or info.name in COMPOSED or info.name in OTHERWISE:
            continue
        sample = next(iter(info.sample_inputs("cpu", dtype)))
        arguments = pytree.tree_map_only(
            torch.Tensor, lambda t: t.detach().to("mps"), (sample.input, tuple(sample.args), dict(sample.kwargs))
        )
        mode = FakeTensorMode()
        try:
            with mode:
                expected = dtypes(info, pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments))
        except Exception:  # not without memory
            continue
        actual = dtypes(info, arguments)
        if actual != expected:
            wrong[info.name] = (expected, actual)
    assert not wrong
