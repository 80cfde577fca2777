"""Autograd's worker thread of the device, at the end of the process.

torch.autograd hands a result or an error to the thread that called backward() and frees the graph in the worker
afterwards. Nodes and tensors that Python knows take the GIL for that; once the interpreter is ending, Python ends the
thread instead, and C++ calls std::terminate ("terminate called without an active exception"). So the process waits for
the worker first.
"""

from __future__ import annotations

import threading

from portable_mps import _C


def prepare() -> None:
    """Make the graph that `finish` runs; at the end of the process no thread can be started any more."""
    # In a thread of its own, where nodes are counted from 0: whatever else waits for the worker goes before it. No
    # modes are on there either.
    thread = threading.Thread(target=_C.prepare_worker)
    thread.start()
    thread.join()


def finish() -> None:
    """Return when the worker has freed all that it was given before."""
    _C.wait_for_worker()
