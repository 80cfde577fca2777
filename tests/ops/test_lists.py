"""Kernels over lists of tensors, wherever these lie, against torch on the CPU in float64."""

import pytest
import torch


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}], ids=["fused", "foreach"])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_tensors_that_lie_in_memory_otherwise(kind, options):
    """Parts that vectors do not align with, more than a workgroup has, orders of dimensions of all kinds."""
    generator = torch.Generator().manual_seed(0)

    def parameters():
        images = torch.randn(3, 4, 3, 3, generator=generator)
        tensors = [
            (
                images.contiguous(memory_format=torch.channels_last),
                images.contiguous(memory_format=torch.channels_last),
            ),
            (images.clone(), images.contiguous(memory_format=torch.channels_last)),
            (torch.randn(5, 7, generator=generator).t(), torch.randn(7, 5, generator=generator)),
            (torch.randn(9003, generator=generator)[1:], torch.randn(9002, generator=generator)),
            (torch.randn(4099, generator=generator), torch.randn(4099, generator=generator)),
        ]
        return [(p.detach(), g) for p, g in tensors]

    ours = parameters()
    theirs = [(p.double(), g.double()) for p, g in ours]
    results = []
    for pairs, device, settings in ((ours, "mps", options), (theirs, "cpu", {})):
        params = [p.to(device).requires_grad_() for p, _ in pairs]
        optimizer = kind(
            params, lr=0.1, weight_decay=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}), **settings
        )
        for step in range(3):
            for param, (_, gradient) in zip(params, pairs, strict=True):
                param.grad = gradient.to(device) * (step + 1)
            optimizer.step()
        results.append([p.detach().cpu().double() for p in params])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64, torch.complex128])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_many_are_joined(dtype, dim):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(100, (3, 3, 3), generator=generator).to(dtype) for _ in range(20)]
    parts[4] = torch.randint(100, (1200, 3, 3), generator=generator).to(dtype).movedim(0, dim).contiguous()
    parts[7] = parts[7].movedim(dim, 0)[:0].movedim(0, dim).contiguous()
    assert torch.equal(torch.cat([p.to("mps") for p in parts], dim).cpu(), torch.cat(parts, dim))
    memory = torch.zeros(9 * 1300 + 1, dtype=dtype, device="mps")
    out = memory[1 : 1 + sum(p.numel() for p in parts)].view(torch.cat(parts, dim).shape)
    torch.cat([p.to("mps") for p in parts], dim, out=out)
    assert torch.equal(out.cpu(), torch.cat(parts, dim))
    assert memory[0] == 0 and memory[1 + out.numel() :].eq(0).all()
