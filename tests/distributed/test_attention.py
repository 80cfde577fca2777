"""scaled_dot_product_attention of DTensors, and in context parallelism, against one process on the CPU."""

import pytest
import torch
from processes import RANK_BEGINS, RANK_ENDS, outputs_of

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed"),
    pytest.mark.slow,
]

BEGIN = f"""{RANK_BEGINS}
import itertools
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F  # context parallelism replaces what is there
seeds = itertools.count()  # the same in all processes
def made(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(next(seeds)))
def alone(tensors, grad, bias=None, **options):
    tensors = [None if t is None else t.double().requires_grad_() for t in (*tensors, bias)]
    out = F.scaled_dot_product_attention(*tensors, **options)
    out.backward(grad.double())
    return [out.detach().float(), *(t.grad.float() for t in tensors if t is not None)]
def close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=2e-5, rtol=2e-5)
"""

DIVIDED = """
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
mesh = init_device_mesh("mps", (2,))
batch, heads, rows, copies = Shard(0), Shard(1), Shard(2), Replicate()
def compare(placements, shapes=((2, 4, 6, 8), (2, 2, 5, 8), (2, 2, 5, 8)), bias=None, mesh=mesh, **options):
    tensors, grad = [made(*shape) for shape in shapes], made(*shapes[0][:3], shapes[2][3])
    options |= {"enable_gqa": True}
    bias = None if bias is None else made(*bias)
    expected = alone(tensors, grad, bias, **options)
    if bias is not None:
        bias = distribute_tensor(bias.to("mps"), mesh, [copies] * mesh.ndim).requires_grad_()
    ours = [distribute_tensor(t.to("mps"), mesh, p).requires_grad_() for t, p in zip(tensors, placements, strict=True)]
    out = F.scaled_dot_product_attention(*ours, bias, **options)
    out.backward(distribute_tensor(grad.to("mps"), mesh, [copies] * mesh.ndim))
    gradients = [t.grad for t in (*ours, bias) if t is not None]
    assert [t.shape for t in gradients[:3]] == [t.shape for t in ours]
    close([t.full_tensor() for t in (out.detach(), *gradients)], expected)
    return out.placements
assert compare([[heads]] * 3) == (heads,)
assert compare([[batch]] * 3, is_causal=True) == (batch,)
assert compare([[copies]] * 3) == (copies,)
assert compare([[rows]] * 3) == (copies,)
assert compare([[heads], [copies], [heads]]) == (copies,)
assert compare([[heads]] * 3, ((1, 3, 4, 8),) * 3) == (copies,)  # three heads for two processes
assert compare([[batch]] * 3, ((3, 2, 4, 8),) * 3) == (copies,)
for shape in ((6, 5), (1, 4, 6, 5), (2, 1, 1, 5), (2, 4, 6, 5)):
    for placement in (batch, heads, copies):
        assert compare([[placement]] * 3, bias=shape) == (placement,)
both = init_device_mesh("mps", (1, 2))
assert compare([[batch, heads]] * 3, mesh=both) == (batch, heads)
try:
    plain = made(1, 2, 3, 8).to("mps")
    F.scaled_dot_product_attention(distribute_tensor(plain, mesh, [heads]), plain, plain)
    raise AssertionError("not refused")
except RuntimeError as error:
    assert "mixed torch.Tensor and DTensor" in str(error), error
"""

AROUND = """
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import _cp_options, context_parallel_unshard
mesh = init_device_mesh("mps", (dist.get_world_size(),))
def compare(dtype=torch.float32, shapes=((2, 4, 12, 8),) * 3, is_causal=True, balanced=True, **options):
    _cp_options.enable_load_balance = balanced
    tensors, grad = [made(*shape) for shape in shapes], made(*shapes[0][:3], shapes[2][3])
    expected = alone(tensors, grad, is_causal=is_causal, **options)
    buffers = [t.to("mps", dtype) for t in (*tensors, grad)]
    with context_parallel(mesh, buffers=buffers, buffer_seq_dims=[2] * 4):
        ours = [t.detach().requires_grad_() for t in buffers[:3]]
        out = F.scaled_dot_product_attention(*ours, is_causal=is_causal, **options)
        out.backward(buffers[3])
        found = context_parallel_unshard(mesh, [out.detach(), *(t.grad for t in ours)], [2] * 4)
    if dtype == torch.float32:
        return close(found, expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu().float(), theirs, atol=0.05, rtol=0.05)
compare()
compare(torch.bfloat16)
compare(is_causal=False, balanced=False)
compare(balanced=False, scale=0.5)
for refused in ({"dropout_p": 0.5}, {"attn_mask": torch.zeros(1, 1, 12 // mesh.size(), 12, device="mps")}):
    try:
        q, = buffers = [made(1, 2, 12, 8).to("mps")]
        with context_parallel(mesh, buffers=buffers, buffer_seq_dims=[2]):
            F.scaled_dot_product_attention(q, q, q, **refused)
        raise AssertionError("not refused")
    except NotImplementedError as error:
        assert "context parallelism" in str(error), error
whole = made(1, 2, 12, 8).to("mps")  # afterwards there are no rings
close([F.scaled_dot_product_attention(whole, whole, whole)], [F.scaled_dot_product_attention(*[whole.cpu()] * 3)])
"""


def test_of_distributed_tensors():
    outputs_of(BEGIN + DIVIDED + RANK_ENDS, 2)


@pytest.mark.parametrize("ranks", [2, 3])
def test_context_parallelism(ranks):
    outputs_of(BEGIN + AROUND + RANK_ENDS, ranks)
