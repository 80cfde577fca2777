"""Moving elements about and padding against torch on the CPU."""

import pytest
import torch
from support import FLOATS, INTEGERS, assert_same, compare
from torch.nn import functional

DTYPES = (*FLOATS, torch.float64, *INTEGERS, torch.bool)


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x = sample(2, 3, 4, dtype=dtype)
    compare(lambda t: torch.cat((t, t[:, :1], t), 1), x)
    compare(lambda t: t.flip(0, 2), x)
    compare(lambda t: t.roll((1, -2), (0, 2)), x)
    compare(lambda t: t.repeat_interleave(2, 1), x)
    compare(lambda t: t.repeat(2, 1, 3), x)
    compare(lambda t: functional.pad(t, (1, 2), value=1), x)
    compare(lambda t: t.unfold(2, 2, 1).contiguous(), x)
    compare(lambda t: t.diagonal(0, 1, 2).contiguous(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8, torch.int64, torch.complex64])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat_of_many(dim, dtype):
    shapes = [[3 if d != dim % 3 else i % 4 for d in range(3)] for i in range(12)]
    parts = [(torch.rand(s, generator=torch.Generator().manual_seed(i)) * 9).to(dtype) for i, s in enumerate(shapes)]
    compare(lambda *tensors: torch.cat(tensors, dim), *parts)
    compare(lambda *tensors: torch.stack(tensors, dim), *[p[0, 0, :1].expand(4).clone() for p in parts if p.numel()])
    large = [torch.full((70, 90), i).to(dtype) for i in range(9)]
    compare(lambda *tensors: torch.cat(tensors, min(dim, 1)), *large)


def test_cat():
    x, y = sample(3, 4), sample(2, 4)
    compare(lambda a, b: torch.cat((a, b)), x, y, grad=True)
    compare(lambda a, b: torch.cat((a.t(), b.t()), -1), x, y, grad=True)
    compare(lambda a, b: torch.cat((a, torch.empty(0, device=a.device), b)), x, y)
    compare(lambda a, b: torch.cat((a, b.long())), x, y)
    compare(lambda a, b: torch.cat((a.half(), b)), x, y)
    compare(lambda a, b: torch.cat((a[:0], b[:0])), x, y)
    compare(lambda a, b: torch.cat([a[i] for i in range(3)] * 20), x, y)
    compare(
        lambda a, b: (torch.stack((a, a), 1), torch.hstack((a, a)), torch.vstack((a, b)), torch.dstack((a, a))), x, y
    )
    out = torch.empty(0, device="mps")
    torch.cat((x.to("mps"), y.to("mps")), out=out)
    assert_same(out, torch.cat((x, y)))
    images = sample(2, 3, 4, 4).to(memory_format=torch.channels_last)
    compare(lambda t: torch.cat((t, t), 1), images)
    for parts in ((x, y.t()), (x, torch.tensor(1.0)), (x, sample(3))):
        with pytest.raises(RuntimeError):
            torch.cat([p.to("mps") for p in parts])
    with pytest.raises(IndexError):
        torch.cat((x.to("mps"),), 2)
    with pytest.raises((RuntimeError, ValueError)):
        torch.cat([])


def test_flip_and_roll():
    x = sample(3, 4, 5)
    for dims in ((), (0,), (1,), (-1,), (0, 1, 2)):
        compare(lambda t, d=dims: t.flip(d), x, grad=True)
        compare(lambda t, d=dims: t.permute(2, 0, 1)[::2].flip(d), x)
    compare(lambda t: (t.flip(0), t[:0].flip(0), t[0, 0, 0].flip(())), x)
    compare(lambda t: (t.fliplr(), t.flipud(), t.rot90(1, (0, 2))), x)
    for shifts, dims in ((2, None), (7, 1), (-3, -1), ((1, 2), (0, 1)), ((1, 1), (0, 0))):
        compare(lambda t, s=shifts, d=dims: t.roll(s, d), x, grad=True)
    compare(lambda t: t[:0].roll(1, 0), x)
    for call in (lambda t: t.flip(0, 0), lambda t: t.flip(3), lambda t: t.roll((1, 2), 0)):
        with pytest.raises((RuntimeError, IndexError)):
            call(x.to("mps"))


