"""A worker: kernels' texts to SPIR-V and to Metal's language, kept as files (`python -m vendors.translate`).

Reads lines of JSON, {"source", "binding", "out", "targets"}, and answers each with what could not be made, by target.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch  # noqa: F401  loads the libraries that _C is linked to

from portable_mps import _C
from portable_mps.runtime import kernel
from vendors import sources

PROFILE = "sm_6_0"  # what Mesa's drivers get (portable_mps.runtime.adapter.Adapter.profile)
TARGETS = {"spv": kernel.SPIRV, "metal": kernel.METAL}


def front_end(target: int) -> _C.FrontEnd:
    """As the device's own, but for the target."""
    options = kernel.front_end_options(PROFILE, format=target)
    if options is None:
        raise RuntimeError("Slang's library was not found beside slangpy")
    return _C.FrontEnd(options)


def main() -> None:
    ends = {suffix: front_end(target) for suffix, target in TARGETS.items()}
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
