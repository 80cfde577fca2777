"""The sweep: every check in worker processes, where a crash or a hang is one more failure."""

from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHECKS_A_WORKER = 400  # then a fresh one: a process keeps its kernels, megabytes each with a software driver
_START_SECONDS = 300


@dataclass(frozen=True)
class Task:
    """One check of one pair; its fields are judge.judge's."""

    op: str
    dtype: str
    check: str
    quick: bool


def judging(pipe: multiprocessing.connection.Connection) -> None:
    """A worker: judges the tasks that come through the pipe until None comes."""
    import torch

    from opinfo import judge

    torch.set_num_threads(1)
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        dtype = None if task.dtype == judge.NO_DTYPE else getattr(torch, task.dtype)
        try:
            verdict = judge.judge(judge.OPERATORS[task.op], dtype, task.check, task.quick)
        except Exception as error:  # no samples for this dtype, say: the sweep goes on
            verdict = judge.Verdict(task.op, task.dtype, task.check, task.quick)
            verdict.count(error)
        pipe.send({**verdict.as_dict(), "worker": os.getpid()})
        if verdict.failed and _is_lost():
            return  # what follows shall not fail for it


def _is_lost() -> bool:
    import torch

    try:
        torch.mps.synchronize()
    except IndexError:
        pass
    except RuntimeError:
        return True
    return False


def _with_threads(threads: int, work: Callable[..., None], pipe: multiprocessing.connection.Connection) -> None:
    """`work` in this process, whose software driver takes so many threads: all cores, otherwise, in each worker."""
    os.environ.setdefault("LP_NUM_THREADS", str(threads))
    os.environ.pop("PYTORCH_ENABLE_MPS_FALLBACK", None)
    work(pipe)


class _Worker:
    def __init__(self, work: Callable[..., None], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.work, self.threads = work, threads
        self._process = context.Process(target=_with_threads, args=(threads, work, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.task: Task | None = None
        self.started = time.monotonic()
        self.judged = 0
        self.is_ready = False

    def give(self, task: Task) -> None:
        self.task, self.started = task, time.monotonic()
        self.pipe.send(task)

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def exit_reason(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"the process died of {signal.Signals(-code).name}"
        return f"the process ended with exit code {code}"

    def end(self, kill: bool = False) -> None:
        if kill:
            self._process.kill()
        else:
            with contextlib.suppress(OSError):
                self.pipe.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.pipe.close()


def sweep(
    tasks: Iterable[Task], workers: int, timeout: float, work: Callable[..., None] = judging
) -> Iterator[dict[str, Any]]:
    """Judge the tasks in `workers` processes, each of which runs `work`; yields verdicts as they come."""
    waiting = iter(tasks)
    threads = max(1, (os.cpu_count() or 1) // workers)
    crew = [_Worker(work, threads) for _ in range(workers)]
    try:
        while crew:
            ready = multiprocessing.connection.wait([w.pipe for w in crew], timeout=1)
            for worker in list(crew):
                replacement: _Worker | None = worker
                if worker.pipe in ready:
                    verdict, is_alive = _receive(worker)
                    if verdict is not None:
                        yield verdict
                    replacement = _next(worker, waiting) if is_alive else _replace(worker, kill=True)
                elif worker.seconds() > (timeout if worker.task else _START_SECONDS):
                    yield _lost(worker, f"no answer in {timeout:.0f} s")
                    replacement = _replace(worker, kill=True)
                if replacement is None:
                    crew.remove(worker)
                elif replacement is not worker:
                    crew[crew.index(worker)] = replacement
    finally:
        for worker in crew:
            worker.end(kill=True)


def one_by_one(timeout: float) -> Callable[[Task], dict[str, Any]]:
    """A function that judges a task in a process behind it, as the sweep does."""
    tasks: collections.deque[Task] = collections.deque()
    verdicts = sweep(iter(tasks.popleft, None), 1, timeout)

    def judge(task: Task) -> dict[str, Any]:
        tasks.append(task)
        return next(verdicts)

    return judge


def _receive(worker: _Worker) -> tuple[dict[str, Any] | None, bool]:
    """A verdict, if one came, and whether the worker lives."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionError):
        if not worker.is_ready:
            raise RuntimeError(f"a worker could not start: {worker.exit_reason()}") from None
        return (_lost(worker, worker.exit_reason()) if worker.task else None), False
    if message == "ready":
        worker.is_ready = True
        return None, True
    message["seconds"] = round(worker.seconds(), 2)
    worker.task = None
    worker.judged += 1
    return message, True


def _next(worker: _Worker, waiting: Iterator[Task]) -> _Worker | None:
    if worker.judged >= _CHECKS_A_WORKER:
        return _replace(worker)
    task = next(waiting, None)
    if task is None:
        worker.end()
        return None
    worker.give(task)
    return worker


def _replace(worker: _Worker, kill: bool = False) -> _Worker:
    worker.end(kill=kill)
    return _Worker(worker.work, worker.threads)


def _lost(worker: _Worker, reason: str) -> dict[str, Any]:
    from opinfo.judge import Verdict

    task = worker.task
    if task is None:
        raise RuntimeError(f"a worker could not start: {reason}")
    lost = Verdict(task.op, task.dtype, task.check, task.quick, judged=1, failed=1, error=reason)
    return {**lost.as_dict(), "seconds": round(worker.seconds(), 2)}


def load(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Verdicts of a file of JSON lines by (operator, dtype, check); the last of each counts."""
    verdicts: dict[tuple[str, str, str], dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            if line.endswith("}"):  # the last one of an interrupted sweep may be cut
                verdict = json.loads(line)
                verdicts[verdict["op"], verdict["dtype"], verdict["check"]] = verdict
    return verdicts
