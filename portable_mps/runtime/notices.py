"""What a person at a terminal should know while it happens: one line each on stderr, once a process.

Nothing is printed where nobody looks on (a pipe, a log file, a test), or with PORTABLE_MPS_QUIET=1; it is logged there.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from portable_mps import settings

log = logging.getLogger(__name__)
_PATIENCE = 2.0  # seconds that compiling may take before it is spoken of
_CACHED = 0.1  # seconds that taking a kernel from the cache stays below


def say(text: str) -> None:
    """Print `text` on a terminal or in a notebook."""
    watched = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    if watched and not settings.quiet():
        print(f"portable-mps: {text}", file=sys.stderr, flush=True)
    else:
        log.info("%s", text)


def software(name: str) -> None:
    """Say that the adapter runs on the CPU: libraries take any `mps` device for a fast one."""
    say(
        f'mps runs on {name}, a software driver, which is much slower than device="cpu": install the Vulkan driver of '
        "your GPU, or set PORTABLE_MPS=0 to have scripts take the CPU (PORTABLE_MPS_QUIET=1 hides this)."
    )


def shared(processes: int, adapters: int) -> None:
    """Say that processes of one run have an adapter together, each of which is slower for that."""
    say(f"{processes} processes share {adapters} adapter{'s' * (adapters > 1)}: as many as adapters are fastest")


class Compiling:
    """A context around each wait for a compiler: says what takes so long once that was more than two seconds.

    count: how many kernels are being compiled in other threads.
    """

    def __init__(self, is_cached: bool, count: Callable[[], int]) -> None:
        self._spent = 0.0
        self._said = False
        self._start = 0.0
        self._timer: threading.Timer | None = None
        self._count = count
        self._when = "once, as each is kept" if is_cached else "in each process without a cache"

    def __enter__(self) -> None:
        if not self._said:
            self._start = time.perf_counter()
            timer = threading.Timer(max(_PATIENCE - self._spent, 0.0), self._say)
            timer.daemon = True
            with contextlib.suppress(RuntimeError):  # no thread starts while the interpreter ends
                timer.start()
                self._timer = timer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            took = time.perf_counter() - self._start
            self._spent += took if took > _CACHED else 0.0

    def _say(self) -> None:
        self._said = True
        count = max(self._count(), 1)
        say(f"compiling {count} kernel{'s' * (count > 1)}; this happens {self._when}.")
