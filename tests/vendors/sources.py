"""Collected kernels: `PORTABLE_MPS_COLLECT` has written each one's text, with its name, entry point and parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PUSH, BUFFER = "push", "buffer"
_BINDINGS = {PUSH: "uniform Params", BUFFER: "uniform ConstantBuffer<Params>"}
_PARAMS = re.compile(r"^#define PARAMS .*$", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """One variant: where its text is, and what its first line says."""

    path: Path
    name: str
    entry: str
    parameter_bytes: int

    @property
    def stem(self) -> str:
        return self.path.stem

    def binding(self, limit: int) -> str:
        """How a device passes the parameters that takes up to `limit` bytes of push constants."""
        return BUFFER if self.parameter_bytes > limit else PUSH

    def text(self, binding: str) -> str:
        """As that device gets it, whichever device it was collected on."""
        body = self.path.read_text().split("\n", 1)[1]
        return _PARAMS.sub(f"#define PARAMS {_BINDINGS[binding]}", body, count=1)

    @property
    def defines(self) -> dict[str, str]:
        """The variant: what is defined before the kernel's own file begins."""
        found = {}
        for line in self.path.read_text().split("\n")[1:]:
            if not line.startswith("#define "):
                break
            name, _, value = line.removeprefix("#define ").partition(" ")
            found[name] = value
        found.pop("PARAMS", None)
        return found


def read(path: Path) -> Source:
    with path.open() as file:
        _, name, entry, parameter_bytes, _ = file.readline().split()
    return Source(path, name, entry, int(parameter_bytes))


def read_all(folder: Path) -> list[Source]:
    return [read(path) for path in sorted(folder.glob("*.slang"))]
