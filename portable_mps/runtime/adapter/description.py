"""What an adapter is and offers, whichever backend it is reached through."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any

from portable_mps import settings

# As `Adapter.features` and PORTABLE_MPS_HIDE name them.
FEATURES = (
    "float16",
    "float64",
    "shaderInt64",
    "shaderInt16",
    "shaderInt8",
    "storage8",
    "storage16",
    "bufferDeviceAddress",
    "int64_atomics",
    "float32_atomics",
    "subgroup_shuffle",
    "cooperative_matrix",
    "bfloat16",
    "workgroup_matrix",
)
# Limits that may be lowered, and the least that Vulkan 1.3 has every driver offer.
_LIMITS = {"push_constants": 128, "shared": 16384}
_NEEDED = ("bufferDeviceAddress", "shaderInt64", "shaderInt16", "shaderInt8", "storage8", "storage16")
SOFTWARE = "software (CPU)"
KINDS = ("discrete GPU", "integrated GPU", "virtual GPU", "other", SOFTWARE)  # the most capable first


class NoAdapterError(RuntimeError):
    """There is no Vulkan loader, no driver, or no adapter that can run the kernels."""


@dataclass(frozen=True)
class Adapter:
    """One device of a backend (of Vulkan, a physical device) and what it offers.

    backend and api_version are what it is reached through: Vulkan, Metal, or the CPU through slangpy. cores is how
    many units compute independently (compute units, streaming multiprocessors, shader cores; processors for a
    software driver), 0 where the driver does not tell. memory is the size of its largest device-local heap in
    bytes, max_buffer the most bytes that a buffer may have, sure_allocation up to how many the driver promises to
    give in one piece, registers how many of 32 bits a thread can fill, shared_registers how many all threads of a
    subgroup have among them (0: each has its own), coop_matrices the supported (M, N, K, A type, result type)
    shapes at subgroup scope, spread among how many threads their operands are spread (0: the whole subgroup), and
    workgroup_matrices, by (A type, result type, threads of the workgroup), what M, N and K must be multiples of at
    workgroup scope.
    """

    index: int
    name: str
    driver: str
    kind: str
    backend: str
    api_version: str
    cores: int
    memory: int
    max_buffer: int
    sure_allocation: int
    subgroup_size: int
    max_push_constants: int
    max_shared_memory: int
    registers: int
    max_workgroup: int
    max_groups: tuple[int, int, int]
    timestamp_period_ns: float
    features: dict[str, bool]
    coop_matrices: tuple[tuple[int, int, int, str, str], ...] = ()
    spread: int = 0
    shared_registers: int = 0
    workgroup_matrices: dict[tuple[str, str, int], tuple[int, int, int]] = field(default_factory=dict)
    handle: Any = field(default=None, repr=False, compare=False)

    @property
    def operand_lanes(self) -> int:
        """Among how many threads of a subgroup the elements of a product's operands are spread."""
        return min(self.spread or self.subgroup_size, self.subgroup_size)

    @property
    def matrix_registers(self) -> int:
        """How many registers a thread can fill in a kernel with fragments, whose subgroups a driver cannot make smaller
        where they need more."""
        return self.shared_registers // self.subgroup_size or self.registers

    @property
    def profile(self) -> str:
        """Slang's name of the SPIR-V that its driver gets: 1.4, whose copies of structs make products half as long, but
        Mesa 22.3 fails at a copy into what has another layout, so Mesa gets 1.3."""
        return "sm_6_0" if "Mesa" in self.driver else "sm_6_4"

    @property
    def is_software(self) -> bool:
        """Whether the driver runs on the CPU."""
        return self.kind == SOFTWARE

    @property
    def loop_limit(self) -> int:
        """Turns that a thread may take through all its loops in a dispatch: Mesa's software driver ends them silently
        after 65,535."""
        return 65_535 if self.is_software else sys.maxsize

    @property
    def missing(self) -> list[str]:
        """Features that no kernel can do without and this adapter lacks.

        Addresses and offsets are 64-bit integers, bool is stored in 8 bits, bfloat16 in the 16 of an integer.
        """
        return [name for name in _NEEDED if not self.features[name]]


def hidden() -> dict[str, int]:
    """What PORTABLE_MPS_HIDE names: features, each with 0, and limits with what they are lowered to.

    RuntimeError for what is neither.
    """
    result = {}
    for item in settings.hidden():
        name, _, number = item.partition("=")
        is_limit = number.isdecimal() and int(number) >= _LIMITS.get(name, sys.maxsize)
        if not is_limit and (number or name not in FEATURES):
            limits = " and ".join(f"{limit}=N (N at least {least})" for limit, least in _LIMITS.items())
            raise RuntimeError(
                f"invalid PORTABLE_MPS_HIDE {item!r}: expected {', '.join(FEATURES)}, {limits}, separated by commas"
            )
        result[name] = int(number or 0)
    return result


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def host_memory() -> int:
    """Bytes that the machine has."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 << 30  # Windows has no sysconf


def free_host_memory() -> int:
    """What Linux thinks could be had without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return host_memory()
