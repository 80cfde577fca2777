"""SPIR-V, read by its words, and what a kept kernel asks of the adapter: no more than a simulated adapter has.

The driver underneath has all features and would take such a kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# SPIR-V specification, section 3: operation codes, capabilities, storage classes, decorations.
CAPABILITY, DECORATE, _MEMBER_DECORATE, _CONSTANT, _VARIABLE = 17, 71, 72, 43, 59
_BOOL, _INTEGER, _FLOAT, _VECTOR, _MATRIX, _ARRAY, _STRUCT, _POINTER = 20, 21, 22, 23, 24, 28, 30, 32
_WORKGROUP, _PUSH_CONSTANT, _OFFSET = 4, 9, 35
# By capability, the field of Adapter.features that has it.
FEATURES = {9: "float16", 10: "float64", 11: "shaderInt64", 12: "int64_atomics", 22: "shaderInt16"}
FEATURES |= {39: "shaderInt8", 4433: "storage16", 4448: "storage8", 64: "subgroup_shuffle", 65: "subgroup_shuffle"}
_HEADER = 5  # words
_CHECKSUM = 8  # bytes at the start of a kept file (csrc/files.cpp)


class Needs(NamedTuple):
    """features by their names in `Adapter.features`; shared memory and push constants in bytes."""

    features: frozenset[str]
    shared: int
    push_constants: int


def instructions(code: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Of a module: operation codes, each with the words behind it."""
    words = struct.unpack(f"<{len(code) // 4}I", code)
    at = _HEADER
    while at < len(words):
        operation, length = words[at] & 0xFFFF, words[at] >> 16
        yield operation, words[at + 1 : at + length]
        at += length


def needs(code: bytes) -> Needs:
    """Of a SPIR-V module with one entry point."""
    features: set[str] = set()
    sizes: dict[int, int] = {}
    constants: dict[int, int] = {}
    offsets: dict[int, dict[int, int]] = {}
    pointees: dict[int, int] = {}
    members: dict[int, tuple[int, ...]] = {}
    shared = pushed = 0
    for operation, rest in instructions(code):
        if operation == CAPABILITY:
            features.add(FEATURES.get(rest[0], ""))
        elif operation == _MEMBER_DECORATE and rest[2] == _OFFSET:
            offsets.setdefault(rest[0], {})[rest[1]] = rest[3]
        elif operation == _CONSTANT:
            constants[rest[1]] = rest[2]
        elif operation == _BOOL:
            sizes[rest[0]] = 4
        elif operation in (_INTEGER, _FLOAT):
            sizes[rest[0]] = rest[1] // 8
        elif operation in (_VECTOR, _MATRIX):
            sizes[rest[0]] = sizes[rest[1]] * rest[2]
        elif operation == _ARRAY:
            sizes[rest[0]] = sizes[rest[1]] * constants[rest[2]]
        elif operation == _STRUCT:
            members[rest[0]] = rest[1:]
            sizes[rest[0]] = sum(sizes.get(member, 0) for member in rest[1:])
        elif operation == _POINTER:
            sizes[rest[0]], pointees[rest[0]] = 8, rest[2]
        elif operation == _VARIABLE and rest[2] == _WORKGROUP:
            shared += sizes[pointees[rest[0]]]
        elif operation == _VARIABLE and rest[2] == _PUSH_CONSTANT:
            block = pointees[rest[0]]
            ends = [offsets[block][i] + sizes[member] for i, member in enumerate(members[block])]
            pushed = max([pushed, *ends])
    return Needs(frozenset(features - {""}), shared, pushed)


def kept(cache: Path) -> dict[str, Needs]:
    """Of every kernel in a folder that PORTABLE_MPS_CACHE names, by its file's name."""
    return {path.stem: needs(path.read_bytes()[_CHECKSUM:]) for path in sorted(cache.glob("*/kernels-*/*.spv"))}
