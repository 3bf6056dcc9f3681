"""The asyncio side of a channel: calls, streams, handlers and the life of one connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from geumgo._base import CODES, GeumgoError
from geumgo.channel._control import ControlSlot
from geumgo.channel._deadlines import Deadlines
from geumgo.channel._errors import (
    ChannelBusy,
    ChannelClosed,
    ChannelError,
    DeadlineExceeded,
    StreamReset,
)
from geumgo.channel._events import Ended, Event, Failed, GoAway, Message, Opened, Pong, Ready, WasReset
from geumgo.channel._machine import ChannelMachine, Side
from geumgo.channel._metadata import EMPTY, Metadata
from geumgo.channel._pump import SocketPump
from geumgo.channel._settings import FLUSH_AT, MAX_PINGS, MessageBudget, Settings
from geumgo.channel._stream import Stream
from geumgo.channel._turns import Turns
from geumgo.channel._wire import Role

__all__ = ("Connection", "Handler")

Handler = Callable[[Stream], Awaitable[None]]
"""Serves one stream that the peer opened. A `GeumgoError` that it raises resets the stream with its code,
anything else with `internal`; it is cancelled when the stream or the connection goes."""

_DEADLINE = DeadlineExceeded().code
_MAX_TIMEOUT_S = 0xFFFF_FFFF // 1000
"""Longest deadline that OPEN can say: seven weeks."""


class Connection:
    """One channel. Made by :meth:`dial` or :meth:`accept`; closed by :meth:`aclose`.

    Attributes:
        role: what the connection may be used for, as granted.
        error: why the connection closed, or None.
    """

    def __init__(
        self,
        sock: socket.socket,
        side: Side,
        settings: Settings,
        handler: Handler | None,
        role: Role,
        control: ControlSlot | None,
        budget: MessageBudget | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._settings = settings
        self._control = control
        self._machine = ChannelMachine(side, settings, role=role, grant=self._grant, budget=budget)
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._answers: dict[int, Message] = {}  # whose end hasn't come with them
        self._streams: dict[int, Stream] = {}
        self._deadlines = Deadlines(self._loop, self._expired)
        self._turns = Turns(self._machine)
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._ping_count = 0
        self._idle: asyncio.Future[None] | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Event = asyncio.Event()
        self._closed = False
        self._goaway = ""
        self._pump = SocketPump(self._loop, sock, self._take, self._received, self._ended)
        self.error: ChannelClosed | None = None

    # ---- making and ending ---------------------------------------------------------------------------

    @classmethod
    async def dial(
        cls,
        sock: socket.socket,
        *,
        role: Role = Role.CALL,
        handler: Handler | None = None,
        settings: Settings | None = None,
        budget: MessageBudget | None = None,
    ) -> Connection:
        """Start a channel on a connected stream socket that this side dialled. Takes the socket over.

        Args:
            sock: any stream socket; it is made non-blocking, and closed with the connection.
            role: what to ask for; `connection.role` says what was granted.
            handler: serves streams that the peer opens (control role only).
            settings: limits of this side.
            budget: counts long messages, if several connections share a limit.

        Raises:
            ProtocolError: the peer doesn't speak the protocol.
            ChannelClosed: the connection closed, or the handshake took too long.
        """
        return await cls._start(sock, Side.DIAL, settings or Settings(), handler, role, None, budget)

    @classmethod
    async def accept(
        cls,
        sock: socket.socket,
        *,
        handler: Handler,
        control: ControlSlot | None = None,
        settings: Settings | None = None,
        budget: MessageBudget | None = None,
    ) -> Connection:
        """Start a channel on a connected stream socket that was accepted. Takes the socket over.

        Waits for the peer's HELLO, so a server runs this in a task of its own for each connection.

        Args:
            sock: any stream socket; it is made non-blocking, and closed with the connection.
            handler: serves the streams that the peer opens.
            control: the server's control role, if it has one to grant.
            settings: limits of this side.
            budget: counts long messages, if several connections share a limit.

        Raises:
            ProtocolError: the peer doesn't speak the protocol.
            ChannelClosed: the connection closed, or the handshake took too long.
        """
        return await cls._start(
            sock, Side.ACCEPT, settings or Settings(), handler, Role.CALL, control, budget
        )

    @classmethod
    async def _start(
        cls,
        sock: socket.socket,
        side: Side,
        settings: Settings,
        handler: Handler | None,
        role: Role,
        control: ControlSlot | None,
        budget: MessageBudget | None,
    ) -> Connection:
        sock.setblocking(False)
        connection = cls(sock, side, settings, handler, role, control, budget)
        connection._pump.flush_soon()
        try:
            async with asyncio.timeout(settings.handshake_timeout):
                await connection._ready
        except TimeoutError:
            connection._lose(ChannelClosed("the peer's HELLO did not come in time"))
            raise ChannelClosed("the peer's HELLO did not come in time") from None
        except BaseException:
            connection._lose(ChannelClosed("the connection was given up in its handshake"))
            raise
        return connection

    @property
    def role(self) -> Role:
        """What the connection may be used for, as granted."""
        return self._machine.role

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closed

    @property
    def draining(self) -> bool:
        """Whether either side refuses new streams."""
        return self._machine.draining or self._machine.peer_draining

    @property
    def in_flight(self) -> int:
        """Calls and streams that are not over, of both sides."""
        return len(self._calls) + len(self._streams)

    async def drain(self) -> None:
        """Refuse new streams in both directions (`draining`) and wait for those in flight.

        The connection stays open; close it afterwards.
        """
        if self._closed:
            return
        self._machine.drain()
        self._pump.flush_soon()
        while self.in_flight and not self._closed:
            if self._idle is None or self._idle.done():
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)

    async def aclose(self) -> None:
        """Close: calls in flight fail, handlers are cancelled, what was written still leaves. Idempotent."""
        if not self._closed:
            await self._pump.written(self._settings.close_timeout)
            self._lose(ChannelClosed("the connection was closed"))
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by whichever side, and its handlers have ended."""
        await self._gone.wait()
        tasks = {stream._task for stream in self._streams.values() if stream._task is not None}
        current = asyncio.current_task()
        tasks = {task for task in tasks if task is not current}
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "draining" if self.draining else "open"
        return f"<Connection {self.role.value} {state}, {self.in_flight} in flight>"

    # ---- calling -----------------------------------------------------------------------------------------

    async def call(
        self,
        kind: str,
        message: bytes = b"",
        *,
        metadata: Metadata = EMPTY,
        timeout: float | None = None,
    ) -> bytes:
        """Send one message on a stream of its own and return the one answer.

        Waits for its turn where the peer's limit of streams is reached. Cancelling it cancels the
        handler on the other side.

        Args:
            kind: what is wanted.
            message: at most the peer's `max_message` bytes.
            metadata: small facts beside the message.
            timeout: seconds; the peer is told, too.

        Raises:
            StreamReset: the peer refused or failed; `code` and `retryable` say how.
            DeadlineExceeded: the time is up.
            ChannelClosed: the connection is gone (`unavailable`) or takes no new calls (`draining`).
            ChannelBusy: too many callers wait.
            MessageTooLarge: message or metadata.
        """
        if type(message) is not bytes:
            message = bytes(message)
        machine = self._machine
        loop = self._loop
        when = None if timeout is None else loop.time() + min(timeout, _MAX_TIMEOUT_S)
        if self._turns or not machine.can_open:
            await self._turns.wait(when)
        number = machine.open(
            kind,
            metadata,
            deadline_ms=0 if when is None else self._left(when),
            message=message,
            end=True,
        )
        if machine.backlog >= FLUSH_AT:
            self._pump.flush()
        elif not self._pump.busy:
            self._pump.flush_soon()
        future: asyncio.Future[bytes] = loop.create_future()
        self._calls[number] = future
        if when is None:
            try:
                return await future
            except asyncio.CancelledError:
                self._abandon(number)
                raise
        tick = self._deadlines.add(number, when)
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon(number)
            raise
        finally:
            self._deadlines.discard(number, tick)

    async def open(self, kind: str, *, metadata: Metadata = EMPTY, timeout: float | None = None) -> Stream:
        """Open a stream of messages.

        Args:
            kind: what is wanted.
            metadata: small facts beside the messages.
            timeout: seconds until the stream must be over; both sides end it then.

        Raises:
            ChannelClosed, ChannelBusy, DeadlineExceeded, MessageTooLarge: as `call`.
        """
        when = None if timeout is None else self._loop.time() + min(timeout, _MAX_TIMEOUT_S)
        if self._turns or not self._machine.can_open:
            await self._turns.wait(when)
        number = self._machine.open(kind, metadata, deadline_ms=0 if when is None else self._left(when))
        self._pump.flush_soon()
        stream = Stream(self, number, kind, metadata, when)
        self._streams[number] = stream
        if when is not None:
            stream._tick = self._deadlines.add(number, when)
        return stream

    async def ping(self, timeout: float = 10.0) -> float:
        """Ask the peer for a sign of life and return the seconds that it took.

        Raises:
            ChannelClosed: the connection is gone.
            DeadlineExceeded: no answer in time.
            ChannelBusy: several pings are unanswered already.
        """
        if self._closed:
            raise self._why()
        if len(self._pings) >= MAX_PINGS:
            raise ChannelBusy("several pings have no answer yet")
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        future: asyncio.Future[None] = self._loop.create_future()
        self._pings[payload] = future
        self._machine.ping(payload)
        self._pump.flush_soon()
        start = self._loop.time()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._pings.pop(payload, None)
        return self._loop.time() - start

    def _left(self, when: float) -> int:
        """Return whole milliseconds until loop time `when`, at least one."""
        left = (when - self._loop.time()) * 1000
        if not left > 0:  # also where it is no number
            raise DeadlineExceeded
        return int(left) or 1

    def _abandon(self, number: int) -> None:
        if number in self._calls:
            self._machine.reset(number, "cancelled")
            self._end_call(number, StreamReset("cancelled"))
            self._pump.flush_soon()
            self._settle()

    def _expired(self, number: int) -> None:
        self._machine.reset(number, _DEADLINE, True)
        if number in self._calls:
            self._end_call(number, DeadlineExceeded())
        elif number in self._streams:
            self._drop(self._streams[number], DeadlineExceeded())
        self._pump.flush_soon()
        self._settle()

    # ---- for streams ---------------------------------------------------------------------------------------

    def _consumed(self, number: int, price: int, held: int) -> None:
        self._machine.consumed(number, price, held)
        if not self._pump.busy and self._machine.has_output:
            self._pump.flush_soon()

    def _reset(self, stream: Stream, code: str, retryable: bool) -> None:
        if stream._error is None and self._machine.is_open(stream.id):
            self._machine.reset(stream.id, code, retryable)
            self._pump.flush_soon()
            self._drop(stream, StreamReset(code if code in CODES else "internal", retryable))
        else:
            self._discard_messages(stream)

    def _drop(self, stream: Stream, error: ChannelError) -> None:
        """End a stream by an error of this side."""
        stream._fail(error)
        stream._recv_ended = False
        self._discard_messages(stream)
        self._end_handler(stream)
        self._over(stream)

    def _discard_messages(self, stream: Stream) -> None:
        while stream._messages:
            _, price, held = stream._messages.popleft()
            self._consumed(stream.id, price, held)

    def _end_handler(self, stream: Stream) -> None:
        task = stream._task
        if task is not None and task is not asyncio.current_task(self._loop):
            task.cancel()
            if not stream._started:
                # Its coroutine will never run, not even its finally.
                task.add_done_callback(lambda task: self._released(stream))

    def _over(self, stream: Stream) -> None:
        """Forget a stream if it is over in both directions; a handler's stays until it returns."""
        if (
            stream._task is None
            and not self._machine.is_open(stream.id)
            and self._streams.pop(stream.id, None) is not None
        ):
            if stream._tick:
                self._deadlines.discard(stream.id, stream._tick)
            self._settle()

    def _settle(self) -> None:
        """See to those who wait for fewer streams."""
        if self._turns:
            self._turns.admit()
        if self._idle is not None and not self.in_flight and not self._idle.done():
            self._idle.set_result(None)

    # ---- serving --------------------------------------------------------------------------------------------

    def _grant(self, wanted: Role) -> Role:
        if wanted is Role.CONTROL and self._control is not None and self._control.claim(self):
            return Role.CONTROL
        return Role.CALL

    def _on_opened(self, event: Opened) -> None:
        number = event.stream
        if self._handler is None:
            self._machine.reset(number, "unknown_operation")
            self._machine.consumed(number, event.cost)
            self._machine.release()
            return
        deadline = None
        if event.deadline_ms:
            deadline = self._loop.time() + event.deadline_ms / 1000
        stream = Stream(self, number, event.kind, event.metadata, deadline)
        if event.message is not None:
            stream._messages.append((event.message, event.cost, 0))
        stream._recv_ended = event.end
        self._streams[number] = stream
        if deadline is not None:
            stream._tick = self._deadlines.add(number, deadline)
        # Not loop.create_task: its name and source bookkeeping cost more than the rest.
        stream._task = asyncio.Task(self._serve(self._handler, stream), loop=self._loop, name="geumgo-stream")

    async def _serve(self, handler: Handler, stream: Stream) -> None:
        stream._started = True
        try:
            await handler(stream)
        except asyncio.CancelledError:
            self._reset(stream, "cancelled", False)
        except GeumgoError as error:
            self._reset(stream, error.code, error.retryable)
        except Exception:
            self._reset(stream, "internal", False)
        else:
            if not stream._send_ended:
                stream.end()
            if not stream._recv_ended:
                self._reset(stream, "cancelled", False)
        finally:
            self._released(stream)

    def _released(self, stream: Stream) -> None:
        """A handler is through with its stream."""
        if stream._messages:
            self._discard_messages(stream)
        if self._streams.pop(stream.id, None) is not None:
            self._machine.release()
            if stream._tick:
                self._deadlines.discard(stream.id, stream._tick)
            if self._idle is not None:
                self._settle()

    # ---- what arrives ------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        machine = self._machine
        calls = self._calls
        credit = 0
        for event in machine.receive(data):
            if type(event) is Message:
                number = event.stream
                future = calls.get(number)
                if future is None:
                    stream = self._streams.get(number)
                    if stream is None:
                        machine.consumed(number, event.cost, event.held)
                    else:
                        stream._push(event.data, event.cost, event.held)
                        if event.end:
                            stream._peer_ended()
                else:
                    if event.end and number not in self._answers:
                        del calls[number]
                        if not future.done():
                            future.set_result(event.data)
                        credit += event.cost
                        if event.held:
                            machine.consumed(0, 0, event.held)
                    else:
                        self._odd_answer(event)
            elif type(event) is Opened:
                self._on_opened(event)
            else:
                self._on_event(event)
        if credit:
            machine.consumed(0, credit)  # the streams of calls need none: they are over
        if not self._pump.busy and machine.has_output:
            self._pump.flush_soon()
        if self._turns or self._idle is not None:
            self._settle()

    def _ended(self, error: ChannelClosed) -> None:
        """The socket gives nothing more."""
        if self._goaway:
            error = ChannelClosed(f"{error.what} [{self._goaway}]")
        self._lose(error)

    def _odd_answer(self, event: Message) -> None:
        """An answer to a call whose end comes apart from it, or one too many."""
        if event.stream not in self._answers:
            self._answers[event.stream] = event
            return
        self._machine.consumed(event.stream, event.cost, event.held)
        self._machine.reset(event.stream, "cancelled")
        self._end_call(event.stream, StreamReset("internal"))

    def _end_call(self, number: int, error: ChannelError | None) -> None:
        """Finish a call by an error, or by the answer that is here already."""
        answer = self._answers.pop(number, None)
        if answer is not None:
            self._machine.consumed(number, answer.cost, answer.held)
        elif error is None:
            error = StreamReset("internal")  # the stream ended without an answer
        future = self._calls.pop(number, None)
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif answer is not None:
            future.set_result(answer.data)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Ended):
            if event.stream in self._calls:
                self._end_call(event.stream, None)
            elif event.stream in self._streams:
                self._streams[event.stream]._peer_ended()
        elif isinstance(event, WasReset):
            error = (
                DeadlineExceeded() if event.code == _DEADLINE else StreamReset(event.code, event.retryable)
            )
            stream = self._streams.get(event.stream)
            if stream is None:
                self._end_call(event.stream, error)
            else:
                stream._fail(error)
                self._end_handler(stream)
                self._over(stream)
        elif isinstance(event, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(event, Pong):
            waiter = self._pings.pop(event.payload, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif isinstance(event, GoAway):
            self._goaway = event.code
            self._settle()
        elif isinstance(event, Failed):
            self._pump.flush()
            self._lose(event.error)

    # ---- what leaves --------------------------------------------------------------------------------------------

    def _take(self) -> bytes:
        """Return what to write next, and tell senders whose message leaves with it."""
        machine = self._machine
        data = machine.take()
        for number in machine.sent():
            stream = self._streams.get(number)
            if stream is not None:
                stream._left()
                self._over(stream)
        if self._turns:
            self._turns.admit()
        return data

    def _why(self) -> ChannelClosed:
        error = self.error or ChannelClosed("the connection is closed")
        return type(error)(error.what, code=error.code, retryable=error.retryable)

    def _lose(self, error: ChannelClosed) -> None:
        """The connection is over: everything that waits fails, the socket closes."""
        if self._closed:
            return
        self._closed = True
        self.error = error
        self._pump.close()
        self._deadlines.clear()
        if self._control is not None:
            self._control.release(self)
        waiters: list[asyncio.Future[Any]] = [*self._calls.values(), *self._pings.values(), self._ready]
        self._calls.clear()
        self._answers.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(self._why())
        self._pings.clear()
        self._machine.close()
        for stream in list(self._streams.values()):
            stream._fail(self._why())
            self._end_handler(stream)
            self._over(stream)
        self._turns.close()
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        self._gone.set()
