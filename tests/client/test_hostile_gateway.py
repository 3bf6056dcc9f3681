"""What a gateway, or somebody in its place, can't do to a client: hold it, fill its memory, leave it without advice."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc

import pytest

from geumgo import attestation
from geumgo._base import CODES
from geumgo.client import ClientError, GatewayError, Unreachable
from geumgo.client._endpoints import Endpoint


@pytest.fixture
async def raw():
    """Serve raw bytes: `respond(writer)` writes the answer."""
    servers, tasks = [], []

    async def serve(respond):
        async def handle(reader, writer):
            tasks.append(asyncio.current_task())
            try:
                await respond(writer, await reader.readuntil(b"\r\n\r\n"))
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                return
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield serve
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)


@pytest.fixture
async def ask(raw):
    endpoints = []

    async def ask(respond, *, timeout=5.0):
        endpoint = Endpoint(await raw(respond), connections=4)
        endpoints.append(endpoint)
        return await endpoint.request("GET", "/", timeout=timeout)

    yield ask
    for endpoint in endpoints:
        await endpoint.aclose()


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"]
)
async def test_drops_that_each_come_in_time_do_not_hold_it(ask, start):
    async def drip(writer, request):
        writer.write(start)
        while True:
            writer.write(b"X-A: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    began = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        await ask(drip, timeout=0.3)
    assert time.monotonic() - began < 2
    assert caught.value.retryable
    assert caught.value.fix


async def test_a_cancelled_call_is_cancelled(ask):
    async def silence(writer, request):
        await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(silence), 0.1)


async def test_compressed_answers_are_not_unpacked(ask):
    """A megabyte that would be a gigabyte."""
    bomb = gzip.compress(bytes(64 << 20), 9)

    async def respond(writer, request):
        assert b"accept-encoding: identity" in request.lower()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
        )
        await writer.drain()

    tracemalloc.start()
    try:
        with pytest.raises(ClientError) as caught:
            await ask(respond)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.code == "malformed"
    assert caught.value.fix


async def test_too_large_is_noticed_before_it_is_read(ask):
    async def respond(writer, request):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
        for _ in range(1000):
            writer.write(bytes(1 << 20))
            await writer.drain()

    with pytest.raises(ClientError) as caught:
        await ask(respond, timeout=20)
    assert caught.value.code == "too_large"
    assert caught.value.fix


@pytest.mark.parametrize("code", [*CODES, "something_else"])
def test_every_code_says_what_to_do(code):
    error = GatewayError(code, retryable=False, where="http://gateway")
    assert error.fix
    assert f"[{code}]" in error.diagnostics()


@pytest.mark.parametrize(
    "kind",
    [kind for kind in attestation.VerificationError.__subclasses__() if kind is not attestation.PolicyDenied],
)
def test_refused_evidence_says_what_to_do(kind):
    assert kind("it does not verify").fix
    assert kind("it does not verify", fix="Do this.").fix == "Do this."
