"""The cards that are not there: which driver compiles for each, and what makes it believe in the card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

OLD, NEW = "22.3", "25.0"
SYSTEM = "system"
_SYSTEM_FILES = Path("/usr/share/vulkan/icd.d")


def default_folder() -> Path:
    """Where `make vendors` keeps the drivers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portable-mps-vendors"


@dataclass(frozen=True)
class Card:
    """A GPU and a release of Mesa; family is what the driver calls the GPU, cores what it would say of a real one."""

    gpu: str
    vendor: str
    mesa: str
    family: str
    cores: int = 0

    @property
    def name(self) -> str:
        return f"{self.gpu}, Mesa {self.mesa}" if self.mesa != SYSTEM else self.gpu

    @property
    def is_current(self) -> bool:
        return self.mesa != OLD

    @property
    def stem(self) -> str:
        """For names of files."""
        return f"{self.family}-{self.mesa}"

    def environment(self, drivers: Path) -> dict[str, str]:
        """Of a process that has this card alone. drivers: what scripts/vendor_drivers.sh has made."""
        # Mesa would keep what it compiled, without the statistics of later runs being any cheaper.
        common = {"MESA_SHADER_CACHE_DISABLE": "true"}
        if self.mesa == SYSTEM:
            common["VK_DRIVER_FILES"] = str(system_file(self.vendor))
        else:
            root = drivers / f"mesa-{self.mesa}"
            common["VK_DRIVER_FILES"] = str(root / f"{self.vendor}.json")
            # Both releases of AMD's driver are linked to LLVM 15.
            common["LD_LIBRARY_PATH"] = f"{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib/llvm"
        if self.vendor == "radeon":
            return common | {"RADV_FORCE_FAMILY": self.family}
        return common | {"LD_PRELOAD": str(drivers / "intel_stub.so"), "INTEL_STUB_GPU_PLATFORM": self.family}


def system_file(vendor: str) -> Path | None:
    """The loader's file of that vendor's driver as the system has it; None where it is not installed."""
    return next(iter(sorted(_SYSTEM_FILES.glob(f"{vendor}_icd*.json"))), None)


CARDS = (
    Card("RDNA 3 (Navi 31)", "radeon", NEW, "navi31", 96),
    Card("RDNA 3 (Navi 31)", "radeon", OLD, "gfx1100", 96),
    Card("RDNA 2 (Navi 21)", "radeon", NEW, "navi21", 80),
    Card("RDNA 2 (Navi 21)", "radeon", OLD, "navi21", 80),
    Card("GCN (Vega 10)", "radeon", NEW, "vega10", 64),
    Card("GCN (Vega 10)", "radeon", OLD, "vega10", 64),
    Card("Arc A770", "intel", NEW, "dg2"),
    Card("Arc A770", "intel", OLD, "dg2"),
    Card("Tiger Lake", "intel", NEW, "tgl"),
    Card("Tiger Lake", "intel", OLD, "tgl"),
    Card("Skylake", "intel", NEW, "skl"),
    Card("Skylake", "intel", OLD, "skl"),
)
