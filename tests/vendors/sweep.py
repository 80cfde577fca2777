"""The steps of `make vendors`: collect texts, translate them, and give each card what it can have."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vendors import pool
from vendors.cards import Card
from vendors.sources import PUSH, Source, read_all

_SLANG_SECONDS, _DRIVER_SECONDS = 120, 120
_TESTS = Path(__file__).resolve().parent.parent


@dataclass
class Translation:
    """Of one text: what Slang refused, by target, and the SPIR-V, by how parameters are passed."""

    refused: dict[str, str] = field(default_factory=dict)
    code: dict[str, Path] = field(default_factory=dict)


@dataclass
class Report:
    """What one card's compiler said, by text; cases: what launches the texts that are this card's own."""

    card: Card
    adapter: Any
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    cases: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)


def collect(folder: Path, workers: int) -> None:
    """Run the tests, whose kernels' texts go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--ignore", str(_TESTS / "test_vendors.py"), _TESTS],
        env=os.environ | {"PORTABLE_MPS_COLLECT": str(folder)},
        check=False,  # a test that fails has its kernels, too
    )


def describe(card: Card, drivers: Path, file: Path) -> Any:
    """The runtime's Adapter of the card. CalledProcessError where its driver does not open it."""
    command = [sys.executable, "-m", "vendors.driver", "describe", str(file)]
    subprocess.run(command, env=os.environ | card.environment(drivers), check=True, capture_output=True)
    return dataclasses.replace(pickle.loads(file.read_bytes()), cores=card.cores)


def collect_for(card: Card, drivers: Path, folder: Path) -> Report:
    """What products, convolutions and attention launch on the card, as texts in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "adapter.pickle"
    adapter = describe(card, drivers, file)
    file.write_bytes(pickle.dumps(adapter))
    for old in folder.glob("*.slang"):
        old.unlink()
    software = {"PORTABLE_MPS": "1", "PORTABLE_MPS_QUIET": "1", "PORTABLE_MPS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "vendors.dry", str(file), str(folder)]
    subprocess.run(command, env=os.environ | software, check=True)
    report = Report(card, adapter, cases=json.loads((folder / "cases.json").read_text()))
    report.sources = {source.stem: source for source in read_all(folder)}
    return report


def translate(
    wanted: dict[tuple[str, str], Source], tests: dict[str, Source], folder: Path, workers: int
) -> dict[str, Translation]:
    """SPIR-V, and of the tests' texts Metal, kept in `folder`. wanted: by text and how parameters are passed."""
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Translation] = {}
    tasks, begun = [], time.perf_counter()
    for (stem, binding), source in wanted.items():
        out = folder / f"{stem}.{binding}"
        if (known := Path(f"{out}.json")).exists():
            _note(result, stem, binding, out, json.loads(known.read_text()))
        else:
            targets = ["spv", "metal"] if stem in tests and binding == PUSH else ["spv"]
            tasks.append({"source": str(source.path), "binding": binding, "out": str(out), "targets": targets})

    def done(task: dict[str, Any], answer: Any) -> None:
        out = Path(task["out"])
        refused = dict.fromkeys(task["targets"], str(answer)) if isinstance(answer, RuntimeError) else answer
        Path(f"{out}.json").write_text(json.dumps(refused))
        _note(result, Path(task["source"]).stem, task["binding"], out, refused)

    pool.work("vendors.translate", {}, tasks, _SLANG_SECONDS, workers, done)
    print(f"{len(tasks)} texts translated in {time.perf_counter() - begun:.0f} s", flush=True)
    return result


def _note(result: dict[str, Translation], stem: str, binding: str, out: Path, refused: dict[str, str]) -> None:
    translation = result.setdefault(stem, Translation())
    translation.refused |= refused
    if "spv" not in refused:
        translation.code[binding] = Path(f"{out}.spv")


def compile_for(report: Report, drivers: Path, translations: dict[str, Translation], workers: int) -> None:
    """Fill the report's answers for all of its sources, kept beside the code; what Slang refuses fails in its words."""
    tasks, begun, limit = [], time.perf_counter(), report.adapter.max_push_constants
    for stem, source in report.sources.items():
        code = translations[stem].code.get(source.binding(limit))
        if code is None:
            report.answers[stem] = {"failed": translations[stem].refused.get("spv", "no SPIR-V")}
        else:
            kept = code.with_suffix(f".{report.card.stem}.json")
            if kept.exists():
                report.answers[stem] = json.loads(kept.read_text())
            else:
                tasks.append({"code": str(code), "stem": stem, "kept": str(kept)})

    def done(task: dict[str, str], answer: Any) -> None:
        if isinstance(answer, RuntimeError):  # it may have been the machine
            report.answers[task["stem"]] = {"failed": str(answer)}
        else:
            report.answers[task["stem"]] = answer
            Path(task["kept"]).write_text(json.dumps(answer))

    pool.work("vendors.driver", report.card.environment(drivers), tasks, _DRIVER_SECONDS, workers, done)
    failed = sum("failed" in answer for answer in report.answers.values())
    seconds = time.perf_counter() - begun
    print(f"{report.card.name}: {len(tasks)} kernels in {seconds:.0f} s, {failed} failed", flush=True)


def validate(validator: Path, translations: dict[str, Translation], workers: int) -> dict[str, str]:
    """What spirv-val says of the modules that it does not take, by text."""

    def check(path: Path) -> str:
        command = [str(validator), "--target-env", "vulkan1.3", "--scalar-block-layout", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()

    pairs = [(stem, path) for stem, each in translations.items() for path in each.code.values()]
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        said = threads.map(check, [path for _, path in pairs])
    return {stem: words for (stem, _), words in zip(pairs, said, strict=True) if words}
