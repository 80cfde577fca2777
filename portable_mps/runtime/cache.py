"""The folder of compiled kernels, which all processes of a user share.

One file a kernel and step (csrc/compiler.cpp); where slangpy compiles, LMDB databases of its own.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
import warnings
from pathlib import Path

from portable_mps import settings

if sys.platform != "win32":
    import fcntl

SHIPPED = Path(__file__).resolve().parent.parent / "spirv"  # scripts/ship.py fills it when a wheel is made
_LEAST_SPACE = 64 << 20  # bytes that must be free on the disk
_MAGIC = 0xBEEFC0DE  # how LMDB's lock files begin
_HEADER, _SLOT = 128, 64  # bytes; a slot is the transaction (uint64), the process (int32), the thread


def join(name: str) -> Path | None:
    """The folder `name` in the cache, ready for this process; None, with a warning, where there cannot be one."""
    try:
        folder = settings.cache_folder() / name
        check(folder)
        for table in folder.rglob("lock.mdb"):
            forget_dead_readers(table)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        warnings.warn(
            f"There is no cache of compiled kernels: {error}. Each process compiles its kernels anew, which is slow; "
            "PORTABLE_MPS_CACHE names another folder.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


def kernels() -> dict[str, tuple[int, int]]:
    """By folder of an adapter and driver: how many kernels are kept, and the bytes of all that is kept."""
    found = {}
    for folder in sorted(path for path in settings.cache_folder().glob("*") if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.is_file() and _is_compiled(path.relative_to(folder))]
        if files:
            sizes = sum(path.stat().st_size for path in files)
            found[folder.name] = sum(path.suffix == ".spv" for path in files), sizes
    return found


def report() -> str:
    """For `portable-mps cache`."""
    shipped = [path.stat().st_size for path in SHIPPED.glob("*.spv")]
    came = f"{len(shipped)} kernels came with the package, {sum(shipped) / 1e6:.1f} MB"
    lines = [came, str(settings.cache_folder())]
    for name, (count, size) in kernels().items():
        lines.append(f"  {name}: {count} kernel{'s' * (count != 1)}, {size / 1e6:.1f} MB")
    return "\n".join(lines if len(lines) > 2 else [*lines, "  nothing is kept"])


def empty() -> int:
    """Forget every compiled kernel, but not what `portable-mps tune` measured; the bytes that are free now.

    Not while a process compiles: it would find its folder gone, and keep nothing more.
    """
    freed = sum(size for _, size in kernels().values())
    for folder in settings.cache_folder().glob("*"):
        for part in folder.glob("*"):
            if _is_compiled(part.relative_to(folder)):
                shutil.rmtree(part)
    return freed


def _is_compiled(path: Path) -> bool:
    return path.parts[0] in ("shaders", "modules") or path.parts[0].startswith("kernels-")


def below(folder: Path, name: str) -> Path | None:
    """The folder `name` in that one; None where it cannot be made."""
    try:
        (folder / name).mkdir(exist_ok=True)
    except OSError:
        return None
    return folder / name


def check(folder: Path) -> None:
    """Make `folder`; OSError unless this process may write to it and to what is there, and the disk has space."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()
    for database in folder.rglob("*.mdb"):
        with database.open("r+b"):
            pass
    free = shutil.disk_usage(folder).free
    if free < _LEAST_SPACE:
        raise OSError(f"only {free >> 20} MiB are free in {folder}")


def forget_dead_readers(table: Path) -> None:
    """Empty the slots of ended processes in a lock file of LMDB, as its mdb_reader_check does.

    slangpy leaves a process's slot behind at its end, and no one else makes this check: after 126 processes the table
    would be full, and nothing cached any more. Call it before this process opens the database, as closing the file
    gives up the locks that this process has on it.
    """
    if sys.platform == "win32":
        return
    with table.open("r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two at a time could empty a slot just taken
        except OSError:  # another process is at it, or the file system has no locks
            return
        content = file.read()
        if len(content) < _HEADER or struct.unpack_from("<I", content)[0] != _MAGIC:
            return
        for slot in range(_HEADER, len(content) - _SLOT + 1, _SLOT):
            (process,) = struct.unpack_from("<i", content, slot + 8)
            if process > 0 and _has_ended(file.fileno(), process):
                os.pwrite(file.fileno(), bytes(4), slot + 8)


def _has_ended(lock_file: int, process: int) -> bool:
    """Whether a reader is gone: a living one holds a lock on the byte whose number is that of its process."""
    if process == os.getpid():
        return False
    try:
        fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, process)
    except OSError:
        return False
    fcntl.lockf(lock_file, fcntl.LOCK_UN, 1, process)
    return True
