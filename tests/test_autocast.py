"""torch.autocast("mps"): which operators run in half precision, and training through it."""

import pytest
import torch
from support import assert_same

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
