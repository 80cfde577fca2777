"""Measuring one case: warm-up, rotation of operands, the median of rounds.

An idle GPU runs at a fraction of its clock and takes a few hundred milliseconds to leave it, hence the warm-up. A round
is a number of calls with one synchronisation at its end. Operands that a cache would hold are rotated: each call takes
the next of several sets which together are larger than the cache of any GPU. What a call writes comes from the
allocator, which hands out the same memory again.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from suite.case import Work

ROUNDS, ROTATED_BYTES = 5, 128 << 20
_STEADY, _LONGEST = 0.95, 8  # rounds that are faster than this by the one before are repeated, for so many warm-ups
_HOST_CALLS, _HOST_ROUNDS = 200, 15  # few enough calls a round that none waits for the device's queue to drain


@dataclass(frozen=True)
class Timing:
    """seconds: of a call, the median of the rounds. calls: in all rounds. sets: of operands that were rotated.

    flops, bytes: of a call, as its Work has them.
    """

    seconds: float
    calls: int
    sets: int
    flops: float
    bytes: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def measure(
    make: Callable[[], Work],
    synchronize: Callable[[], None],
    warmup_s: float,
    time_s: float,
    rotated_bytes: float = ROTATED_BYTES,
) -> Timing:
    """Time the calls of what `make` returns; it is called once for each set of operands.

    A call that takes longer than `warmup_s + time_s` is made three times in all, and the first does not count.
    """
    first = make()
    count = 1
    if first.operand_bytes and not first.is_host:
        count = max(1, math.ceil(rotated_bytes / first.operand_bytes))
    sets = [first, *(make() for _ in range(count - 1))]
    calls = itertools.cycle([work.call for work in sets])

    def timed(number: int, until_return: bool = False) -> float:
        """Seconds of so many calls, and of the device's work for them unless `until_return`."""
        synchronize()
        start = time.perf_counter()
        for _ in range(number):
            next(calls)()
        if not until_return:
            synchronize()
        return time.perf_counter() - start

    timed(1)  # compiles kernels
    begin = time.perf_counter()  # while which the GPU was idle
    once = timed(1)
    if once > warmup_s + time_s:
        rounds, number = [once, timed(1)], 1
    elif first.is_host:
        while time.perf_counter() - begin < warmup_s:
            timed(_HOST_CALLS)
        rounds, number = [timed(_HOST_CALLS, until_return=True) for _ in range(_HOST_ROUNDS)], _HOST_CALLS
    else:
        number = 1
        while time.perf_counter() - begin < warmup_s or once < time_s / ROUNDS / 2:
            once = timed(number)
            if once < time_s / ROUNDS / 2:
                number *= 2
        rounds = [timed(number) for _ in range(ROUNDS)]
        # From deep idle, as before a process's first case, the clock takes longer.
        while min(rounds) < _STEADY * once and time.perf_counter() - begin < _LONGEST * warmup_s:
            once = min(rounds)
            rounds = [timed(number) for _ in range(ROUNDS)]
    seconds = statistics.median(rounds) / number
    return Timing(seconds, number * len(rounds), len(sets), first.flops, first.bytes)
