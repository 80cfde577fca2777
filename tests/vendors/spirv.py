"""What a SPIR-V module asks of a device, read from its words (the layout is section 2.3 of the specification)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_CAPABILITY, _DECORATE, _BINDING, _SET = 17, 71, 33, 34
_FIRST = 5  # words of the header

# By capability, the field of Adapter.features without which a card cannot have it. What every adapter must have, or
# any Vulkan 1.3 device has, is not listed.
NEEDED = {
    9: "float16",
    10: "float64",
    12: "int64_atomics",
    22: "shaderInt16",
    4433: "storage16",
    4448: "storage8",
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
    words = struct.unpack(f"<{len(code) // 4}I", code)
    capabilities, buffer, at = set(), False, _FIRST
    while at < len(words):
        count, operation = words[at] >> 16, words[at] & 0xFFFF
        if operation == _CAPABILITY:
            capabilities.add(words[at + 1])
        elif operation == _DECORATE and words[at + 2] in (_BINDING, _SET):
            if words[at + 3] != 0:
                raise ValueError("a descriptor other than the first of set 0")
            buffer = True
        at += count
    return Module(frozenset(capabilities), buffer)
