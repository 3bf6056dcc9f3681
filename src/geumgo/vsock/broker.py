"""vsock for a sandboxed program: one descriptor to its launcher, over which connected sockets arrive.

The program may make no socket of its own. It asks the launcher to dial or to listen, and gets each
connection as a descriptor (SCM_RIGHTS): the very Unix socket whose other end is the peer, so that no byte
of a connection passes through the launcher.

* :class:`BrokerClient` is the program's end.
* :class:`BrokerServer` is the launcher's; the program is its adversary, so all that it keeps is bounded.

The packets are specified in `docs/process-sandbox.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable

from geumgo._base import GeumgoError
from geumgo.vsock._address import VMADDR_CID_ANY
from geumgo.vsock._broker_wire import BrokerError, Kind, Packet, receive, send
from geumgo.vsock._errors import ConnectFailed, ListenFailed, VsockError

__all__ = (
    "MAX_BACKLOG",
    "MAX_DIALS",
    "MAX_LISTENERS",
    "MAX_QUEUED",
    "BrokerClient",
    "BrokerError",
    "BrokerListener",
    "BrokerServer",
)

MAX_DIALS = 64
"""Attempts to connect that one program may have under way; the next is refused with EAGAIN."""
MAX_LISTENERS = 64
"""Ports that one program may listen on; the enclave's own program needs one."""
MAX_BACKLOG = 128
"""Connections that wait for accept(), a listener; the next is closed, as a full backlog does."""
MAX_QUEUED = 256
"""Packets that wait for a program that does not read; then new connections are closed."""
_MAX_BURST = 64  # packets read at one go, so that a flood leaves the loop's other work its turn


