"""The channel server inside the enclave: connections, streams, admission.

Everyone who reaches the port may attest, describe, and call; who holds the control role may shut down.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Mapping
from typing import Any

from geumgo import __version__
from geumgo._base import GeumgoError
from geumgo.attestation import Statement, Use
from geumgo.channel import Connection, ControlSlot, MessageBudget, Role, Settings, Stream
from geumgo.codec import cbor
from geumgo.enclave._admission import Admission
from geumgo.enclave._attester import Attester
from geumgo.enclave._control import ControlLink
from geumgo.enclave._dispatch import Dispatcher
from geumgo.enclave._errors import Refused
from geumgo.enclave._events import exception_name, word
from geumgo.enclave._limits import Limits
from geumgo.enclave._log import EventLog
from geumgo.enclave._startup import Lifecycle
from geumgo.keys import SUITE
from geumgo.vsock.provider import Accepting

__all__ = ("Server",)

_MAX_ATTEST = 1024  # bytes of an attest message: a nonce and a word
_SMALL_ANSWER = 2048  # bytes: what a waiting stream costs anyway, so such answers aren't counted
_PAUSE = 0.05  # seconds after a failed accept: the process is out of descriptors


class _Peer:
    """One connection as its streams' handlers see it; they may start before `accept` has returned."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.connection: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.task = task
        self.attesting = 0
        self.unread = 0
        """Bytes of answers that it has not taken."""
        self.moved = 0.0
        """When it last took one, or had none to take, in the loop's time."""
        self.given_up = False
        self.control = False
        """Whether it is the manager's; known once the connection is."""


