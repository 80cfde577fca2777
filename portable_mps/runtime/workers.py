"""Autograd's worker thread of the device, at the end of the process.

torch.autograd hands an error to the thread that called backward() and frees the graph in the worker afterwards. A node
written in Python takes the GIL for that; once the interpreter is ending, Python ends the thread instead, and C++ calls
std::terminate ("terminate called without an active exception"). So the process waits for the worker first.
"""

from __future__ import annotations

import threading

import torch

_graph: list[torch.Tensor] = []


def prepare() -> None:
    """Make the graph that `finish` runs; at the end of the process no thread can be started any more."""
    # In a thread of its own, where nodes are counted from 0: whatever else waits for the worker goes before it. No
    # modes are on there either. Tensors without elements need no device.
    thread = threading.Thread(target=_make)
    thread.start()
    thread.join()


def _make() -> None:
    leaf = torch.empty(0, device="mps", requires_grad=True)
    _graph[:] = leaf, leaf.view(0), torch.empty(0, device="mps")


def finish() -> None:
    """Return when the worker has freed all that it was given before."""
    if _graph:
        leaf, root, gradient = _graph
        torch.autograd.grad(root, leaf, gradient)
        _graph.clear()
