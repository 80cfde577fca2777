"""The figures of a compiled kernel, by the names that AMD's and Intel's drivers give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figures:
    """registers: AMD's vector registers of a thread, Intel's most live ones; subgroups: AMD's of a SIMD, or the threads
    in one of Intel's; scratch in bytes."""

    registers: int
    spills: int
    scratch: int
    subgroups: int
    instructions: int


def of(answer: dict[str, Any]) -> Figures:
    found = answer["statistics"]

    def first(*names: str) -> int:
        return next((found[name] for name in names if name in found), 0)

    return Figures(
        first("VGPRs", "Max live registers"),
        spills_of(found),
        first("Scratch size", "Scratch Memory Size"),
        first("Subgroups per SIMD", "Subgroup size"),
        first("Instructions", "Instruction Count"),
    )


def spills_of(statistics: dict[str, int]) -> int:
    """Registers that go to memory and come back: AMD counts registers, Intel instructions. Spills of AMD's scalar
    registers stay in vector ones, and are not counted."""
    return statistics.get("Spilled VGPRs", 0) + statistics.get("Spill Count", 0)
