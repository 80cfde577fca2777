"""What NVIDIA's compiler made of kernels: the instructions of what the cache keeps for its driver.

    PORTABLE_MPS_COLLECT=SOURCES python script.py               # on the card
    python scripts/machine_code.py CACHE [--sources SOURCES] [--kernels matmul*] [--listing]

CACHE is the folder of an adapter (`portable-mps cache`). Each line is a kernel: how many instructions of which kind, by
which a load of one element where a vector was meant is seen, as are spills (LDL, STL) and loads behind what they should
run ahead of (--listing). A pipeline's cached data is a zstd frame with "NVuc", a table of sections, code, as seen
of driver 580; the format is nowhere written down. Needs `zstandard`, and nvdisasm on the path, of CUDA's toolkit or
Triton's wheel.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

_FRAME, _MAGIC = b"\x28\xb5\x2f\xfd", b"NVuc"
_SECTIONS, _SECTION_BYTES, _MOST_SECTIONS = 64, 32, 32  # from the magic on: where their table is, and its rows
_CODE = 1  # a section's type
_WIDTH = 16  # bytes of an instruction
_TOLD = re.compile(r"(?:LD|ST)[GSL]|LDSM|FFMA|HMMA|HGMMA|MUFU|BAR|BRA|BSSY|SHFL|MOV")


def code_of(program: bytes) -> bytes:
    """The instructions of a decompressed entry. ValueError where there are none."""
    start = program.find(_MAGIC)
    if start >= 0:
        for row in range(_MOST_SECTIONS):
            at = start + _SECTIONS + row * _SECTION_BYTES
            if at + _SECTION_BYTES > len(program):
                break
            kind, size, offset = struct.unpack_from("<3I", program, at)
            if kind == _CODE:
                return program[start + offset : start + offset + size]
    raise ValueError("no machine code of NVIDIA's")


def program_of(entry: bytes) -> bytes:
    """What a file of the cache holds, decompressed. ValueError where it is another driver's."""
    start = entry.find(_FRAME)
    if start < 0:
        raise ValueError("no machine code of NVIDIA's")
    import zstandard  # here, as nothing else needs it

    return zstandard.ZstdDecompressor().decompressobj().decompress(entry[start:])


def listing(code: bytes, architecture: str) -> str:
    """Assembly, a line an instruction. CalledProcessError with nvdisasm's words."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        command = ["nvdisasm", "--binary", architecture, "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def summary(text: str) -> str:
    """The counts of the kinds that speed depends on, by width."""
    operations = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
    counts = collections.Counter(name.replace(".STRONG.SM", "") for name in operations if _TOLD.match(name))
    return f"{len(operations)}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--sources", type=Path, help="folder of PORTABLE_MPS_COLLECT, which gives kernels their names")
    parser.add_argument("--kernels", default="*", help="pattern of names")
    parser.add_argument("--listing", action="store_true", help="every instruction")
    parser.add_argument("--architecture", default="SM90", help="as nvdisasm names it (default: SM90, of an H100)")
    options = parser.parse_args()
    found = 0
    for path in sorted(options.cache.rglob("*.pipeline")):
        source = options.sources and options.sources / f"{path.stem}.slang"
        name = source.read_text().split(maxsplit=2)[1] if source and source.is_file() else path.stem
        if not fnmatch.fnmatch(name, options.kernels):
            continue
        try:
            text = listing(code_of(program_of(path.read_bytes())), options.architecture)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        found += 1
        print(f"{name} ({path.stem}), {summary(text)}")
        if options.listing:
            print(text)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
