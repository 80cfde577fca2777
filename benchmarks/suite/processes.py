"""Runs a side in a process of its own, and in another one when that ends or hangs: a case fails, the run goes on.

torch takes one accelerator a process: the mps side does not see CUDA, the other one does not load us.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from suite.side import Order, as_json

FOLDER = Path(__file__).resolve().parent.parent
SIDE = [sys.executable, "-m", "suite.side"]
_START_S = 120  # until a process has described its device

Report = Callable[[str, dict[str, Any]], None]
Outcome = tuple[dict[str, str], dict[str, dict[str, Any]]]
"""What a device is, and the results by case."""


def environment(device: str) -> dict[str, str]:
    ours = {"PORTABLE_MPS": "1", "CUDA_VISIBLE_DEVICES": ""} if device == "mps" else {"PORTABLE_MPS": "0"}
    path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    return os.environ | ours | {"PYTHONPATH": path}


def reference() -> str:
    """cuda where torch has it, otherwise cpu; asked in a process of its own, as this one must not start CUDA."""
    source = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    command = [sys.executable, "-c", source]
    return subprocess.check_output(command, env=environment("cuda"), text=True).split()[-1]


def run_side(order: Order, limit_s: float, report: Report) -> Outcome:
    """Run the cases; `report` is told each. A case has `limit_s` seconds.

    RuntimeError where the process cannot even say what its device is.
    """
    about: dict[str, str] = {}
    results: dict[str, dict[str, Any]] = {}
    while remaining := [key for key in order.cases if key not in results]:
        attempt = _Attempt(dataclasses.replace(order, cases=remaining), limit_s)
        for event in attempt.events():
            if "about" in event:
                about = event["about"]
            elif "case" in event:
                results[event["case"]] = event["result"]
                report(event["case"], event["result"])
        if not about:
            raise RuntimeError(f"The {order.device} side did not start: {attempt.ending}")
        if attempt.current is not None:
            results[attempt.current] = {"error": attempt.ending, "is_missing": False}
            report(attempt.current, results[attempt.current])
        elif attempt.ran == 0 and any(key not in results for key in order.cases):
            raise RuntimeError(f"The {order.device} side ends before its first case: {attempt.ending}")
    return about, results


class _Attempt:
    """One process, until its last case or its end. current: the case that it was in then; ending: how it ended."""

    def __init__(self, order: Order, limit_s: float) -> None:
        self._order = order
        self._limit_s = limit_s
        self.current: str | None = None
        self.ending = ""
        self.ran = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of the process, as they come."""
        pipe, variables = subprocess.PIPE, environment(self._order.device)
        with subprocess.Popen(SIDE, env=variables, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(as_json(self._order))
            process.stdin.close()
            lines: queue.Queue[str | None] = queue.Queue()
            threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
            limit = float(_START_S)
            try:
                while (line := lines.get(timeout=limit)) is not None:
                    event = json.loads(line)
                    if "begin" in event:
                        self.current, limit = event["begin"], self._limit_s
                    elif "case" in event:
                        self.current, self.ran = None, self.ran + 1
                    yield event
                self.ending = f"the process ended with status {process.wait()}"
            except queue.Empty:
                self.ending = f"no result within {limit:.0f} s"
            finally:
                process.kill()  # nothing where it has ended


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
