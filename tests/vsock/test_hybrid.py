"""The enclave's end of hybrid vsock, spoken to by the client and by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from geumgo._base import GeumgoError
from geumgo.vsock import Address, ConnectFailed, HandOver, HybridServer, ListenFailed, _hybrid, connect

Start = Callable[..., Awaitable[HybridServer]]


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    servers: list[HybridServer] = []

    async def make(on_connect: Callable[[int], Awaitable[socket.socket | HandOver | None]]) -> HybridServer:
        server = HybridServer(folder / "v", on_connect)
        await server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        await server.close()


async def by_hand(folder: Path, line: bytes, *, end: bool = True) -> bytes:
    """Send a line and return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(str(folder / "v"))
    try:
        writer.write(line)
        if end:
            writer.write_eof()
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


class Enclave:
    """Something to connect to: port 7 echoes through a relay, port 8 takes the socket itself."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, port: int) -> socket.socket | HandOver | None:
        self.asked.append(port)
        if port == 7:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            task = asyncio.ensure_future(self.echo(theirs))
            self.tasks.add(task)
            return ours
        if port == 8:
            return self.echo
        if port == 9:
            raise GeumgoError("no", code="busy")
        return None

    async def echo(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            while data := await loop.sock_recv(sock, 4096):
                await loop.sock_sendall(sock, data)


@pytest.mark.parametrize("port", [7, 8])
async def test_connect_and_talk(start: Start, folder: Path, port: int) -> None:
    server = await start(Enclave())
    loop = asyncio.get_running_loop()
    with closing(await connect(Address.hybrid(folder / "v", port))) as sock:
        for content in (b"a", b"b" * 3000):
            await loop.sock_sendall(sock, content)
            got = b""
            while len(got) < len(content):
                got += await loop.sock_recv(sock, 4096)
            assert got == content
        sock.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(sock, 10) == b""
    if port == 7:
        assert (server.counters.a_to_b, server.counters.b_to_a) == (3001, 3001)


async def test_bytes_behind_the_line_belong_to_the_stream(start: Start, folder: Path) -> None:
    await start(Enclave())
    for port in (7, 8):
        answer = await by_hand(folder, b"CONNECT %d\nearly" % port)
        ok, _, rest = answer.partition(b"\n")
        assert ok.startswith(b"OK ")
        assert ok[3:].isdigit()
        assert rest == b"early"


@pytest.mark.parametrize("port", [9, 10])
async def test_nobody_listens(start: Start, folder: Path, port: int) -> None:
    server = await start(Enclave())
    with pytest.raises(ConnectFailed):
        await connect(Address.hybrid(folder / "v", port))
    assert server.refused == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"CONNECT\n",
        b"CONNECT \n",
        b"CONNECT x\n",
        b"CONNECT -7\n",
        b"CONNECT +7\n",
        b"CONNECT 07\n",
        b"CONNECT 7 \n",
        b"CONNECT  7\n",
        b"connect 7\n",
        b"CONNECT 7\r\n",
        b"CONNECT 4294967296\n",
        b"CONNECT 99999999999999999999\n",
        b"CONNECT 7",
        b"X" * 32,
        b"X" * 100_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
    ],
)
async def test_malformed_lines_are_refused(start: Start, folder: Path, line: bytes) -> None:
    enclave = Enclave()
    await start(enclave)
    assert await by_hand(folder, line) == b""
    assert enclave.asked == []


async def test_silence_is_refused_in_time(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hybrid, "HANDSHAKE_TIMEOUT_S", 0.03)
    server = await start(Enclave())
    assert await by_hand(folder, b"CONNECT ", end=False) == b""
    assert server.refused == 1


async def test_too_many_connections_are_refused(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hybrid, "MAX_CONNECTIONS", 2)
    server = await start(Enclave())
    address = Address.hybrid(folder / "v", 7)
    with closing(await connect(address)), closing(await connect(address)):
        assert "2 connections" in repr(server)
        with pytest.raises(ConnectFailed):
            await connect(address)


async def test_a_client_that_goes_before_its_answer(start: Start, folder: Path) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    ours, theirs = socket.socketpair()

    async def slow(port: int) -> socket.socket:
        entered.set()
        await release.wait()
        return ours

    server = await start(slow)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(folder / "v"))
    client.sendall(b"CONNECT 7\n")
    await entered.wait()
    client.close()
    release.set()
    while server._tasks:
        await asyncio.sleep(0.001)
    assert ours.fileno() == -1
    theirs.close()


async def test_closing_cuts_and_removes_the_file(start: Start, folder: Path) -> None:
    server = await start(Enclave())
    with closing(await connect(Address.hybrid(folder / "v", 7))) as sock:
        await server.close()
        await server.close()
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    assert not (folder / "v").exists()
    assert "closed" in repr(server)


async def test_the_path_is_taken(start: Start, folder: Path) -> None:
    await start(Enclave())
    with pytest.raises(ListenFailed):
        await HybridServer(folder / "v", Enclave()).start()


async def test_many_at_once(start: Start, folder: Path) -> None:
    enclave = Enclave()
    await start(enclave)
    loop = asyncio.get_running_loop()

    async def one(index: int) -> None:
        with closing(await connect(Address.hybrid(folder / "v", 7 + index % 2))) as sock:
            await loop.sock_sendall(sock, b"%d" % index)
            assert await loop.sock_recv(sock, 10) == b"%d" % index

    async with asyncio.TaskGroup() as group:
        for index in range(100):
            group.create_task(one(index))
    await asyncio.gather(*enclave.tasks)