def test_repeat_interleave():
    x = sample(3, 4)
    repeats = torch.tensor([2, 0, 3])
    compare(lambda t, r: t.repeat_interleave(r, 0), x, repeats, grad=True)
    compare(lambda t, r: t.repeat_interleave(r, 0, output_size=5), x, repeats)
    compare(lambda t, r: torch.repeat_interleave(r), x, repeats)
    compare(lambda t, r: torch.repeat_interleave(r.int()), x, repeats)
    compare(lambda t, r: t.repeat_interleave(2), x, repeats)
    compare(lambda t, r: torch.repeat_interleave(r[:0]), x, repeats)
    with pytest.raises(RuntimeError):
        torch.repeat_interleave(torch.tensor([1, -1], device="mps"))


PADDINGS = {1: [(1, 2), (0, 0), (3, 0)], 2: [(1, 2, 0, 3), (0, 1, 2, 0)], 3: [(1, 0, 2, 1, 0, 2)]}


@pytest.mark.parametrize("dtype", (*FLOATS, torch.float64))
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "constant"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding(dims, mode, dtype):
    x = sample(*(2, 3, 4, 4, 4)[: dims + 2], dtype=dtype)
    # The CPU adds up gradients in the half type.
    loose = {"rtol": 3e-2, "atol": 0.1} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-5}
    for padding in PADDINGS[dims]:
        compare(lambda t, p=padding: functional.pad(t, p, mode), x, grad=True, **loose)
        compare(lambda t, p=padding: functional.pad(t.transpose(0, 1), p, mode), x)
        if mode != "circular":
            compare(lambda t, p=padding: functional.pad(t[0], p, mode), x, grad=True, **loose)


def test_padding_edges():
    x = sample(2, 3, 6)
    compare(lambda t: functional.pad(t, (-1, 2), "replicate"), x, grad=True)
    compare(lambda t: functional.pad(t, (-1, -2)), x, grad=True)
    compare(lambda t: functional.pad(t[:0], (1, 2), "reflect"), x)
    compare(lambda t: functional.pad(t, (1, 2), "replicate"), x.long())
    for mode, padding in (("reflect", (6, 0)), ("replicate", (-3, -3))):
        with pytest.raises(RuntimeError):
            functional.pad(x.to("mps"), padding, mode)


def test_rearrangements():
    x = sample(2, 8, 3, 4)
    compare(lambda t: functional.channel_shuffle(t, 4), x, grad=True)
    compare(lambda t: torch.native_channel_shuffle(t, 4), x)
    compare(lambda t: functional.pixel_shuffle(t, 2), x, grad=True)
    compare(lambda t: functional.pixel_unshuffle(t[..., :2, :], 2), x, grad=True)
    compare(lambda t: t[0, 0, :, :3].trace(), x, grad=True)
    compare(lambda t: t[0, 0, 0].diag(), x, grad=True)
    compare(lambda t: torch.block_diag(t[0, 0], t[0, 1, :1, :1], t[1, 1]), x)
    compare(lambda t: torch.tile(t, (1, 2)), x)
    compare(lambda t: torch.combinations(t[0, 0, 0], with_replacement=True), x)
    compare(lambda t: torch.cartesian_prod(t[0, 0, 0], t[0, 0, :, 1]), x)
    compare(lambda t: (t.movedim(0, -1), *t.split(3, 1), *t.unbind(2)), x)
    with pytest.raises(RuntimeError):
        functional.channel_shuffle(x.to("mps"), 3)


OVERLAPS = {
    "cat": lambda x: torch.cat([x[:2], x[2:]], out=x),
    "gather": lambda x: torch.gather(x, 0, torch.zeros(4, 3, dtype=torch.int64, device=x.device), out=x),
    "index_select": lambda x: torch.index_select(x, 0, torch.arange(4, device=x.device), out=x),
    "take": lambda x: torch.take(x, torch.arange(12, device=x.device).view(4, 3), out=x),
    "masked_select": lambda x: torch.masked_select(x, x > -9, out=x.view(-1)),
    "kthvalue": lambda x: torch.kthvalue(
        x, 1, out=(x.view(-1)[:4], torch.empty(4, dtype=torch.int64, device=x.device))
    ),
    "repeated elements": lambda x: torch.gather(
        x, 0, torch.zeros(4, 3, dtype=torch.int64, device=x.device), out=x[:1].clone().expand(4, 3)
    ),
    "a part": lambda x: torch.index_select(x[:2], 0, torch.arange(2, device=x.device), out=x.view(-1)[1:7].view(2, 3)),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_outputs_share_no_memory(name):
    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError, match="unsupported operation"):
            OVERLAPS[name](sample(4, 3).to(device))


