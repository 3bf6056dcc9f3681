"""A backend that does as it is told, servers around it, and a client that speaks bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from geumgo.api import ApiError, ApiSettings, Attested, Call, HttpServer

BOTH_LOOPS = ("test_http_connection", "test_http_server")
"""Modules whose tests run on asyncio's own loop and on uvloop: what they test is the transport's edge."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in BOTH_LOOPS:
        uvloop = pytest.importorskip("uvloop")
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@dataclass
class ScriptedBackend:
    """Echoes; `operations` with other behaviour can be added by name."""

    operations: dict[str, Callable[[Call, bytes], Awaitable[bytes]]] = field(default_factory=dict)
    calls: list[tuple[Call, bytes]] = field(default_factory=list)
    not_ready: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    nonces: list[tuple[bytes, str]] = field(default_factory=list)

    async def call(self, call: Call, body: bytes) -> bytes:
        self.calls.append((call, body))
        if call.operation in self.operations:
            return await self.operations[call.operation](call, body)
        if call.operation == "wait":
            self.entered.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return body

    async def stream(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        async for message in messages:
            if message == b"fail":
                raise ApiError("As told", code="invalid_request")
            if message == b"wait":
                self.entered.set()
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            yield message

    async def attest(self, nonce: bytes, use: str, *, deadline: float) -> Attested:
        self.nonces.append((nonce, use))
        return Attested("nitro", b"document", b"statement")

    def enclaves(self) -> Sequence[Mapping[str, object]]:
        return [{"name": "one", "state": "ready"}]

    def ready(self) -> str | None:
        return self.not_ready


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection; sends any bytes, reads whole answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, name: str, body: bytes, *headers: str) -> None:
        lines = "".join(f"{line}\r\n" for line in headers)
        head = f"POST /v1/operations/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
        self.send(head.encode() + body)

    def get(self, target: str, *headers: str) -> None:
        lines = "".join(f"{line}\r\n" for line in headers)
        self.send(f"GET {target} HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode())

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(first.split()[1]), headers, body)

    async def ended(self) -> bytes:
        """Return what comes until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    async def aclose(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Stack:
    """Servers and clients of one test, closed at its end."""

    def __init__(self, folder: Path) -> None:
        self.backend = ScriptedBackend()
        self.folder = folder
        self._closers: list[Callable[[], Awaitable[Any]]] = []
        self.address = ("", 0)

    async def serve(self, **settings: Any) -> HttpServer:
        server = HttpServer(self.backend, settings=ApiSettings(**settings))
        self.address = await server.listen_tcp("127.0.0.1", 0)
        self._closers.append(server.aclose)
        return server

    async def client(self, path: Path | None = None) -> RawClient:
        if path is None:
            client = RawClient(*await asyncio.open_connection(*self.address))
        else:
            client = RawClient(*await asyncio.open_unix_connection(path))
        self._closers.append(client.aclose)
        return client

    async def aclose(self) -> None:
        self.backend.release.set()
        for close in reversed(self._closers):
            await close()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    made = Stack(tmp_path)
    yield made
    await made.aclose()


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()
