"""A few kernels through AMD's compiler for cards that are not there, as Metal, and through spirv-val.

`make vendors` has all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import output_of
from vendors import pool, sources, spirv, tuned
from vendors.cards import SYSTEM, Card, default_folder, system_file
from vendors.driver_statistics import of
from vendors.translate import front_end

from portable_mps import _C
from portable_mps.runtime import kernel

CARDS = {"RDNA 3": "gfx1100", "RDNA 2": "navi21"}
LAUNCHES = """
import torch
x = torch.rand(40, 40, device="mps", requires_grad=True)
y = (x.sin() + x * 2).softmax(0).cumsum(1).sort(1)[0].std()
y.backward()
print(float(torch.nn.functional.layer_norm(x, (40,)).sum()), x.double().exp().sum().item(), x.half().sum().item())
"""
TUNED_KERNELS = 8  # of each card, which take Slang a second or two each


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> list[sources.Source]:
    """What a script launches, and the folder of what the device's own compiler made of it."""
    folder = tmp_path_factory.mktemp("vendors")
    output_of(LAUNCHES, PORTABLE_MPS_COLLECT=str(folder / "sources"), PORTABLE_MPS_CACHE=str(folder / "cache"))
    return sources.read_all(folder / "sources")


@pytest.fixture(scope="module")
def spirv_end() -> _C.FrontEnd:
    return front_end(kernel.SPIRV)


def test_the_spirv_is_the_device_s(collected, spirv_end):
    kept = {path.stem: path for path in collected[0].path.parent.parent.rglob("*.spv")}
    if not kept:
        pytest.skip("slangpy compiles here, and keeps its SPIR-V elsewhere")
    compared = 0
    for source in collected:
        text = source.path.read_text().split("\n", 1)[1]
        file = kept.get(source.stem)
        if file is not None:
            assert spirv_end.compile(text, source.entry) in file.read_bytes(), source.name  # there is a checksum, too
            compared += 1
    assert compared > len(collected) // 2


@pytest.fixture(scope="module", params=CARDS)
def card(request) -> Card:
    if system_file("radeon") is None:
        pytest.skip("AMD's Vulkan driver of Mesa (mesa-vulkan-drivers) is not installed")
    return Card(request.param, "radeon", SYSTEM, CARDS[request.param])


def test_kernels_compile_for_amd(card, collected, spirv_end, tmp_path):
    """Those, and some of the tuned ones: all compile, and no tuned one spills."""
    environment = os.environ | card.environment(tmp_path)
    adapter, folder = tmp_path / "adapter", tmp_path / "tuned"
    describe = [sys.executable, "-m", "vendors.driver", "describe", str(adapter)]
    dry = [sys.executable, "-m", "vendors.dry", str(adapter), str(folder)]
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(describe, env=environment | {"PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode != 0 and "VkErrorIncompatibleDriver" in done.stderr:
        pytest.skip(f"this driver knows no {card.family}")
    assert done.returncode == 0, done.stderr
    folder.mkdir()
    subprocess.run(dry, env=os.environ | {"PYTHONPATH": paths, "PORTABLE_MPS_CACHE": str(tmp_path)}, check=True)

    chosen = [source for source in sources.read_all(folder) if tuned.is_tuned(source)]
    chosen = chosen[:: max(1, len(chosen) // TUNED_KERNELS)]
    by_file: dict[str, sources.Source] = {}
    for source in [*collected, *chosen]:
        file = tmp_path / f"{source.stem}.spv"
        file.write_bytes(spirv_end.compile(source.text(sources.PUSH), source.entry))
        by_file[str(file)] = source
    answers: dict[str, object] = {}
    pool.work(
        "vendors.driver",
        card.environment(tmp_path) | {"PYTHONPATH": paths},
        [{"code": file} for file in by_file],
        60,
        1,
        lambda task, answer: answers.update({task["code"]: answer}),
    )
    for file, source in by_file.items():
        answer = answers[file]
        assert isinstance(answer, dict) and "failed" not in answer, (source.name, answer)
        if source in chosen:
            # docs/vendors.md has these: Mesa 22's compiler for RDNA 3 keeps too few for what moves from tap to tap.
            known = 5 if card.gpu == "RDNA 3" and "TAPS" in source.defines else 0
            assert of(answer).spills <= known, (source.name, source.defines, answer)


def test_a_driver_that_crashes_costs_one_kernel(tmp_path):
    """The worker is another program here: it ends itself when told to."""
    (tmp_path / "crashing.py").write_text(
        "import os, sys\nprint('1', flush=True)\n"
        "for line in sys.stdin:\n    os.abort() if 'crash' in line else print(line, end='', flush=True)\n"
    )
    answers = {}
    pool.work("crashing", {"PYTHONPATH": str(tmp_path)}, ["a", "crash", "b"], 20, 1, answers.__setitem__)
    assert (answers["a"], answers["b"]) == ("a", "b")
    assert str(answers["crash"]) == "crashed with SIGABRT"


def test_kernels_as_metal(collected):
    end = front_end(kernel.METAL)
    for source in collected:
        text = source.text(sources.PUSH)
        if "double" in "".join(source.defines.values()) or "double" in text:
            continue  # Metal has no such type
        assert b"#include <metal_stdlib>" in end.compile(text, source.entry), source.name


def test_modules_are_valid(collected, spirv_end, tmp_path):
    places = os.pathsep.join(
        [os.environ["PATH"], str(Path(sys.executable).parent), str(default_folder() / "python/bin")]
    )
    validator = shutil.which("spirv-val", path=places)
    if validator is None:
        pytest.skip("spirv-val is not installed")
    for source in collected:
        file = tmp_path / f"{source.stem}.spv"
        file.write_bytes(spirv_end.compile(source.text(sources.PUSH), source.entry))
        command = [validator, "--target-env", "vulkan1.3", "--scalar-block-layout", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (source.name, done.stdout + done.stderr)


def test_what_a_module_asks_of_a_card(collected, spirv_end):
    features = {name: True for name in spirv.NEEDED.values()}
    doubles = [source for source in collected if "double" in source.path.read_text()]
    assert doubles
    asked = [spirv.read(spirv_end.compile(source.text(sources.BUFFER), source.entry)) for source in doubles]
    assert all(module.buffer and not module.lacking(features) for module in asked)
    assert any(module.lacking(features | {"float64": False}) == ["float64"] for module in asked)
