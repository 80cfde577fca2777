"""Attention on matrices: the kernels compile wherever they are meant for, and are right where the adapter has them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from attention_reference import check, halves, normal, reference
from support import spirv_of, to_mps

attend = F.scaled_dot_product_attention


@pytest.fixture
def loaded(monkeypatch):
    """Where the adapter has no matrices, kernels of attention go as far as SPIR-V: their names."""
    from portable_mps.ops import attention
    from portable_mps.runtime import kernel

    compiled = kernel.Compiler.compile

    def load(compiler, name, source, size, entry="run"):
        if "attention" not in name or "extents" in name:  # which is for any adapter
            return compiled(compiler, name, source, size, entry)
        spirv_of(source, entry)
        return names.append(name)

    names: list[str] = []
    monkeypatch.setattr(kernel.Compiler, "compile", load)
    for side in ("forward", "backward"):
        for engine in ("workgroup", "subgroup"):
            monkeypatch.setattr(getattr(attention, f"_{engine}_{side}"), "_variants", {})
    return names


def plan_every_kernel(dtype, width=64):
    from portable_mps.ops import attention

    q, k = (torch.empty(1, 2, size, width, dtype=dtype, device="mps") for size in (64, 128))
    masks = [torch.empty(64, 128, dtype=kind, device="mps") for kind in (torch.bool, torch.float32, torch.float64)]
    for mask in (None, q[..., :1].expand(-1, -1, -1, 128), *masks):
        problem = attention._problem(q, k, k, mask, True, None, 0.1)
        assert (problem.extents is not None) == (mask is masks[0])
        attention._forward_plan(problem, q, 0)
        for mode in ("QUERIES", "KEYS"):
            attention._gradient_plan(mode, problem, q, k, k, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_of_matrices_compile(dtype, monkeypatch, loaded):
    from portable_mps.ops import attention, attention_tiles

    for module in (attention, attention_tiles):
        monkeypatch.setattr(module, "engine_for", lambda dtype: "workgroup")
    monkeypatch.setattr(attention_tiles, "_is_granted", lambda tile, dtype: True)
    plan_every_kernel(dtype)
    assert len(loaded) == 15 and all("workgroup" in name for name in loaded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape,lanes,width", [((16, 16, 16), 32, 128), ((16, 16, 16), 64, 40), ((8, 16, 16), 16, 64)])
def test_kernels_of_fragments_compile(shape, lanes, width, dtype, monkeypatch, loaded):
    """As for NVIDIA, AMD, and Intel with twice the registers."""
    from portable_mps.ops import attention, attention_tiles
    from portable_mps.runtime import device

    real = device.current()
    matrices = tuple((*shape, kind, "f32") for kind in ("f16", "bf16"))
    known = {"kind": "discrete GPU", "max_shared_memory": 48 << 10, "max_workgroup": 1024}
    described = dataclasses.replace(real.adapter, coop_matrices=matrices, subgroup_size=lanes, **known)
    monkeypatch.setattr(real, "adapter", described)
    for module in (attention, attention_tiles):
        monkeypatch.setattr(module, "engine_for", lambda dtype: "subgroup")
    plan_every_kernel(dtype, width)
    assert len(loaded) == 15 and all("subgroup" in name for name in loaded)
    monkeypatch.setattr(real, "adapter", dataclasses.replace(described, max_shared_memory=2 << 10))
    problem = attention._problem(*[torch.empty(1, 1, 64, width, dtype=dtype, device="mps")] * 3, None, False, None, 0)
    assert all(attention_tiles.subgroup_defines(problem, mode) is None for mode in ("FORWARD", "QUERIES", "KEYS"))


@pytest.fixture
def fragments(monkeypatch):
    """Attention on matrices of subgroups, whatever else the adapter has."""
    from portable_mps.dispatch import engines
    from portable_mps.ops import attention
    from portable_mps.runtime import device

    if not engines.has(device.current().adapter, "subgroup", torch.float16):
        pytest.skip("the adapter has no matrices of subgroups")
    monkeypatch.setenv("PORTABLE_MPS_MATRIX", "subgroup")
    for kernel in (attention._plain_forward, attention._workgroup_forward, attention._workgroup_backward):
        monkeypatch.setattr(kernel, "variant", None)


FRAGMENTS = {
    "aligned": ((37, 29, 16, 16), {}),
    "odd": ((37, 29, 7, 5), {"scale": 0.3}),
    "wide": ((20, 33, 40, 72), {}),
    "causal, more rows": ((70, 20, 16, 16), {"causal": True}),
    "causal, more columns": ((20, 70, 16, 16), {"causal": True}),
    "a mask of numbers": ((18, 35, 16, 16), {"mask": lambda mask: mask}),
    "a mask with rows of nothing": ((18, 35, 16, 16), {"mask": lambda mask: (mask > 0) & (mask[:, :1] > -1)}),
}


@pytest.mark.parametrize("case", FRAGMENTS)
def test_fragments(case, fragments):
    (rows, columns, width, depth), options = FRAGMENTS[case]
    options = dict(options)
    make = options.pop("mask", None)
    mask = None if make is None else make(normal(rows, columns, seed=3, dtype=torch.float16))
    shapes = ((4, rows, width), (2, columns, width), (2, columns, depth))
    q, k, v = (normal(2, *shape, seed=i, dtype=torch.float16) for i, shape in enumerate(shapes))
    check(q, k, v, mask, rtol=4e-3, atol=6e-3, **options)
    if case == "aligned":
        check(q, k, v, wide=lambda t: t.transpose(1, 2).contiguous().to("mps").transpose(1, 2), rtol=4e-3, atol=6e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_fragments_with_dropout(causal, fragments):
    q, k, v = (normal(2, heads, 30, 16, seed=heads, dtype=torch.float16) for heads in (4, 2, 2))
    torch.mps.manual_seed(7)
    kept = torch.empty(2, 4, 30, 32, device="mps").bernoulli_(0.7)[..., :30].cpu().double()
    ours, theirs = [t.double().requires_grad_() for t in (q, k, v)], [to_mps(t).requires_grad_() for t in (q, k, v)]
    expected = reference(*ours, causal=causal, kept=kept, dropout=0.3)
    torch.mps.manual_seed(7)
    actual = attend(*theirs, dropout_p=0.3, is_causal=causal, enable_gqa=True)
    cotangent = normal(*expected.shape, seed=5, dtype=torch.float16)
    mine = torch.autograd.grad(actual, theirs, cotangent.to("mps"))
    first = torch.autograd.grad(expected, ours, cotangent.double())
    for have, want in zip((actual, *mine), (expected, *first), strict=True):
        torch.testing.assert_close(have.detach().cpu().double(), want.detach(), rtol=4e-3, atol=6e-3)


def test_fragments_split_the_keys(fragments, monkeypatch):
    from portable_mps.ops import attention

    monkeypatch.setattr(attention, "_split", halves)
    monkeypatch.setattr(attention, "_plans", {})
    q, k = normal(1, 2, 20, 16, dtype=torch.float16), normal(1, 2, 150, 16, seed=1, dtype=torch.float16)
    check(q, k, k.flip(2), rtol=4e-3, atol=6e-3)
    check(q, k, k.flip(2), causal=True, rtol=4e-3, atol=6e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_wide_rows_where_registers_are_few(causal, monkeypatch):
    """As Intel's compiler needs it: a thread has one row and one column of scores at a time."""
    from portable_mps.ops import attention, attention_tiles
    from portable_mps.runtime import device

    real = device.current()
    monkeypatch.setattr(real, "adapter", dataclasses.replace(real.adapter, registers=64))
    monkeypatch.setattr(attention, "_plans", {})
    tiles = []
    chosen = attention_tiles.plain_tile

    def plain_tile(*arguments):
        tiles.append(chosen(*arguments))
        return tiles[-1]

    monkeypatch.setattr(attention_tiles, "plain_tile", plain_tile)
    q, k = normal(1, 2, 37, 160), normal(1, 2, 21, 160, seed=1)
    check(q, k, k.flip(2), None if causal else normal(37, 21, seed=2), causal=causal)
    assert tiles and all((tile["RM"], tile["CN"]) == (1, 1) for tile in tiles)


