"""A worker: kernels' texts to SPIR-V and to Metal's language, kept as files (`python -m vendors.translate`).

Reads lines of JSON, {"source", "binding", "out", "targets"}, and answers each with what could not be made, by target.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import portable_mps
from vendors import slang, sources

KERNELS = Path(portable_mps.__file__).parent / "kernels"  # without torch, which takes seconds to import
TARGETS = {"spv": slang.SPIRV, "metal": slang.METAL}


def main() -> None:
    ends = {suffix: slang.FrontEnd(KERNELS, target) for suffix, target in TARGETS.items()}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        source = sources.read(Path(task["source"]))
        text, refused = source.text(task["binding"]), {}
        for suffix in task["targets"]:
            try:
                code = ends[suffix].compile(text, source.entry)
            except RuntimeError as error:
                refused[suffix] = str(error)
            else:
                Path(f"{task['out']}.{suffix}").write_bytes(code)
        print(json.dumps(refused), flush=True)


if __name__ == "__main__":
    main()