class Server:
    """Serves one enclave.

    Args:
        pool: the pool's name.
        dispatcher: answers requests; None in an enclave whose configuration can't be used.
        operations: name → flags, as `describe` tells them.
        attester: makes evidence.
        control: told of the control connection.
        lifecycle: state and keys.
        log: drained by the control connection.
        limits: bounds.
    """

    def __init__(
        self,
        *,
        pool: str,
        dispatcher: Dispatcher | None,
        operations: Mapping[str, Mapping[str, bool]],
        attester: Attester,
        control: ControlLink,
        lifecycle: Lifecycle,
        log: EventLog,
        limits: Limits,
        settings: Settings | None = None,
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._operations = {name: dict(flags) for name, flags in operations.items()}
        self._attester = attester
        self._control = control
        self._lifecycle = lifecycle
        self._log = log
        self._limits = limits
        self._settings = settings or Settings(connection_window=limits.connection_window)
        self._slot = ControlSlot()
        self._connections: dict[Connection, asyncio.Task[None]] = {}  # oldest first
        self._greeting: dict[asyncio.Task[None], None] = {}  # without their HELLO, oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[_Peer] = set()
        self._streams = 0  # of peers other than the manager
        self._time = asyncio.get_running_loop().time
        self._seal_statement: Statement | None = None
        self._admission = Admission(limits.in_flight, limits.in_flight_bytes)
        self._budget = MessageBudget(limits.arriving_bytes)
        self.unread = 0
        """Bytes of answers that peers have not taken."""
        self.stopping = asyncio.Event()
        """Set when the parent asked for an end."""

    def __repr__(self) -> str:
        return (
            f"<Server {self._lifecycle.state.value}: {len(self._connections)} connections, "
            f"{self.in_flight} in flight>"
        )

    @property
    def in_flight(self) -> int:
        """Requests being worked on."""
        return self._admission.in_flight

    async def serve(self, listener: Accepting) -> None:
        """Accept connections until the listener closes."""
        while True:
            try:
                sock, _ = await listener.accept()
            except GeumgoError as error:
                if not error.retryable:
                    return
                await asyncio.sleep(_PAUSE)
                continue
            self.take(sock)

    def take(self, sock: socket.socket) -> None:
        """Serve one connection in the background.

        Where there are too many, one that is idle or has said nothing yet makes room, so that connections
        which do nothing can't keep the manager out.
        """
        if self.stopping.is_set():
            sock.close()
            return
        if len(self._tasks) >= self._limits.connections:
            self._log.emit("connections_full", connections=len(self._tasks))
            idle = next((c for c in self._connections if c.role is Role.CALL and not c.in_flight), None)
            useless = next(iter(self._greeting), None) if idle is None else self._connections.pop(idle)
            if useless is None:
                sock.close()
                return
            self._greeting.pop(useless, None)
            self._tasks.discard(useless)
            useless.cancel()
        task = asyncio.create_task(self._connection(sock))
        self._tasks.add(task)
        self._greeting[task] = None

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._greeting.pop(task, None)
            sock.close()  # of a task that never ran; else the connection has done it

        task.add_done_callback(ended)

    async def _connection(self, sock: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = _Peer(task)
        try:
            connection = await Connection.accept(
                sock,
                handler=functools.partial(self._stream, peer),
                control=self._slot,
                settings=self._settings,
                budget=self._budget,
            )
        except GeumgoError as error:
            peer.connection.cancel()
            self._log.emit("channel_refused", reason=word(error.code))
            return
        finally:
            self._greeting.pop(task, None)
        peer.connection.set_result(connection)
        peer.control = connection.role is Role.CONTROL
        self._connections[connection] = task
        self._peers.add(peer)
        try:
            if connection.role is Role.CONTROL:
                await self._controlled(connection)
            else:
                await connection.wait_closed()
        finally:
            self._connections.pop(connection, None)
            await connection.aclose()
            self._give_up(peer)

    async def _controlled(self, connection: Connection) -> None:
        self._control.gained(connection)
        self._log.emit("control_opened")
        pump = asyncio.create_task(self._pump(connection))
        try:
            await connection.wait_closed()
        finally:
            self._control.lost(connection)
            self._log.emit("control_lost")
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, connection: Connection) -> None:
        with contextlib.suppress(GeumgoError):  # the next control connection gets what is left
            stream = await connection.open("log")
            await self._log.pump(stream.send)
            stream.end()

    async def _stream(self, peer: _Peer, stream: Stream) -> None:
        counted = not peer.control
        if counted and self._streams >= self._limits.streams:
            raise Refused("busy")
        self._streams += counted
        try:
            match stream.kind:
                case "operation":
                    await self._operation(peer, stream)
                case "attest":
                    await self._attest(peer, stream)
                case "describe":
                    await self._first(stream)
                    await stream.reply(cbor.dumps(self.describe()))
                case "shutdown":
                    await self._shutdown(await peer.connection, stream)
                case _:
                    raise Refused("malformed", "this kind of stream is not known")
        except (GeumgoError, asyncio.CancelledError):
            raise
        except Exception as error:
            self._log.emit("internal_error", place="stream", exception=exception_name(error))
            raise Refused("internal") from None
        finally:
            self._streams -= counted

    def describe(self) -> dict[str, Any]:
        """Return what `describe` answers."""
        return {
            "pool": self._pool,
            "key_id": self._lifecycle.key_id,
            "state": self._lifecycle.state.value,
            "reason": self._lifecycle.reason,
            "in_flight": self.in_flight,
            "operations": self._operations,
            "version": __version__,
        }

    async def _first(self, stream: Stream) -> bytes:
        if stream.unread:
            message = await stream.receive()
        else:
            try:  # the peer chose the stream's deadline, if it has one, and may have chosen weeks
                async with asyncio.timeout(self._limits.first_message):
                    message = await stream.receive()
            except TimeoutError:
                raise Refused("deadline_exceeded") from None
        if message is None:
            raise Refused("malformed", "the stream ended without a message")
        return message

    async def _attest(self, peer: _Peer, stream: Stream) -> None:
        if peer.attesting >= self._limits.attest_waiting_per_connection:
            raise Refused("busy")
        peer.attesting += 1
        try:
            nonce, use = _asked(await self._first(stream))
            if use != Use.SEAL.value:
                raise Refused("invalid_request", "this enclave has keys for sealing only")
            document, statement = await self._attester.evidence(self._statement(), nonce)
            await stream.reply(cbor.dumps({"kind": "nitro", "document": document, "statement": statement}))
        finally:
            peer.attesting -= 1

    def _statement(self) -> Statement:
        pair = self._lifecycle.require()
        if self._seal_statement is None:
            self._seal_statement = self._attester.statement(Use.SEAL, SUITE, pair.public.raw)
        return self._seal_statement

    async def _shutdown(self, connection: Connection, stream: Stream) -> None:
        if connection.role is not Role.CONTROL:
            raise Refused("forbidden")
        await stream.reply(b"")
        self.stopping.set()

    async def _operation(self, peer: _Peer, stream: Stream) -> None:
        name, sealed = stream.metadata.get("name"), stream.metadata.get("sealed", False)
        if not isinstance(name, str) or not isinstance(sealed, bool):
            raise Refused("malformed", "an operation stream needs a name, and a flag `sealed`")
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise Refused("unavailable")
        growth = dispatcher.growth(name, sealed=sealed)
        first = stream.receive_nowait() if stream.unread else await self._first(stream)
        if peer.unread > self._limits.unread_bytes // 2:
            raise Refused("busy", "answers to earlier requests have not been taken")
        self._admission.enter(len(first) * growth)
        message: bytes | None = first
        del first
        while message is not None:
            size = len(message) * growth
            try:
                answer = await dispatcher.answer(name, message, sealed=sealed)
            finally:
                self._admission.leave(size)
            del message  # as large as the request; the answer may wait long for a slow reader
            last = stream.ended
            if len(answer) <= _SMALL_ANSWER:
                await (stream.reply(answer) if last else stream.send(answer))
            else:
                await self._deliver(peer, stream, answer, last=last)
            if last:
                return
            message = await stream.receive()
            if message is not None and stream.unread:
                # Whoever sends ahead is worked for ahead; one at a time, a task for each would cost the most.
                await self._many(peer, stream, dispatcher, name, sealed, message)
                return
            if message is not None:
                await self._admission.wait(len(message) * growth)

    async def _deliver(self, peer: _Peer, stream: Stream, answer: bytes, *, last: bool) -> None:
        size = len(answer)
        self._made(peer, size)
        try:
            await (stream.reply(answer) if last else stream.send(answer))
        finally:
            self._taken(peer, size)

    def _made(self, peer: _Peer, size: int) -> None:
        """Count an answer that waits to be taken; of too many, give up who has taken none for longest."""
        if not peer.unread:
            peer.moved = self._time()
        peer.unread += size
        if peer.given_up:
            return
        self.unread += size
        while self.unread > self._limits.unread_bytes:
            slow = [one for one in self._peers if one.unread and not one.control]
            if not slow:
                return  # the manager's alone, which gets no more work done by now
            slowest = min(slow, key=lambda one: one.moved)
            self._log.emit("answers_unread", bytes=slowest.unread)
            self._give_up(slowest)
            slowest.task.cancel()

    def _taken(self, peer: _Peer, size: int) -> None:
        peer.unread -= size
        peer.moved = self._time()
        if not peer.given_up:
            self.unread -= size

    def _give_up(self, peer: _Peer) -> None:
        """Count for a peer no more: it is gone, or soon will be."""
        self._peers.discard(peer)
        if not peer.given_up:
            peer.given_up = True
            self.unread -= peer.unread

    async def _many(
        self,
        peer: _Peer,
        stream: Stream,
        dispatcher: Dispatcher,
        name: str,
        sealed: bool,
        message: bytes | None,
    ) -> None:
        """Answer the further messages of a stream in order, working on a few of them at a time."""
        growth = dispatcher.growth(name, sealed=sealed)
        waiting = 0  # bytes of answers that are made and not sent

        async def work(request: bytes) -> bytes:
            nonlocal waiting
            size = len(request) * growth
            await self._admission.wait(size)
            try:
                answer = await dispatcher.answer(name, request, sealed=sealed)
            finally:
                self._admission.leave(size)
            if len(answer) > _SMALL_ANSWER:
                waiting += len(answer)
                self._made(peer, len(answer))
            return answer

        def taken(size: int) -> None:
            nonlocal waiting
            waiting -= size
            self._taken(peer, size)

        async def write() -> None:
            try:
                while (task := await answers.get()) is not None:
                    answer = await task
                    await stream.send(answer)
                    if len(answer) > _SMALL_ANSWER:
                        taken(len(answer))
            except GeumgoError as error:
                stream.reset(error.code, retryable=error.retryable)  # which cancels the reader
            except Exception as error:
                self._log.emit("internal_error", place="stream", exception=exception_name(error))
                stream.reset("internal")

        def forget(task: asyncio.Task[bytes]) -> None:
            tasks.discard(task)
            if not task.cancelled():
                task.exception()  # seen, even where an earlier answer's failure ended the stream

        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(self._limits.read_ahead)
        tasks: set[asyncio.Task[bytes]] = set()
        writer = asyncio.create_task(write())
        try:
            while message is not None:
                task = asyncio.create_task(work(message))
                tasks.add(task)
                task.add_done_callback(forget)
                await answers.put(task)
                message = await stream.receive()
            await answers.put(None)
            await writer
        finally:
            left = [writer, *tasks]
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            if waiting:
                taken(waiting)

    async def stop(self) -> int:
        """Refuse new connections and streams, finish what is in flight, close; return what was cut off."""
        self.stopping.set()
        self._log.emit("draining", in_flight=self.in_flight)
        drains = [asyncio.create_task(connection.drain()) for connection in self._connections]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain):
                await self._admission.idle()
        left = self.in_flight
        self._log.emit("stopped", in_flight=left)
        self._log.close()  # ends the log stream once it is empty; a drain waits for that too
        if drains:
            await asyncio.wait(drains, timeout=self._limits.farewell)
        for drain in drains:
            drain.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return left


def _asked(message: bytes) -> tuple[bytes, str]:
    try:
        question = cbor.loads(message, max_size=_MAX_ATTEST, max_depth=2)
    except GeumgoError:
        question = None
    match question:
        case {"nonce": bytes(nonce), "use": str(use)} if len(question) == 2:
            return nonce, use
    raise Refused("malformed", "an attest message is a map of nonce and use")
