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
_PAUSE = 0.05  # seconds after a failed accept: the process is out of descriptors


class _Peer:
    """One connection as its streams' handlers see it; they may start before `accept` has returned."""

    def __init__(self) -> None:
        self.connection: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.attesting = 0


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
        self._settings = settings or Settings()
        self._slot = ControlSlot()
        self._connections: dict[Connection, asyncio.Task[None]] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._seal_statement: Statement | None = None
        self._admission = Admission(limits.in_flight, limits.in_flight_bytes)
        self._budget = MessageBudget(limits.arriving_bytes)
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

        Where there are too many, one that is idle makes room, so that connections which do nothing can't
        keep the manager out.
        """
        if self.stopping.is_set():
            sock.close()
            return
        if len(self._tasks) >= self._limits.connections:
            self._log.emit("connections_full", connections=len(self._tasks))
            idle = next((c for c in self._connections if c.role is Role.CALL and not c.in_flight), None)
            if idle is None:
                sock.close()
                return
            task = self._connections.pop(idle)
            self._tasks.discard(task)
            task.cancel()
        task = asyncio.create_task(self._connection(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, sock: socket.socket) -> None:
        peer = _Peer()
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
        peer.connection.set_result(connection)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            if connection.role is Role.CONTROL:
                await self._controlled(connection)
            else:
                await connection.wait_closed()
        finally:
            self._connections.pop(connection, None)
            await connection.aclose()

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
        try:
            match stream.kind:
                case "operation":
                    await self._operation(stream)
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
        if stream.unread or stream.remaining is not None:
            message = await stream.receive()  # where it waits, the channel sees to the deadline
        else:
            try:
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

    async def _operation(self, stream: Stream) -> None:
        name, sealed = stream.metadata.get("name"), stream.metadata.get("sealed", False)
        if not isinstance(name, str) or not isinstance(sealed, bool):
            raise Refused("malformed", "an operation stream needs a name, and a flag `sealed`")
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise Refused("unavailable")
        message: bytes | None = await self._first(stream)
        self._admission.enter(len(message))
        while message is not None:
            size = len(message)
            try:
                answer = await dispatcher.answer(name, message, sealed=sealed)
            finally:
                self._admission.leave(size)
            del message  # as large as the request; the answer may wait long for a slow reader
            if stream.ended:
                await stream.reply(answer)
                return
            await stream.send(answer)
            message = await stream.receive()
            if message is not None and stream.unread:
                # Whoever sends ahead is worked for ahead; one at a time, a task for each would cost the most.
                await self._many(stream, dispatcher, name, sealed, message)
                return
            if message is not None:
                await self._admission.wait(len(message))

    async def _many(
        self, stream: Stream, dispatcher: Dispatcher, name: str, sealed: bool, message: bytes | None
    ) -> None:
        """Answer the further messages of a stream in order, working on a few of them at a time."""

        async def work(request: bytes) -> bytes:
            await self._admission.wait(len(request))
            try:
                return await dispatcher.answer(name, request, sealed=sealed)
            finally:
                self._admission.leave(len(request))

        async def write() -> None:
            try:
                while (task := await answers.get()) is not None:
                    await stream.send(await task)
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