OUTPUTS = {
    "std, integers": lambda x: torch.std(x, 0, out=torch.empty(3, dtype=torch.int64, device="mps")),
    "avg_pool2d, integers": lambda x: torch.ops.aten.avg_pool2d(
        x[None], [2, 2], out=torch.empty(1, 2, 1, dtype=torch.int64, device="mps")
    ),
    "functional form, another device": lambda x: torch.ops.aten._slow_conv2d_forward(
        x[None, None], x[None, None, :2], [2, 3], None, [1, 1], [0, 0], output=torch.empty(1, 1, 3, 1)
    ),
    "mm, another device": lambda x: torch.mm(x, x.t(), out=torch.empty(4, 4)),
    "complex modulus, integers": lambda x: torch.abs(x + 0j, out=torch.empty(4, 3, dtype=torch.int64, device="mps")),
    "vector norm, integers": lambda x: torch.linalg.vector_norm(
        x, 3, out=torch.empty((), dtype=torch.int64, device="mps")
    ),
    "masked_fill, too large": lambda x: x.half().masked_fill(x > 0, 1e6),
    "masked_fill, complex": lambda x: x.masked_fill(x > 0, torch.tensor(1j, device="mps")),
    "another device": lambda x: torch.tril(x, out=torch.empty(4, 3)),
    "softmax, another device": lambda x: torch.softmax(x, 0, out=torch.empty(4, 3)),
    "cat, integers": lambda x: torch.cat([x, x], out=torch.empty(8, 3, dtype=torch.int64, device=x.device)),
    "tril, integers": lambda x: torch.tril(x, out=torch.empty(4, 3, dtype=torch.int64, device=x.device)),
    "norm, integers": lambda x: torch.norm(x, 2, 0, out=torch.empty(3, dtype=torch.int64, device=x.device)),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_do_not_fit(name):
    with pytest.raises(TypeError if "cat" in name else RuntimeError):
        OUTPUTS[name](sample(4, 3).to("mps"))


def test_where_resizes_its_output():
    compare(lambda x: torch.where(x > 0, x, -x, out=x.new_empty(0)), sample(4, 3))


def test_narrow_copy_with_strides():
    """Not against the CPU, which writes as if the output had none."""
    x = torch.arange(12, device="mps").view(3, 4)
    out = torch.full((20,), -1, device="mps")
    torch.narrow_copy(x, 0, 1, 2, out=out.as_strided((2, 4), (8, 2)))
    expected = torch.full((20,), -1)
    expected.as_strided((2, 4), (8, 2)).copy_(x.cpu()[1:])
    assert_same(out, expected)


@pytest.mark.parametrize("arguments", [(3, 0, 0), (-4, 0, 1), (0, 0, -1), (0, 3, 1), (0, 4, -1), (0, -4, 1)])
def test_narrow_copy_out_of_range(arguments):
    with pytest.raises(Exception) as on_cpu:
        torch.narrow_copy(torch.zeros(3, 4), *arguments)
    with pytest.raises(on_cpu.type):
        torch.narrow_copy(torch.zeros(3, 4, device="mps"), *arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("ends", [(-0.9, 2.1, 2.0), (2.1, -2.9, -1.0), (0, 5, 0.5), (0.5, 5.5, 1.5)])
def test_ramps_of_integers(dtype, ends):
    """Start and step are truncated, the length is not."""
    assert_same(torch.arange(*ends, dtype=dtype, device="mps"), torch.arange(*ends, dtype=dtype))


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("dims", [2, 3])
def test_padding_keeps_channels_last(mode, dims):
    last = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    x = torch.randn(2, 3, *[4] * dims).contiguous(memory_format=last)
    strides = []
    for t in (x.clone().requires_grad_(), x.to("mps").requires_grad_()):
        padded = torch.nn.functional.pad(t, [1, 2] * dims, mode=mode)
        gradient = torch.autograd.grad(padded, t, torch.ones_like(padded))[0]
        strides.append((padded.stride(), gradient.stride()))
    assert strides[0] == strides[1]


def test_cat_refuses_tensors_of_the_cpu():
    x = torch.ones(2, 3)
    for tensors in ([x.to("mps"), x], [x, x.to("mps")]):
        with pytest.raises(RuntimeError, match="same device"):
            torch.cat(tensors)
