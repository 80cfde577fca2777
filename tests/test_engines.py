"""Matrix engines: which one and which tile a product takes on an adapter, and that every variant compiles."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from support import spirv_of

from portable_mps import tune
from portable_mps.dispatch import engines, products, tiles, tuning
from portable_mps.runtime import device, kernel

HALVES = (torch.float16, torch.bfloat16)
GRANTED = {(kind, "f32", threads): (16, 16, 16) for kind in ("f16", "bf16") for threads in (128, 256)}
FRAGMENTS = tuple((16, 16, 16, kind, "f32") for kind in ("f16", "bf16"))
KINDS = {
    "workgroup": {"workgroup_matrices": GRANTED, "coop_matrices": FRAGMENTS, "subgroup_size": 32},
    "subgroup": {"coop_matrices": FRAGMENTS, "subgroup_size": 64},
    "wide fragments": {"coop_matrices": ((8, 16, 16, "f16", "f32"),), "subgroup_size": 16},
    "plain": {},
    "few registers": {"registers": 64},
    "little shared memory": {"max_shared_memory": 18 << 10},
}


@pytest.fixture
def adapter(request, monkeypatch):
    """A device like the open one but for its adapter, which is a GPU of the kind that the test names."""
    real = device.current()
    known = {"kind": "discrete GPU", "cores": 96, "max_shared_memory": 48 << 10, "max_workgroup": 1024}
    known |= {"coop_matrices": (), "workgroup_matrices": {}}
    described = dataclasses.replace(real.adapter, **(known | KINDS[request.param]))
    monkeypatch.setattr(real, "adapter", described)
    monkeypatch.setattr(real, "cache_folder", None)
    monkeypatch.setattr(tuning, "_table", None)
    engines._engine_for.cache_clear()
    yield described
    engines._engine_for.cache_clear()


def each_kind(*names):
    return pytest.mark.parametrize("adapter", names or KINDS, indirect=True)


@each_kind("workgroup", "subgroup", "wide fragments", "plain")
def test_the_best_engine_is_taken(adapter):
    expected = {"workgroup": "workgroup", "subgroup": "subgroup"}
    kind = next(
        name for name, known in KINDS.items() if known.get("subgroup_size") == adapter.subgroup_size or not known
    )
    assert engines.engine_for(torch.float32) == "plain"
    assert engines.engine_for(torch.float16) == expected.get(kind, "subgroup" if adapter.coop_matrices else "plain")
    assert engines.engine_for(torch.bfloat16) == expected.get(kind, "plain")


@each_kind("workgroup")
@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_engine_can_be_forced(adapter, name, monkeypatch):
    monkeypatch.setenv("PORTABLE_MPS_MATRIX", name)
    assert engines.engine_for(torch.bfloat16) == name
    assert engines.engine_for(torch.float64) == "plain"


@each_kind("plain")
def test_engines_that_are_none(adapter, monkeypatch):
    monkeypatch.setenv("PORTABLE_MPS_MATRIX", "tensor")
    with pytest.raises(ValueError, match=r"PORTABLE_MPS_MATRIX='tensor'.*workgroup, subgroup, plain"):
        engines.engine_for(torch.float16)
    monkeypatch.setenv("PORTABLE_MPS_MATRIX", "subgroup")
    with pytest.raises(RuntimeError, match="has no matrices of that kind"):
        engines.engine_for(torch.float16)


@each_kind()
@pytest.mark.parametrize("accumulator,dtype", [("float", torch.float16), ("double", torch.float64)])
def test_tiles_keep_to_the_limits(adapter, accumulator, dtype):
    for engine in engines.ENGINES:
        if not engines.has(adapter, engine, dtype):
            continue
        for along in (False, True):
            shape = tiles.Shape(1, 512, 512, 512, along, not along, dtype, accumulator)
            for tile in tiles.fitting(shape, engine):
                assert tile.shared <= adapter.max_shared_memory and tile.threads <= adapter.max_workgroup
                assert tile.registers <= adapter.registers or tile.m == tile.n == 32  # there is no smaller one
    assert tiles.choose(tiles.Shape(1, 5, 7, 3, True, True, dtype, accumulator), "plain")


@each_kind("workgroup")
def test_long_sums_are_split(adapter):
    """Few tiles and a long K: among workgroups that would be idle. Many tiles: not."""
    assert tiles.choose(tiles.Shape(1, 128, 128, 1 << 16, False, False, torch.bfloat16), "workgroup").splits > 1
    assert tiles.choose(tiles.Shape(1, 8192, 8192, 8192, True, False, torch.bfloat16), "workgroup").splits == 1
    for size in (1000, 4096, 50257):
        choice = tiles.choose(tiles.Shape(1, 64, 64, size, True, True, torch.float16), "workgroup")
        assert choice.part * choice.splits >= size > choice.part * (choice.splits - 1)


@each_kind("workgroup", "subgroup", "wide fragments", "few registers")
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_every_variant_compiles(adapter, dtype, monkeypatch):
    """To SPIR-V where there are matrices: most adapters that could run it are not here."""
    loaded = set()
    square = torch.empty(1, 256, 256, dtype=dtype, device="mps")
    odd = torch.empty(1, 100, 264, dtype=dtype, device="mps")

    def load(name, source, size, entry):
        found = re.findall(r"#define ENGINE (\d)", source)
        if found == ["0"]:  # whose optimisation takes seconds, and is another test's
            text = f"#define PARAMS uniform Params\n{source}"
            device.current().compiler._device.load_module_from_source(f"{name}_{abs(hash(source))}", text)
        else:
            spirv_of(source, entry)
        loaded.update(found)

    monkeypatch.setattr(kernel.Compiler, "compile", lambda self, *arguments: load(*arguments))
    for templates in (products._product, products._split, products._taps):
        for template in templates.values():
            monkeypatch.setattr(template, "_variants", {})
    monkeypatch.setattr(products.Prepared, "record", lambda *_: None)
    engine = engines.engine_for(dtype)
    for a, b in ((square, square), (square.mT, square), (square, square.mT), (odd, odd.mT), (odd.mT, odd)):
        shape = tiles.Shape(1, a.shape[1], b.shape[2], a.shape[2], *(x.stride(2) == 1 for x in (a, b.mT)), dtype)
        out = torch.empty(1, a.shape[1], b.shape[2], dtype=dtype, device="mps")
        for tile in tiles.fitting(shape, engine):
            part = -(-a.shape[2] // (2 * tile.k)) * tile.k
            for choice in (tiles.Choice(tile, 1, a.shape[2]), tiles.Choice(tile, 2, part)):
                monkeypatch.setattr(products, "_choose", lambda *_, choice=choice, **__: choice)
                products.Plan(a, b, out, out, 2.0, 1.0, products.Finish("x * x"))
    taps = torch.tensor([2, 64 * 24, 0, 48], dtype=torch.int64, device="mps")
    for bias in (None, out[:, :1, :24]):
        moved = torch.empty(1, 100, 24, dtype=dtype, device="mps")
        products.Plan(
            square[:, :100, :64],
            square.flatten()[: 64 * 24].view(1, 64, 24),
            moved,
            bias,
            1.0,
            1.0,
            products.AS_IS,
            taps,
        )
    assert {engines.ENGINES[::-1][int(digit)] for digit in loaded} == {engine}


def test_tuning_is_remembered(tmp_path):
    """By a later process, in the cache of this adapter and driver."""
    environment = os.environ | {"PORTABLE_MPS_CACHE": str(tmp_path), "PORTABLE_MPS": "1"}
    command = [sys.executable, "-m", "portable_mps", "tune", "60x100x130", "--dtype=float32", "--warmup=0", "--time=0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("60x100x130") == 4 and "TFLOP/s" in done.stdout
    (table,) = tmp_path.rglob("tiles.json")
    assert len(json.loads(table.read_text())) == 4
    table.write_text("{")
    script = "import torch; a = torch.ones(64, 64, device='mps'); print((a @ a)[0, 0].item())"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "64.0\n"  # what cannot be read is not


@pytest.mark.parametrize("words", [["12x"], ["4x4x0"], ["8x8x8", "--dtype=int8"]])
def test_tuning_refuses(words):
    environment = os.environ | {"PORTABLE_MPS": "1"}
    command = [sys.executable, "-m", "portable_mps", "tune", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "MxNxK" in done.stdout


def test_float32_in_three_parts():
    """What "high" precision multiplies where there are matrices of bfloat16; infinities and large numbers included."""
    a, b = torch.randn(2, 30, 70), torch.randn(2, 70, 50)
    parts = [part.float() for part in products.in_three_parts(a.to("mps"), b.to("mps"))]
    expected = a.double() @ b.double()
    error = (parts[0] @ parts[1]).cpu().double() - expected
    assert error.norm() / expected.norm() < 2**-16
    extremes = torch.tensor([[[torch.inf, 3.4028e38, -torch.inf, 1e-30, 0.0]]])
    for matrix in (extremes, extremes.mT.contiguous().mT):
        left, right = products.in_three_parts(matrix.to("mps"), torch.ones(1, 5, 1, device="mps"))
        nearest, _, rest = left.float().cpu().chunk(3, 2)
        torch.testing.assert_close(nearest.double() + rest.double(), extremes.double(), rtol=2e-5, atol=0)
        assert right.sum() == 10


def test_the_first_of_a_class_is_tuned_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(tuning, "_table", {})
    monkeypatch.setattr(tuning, "_WORTH", 40 * 50 * 60)
    monkeypatch.setattr(device.current(), "cache_folder", None)
    a, b = torch.randn(40, 60), torch.randn(60, 50)
    check_mm(a, b)
    assert tuning._table == {}
    products.forget_plans()
    monkeypatch.setenv("PORTABLE_MPS_TUNE", "1")
    state = torch.mps.get_rng_state()
    check_mm(a, b)
    assert torch.equal(torch.mps.get_rng_state(), state)
    (key,) = tuning._table
    assert key.startswith("plain 0 6 6 6 True False torch.float32")
    check_mm(a[:5], b)  # too small to be worth it
    assert list(tuning._table) == [key]


def test_a_search_without_memory_leaves_the_model_s_tile(monkeypatch):
    def search(shape):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(tune, "search", search)
    monkeypatch.setattr(tuning, "_table", {})
    monkeypatch.setattr(tuning, "_WORTH", 0)
    monkeypatch.setenv("PORTABLE_MPS_TUNE", "1")
    products.forget_plans()
    check_mm(torch.randn(40, 60), torch.randn(60, 50))
    assert len(tuning._table) == 1


@each_kind("workgroup")
def test_only_the_engine_that_a_search_measures_is_tuned(adapter, monkeypatch):
    monkeypatch.setenv("PORTABLE_MPS_TUNE", "1")
    large = tiles.Shape(1, 1024, 1024, 1024, True, False, torch.float16)
    assert tuning.pays(large, "workgroup") and not tuning.pays(large, "plain")
    for other in ({"dtype": torch.float8_e4m3fn}, {"dtype": torch.float64, "accumulator": "double"}, {"k": 16}):
        described = dataclasses.replace(large, **other)
        assert not tuning.pays(described, engines.engine_for(described.dtype))


def check_mm(a, b):
    torch.testing.assert_close((a.to("mps") @ b.to("mps")).cpu(), a @ b)


@pytest.mark.parametrize("index", range(len(tiles._PLAIN_TILES)))
def test_tiles_of_a_gpu_multiply_right(index, monkeypatch):
    """The software driver takes one of its own: theirs take seconds to compile."""
    gpu = dataclasses.replace(device.current().adapter, kind="discrete GPU")
    shape = tiles.Shape(1, 200, 131, 77, False, True, torch.float32)
    tile = list(tiles._plain(gpu, shape))[index]
    monkeypatch.setitem(tiles._OFFERS, "plain", lambda adapter, shape: [tile])
    products.forget_plans()
    check_mm(torch.randn(77, 200).t(), torch.randn(131, 77).t())
    products.forget_plans()
