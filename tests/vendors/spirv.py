"""What a SPIR-V module asks of a card."""

from __future__ import annotations

from dataclasses import dataclass

from spirv import CAPABILITY, DECORATE, FEATURES, instructions

_BINDING, _SET = 33, 34

# By capability, the field of Adapter.features without which a card cannot have it.
NEEDED = {
    **FEATURES,
    5116: "bfloat16",
    5117: "bfloat16",
    5118: "bfloat16",
    6022: "cooperative_matrix",
    6033: "float32_atomics",
    **{number: "workgroup_matrix" for number in (5430, 5431, 5432, 5433, 5434, 5435, 5439, 5440)},
}


@dataclass(frozen=True)
class Module:
    """capabilities by number; buffer: whether parameters are in a buffer, descriptor 0 of set 0."""

    capabilities: frozenset[int]
    buffer: bool

    def lacking(self, features: dict[str, bool]) -> list[str]:
        """Features that this needs and the device does not have."""
        needed = {NEEDED[number] for number in self.capabilities if number in NEEDED}
        return sorted(name for name in needed if not features[name])


def read(code: bytes) -> Module:
    capabilities, buffer = set(), False
    for operation, rest in instructions(code):
        if operation == CAPABILITY:
            capabilities.add(rest[0])
        elif operation == DECORATE and rest[1] in (_BINDING, _SET):
            if rest[2] != 0:
                raise ValueError("a descriptor other than the first of set 0")
            buffer = True
    return Module(frozenset(capabilities), buffer)
