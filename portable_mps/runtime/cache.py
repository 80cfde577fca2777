"""The folder of compiled kernels: slangpy keeps them in LMDB databases that all processes of a user share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def join(folder: Path) -> int | None:
    """Make `folder` ready for this process; the cache is in use as long as the returned file descriptor is open.

    A process that is killed leaves its entry in LMDB's table of readers. With 126 of them the table is full and nothing
    is cached any more, so a process that finds itself alone forgets the tables: LMDB makes them anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        return None
    users = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for table in folder.rglob("lock.mdb"):
            table.unlink()
    except OSError:  # others use it, or the file system has no locks
        pass
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
    except OSError:
        os.close(users)
        return None
    return users
