"""Trains the same models on mps and on cuda, or decodes with one, each in a process of its own, and prints how they
compare.

torch takes one accelerator a process, hence the processes: the mps side does not see CUDA, the cuda side does not
load us. The losses differ by rounding, which training amplifies from step to step: the largest relative difference
over the run is printed, and after the first step, where it is rounding alone. CUDA is taken as it comes: in float32
its convolutions use TF32, its matrix products do not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ENVIRONMENT = {
    "mps": {"PORTABLE_MPS": "1", "CUDA_VISIBLE_DEVICES": ""},
    "cuda": {"PORTABLE_MPS": "0"},
}


def measure(script: str, device: str, passed_on: list[str]) -> list[dict]:
    """The script's results; its output is let through, and what it had done when it failed is kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [
            sys.executable,
            str(Path(__file__).with_name(script)),
            f"--device={device}",
            f"--out={out}",
            *passed_on,
        ]
        subprocess.run(command, env=os.environ | ENVIRONMENT[device])
        return json.loads(out.read_text()) if out.exists() else []


def difference(ours: list[float], theirs: list[float]) -> str:
    """The largest relative difference of two loss curves, where there are any."""
    return f"{max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)):.1e}" if ours else ""


def row(ours: dict | None, theirs: dict | None) -> list[str]:
    def cell(result: dict | None) -> str:
        return f"{result['median_step_s'] * 1e3:.1f}" if result else "failed"

    if not ours or not theirs:
        return [cell(ours), cell(theirs), "", "", "", "", "", ""]
    return [
        cell(ours),
        cell(theirs),
        f"{ours['median_step_s'] / theirs['median_step_s']:.2f}",
        f"{ours['seconds'][0]:.1f}",
        f"{theirs['seconds'][0]:.1f}",
        difference(ours["losses"][:1], theirs["losses"][:1]),
        difference(ours["losses"], theirs["losses"]),
        str(len(ours["fallbacks"])),
    ]


def table(ours: list[dict], theirs: list[dict]) -> list[list[str]]:
    """A head and a row for each model and dtype that either side has."""
    pairs: dict[tuple[str, str], list[dict | None]] = {}
    for side, results in enumerate((ours, theirs)):
        for result in results:
            pairs.setdefault((result["model"], result["dtype"]), [None, None])[side] = result
    head = ["model", "dtype", "mps ms", "cuda ms", "mps/cuda"]
    head += ["first step, mps s", "cuda s", "loss diff, step 1", "all steps", "fallbacks"]
    return [head, ["---"] * len(head), *([*names, *row(*pair)] for names, pair in pairs.items())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", choices=["training", "decoding"], default="training")
    parser.add_argument("--devices", nargs=2, default=["mps", "cuda"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file for all results, losses included")
    options, passed_on = parser.parse_known_args()  # the rest, such as --steps=5, is the benchmark's

    ENVIRONMENT.setdefault("cpu", {"PORTABLE_MPS": "0"})
    ours, theirs = (measure(f"{options.benchmark}.py", device, passed_on) for device in options.devices)
    if options.out:
        options.out.write_text(json.dumps(ours + theirs, indent=1))
    for result in {r["device"]: r for r in ours + theirs}.values():
        print(f"{result['device']}: {result['adapter']}, torch {result['torch']}")
    for cells in table(ours, theirs):
        print("| " + " | ".join(cells) + " |")
    return 0 if ours and len(ours) == len(theirs) else 1


if __name__ == "__main__":
    sys.exit(main())