class _Pipe:
    """Packets both ways on one SEQPACKET socket; what does not fit waits in a bounded queue."""

    def __init__(
        self,
        sock: socket.socket,
        on_packet: Callable[[Packet, socket.socket | None], None],
        on_end: Callable[[BrokerError | None], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_packet = on_packet
        self._on_end = on_end
        self._queue: deque[tuple[Packet, socket.socket | None]] = deque()
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock.fileno(), self._readable)
        self.open = True

    def send(self, packet: Packet, passed: socket.socket | None = None) -> bool:
        """Send or queue a packet; `passed` is closed here in any case. False: it was dropped."""
        if not self.open or len(self._queue) >= MAX_QUEUED:
            if passed is not None:
                passed.close()
            return False
        self._queue.append((packet, passed))
        if len(self._queue) == 1:
            self._flush()
        return True

    def _flush(self) -> None:
        while self._queue:
            packet, passed = self._queue[0]
            try:
                send(self._sock, packet, passed)
            except (BlockingIOError, InterruptedError):
                self.loop.add_writer(self._sock.fileno(), self._flush)
                return
            except ConnectionError:
                self.close(None)
                return
            except OSError as error:
                if error.errno not in (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
                    self.close(BrokerError(f"the broker's socket broke ({error.strerror})"))
                    return
                # The kernel won't carry this one descriptor; its connection closes, the rest goes on.
            self._queue.popleft()
            if passed is not None:
                passed.close()
        if self.open:
            self.loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(_MAX_BURST):
            try:
                got = receive(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except BrokerError as error:
                self.close(error)
                return
            except ConnectionError:  # the other side ended with packets of ours unread
                got = None
            except OSError as error:
                self.close(BrokerError(f"the broker's socket broke ({error.strerror})"))
                return
            if got is None:
                self.close(None)
                return
            self._on_packet(*got)
            if not self.open:
                return

    def close(self, reason: BrokerError | None) -> None:
        """Stop; the socket itself stays open for its owner."""
        if not self.open:
            return
        self.open = False
        if not self.loop.is_closed():
            self.loop.remove_reader(self._sock.fileno())
            self.loop.remove_writer(self._sock.fileno())
        for _, passed in self._queue:
            if passed is not None:
                passed.close()
        self._queue.clear()
        self._on_end(reason)


class BrokerListener:
    """A port that the program listens on. Made by :meth:`BrokerClient.listen`."""

    def __init__(self, client: BrokerClient, port: int) -> None:
        self.port = port
        self._client = client
        self._waiting: deque[tuple[socket.socket, int | None]] = deque()
        self._arrived = asyncio.Event()
        self._closed: VsockError | None = None

    async def accept(self) -> tuple[socket.socket, int | None]:
        """Return the next connection, non-blocking, and its peer's CID where that is known.

        Raises:
            VsockError: the listener is closed, or the launcher is gone.
        """
        while not self._waiting:
            if self._closed is not None:
                raise self._closed
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Stop listening and close what nobody accepted. Idempotent."""
        self._client._unlisten(self)
        self._end(VsockError(f"the listener of port {self.port} is closed", code="closed", retryable=False))

    def _offer(self, sock: socket.socket, cid: int | None) -> None:
        if self._closed is not None or len(self._waiting) >= MAX_BACKLOG:
            sock.close()
            return
        self._waiting.append((sock, cid))
        self._arrived.set()

    def _end(self, reason: VsockError) -> None:
        if self._closed is None:
            self._closed = reason
            for sock, _ in self._waiting:
                sock.close()
            self._waiting.clear()
            self._arrived.set()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._waiting)} waiting"
        return f"<BrokerListener port {self.port} {state}>"


class BrokerClient:
    """The program's end. It belongs to the event loop that first uses it, and moves to the next one.

    A program has one such client for its descriptor (see :func:`geumgo.vsock.provider.provider`), since
    two would take each other's answers.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pipe: _Pipe | None = None
        self._pending: dict[int, asyncio.Future[socket.socket | None]] = {}
        self._listeners: dict[int, BrokerListener] = {}
        # An answer to an attempt of an earlier process image on this descriptor must not match ours.
        self._next_id = int.from_bytes(os.urandom(4), "big")

    @classmethod
    def from_fd(cls, fd: int) -> BrokerClient:
        """Return a client on a duplicate of `fd`, which stays open and untouched.

        Raises:
            BrokerError: `fd` is no SOCK_SEQPACKET Unix socket.
        """
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError as error:
            raise BrokerError(f"the broker's descriptor can't be used ({error.strerror})") from None
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
            sock.close()
            raise BrokerError("the broker's descriptor is no SOCK_SEQPACKET Unix socket")
        return cls(sock)

    async def connect(self, cid: int, port: int, *, timeout: float = 10.0) -> socket.socket:
        """Return a connected, non-blocking stream socket to `port` of `cid`.

        Args:
            cid: 3 or 2 is the parent; a sandboxed program reaches nobody else.
            port: vsock port.
            timeout: seconds.

        Raises:
            ConnectFailed: refused, or no answer in time.
            BrokerError: the launcher is gone.
        """
        try:
            async with asyncio.timeout(timeout):
                sock = await self._ask(Kind.DIAL, cid=cid, port=port)
        except TimeoutError:
            raise ConnectFailed(f"no answer from vsock:{cid}:{port} within {timeout:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"can't connect to vsock:{cid}:{port} ({error.strerror})") from None
        if sock is None:
            raise ConnectFailed(f"can't connect to vsock:{cid}:{port} (no descriptor left)")
        return sock

    async def listen(self, port: int, *, backlog: int = MAX_BACKLOG) -> BrokerListener:
        """Listen on `port`. `backlog` is there for likeness; :data:`MAX_BACKLOG` holds.

        Raises:
            ListenFailed: the port is taken, or there are too many listeners.
            BrokerError: the launcher is gone.
        """
        self._attach()
        if port in self._listeners:
            raise ListenFailed(f"port {port} is listened on already")
        # Before the answer: a connection may come right behind it.
        listener = self._listeners[port] = BrokerListener(self, port)
        try:
            await self._ask(Kind.LISTEN, port=port)
        except OSError as error:
            self._listeners.pop(port, None)
            raise ListenFailed(f"can't listen on vsock port {port} ({error.strerror})") from None
        except BaseException:
            listener.close()
            raise
        return listener

    def close(self) -> None:
        """Close the client's own descriptor and everything that waits. Idempotent."""
        if self._pipe is not None:
            self._pipe.close(None)
        self._sock.close()

    def _attach(self) -> _Pipe:
        loop = asyncio.get_running_loop()
        pipe = self._pipe
        if pipe is not None and pipe.loop is not loop:
            pipe.close(None)
            pipe = None
        if pipe is None:
            if self._sock.fileno() < 0:
                raise BrokerError("the broker's client is closed")
            pipe = self._pipe = _Pipe(self._sock, self._packet, self._ended)
        if not pipe.open:
            raise BrokerError("the launcher closed the broker's socket")
        return pipe

    async def _ask(self, kind: Kind, *, cid: int = 0, port: int) -> socket.socket | None:
        pipe = self._attach()
        self._next_id = id_ = (self._next_id + 1) & 0xFFFFFFFF
        answer: asyncio.Future[socket.socket | None] = pipe.loop.create_future()
        self._pending[id_] = answer
        try:
            if not pipe.send(Packet(kind, id_, cid, port)):
                raise BrokerError("the launcher does not read the broker's socket", retryable=True)
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                late = answer.result()  # it came in the same turn of the loop as the cancellation
                if late is not None:
                    late.close()
            elif kind is Kind.DIAL:
                pipe.send(Packet(Kind.CANCEL, id_))
            raise
        finally:
            self._pending.pop(id_, None)

    def _unlisten(self, listener: BrokerListener) -> None:
        if self._listeners.get(listener.port) is listener:
            del self._listeners[listener.port]
            if self._pipe is not None:
                self._pipe.send(Packet(Kind.UNLISTEN, port=listener.port))

    def _packet(self, packet: Packet, sock: socket.socket | None) -> None:
        if packet.kind is Kind.ACCEPTED:
            listener = self._listeners.get(packet.port)
            if sock is not None:
                if listener is None:
                    sock.close()
                else:
                    listener._offer(sock, None if packet.cid == VMADDR_CID_ANY else packet.cid)
            return
        answer = self._pending.get(packet.id)
        if answer is None or answer.done():  # given up meanwhile
            if sock is not None:
                sock.close()
        elif packet.kind is Kind.REFUSED:
            number = packet.error or errno.ECONNREFUSED
            answer.set_exception(OSError(number, os.strerror(number)))
        elif packet.from_program:
            answer.set_exception(BrokerError(f"the launcher sent a {packet.kind.name} packet"))
        else:
            answer.set_result(sock)

    def _ended(self, reason: BrokerError | None) -> None:
        error = reason or BrokerError("the launcher closed the broker's socket")
        for answer in self._pending.values():
            if not answer.done() and not answer.get_loop().is_closed():
                answer.set_exception(error)
        self._pending.clear()
        for listener in self._listeners.values():
            listener._end(error)
        self._listeners.clear()


Dial = Callable[[int, int], Awaitable[socket.socket]]
"""Connects the program to (CID, port); raises `OSError` or `GeumgoError` to refuse."""


class BrokerServer:
    """The launcher's end, on a running event loop.

    Args:
        sock: its end of the SEQPACKET pair; owned from here on.
        dial: carries out what the program dials.
    """

    def __init__(self, sock: socket.socket, dial: Dial) -> None:
        self._sock = sock
        self._dial = dial
        self._ports: set[int] = set()
        self._dials: dict[int, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pipe = _Pipe(sock, self._packet, self._end)

    @property
    def ports(self) -> frozenset[int]:
        """The ports that the program listens on."""
        return frozenset(self._ports)

    def offer(self, port: int, sock: socket.socket, cid: int = VMADDR_CID_ANY) -> bool:
        """Hand a connected socket to the program's listener of `port`; `sock` is ours in any case.

        Returns:
            False when nobody listens there or the program does not read: `sock` was closed.
        """
        if port not in self._ports:
            sock.close()
            return False
        return self._pipe.send(Packet(Kind.ACCEPTED, cid=cid, port=port), sock)

    async def wait_closed(self) -> None:
        """Wait until the program closed its end.

        Raises:
            BrokerError: the program broke the protocol; the server has stopped.
        """
        await asyncio.shield(self._ended)

    def close(self) -> None:
        """Stop and close the socket. Idempotent."""
        self._pipe.close(None)
        self._sock.close()

    def _end(self, reason: BrokerError | None) -> None:
        self._ports.clear()
        for task in self._dials.values():
            task.cancel()
        if not self._ended.done():
            if reason is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(reason)
                self._ended.exception()  # wait_closed() tells; nobody has to ask

    def _packet(self, packet: Packet, sock: socket.socket | None) -> None:
        if not packet.from_program:
            if sock is not None:
                sock.close()
            self._pipe.close(BrokerError(f"the program sent a {packet.kind.name} packet"))
        elif packet.kind is Kind.DIAL:
            self._start_dial(packet)
        elif packet.kind is Kind.LISTEN:
            self._listen(packet)
        elif packet.kind is Kind.UNLISTEN:
            self._ports.discard(packet.port)
        elif packet.id in self._dials:
            self._dials[packet.id].cancel()

    def _answer(self, packet: Packet, sock: socket.socket | None = None) -> None:
        if not self._pipe.send(packet, sock) and self._pipe.open:
            self._pipe.close(BrokerError("the program asks without reading the answers"))

    def _listen(self, packet: Packet) -> None:
        if packet.port in self._ports:
            self._answer(Packet(Kind.REFUSED, packet.id, error=errno.EADDRINUSE))
        elif len(self._ports) >= MAX_LISTENERS:
            self._answer(Packet(Kind.REFUSED, packet.id, error=errno.ENOBUFS))
        else:
            self._ports.add(packet.port)
            self._answer(Packet(Kind.LISTENING, packet.id, port=packet.port))

    def _start_dial(self, packet: Packet) -> None:
        if packet.id in self._dials or len(self._dials) >= MAX_DIALS:
            self._answer(Packet(Kind.REFUSED, packet.id, error=errno.EAGAIN))
            return
        task = asyncio.get_running_loop().create_task(self._carry_out(packet))
        self._dials[packet.id] = task
        task.add_done_callback(lambda _: self._dials.pop(packet.id, None))

    async def _carry_out(self, packet: Packet) -> None:
        try:
            sock = await self._dial(packet.cid, packet.port)
        except OSError as error:
            number = error.errno if error.errno is not None and 0 < error.errno < 4096 else 0
            self._answer(Packet(Kind.REFUSED, packet.id, error=number or errno.ETIMEDOUT))
        except GeumgoError:
            self._answer(Packet(Kind.REFUSED, packet.id, error=errno.ECONNREFUSED))
        else:
            self._answer(Packet(Kind.DIALLED, packet.id, packet.cid, packet.port), sock)

    async def aclose(self) -> None:
        """Stop, close the socket, and wait for what was being dialled to be given up."""
        self.close()
        tasks = tuple(self._dials.values())
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
