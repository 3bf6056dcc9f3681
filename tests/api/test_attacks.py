"""What a hostile client tries at the edges: forged log lines, answers that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from geumgo.api import ApiSettings, ByteBudget, HttpServer, JsonLog
from geumgo.api.grpc_edge import GrpcServer
from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

FORGED = '"}\n{"event":"enclave_died","operation":"900101-1234568'


async def test_a_call_while_grpc_drains_forges_no_log_line(backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        log = JsonLog(file.fileno())
        server = GrpcServer(backend, log=log)
        host, port = await server.listen_tcp("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            stub = enclave_pb2_grpc.EnclaveStub(channel)  # type: ignore[no-untyped-call]
            server._servicer.refusing = True  # as in the half second in which `drain` refuses in words
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Call(enclave_pb2.CallRequest(operation=FORGED))
        await server.aclose()
        log.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["request"]
    assert "900101" not in path.read_text()


async def test_answers_that_nobody_reads_count_against_the_memory_for_bodies(backend: Any) -> None:
    body = bytes(4 << 20)
    budget = ByteBudget(20 << 20)
    server = HttpServer(backend, settings=ApiSettings(write_timeout=60.0), budget=budget)
    address = await server.listen_tcp("127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    greedy = []
    while True:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        greedy.append(client)
        await loop.sock_connect(client, address)
        with contextlib.suppress(ConnectionError):  # refused while it still sends
            await loop.sock_sendall(
                client, b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 4194304\r\n\r\n"
            )
            await loop.sock_sendall(client, body)
        start = await loop.sock_recv(client, 12)
        if start == b"HTTP/1.1 429":
            break
        assert start == b"HTTP/1.1 200"
        assert len(greedy) < 40, "forty answers of 4 MiB lie in memory, and nobody counts them"
    for client in greedy:
        client.close()
    while budget.used:
        await asyncio.sleep(0.001)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    await server.aclose()
    assert budget.used == 0
