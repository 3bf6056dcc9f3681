"""What a hostile gateway tries with a client: answers that swell, work that is done twice."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from geumgo import keys
from geumgo.api import ApiError
from geumgo.client import ClientError, GatewayError
from geumgo.client._endpoints import MAX_ANSWER, Endpoint


async def answering(body: bytes, *headers: bytes) -> tuple[asyncio.Server, str, list[bytes]]:
    """Serve one fixed answer; returns the server, its address and the heads of the requests."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), b"connection: close", *headers]
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    return server, f"http://{host}:{port}", heads


async def test_an_answer_that_swells_when_it_is_unpacked_is_never_unpacked():
    bomb = gzip.compress(bytes(MAX_ANSWER * 4))
    assert len(bomb) < 100_000
    server, address, heads = await answering(bomb, b"content-encoding: gzip")
    async with server:
        endpoint = Endpoint(address, connections=1)
        with pytest.raises(ClientError) as caught:
            await endpoint.request("GET", "/", timeout=10)
        await endpoint.aclose()
    assert caught.value.code == "malformed"
    assert b"accept-encoding: identity" in heads[0].lower()


async def test_the_word_identity_is_no_encoding():
    server, address, _ = await answering(b"abc", b"content-encoding: identity")
    async with server:
        endpoint = Endpoint(address, connections=1)
        assert (await endpoint.request("GET", "/", timeout=10)).body == b"abc"
        await endpoint.aclose()


async def test_reattest_does_not_make_it_carry_out_twice_what_is_not_idempotent(enclave, serve, make_client):
    """The gateway has the first enclave carry out a transfer, says `reattest`, and shows another enclave."""
    address, _ = await serve(enclave)
    client = make_client(address)
    await client.attest()
    carried_out = []

    def work(opened):
        carried_out.append(opened.body)
        enclave.operation = lambda again: carried_out.append(again.body) or b"done"
        enclave.pair = keys.PoolKeyPair.generate()  # the other enclave, a pool of one like the first
        raise AssertionError("its answer is thrown away")

    async def lying(call, body, honest=enclave.call):
        try:
            return await honest(call, body)
        except AssertionError:
            raise ApiError("another key", code="reattest") from None

    enclave.operation = work
    enclave.call = lying
    with pytest.raises(GatewayError) as caught:
        await client.call("transfer", b"a million")
    assert caught.value.code == "reattest"
    assert carried_out == [b"a million"]
    # The caller, who may know more, can repeat it: the new key is known, and verified, by now.
    assert await client.call("transfer", b"a million") == b"done"
