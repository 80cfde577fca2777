"""Workers that go wrong, for the test of the sweep; importable, since its processes are spawned."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection


def faulty(pipe: Connection) -> None:
    """Does what the task's name says: crash, hang, or pass."""
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        if task.op == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if task.op == "hang":
            time.sleep(60)
        pipe.send({"op": task.op, "status": "pass", "error": ""})
