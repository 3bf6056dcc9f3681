"""Relays over socket pairs: every byte, half-close, back-pressure, failures, bounds."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from geumgo.vsock import RelayCounters, relay
from geumgo.vsock._relay import _SPARE_BUFFERS, RELAY_BUFFER, _spare


@dataclass
class Path:
    """client <-> a (relay) b <-> server"""

    client: socket.socket
    a: socket.socket
    b: socket.socket
    server: socket.socket
    counters: RelayCounters = field(default_factory=RelayCounters)

    def start(self, idle_timeout: float | None = None) -> asyncio.Task[None]:
        return asyncio.ensure_future(relay(self.a, self.b, counters=self.counters, idle_timeout=idle_timeout))


@pytest.fixture
def path() -> Iterator[Path]:
    client, a = socket.socketpair()
    b, server = socket.socketpair()
    for sock in (client, a, b, server):
        sock.setblocking(False)
    yield Path(client, a, b, server)
    for sock in (client, a, b, server):
        sock.close()


async def read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while part := await loop.sock_recv(sock, 65_536):
        parts.append(part)
    return b"".join(parts)


async def write_all(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)


async def test_every_byte_both_ways(path: Path) -> None:
    task = path.start()
    there, back = random.Random(1).randbytes(3 << 20), random.Random(2).randbytes(2 << 20)
    _, _, got_there, got_back = await asyncio.gather(
        write_all(path.client, there),
        write_all(path.server, back),
        read_all(path.server),
        read_all(path.client),
    )
    await task
    assert (got_there, got_back) == (there, back)
    assert path.counters == RelayCounters(len(there), len(back), 0)
    assert path.a.fileno() == path.b.fileno() == -1


async def test_half_close_passes_and_the_other_direction_goes_on(path: Path) -> None:
    task = path.start()
    await write_all(path.client, b"request")
    assert await read_all(path.server) == b"request"
    for index in range(5):
        await asyncio.get_running_loop().sock_sendall(path.server, b"%d" % index)
        assert await asyncio.get_running_loop().sock_recv(path.client, 10) == b"%d" % index
    path.server.close()
    assert await read_all(path.client) == b""
    await task


async def test_a_slow_receiver_slows_the_sender(path: Path) -> None:
    task = path.start()
    sent = 0
    quiet = 0
    while quiet < 50:  # turns of the loop in which nothing more could be sent
        try:
            sent += path.client.send(bytes(65_536))
            quiet = 0
        except BlockingIOError:
            quiet += 1
            await asyncio.sleep(0)
    assert sent < RELAY_BUFFER + 4 * 1024 * 1024
    assert path.counters.a_to_b < sent
    reading = asyncio.ensure_future(read_all(path.server))
    path.client.shutdown(socket.SHUT_WR)
    path.server.shutdown(socket.SHUT_WR)
    assert len(await reading) == sent
    await task


async def test_a_broken_connection_ends_both_directions(path: Path) -> None:
    task = path.start()
    path.server.close()
    await asyncio.get_running_loop().sock_sendall(path.client, b"x")
    await task
    assert path.a.fileno() == path.b.fileno() == -1


async def test_a_reset_is_counted_not_raised(path: Path) -> None:
    # Closing with unread bytes resets a Unix socket.
    await asyncio.get_running_loop().sock_sendall(path.b, b"unread")
    path.server.close()
    await path.start()
    assert path.counters.failed >= 1


async def test_idle_connections_are_cut(path: Path) -> None:
    await path.start(idle_timeout=0.03)
    assert path.counters.failed == 1
    assert await read_all(path.client) == b""


async def test_a_busy_direction_keeps_both(path: Path) -> None:
    task = path.start(idle_timeout=0.2)
    for _ in range(30):
        await asyncio.get_running_loop().sock_sendall(path.client, b"x")
        await asyncio.sleep(0.02)
        assert not task.done()
    path.client.shutdown(socket.SHUT_WR)
    path.server.shutdown(socket.SHUT_WR)
    await task
    assert path.counters.a_to_b == 30


async def test_cancelling_closes_both(path: Path) -> None:
    task = path.start()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert path.a.fileno() == path.b.fileno() == -1
    assert await read_all(path.client) == b""


async def test_buffers_are_reused_and_bounded() -> None:
    async def one() -> None:
        client, a = socket.socketpair()
        b, server = socket.socketpair()
        for sock in (client, a, b, server):
            sock.setblocking(False)
        task = asyncio.ensure_future(relay(a, b))
        await write_all(client, b"x")
        assert await read_all(server) == b"x"
        server.close()
        await task
        client.close()

    await asyncio.gather(*(one() for _ in range(20)))
    assert 1 <= len(_spare) <= _SPARE_BUFFERS