def test_keys_where_operands_are_copied_are_not_written_out(monkeypatch, loaded):
    from portable_mps.ops import attention, attention_tiles
    from portable_mps.runtime import device

    real = device.current()
    known = {"kind": "discrete GPU", "max_shared_memory": 64 << 10, "max_workgroup": 1024, "registers": 224}
    matrices = ((16, 16, 16, "f16", "f32"),)
    described = dataclasses.replace(real.adapter, coop_matrices=matrices, subgroup_size=64, spread=16, **known)
    for module in (attention, attention_tiles):
        monkeypatch.setattr(module, "engine_for", lambda dtype: "subgroup")
    q = torch.empty(1, 1, 64, 64, dtype=torch.float16, device="mps")
    problem = attention._problem(q, q, q, None, False, None, 0)

    def written_out(adapter):
        monkeypatch.setattr(real, "adapter", adapter)
        chosen = (attention_tiles.subgroup_defines(problem, mode) for mode in ("FORWARD", "QUERIES", "KEYS"))
        return [found[1]["WRITTEN_OUT"] for found in chosen if found is not None]

    assert written_out(described) == [1, 1, 0]
    assert written_out(dataclasses.replace(described, subgroup_size=32, spread=0)) == [1, 1, 1]
    # Of 32 threads that have 1024 registers among them, none can hold what a fragment's tile needs.
    assert written_out(dataclasses.replace(described, subgroup_size=32, spread=0, shared_registers=1024)) == []
