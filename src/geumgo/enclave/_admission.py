"""Admission: how many requests, and how many bytes of them, are worked on at a time."""

from __future__ import annotations

import asyncio
from collections import deque

from geumgo.enclave._errors import Refused

__all__ = ("Admission",)


class Admission:
    """Counts requests in flight.

    Args:
        requests: how many at a time.
        size: bytes of them at a time.
    """

    def __init__(self, requests: int, size: int) -> None:
        self._requests = requests
        self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._empty = asyncio.Event()
        self.bytes = 0
        """Bytes of requests being worked on."""
        self.in_flight = 0
        """Requests being worked on."""

    def __repr__(self) -> str:
        return f"<Admission {self.in_flight} in flight, {self.bytes} bytes, {len(self._waiting)} waiting>"

    def _fits(self, size: int) -> bool:
        return self.in_flight < self._requests and self.bytes + size <= self._size

    def enter(self, size: int) -> None:
        """Admit a request of `size` bytes, at once or not at all. Whoever enters must :meth:`leave`.

        Raises:
            Refused: `busy`.
        """
        if self._waiting or not self._fits(size):
            raise Refused("busy")
        self.in_flight += 1
        self.bytes += size

    async def wait(self, size: int) -> None:
        """Admit a request of `size` bytes, in turn: for streams, whose sender is slowed down by this.

        Raises:
            Refused: `busy`: as many wait as may be worked on.
        """
        if not self._waiting and self._fits(size):
            self.in_flight += 1
            self.bytes += size
            return
        if len(self._waiting) >= self._requests:
            raise Refused("busy")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(size)  # admitted in the same moment
            else:
                self._waiting.remove(entry)
                self._next()  # a smaller one behind it may fit now
            raise

    def leave(self, size: int) -> None:
        """Note that an admitted request of `size` bytes is done."""
        self.in_flight -= 1
        self.bytes -= size
        self._next()
        if not self.in_flight:
            self._empty.set()

    async def idle(self) -> None:
        """Return when nothing is in flight."""
        while self.in_flight:
            self._empty.clear()
            await self._empty.wait()

    def _next(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not self._fits(size):
                return
            self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                self.bytes += size
                turn.set_result(None)
