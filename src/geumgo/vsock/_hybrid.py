"""The enclave's end of hybrid vsock: a Unix socket that answers ``CONNECT <port>``.

Firecracker, Cloud Hypervisor and vhost-device-vsock serve such a socket themselves; launchers that have
no such thing use this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from geumgo._base import GeumgoError
from geumgo.vsock._address import Address
from geumgo.vsock._dial import MAX_HANDSHAKE_LINE
from geumgo.vsock._errors import VsockError
from geumgo.vsock._io import recv_line
from geumgo.vsock._listen import Listener, bind_unix, unlink_unix
from geumgo.vsock._relay import RelayCounters, relay

__all__ = ("HANDSHAKE_TIMEOUT_S", "MAX_CONNECTIONS", "HandOver", "HybridServer")

HANDSHAKE_TIMEOUT_S = 5.0
"""Seconds in which a client must have sent its CONNECT line; it sends it at once."""
MAX_CONNECTIONS = 1024
"""Connections that one server handles at once, handshakes and relays together; two descriptors each."""

_CONNECT = re.compile(rb"CONNECT (0|[1-9][0-9]{0,9})\n\Z")
_FIRST_LOCAL_PORT = 1 << 30  # where Firecracker's numbering begins too
_ACCEPT_PAUSE_S = 0.1  # after running out of descriptors

HandOver = Callable[[socket.socket], Awaitable[None]]
"""Takes a client's connected, non-blocking socket whose handshake is done, and owns it from then on."""


class HybridServer:
    """Serves one enclave's hybrid vsock socket.

    Args:
        path: where to listen.
        on_connect: asked for each connection with the port that the client wants. It returns a connected
            non-blocking socket (the server answers OK and relays between the two), a :data:`HandOver`
            (the server answers OK and passes the client's socket on), or None (refused: the client's
            connection closes without OK). A :class:`GeumgoError` that it raises refuses too.
        counters: where relayed bytes are counted (a = client, b = enclave).
    """

    def __init__(
        self,
        path: Path,
        on_connect: Callable[[int], Awaitable[socket.socket | HandOver | None]],
        *,
        counters: RelayCounters | None = None,
        backlog: int = 128,
    ) -> None:
        self.path = path
        self.counters = RelayCounters() if counters is None else counters
        self.refused = 0
        self._on_connect = on_connect
        self._backlog = backlog
        self._listener: Listener | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[socket.socket] = set()  # whose handshake isn't done
        self._inode = (0, 0)
        self._local_port = _FIRST_LOCAL_PORT

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            ListenFailed: the path is taken or can't be written.
        """
        sock, self._inode = bind_unix(str(self.path), self._backlog)
        self._listener = Listener(sock, Address.hybrid(self.path.absolute(), 0))
        self._accepting = asyncio.create_task(self._accept(self._listener))

    async def close(self) -> None:
        """Stop serving: no new connections, and those that are relayed are cut. Idempotent."""
        if self._listener is None or self._accepting is None:
            return
        self._listener.close()
        tasks = {self._accepting, *self._tasks}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients:  # of tasks that never ran
            client.close()
        self._clients.clear()
        unlink_unix(str(self.path), self._inode)
        self._listener = self._accepting = None

    async def __aenter__(self) -> HybridServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._listener is None else f"{len(self._tasks)} connections"
        return f"<HybridServer {self.path} {state}>"

    async def _accept(self, listener: Listener) -> None:
        while True:
            try:
                sock, _ = await listener.accept()
            except VsockError as error:
                if not error.retryable:
                    return
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(self._tasks) >= MAX_CONNECTIONS:
                self.refused += 1
                sock.close()
                continue
            self._clients.add(sock)
            task = asyncio.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                line = await recv_line(client, MAX_HANDSHAKE_LINE)
            port = _port_of(line)
            target = None if port is None else await self._on_connect(port)
            if target is None:
                self.refused += 1
                client.close()
                return
            await self._answer(client, target)
        except (OSError, GeumgoError):  # a timeout is an OSError
            self.refused += 1
            client.close()
        except BaseException:
            client.close()
            raise
        finally:
            self._clients.discard(client)

    async def _answer(self, client: socket.socket, target: socket.socket | HandOver) -> None:
        self._local_port = self._local_port + 1 if self._local_port < 0x7FFFFFFF else _FIRST_LOCAL_PORT
        try:
            await asyncio.get_running_loop().sock_sendall(client, b"OK %d\n" % self._local_port)
        except BaseException:
            if isinstance(target, socket.socket):
                target.close()
            raise
        self._clients.discard(client)
        if isinstance(target, socket.socket):
            await relay(client, target, counters=self.counters)
        else:
            with contextlib.suppress(GeumgoError):
                await target(client)


def _port_of(line: bytes | None) -> int | None:
    """Return the port of a CONNECT line, or None if it isn't one."""
    found = _CONNECT.match(line) if line else None
    port = int(found[1]) if found else -1
    return port if 0 <= port <= 0xFFFFFFFF else None
