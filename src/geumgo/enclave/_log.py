"""The log channel's inner end: a bounded queue of events that the control connection drains."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from geumgo._base import Clock
from geumgo.codec import cbor
from geumgo.enclave._errors import EnclaveError
from geumgo.enclave._events import EVENTS

__all__ = ("EventLog",)


class EventLog:
    """Takes events of :data:`EVENTS` and hands them on in order, oldest first.

    Args:
        clock: where an event's time comes from; 0 is written while it isn't set.
        capacity: events kept; when full the newest is dropped and counted, since the first error of a
            series says more than the last.
    """

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._queue: deque[bytes] = deque()
        self._dropped = 0
        self._waiting = asyncio.Event()
        self._closed = False
        self.watch: Callable[[str, dict[str, object]], None] | None = None
        """Sees code and fields of each event too, where it is set: the console of a debug enclave."""

    def emit(self, code: str, **fields: object) -> None:
        """Queue one event. Never blocks; must be called in the event loop's thread.

        Raises:
            EnclaveError: the event isn't in the table or a field has another type. The values are not named.
        """
        event = EVENTS.get(code)
        if event is None or not event.admits(fields):
            raise EnclaveError(f"event {code!r} does not fit the table of events")
        if self.watch is not None:
            self.watch(code, fields)
        if len(self._queue) >= self._capacity:
            self._dropped += 1
        else:
            self._queue.append(self._encode(code, event.level, fields))
        self._waiting.set()

    def _encode(self, code: str, level: str, fields: dict[str, object]) -> bytes:
        try:
            now = self._clock.now_ms()
        except EnclaveError:
            now = 0
        return cbor.dumps({"t": now, "code": code, "level": level, "fields": fields})

    async def pump(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send events until closed, cancelled, or `send` raises; what wasn't sent stays queued."""
        while True:
            while self._queue:
                # Removed only when sent: a lost connection may repeat an event, it doesn't lose one.
                await send(self._queue[0])
                self._queue.popleft()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._queue.append(self._encode("log_dropped", "warn", {"count": dropped}))
                continue
            if self._closed:
                return
            self._waiting.clear()
            await self._waiting.wait()

    def close(self) -> None:
        """Let pumps return when the queue is empty."""
        self._closed = True
        self._waiting.set()
