"""Sockets: TCP, Unix, shared ports, crowds, drain."""

from __future__ import annotations

import asyncio
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geumgo.api import ApiSettings, HttpServer, ListenError


async def test_a_unix_socket_answers_like_tcp(stack: Any) -> None:
    server = await stack.serve()
    path = stack.folder / "enclave.sock"
    await server.listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    client = await stack.client(path)
    client.post("echo", b"abc")
    assert (await client.answer()).body == b"abc"
    await server.aclose()
    assert not path.exists()


async def test_a_socket_that_someone_serves_is_left_alone(stack: Any) -> None:
    server = await stack.serve()
    path = stack.folder / "enclave.sock"
    await server.listen_unix(path)
    second = HttpServer(stack.backend)
    with pytest.raises(ListenError, match="another process serves it"):
        await second.listen_unix(path)
    client = await stack.client(path)
    client.get("/livez")
    assert (await client.answer()).status == 200


async def test_a_socket_left_behind_is_taken_over(stack: Any) -> None:
    path = stack.folder / "enclave.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = await stack.serve()
    await server.listen_unix(path)
    client = await stack.client(path)
    client.get("/livez")
    assert (await client.answer()).status == 200


async def test_a_file_in_the_way_is_not_removed(stack: Any) -> None:
    path = stack.folder / "file"
    path.write_text("mine")
    with pytest.raises(ListenError, match="not a socket"):
        await HttpServer(stack.backend).listen_unix(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("nonsense", 0), ("127.0.0.1", 70000)])
async def test_an_address_that_is_not_ours_is_a_clear_error(stack: Any, host: str, port: int) -> None:
    with pytest.raises(ListenError, match="Can't listen"):
        await HttpServer(stack.backend).listen_tcp(host, port)


async def test_ipv6_where_the_machine_has_it(stack: Any) -> None:
    server = HttpServer(stack.backend)
    try:
        address = await server.listen_tcp("::1", 0)
    except ListenError:
        pytest.skip("no IPv6 on the loopback interface")
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await server.aclose()


async def test_two_servers_share_a_port(stack: Any) -> None:
    await stack.serve()
    second = HttpServer(stack.backend)
    assert await second.listen_tcp(*stack.address) == stack.address
    for _ in range(10):
        client = await stack.client()
        client.post("echo", b"abc")
        assert (await client.answer()).body == b"abc"
    await second.aclose()
    client = await stack.client()
    client.post("echo", b"abc")
    assert (await client.answer()).body == b"abc"


async def test_a_thousand_clients_at_once(stack: Any) -> None:
    server = await stack.serve()

    async def one(number: int) -> bytes:
        reader, writer = await asyncio.open_connection(*stack.address)
        body = b"%d" % number
        writer.write(b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        answer = await reader.readexactly(len(body))
        writer.close()
        return answer

    answers = await asyncio.gather(*(one(number) for number in range(1000)))
    assert answers == [b"%d" % number for number in range(1000)]
    assert server._budget.used == 0


async def test_a_connection_too_many_is_told_so(stack: Any) -> None:
    await stack.serve(max_connections=2)
    clients = [await stack.client() for _ in range(2)]
    for client in clients:
        client.get("/livez")
        assert (await client.answer()).status == 200
    third = await stack.client()
    answer = await third.answer()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert int(answer.headers["retry-after"]) >= 1
    assert await third.ended() == b""
    clients[0].get("/livez")
    assert (await clients[0].answer()).status == 200


async def test_drain_finishes_what_was_begun_and_closes_what_is_idle(stack: Any) -> None:
    server = await stack.serve()
    idle = await stack.client()
    idle.get("/livez")
    await idle.answer()
    busy = await stack.client()
    busy.post("wait", b"abc")
    await stack.backend.entered.wait()
    draining = asyncio.create_task(server.drain(10))
    assert await idle.ended() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*stack.address)
    stack.backend.release.set()
    answer = await busy.answer()
    assert (answer.body, answer.headers["connection"]) == (b"abc", "close")
    assert await busy.ended() == b""
    assert await draining is True


async def test_an_idle_connection_may_still_ask_once_while_the_server_drains(stack: Any) -> None:
    server = await stack.serve()
    client = await stack.client()
    client.get("/livez")
    await client.answer()
    server.begin_drain()
    draining = asyncio.create_task(server.drain(10))
    client.post("echo", b"late")
    answer = await client.answer()
    assert (answer.body, answer.headers["connection"]) == (b"late", "close")
    await client.aclose()
    assert await draining is True


async def test_drain_gives_up_after_its_time(stack: Any) -> None:
    server = await stack.serve()
    client = await stack.client()
    client.post("wait", b"")
    await stack.backend.entered.wait()
    assert await server.drain(0.1) is False
    assert stack.backend.cancelled.is_set()


async def test_connections_in_the_kernels_queue_are_served_when_listening_stops(stack: Any) -> None:
    server = await stack.serve()
    # These connect while the loop runs nothing, so the kernel has accepted them and the server has not.
    early = [socket.create_connection(stack.address) for _ in range(5)]
    for sock in early:
        sock.sendall(b"POST /v1/operations/echo HTTP/1.1\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi")
        sock.setblocking(False)
    assert await server.drain(10) is True
    for sock in early:
        sock.setblocking(True)
        data = b""
        while chunk := sock.recv(4096):
            data += chunk
        assert data.endswith(b"\r\n\r\nhi")
        sock.close()


async def test_closing_at_once_cancels_and_empties(stack: Any) -> None:
    server = await stack.serve()
    client = await stack.client()
    client.post("wait", b"abc")
    await stack.backend.entered.wait()
    await server.aclose()
    assert stack.backend.cancelled.is_set()
    assert server._budget.used == 0
    await server.aclose()


FOOTPRINT = """
import asyncio, sys
from geumgo.api import HttpServer, configure_logging
class Backend:
    async def call(self, call, body): return body
    def ready(self): return None
async def main():
    server = HttpServer(Backend(), log=configure_logging("manager"))
    address = await server.listen_tcp("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(200):
        writer.write(b"POST /v1/operations/echo HTTP/1.1\\r\\ncontent-length: 1024\\r\\n\\r\\n" + bytes(1024))
        await reader.readuntil(b"\\r\\n\\r\\n")
        await reader.readexactly(1024)
    with open("/proc/self/status") as status:
        rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    print(rss, *sorted(m for m in sys.modules if m in ("grpc", "starlette", "uvicorn", "structlog", "pydantic")))
    writer.close()
    await server.aclose()
asyncio.run(main())
"""


def test_the_edge_leaves_a_manager_room_in_its_48_megabytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOOTPRINT], capture_output=True, text=True, check=True, timeout=50
    )
    rss, *heavy = done.stdout.split()
    assert heavy == []
    assert int(rss) < 40 * 1024


def test_settings_are_what_the_server_uses(backend: Any) -> None:
    assert HttpServer(backend, settings=ApiSettings(max_body=7)).settings.max_body == 7
