"""Deadlines of many streams with one timer.

A timer a call would cost more than the call. Deadlines are kept by ticks; a single loop timer waits for
the earliest tick that was ever filled.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

__all__ = ("TICK_S", "Deadlines")

TICK_S = 0.02
"""Seconds by which a deadline may be noticed late."""
_SPARE_TICKS = 64
"""Ticks without keys that are kept in the queue before it is rebuilt."""


class Deadlines:
    """Calls back for keys whose time has passed.

    Args:
        loop: whose clock counts.
        expired: called with each key at most once, never early, at most a tick late.
    """

    __slots__ = ("_armed", "_expired", "_loop", "_ticks", "_timer", "_upcoming")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[int], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._ticks: dict[int, set[int]] = {}
        self._upcoming: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0

    def add(self, key: int, when: float) -> int:
        """Note that `key` ends at loop time `when`; returns the tick, which `discard` wants."""
        tick = int(when / TICK_S) + 1
        keys = self._ticks.get(tick)
        if keys is None:
            self._ticks[tick] = {key}
            heapq.heappush(self._upcoming, tick)
            if self._timer is None or tick < self._armed:
                self._arm(tick)
        else:
            keys.add(key)
        return tick

    def discard(self, key: int, tick: int) -> None:
        """Forget a key that ended in time."""
        keys = self._ticks.get(tick)
        if keys is not None:
            keys.discard(key)
            if not keys:
                # A peer chooses deadlines; ticks far ahead may not pile up.
                del self._ticks[tick]
                if len(self._upcoming) > 2 * len(self._ticks) + _SPARE_TICKS:
                    self._upcoming = sorted(self._ticks)

    def clear(self) -> None:
        """Forget everything and stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ticks.clear()
        self._upcoming.clear()

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = tick
        self._timer = self._loop.call_at(tick * TICK_S, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        # The loop's timer may be early by its own resolution; such a tick is armed again.
        while self._upcoming and self._upcoming[0] * TICK_S <= now:
            for key in self._ticks.pop(heapq.heappop(self._upcoming), ()):
                self._expired(key)
        if self._upcoming and self._timer is None:
            self._arm(self._upcoming[0])
