"""Worker processes that answer lines of JSON: one that crashes or hangs costs the task that it had, and no other."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import Any

_START_SECONDS = 120


class Worker:
    """One process, `python -m MODULE`, which first says something by itself. RuntimeError where that does not come."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (the process has it for as long as it lives)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PORTABLE_MPS_QUIET": "1"} | environment,
        )
        self.greeting = self._answer(_START_SECONDS)

    def ask(self, task: Any, seconds: float) -> Any:
        """The answer; RuntimeError, with the process gone, where it crashes or takes longer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self._end()) from None
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"took longer than {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._end())
        return json.loads(line)

    def _end(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"crashed with {signal.Signals(-status).name}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with status {status}: {''.join(last)}"

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def work(
    module: str,
    environment: dict[str, str],
    tasks: Iterable[Any],
    seconds: float,
    workers: int,
    done: Callable[[Any, Any], None],
) -> None:
    """Calls done(task, answer), or done(task, a RuntimeError), for every task, one at a time."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    lock, failures = threading.Lock(), []

    def serve() -> None:
        worker = None
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                worker = worker or Worker(module, environment)
            except RuntimeError as error:  # there is no such card here: no task can be done
                failures.append(error)
                return
            try:
                answer = worker.ask(task, seconds)
            except RuntimeError as error:
                answer, worker = error, None
            with lock:
                done(task, answer)
        if worker is not None:
            worker.close()

    threads = [threading.Thread(target=serve) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"{module} does not start: {failures[0]}")
