"""The HTTP edge: sockets around :class:`HttpRoutes`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from pathlib import Path

from geumgo._base import GeumgoError
from geumgo.api._backend import Backend
from geumgo.api._budget import ByteBudget
from geumgo.api._errors import ApiError
from geumgo.api._http_connection import HttpConnection
from geumgo.api._http_message import Request, Response, http_date
from geumgo.api._http_routes import HttpRoutes
from geumgo.api._log import JsonLog
from geumgo.api._metrics import EdgeMetrics
from geumgo.api._settings import ApiSettings

__all__ = ("HttpServer", "ListenError")

SWEEP_SECONDS = 0.25
"""How often late connections are looked for; the shortest timeout is two seconds."""

BACKLOG = 1024
"""Connections that the kernel keeps for us; the kernel caps it with net.core.somaxconn."""

WRITE_HIGH_WATER = 256 << 10
"""Bytes of answers that a client may leave unread before its next request waits."""


_COUNTED = ("operation", "attestation")


class ListenError(GeumgoError):
    """Raised when an address can't be listened on."""

    code = "cannot_listen"


class HttpServer:
    """Serves the enclave API over HTTP/1.1 on any number of TCP addresses and Unix sockets.

    Args:
        backend: what answers.
        settings: limits and times.
        metrics: counters; a server with two edges passes the same to both.
        log: request log, or None for silence.
        budget: bytes of bodies; a server with two edges passes the same to both.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        settings: ApiSettings | None = None,
        metrics: EdgeMetrics | None = None,
        log: JsonLog | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        self.settings = settings or ApiSettings()
        self.metrics = metrics or EdgeMetrics()
        self.routes = HttpRoutes(backend, self.settings, self.metrics)
        self.draining = False
        self.date = http_date()
        self._log = log
        self._budget = budget or ByteBudget(self.settings.max_bytes)
        self._connections: set[HttpConnection] = set()
        self._servers: list[tuple[asyncio.Server, int]] = []
        self._paths: list[Path] = []
        self._active = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._sweeper: asyncio.Task[None] | None = None
        self.metrics.watch("http", lambda: self._active, lambda: len(self._connections))

    async def listen_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on `host` and `port` (0: any free one); return what was bound.

        SO_REUSEPORT is set: several gateways may share a port, the kernel spreads connections over them.

        Raises:
            ListenError: the address can't be bound.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            listener.close()
            raise ListenError(
                f"Can't listen on {host} port {port}: {error}", fix="Choose another address or port"
            ) from None
        await self._serve(listener)
        bound = listener.getsockname()
        return bound[0], bound[1]

    async def listen_unix(self, path: Path, *, mode: int = 0o660) -> None:
        """Listen on a Unix socket at `path`, which nobody else may be serving.

        Raises:
            ListenError: another process serves `path`, or it can't be bound.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            before = os.umask(0o777 & ~mode)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
        except OSError as error:
            listener.close()
            raise ListenError(f"Can't listen on {path}: {error}", fix="Choose another path") from None
        self._paths.append(path)
        await self._serve(listener)

    async def _serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        keep = os.dup(listener.fileno())  # see stop_listening
        server = await loop.create_server(lambda: HttpConnection(self), sock=listener, backlog=BACKLOG)
        self._servers.append((server, keep))
        if self._sweeper is None:
            self._sweeper = loop.create_task(self._sweep())

    async def stop_listening(self) -> None:
        """Close the listening sockets and serve what the kernel had accepted for us, so that nothing is reset."""
        loop = asyncio.get_running_loop()
        for server, descriptor in self._servers:
            server.close()
            with socket.socket(fileno=descriptor) as listener:
                listener.setblocking(False)
                while True:
                    try:
                        accepted, _ = listener.accept()
                    except OSError:
                        break
                    accepted.setblocking(False)
                    with contextlib.suppress(OSError):
                        await loop.connect_accepted_socket(lambda: HttpConnection(self), accepted)
        self._servers.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()

    def begin_drain(self) -> None:
        """From now on each answer closes its connection; new connections are still served."""
        self.draining = True

    async def drain(self, timeout: float) -> bool:
        """Stop listening, answer what was begun, close the rest; return whether all was answered in time."""
        self.draining = True
        await self.stop_listening()
        for connection in self._connections:
            connection.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout)
        done = all(connection.idle for connection in self._connections)
        await self.aclose()
        return done

    async def aclose(self) -> None:
        """Stop at once: unanswered requests are cancelled, connections aborted."""
        self.draining = True
        await self.stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        answers = [connection.abort() for connection in list(self._connections)]
        await self._empty.wait()
        tasks = [task for task in answers if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.date = http_date()
            now = time.monotonic()
            for connection in [c for c in self._connections if c.late(now)]:
                connection.expire(now)
            for connection in self._connections:
                connection.count_unread()

    # What connections call.

    def connected(self, connection: HttpConnection) -> bool:
        """Take note of `connection`; return False where it is one too many."""
        self._connections.add(connection)
        self._empty.clear()
        return len(self._connections) <= self.settings.max_connections

    def disconnected(self, connection: HttpConnection) -> None:
        """Forget `connection`."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def admit(self, request: Request) -> None:
        """Take `request` in, unless the server has its hands full; pages about the server are always answered.

        Raises:
            ApiError: busy.
        """
        if request.route not in _COUNTED:
            return
        if self._active >= self.settings.max_requests:
            raise ApiError("The server answers as many requests as it may", code="busy")
        request.admitted = True
        self._active += 1

    def take(self, request: Request, size: int) -> bool:
        """Count `size` bytes of a body; False where that is over the limit."""
        if not self._budget.take(size):
            return False
        request.held += size
        return True

    def count_unread(self, more: int) -> None:
        """Count bytes of answers that clients do not read (less, where negative) with those of bodies."""
        self._budget.count(more)

    def release(self, request: Request) -> None:
        """Give back what `request` holds; doing so twice is harmless."""
        if request.held:
            self._budget.give(request.held)
            request.held = 0
        if request.admitted:
            request.admitted = False
            self._active -= 1

    def answered(self, request: Request, response: Response) -> None:
        """Count and log an answer that was written."""
        self._observe(request, response.code, len(response.body))

    def abandoned(self, request: Request) -> None:
        """Count and log a request whose client has gone."""
        self._observe(request, "cancelled", 0)

    def _observe(self, request: Request, code: str, size_out: int) -> None:
        self.release(request)
        size_in = request.size
        seconds = time.monotonic() - request.started
        self.metrics.observe("http", request.route, code, seconds, size_in, size_out)
        log = self._log
        if log is not None and (self.settings.log_requests or code != "ok"):
            log.request(
                edge="http",
                request_id=request.request_id,
                route=request.route,
                operation=request.operation,
                code=code,
                seconds=seconds,
                size_in=size_in,
                size_out=size_out,
            )


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that is gone."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError("something that is not a socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError("another process serves it")
