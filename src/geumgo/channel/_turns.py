"""Callers that wait until a stream may be opened, first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from geumgo.channel._errors import ChannelBusy, DeadlineExceeded, UsageError
from geumgo.channel._machine import ChannelMachine
from geumgo.channel._settings import MAX_WAITING

__all__ = ("Turns",)


class Turns:
    """The queue before a machine's `open`."""

    __slots__ = ("_admitted", "_machine", "_over", "_waiting")

    def __init__(self, machine: ChannelMachine) -> None:
        self._machine = machine
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._admitted = 0  # were woken and haven't run yet
        self._over = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, when: float | None) -> None:
        """Wait until a stream can be opened, or no stream ever can: then opening says why.

        Args:
            when: loop time at which to give up.

        Raises:
            ChannelBusy: too many wait already.
            DeadlineExceeded: it is `when`.
            UsageError: the peer takes no streams at all.
        """
        machine = self._machine
        if len(self._waiting) >= MAX_WAITING:
            raise ChannelBusy(f"{MAX_WAITING} callers wait for this connection already")
        if machine.peer is not None and not machine.peer.max_streams:
            raise UsageError("the peer takes no streams")
        put = self._waiting.append
        try:
            async with asyncio.timeout_at(when):
                while not self._hopeless:
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    put(future)
                    await self._wake(future)
                    if machine.can_open:
                        return
                    put = self._waiting.appendleft
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _wake(self, future: asyncio.Future[None]) -> None:
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                with contextlib.suppress(ValueError):  # passed over meanwhile
                    self._waiting.remove(future)
            else:
                self._admitted -= 1
                self.admit()  # a turn that wasn't used is the next one's
            raise
        self._admitted -= 1

    def admit(self) -> None:
        """Let as many go on as can open now; all of them where none ever can."""
        machine = self._machine
        peer = machine.peer
        if peer is None:
            return
        hopeless = self._hopeless
        free = peer.max_streams - machine.outbound
        while self._waiting and (hopeless or (free > self._admitted and machine.can_open)):
            future = self._waiting.popleft()
            if not future.done():
                self._admitted += 1
                future.set_result(None)

    def close(self) -> None:
        """Let everyone go on: opening tells them."""
        self._over = True
        self.admit()

    @property
    def _hopeless(self) -> bool:
        return self._over or self._machine.draining or self._machine.peer_draining
