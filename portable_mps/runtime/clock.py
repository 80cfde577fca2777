"""Times on the device's own clock, at places in the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

_CAPACITY = 4096  # timestamps in a pool


class Clock(Protocol):
    """How a backend takes times."""

    def mark(self, stream: Any, is_end: bool) -> Callable[[], float]:
        """Note this place in the stream, whose lock is held; what is returned tells the time in nanoseconds.

        It may be asked once the device has passed the place. is_end: whether the time is that at which all before it
        was done, or at which what comes next begins.
        """
        ...


class Queries:
    """Timestamps that the device writes between commands.

    period_ns: nanoseconds of one tick.
    """

    def __init__(self, device: Any, period_ns: float) -> None:
        self._device = device
        self._period_ns = period_ns
        self._pool: Any = None
        self._used = 0

    def mark(self, stream: Any, is_end: bool) -> Callable[[], float]:
        """Both kinds are the same here: a barrier orders the timestamp behind all before it, and that comes next."""
        import slangpy as spy

        if self._pool is None or self._used == _CAPACITY:  # a full one lives as long as somebody may ask for its times
            self._pool = self._device.create_query_pool(type=spy.QueryType.timestamp, count=_CAPACITY)
            self._used = 0
        pool, place = self._pool, self._used
        self._used += 1
        encoder = stream.open()
        stream.barrier(encoder)
        encoder.write_timestamp(pool, place)
        return lambda: pool.get_result(place) * self._period_ns
