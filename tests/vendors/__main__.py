"""`make vendors`: every kernel that the tests launch, through the compilers of AMD's and Intel's drivers, and as Metal.

The exit status is 1 where a kernel does not compile or a tuned one spills.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from portable_mps.runtime.adapter import processors
from vendors import page, sweep
from vendors.cards import CARDS, default_folder
from vendors.sources import PUSH, Source, read_all


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make vendors", description=__doc__)
    parser.add_argument(
        "--sources", type=Path, help="a folder that PORTABLE_MPS_COLLECT has filled; without it the tests are run"
    )
    parser.add_argument("--drivers", type=Path, default=default_folder(), help="what scripts/vendor_drivers.sh made")
    parser.add_argument("--work", type=Path, help="what is made on the way (default: in the folder of the drivers)")
    parser.add_argument("--cards", default="", help="only cards whose names have this in them")
    parser.add_argument("--every", type=int, default=1, help="only every so many of the tests' kernels")
    parser.add_argument("--older-every", type=int, default=1, help="the same for the older driver")
    parser.add_argument("--workers", type=int, default=processors(), help="processes at a time")
    parser.add_argument("--write", type=Path, help="where the page goes")
    return parser.parse_args()


def library_digest() -> str:
    import torch  # noqa: F401  (whose libraries the extension is linked to)

    from portable_mps.runtime.kernel import library_digest

    return library_digest()


def main() -> int:
    chosen = options()
    work = chosen.work or chosen.drivers / "work"
    script = Path(__file__).resolve().parents[2] / "scripts/vendor_drivers.sh"
    subprocess.run([script, chosen.drivers], check=True)
    folder = chosen.sources or work / "sources"
    if chosen.sources is None:
        sweep.collect(folder, chosen.workers)
    tests = {source.stem: source for source in read_all(folder)}
    reports = []
    for card in (card for card in CARDS if chosen.cards.lower() in card.name.lower()):
        report = sweep.collect_for(card, chosen.drivers, work / "dry" / card.stem)
        every = chosen.every if card.is_current else chosen.older_every
        report.sources = part(tests, every) | report.sources
        reports.append(report)

    chosen_tests = part(tests, chosen.every)
    wanted: dict[tuple[str, str], Source] = {(stem, PUSH): source for stem, source in chosen_tests.items()}
    for report in reports:
        limit = report.adapter.max_push_constants
        wanted |= {(stem, source.binding(limit)): source for stem, source in report.sources.items()}
    code = work / "code" / library_digest()[:16]
    translations = sweep.translate(wanted, chosen_tests, code, chosen.workers)
    for report in reports:
        sweep.compile_for(report, chosen.drivers, translations, chosen.workers)

    found = shutil.which("spirv-val", path=str(chosen.drivers / "python/bin"))
    invalid = sweep.validate(Path(found), translations, chosen.workers) if found else None
    known = tests | {stem: source for report in reports for stem, source in report.sources.items()}
    result = page.Result(
        reports, translations, invalid, version(found) if found else "", known, set(chosen_tests), len(tests)
    )
    if chosen.write:
        chosen.write.write_text(page.text(result))
    print(page.summary(result))
    return 1 if result.wrong else 0


def part(tests: dict[str, Source], every: int) -> dict[str, Source]:
    """One of so many, by their hashes: the same ones in every run."""
    return {stem: source for stem, source in tests.items() if int(stem[:8], 16) % every == 0}


def version(validator: str) -> str:
    said = subprocess.run([validator, "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:2])


if __name__ == "__main__":
    sys.exit(main())
