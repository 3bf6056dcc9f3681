"""One stream of a connection, as handlers and callers use it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from geumgo.channel._errors import ChannelError, UsageError
from geumgo.channel._metadata import Metadata
from geumgo.channel._settings import FLUSH_AT

if TYPE_CHECKING:
    from geumgo.channel._connection import Connection

__all__ = ("Stream",)


class Stream:
    """Messages both ways between the opener and the handler of one stream.

    Made by `Connection.open`, or passed to a handler. As an asynchronous context manager it resets
    itself (`cancelled`) unless both sides ended; a handler's stream is ended when the handler returns.

    Attributes:
        id: number on the wire.
        kind: what the opener wants.
        metadata: small facts that came with the opening, read only.
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_error",
        "_messages",
        "_recv_ended",
        "_send_ended",
        "_senders",
        "_started",
        "_task",
        "_tick",
        "_waiter",
        "id",
        "kind",
        "metadata",
    )

    def __init__(
        self, connection: Connection, number: int, kind: str, metadata: Metadata, deadline: float | None
    ) -> None:
        self.id = number
        self.kind = kind
        self.metadata = metadata
        self._connection = connection
        self._deadline = deadline
        self._tick = 0
        self._messages: deque[tuple[bytes, int, int]] = deque()
        self._recv_ended = False
        self._send_ended = False
        self._error: ChannelError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = False

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline (never below 0), or None if there is none."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._connection._loop.time())

    @property
    def unread(self) -> int:
        """Messages that `receive` returns without waiting."""
        return len(self._messages)

    @property
    def ended(self) -> bool:
        """Whether the peer has ended its side and nothing is left to receive."""
        return self._recv_ended and not self._messages

    async def receive(self) -> bytes | None:
        """Return the next message, or None when the peer has ended its side.

        Messages that arrived whole before an error are returned before it is raised, except where this
        side reset the stream.

        Raises:
            StreamReset, DeadlineExceeded, ChannelClosed: the stream is over by an error.
            UsageError: another task waits in `receive` already.
        """
        while not self._messages:
            if self._recv_ended:
                return None
            if self._error is not None:
                raise self._error
            if self._waiter is not None:
                raise UsageError("two tasks receive from one stream")
            self._waiter = self._connection._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.receive_nowait()

    def receive_nowait(self) -> bytes:
        """Return the next message of those that `unread` counts.

        Raises:
            UsageError: there is none.
        """
        if not self._messages:
            raise UsageError("no message has arrived yet")
        data, price, held = self._messages.popleft()
        connection = self._connection
        connection._machine.consumed(self.id, price, held)
        if not connection._pump.busy and connection._machine.backlog:
            connection._pump.flush_soon()
        return data

    async def send(self, message: bytes, *, end: bool = False) -> None:
        """Send one message, and with `end` nothing after it.

        Returns when the message is on its way: at once where the peer's credit allows, else when its
        last part has left. Cancelling a send that has to wait resets the stream, since half a message
        can't be taken back.

        Raises:
            StreamReset, DeadlineExceeded, ChannelClosed: the stream is over by an error.
            MessageTooLarge: the peer doesn't take messages of this size.
            UsageError: this side has ended already.
        """
        if not self._post(message, end):
            await self._leave()

    def _post(self, message: bytes, end: bool) -> bool:
        """Hand a message to the machine; return whether it is on its way."""
        if self._error is not None:
            raise self._error
        if self._send_ended:
            raise UsageError("this side of the stream has ended already")
        connection = self._connection
        machine = connection._machine
        done = machine.send(self.id, message if type(message) is bytes else bytes(message), end)
        if end:
            self._send_ended = True
            if done and self._recv_ended and self._task is None:
                connection._over(self)
        if machine.backlog >= FLUSH_AT:
            connection._pump.flush()
        elif not connection._pump.busy:
            connection._pump.flush_soon()
        return done

    async def _leave(self) -> None:
        future: asyncio.Future[None] = self._connection._loop.create_future()
        if self._senders is None:
            self._senders = deque()
        self._senders.append(future)
        try:
            await future
        except asyncio.CancelledError:
            self.reset("cancelled")
            raise

    async def reply(self, message: bytes) -> None:
        """Send the last message of this side; see `send`."""
        if not self._post(message, True):
            await self._leave()

    def end(self) -> None:
        """End this side without another message; what waits to leave still does. Idempotent."""
        if not self._send_ended and self._error is None:
            self._send_ended = True
            self._connection._machine.end(self.id)
            self._connection._pump.flush_soon()
            if self._recv_ended:
                self._connection._over(self)

    def reset(self, code: str, *, retryable: bool = False) -> None:
        """End the stream in both directions by an error; what arrived and wasn't read is dropped.

        Does nothing where the stream is over. Codes other than `geumgo._base.CODES` become `internal`.
        """
        self._connection._reset(self, code, retryable)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.reset("cancelled")

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def __repr__(self) -> str:
        if self._error is not None:
            state = self._error.code
        else:
            state = f"{'ended' if self._recv_ended else 'open'}/{'ended' if self._send_ended else 'open'}"
        return f"<Stream {self.id} {self.kind!r} in/out {state}, {len(self._messages)} unread>"

    # ---- the connection's side ---------------------------------------------------------------------

    def _push(self, data: bytes, price: int, held: int) -> None:
        self._messages.append((data, price, held))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _peer_ended(self) -> None:
        self._recv_ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._send_ended:
            self._connection._over(self)

    def _fail(self, error: ChannelError) -> None:
        """Make every waiting and later send, and receive where the peer hasn't ended, raise `error`."""
        if self._error is not None:
            return
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._senders:
            for sender in self._senders:
                if not sender.done():
                    sender.set_exception(error)
            self._senders.clear()

    def _left(self) -> None:
        """The oldest message that waited has left."""
        if self._senders:
            sender = self._senders.popleft()
            if not sender.done():
                sender.set_result(None)
