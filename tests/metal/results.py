"""What a process did, and all of them together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Variant:
    """A kernel: refused: the compiler's reason, or empty; multiplies: by simdgroup matrices; runs: its dispatches."""

    name: str
    refused: str = ""
    multiplies: bool = False
    runs: int = 0


@dataclass
class Family:
    """A file of tests. on_driver: its dispatches that did not run as Metal, by the reason."""

    dispatches: int = 0
    on_driver: Counter[str] = field(default_factory=Counter)
    variants: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Results:
    """variants: by their keys. faults: what the stand-in found wrong. skips: by their reasons."""

    families: dict[str, Family] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        families = {
            name: vars(each) | {"on_driver": dict(each.on_driver), "outcomes": dict(each.outcomes),
                                "variants": sorted(each.variants)}
            for name, each in self.families.items()
        }  # fmt: skip
        variants = {key: vars(each) for key, each in self.variants.items()}
        return {"families": families, "variants": variants, "faults": dict(self.faults), "skips": dict(self.skips)}

    @property
    def matrices(self) -> int:
        """Kernels that ran and multiply by simdgroup matrices."""
        return sum(each.multiplies and each.runs > 0 for each in self.variants.values())

    def add(self, made: dict[str, Any]) -> None:
        for name, other in made["families"].items():
            family = self.families.setdefault(name, Family())
            family.dispatches += other["dispatches"]
            family.on_driver.update(other["on_driver"])
            family.variants.update(other["variants"])
            family.outcomes.update(other["outcomes"])
            family.seconds += other["seconds"]
        for key, other in made["variants"].items():
            variant = self.variants.setdefault(key, Variant(other["name"], multiplies=other["multiplies"]))
            variant.refused = variant.refused or other["refused"]
            variant.runs += other["runs"]
        self.faults.update(made["faults"])
        self.skips.update(made["skips"])


def read(files: Iterable[Path]) -> Results:
    results = Results()
    for file in files:
        results.add(json.loads(file.read_text()))
    return results
