"""Compile the kernels that most programs need, so that a user's machine has only the driver's part of it to do.

python scripts/ship.py: runs scripts/ship_workloads.py for each kind of adapter, on the software driver and without
computing anything, and puts SPIR-V of the kernels that it asks for into portable_mps/spirv; what nobody asks for any
more goes. SPIR-V depends on the driver by Adapter.profile alone, and its name is a hash of all that it follows from
(portable_mps.runtime.kernel.kernel_key): a changed kernel is not found there, and compiled as any other.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ship_workloads import CARDS

from portable_mps import _C
from portable_mps.runtime import adapter, cache, kernel


def collect(card: str, folder: Path) -> None:
    """The sources of what the workloads launch on such an adapter."""
    environment = os.environ | {"PORTABLE_MPS": "1", "PORTABLE_MPS_COLLECT": str(folder)}
    subprocess.run([sys.executable, Path(__file__).with_name("ship_workloads.py"), card], env=environment, check=True)


def front_end(profile: str) -> _C.FrontEnd:
    options = kernel.front_end_options(profile)
    if options is None:
        raise RuntimeError("Slang's library was not found beside slangpy")
    return _C.FrontEnd(options)


def compile_all(sources: list[Path], into: Path) -> None:
    """In a thread a processor. The first error ends it."""
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for source in sources:
        waiting.put(source)
    errors: list[Exception] = []

    def work() -> None:
        front_ends: dict[str, _C.FrontEnd] = {}
        while not errors:
            try:
                source = waiting.get_nowait()
            except queue.Empty:
                return
            first, text = source.read_text().split("\n", 1)
            _, _, entry, _, profile = first.split()
            try:
                if profile not in front_ends:
                    front_ends[profile] = front_end(profile)
                front_ends[profile].keep(text, entry, str(into / f"{source.stem}.spv"))
            except RuntimeError as error:
                errors.append(RuntimeError(f"{first}: {error}"))

    threads = [threading.Thread(target=work) for _ in range(max(adapter.processors(), 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cards", nargs="+", choices=sorted(CARDS), default=sorted(CARDS))
    parser.add_argument("--into", type=Path, default=cache.SHIPPED)
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for card in options.cards:
            collect(card, Path(folder))
        sources = {source.stem: source for source in Path(folder).glob("*.slang")}
        there = {path.stem: path for path in options.into.glob("*.spv")}
        for stem in there.keys() - sources.keys():
            there[stem].unlink()
        new = sorted(sources.keys() - there.keys())
        compile_all([sources[stem] for stem in new], options.into)
    sizes = [path.stat().st_size for path in options.into.glob("*.spv")]
    print(f"{len(sizes)} kernels, {sum(sizes) / 1e6:.1f} MB of SPIR-V, {len(new)} of them new")


if __name__ == "__main__":
    main()
