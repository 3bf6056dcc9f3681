"""What a parent says to an enclave, over a real channel on a socket pair."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.api import (
    ApiError,
    Call,
    Description,
    EnclaveAnswerError,
    Operation,
    ask_attest,
    ask_call,
    ask_describe,
    ask_stream,
)
from geumgo.channel import ChannelClosed, Connection, Stream, StreamReset

GOOD: dict[str, Any] = {
    "pool": "demo",
    "key_id": bytes(32),
    "state": "ready",
    "reason": None,
    "in_flight": 3,
    "version": "0.1.0",
    "operations": {"echo": {"open": True, "idempotent": True}, "once": {"open": False, "idempotent": False}},
}


def call(operation: str = "echo", *, sealed: bool = False, seconds: float = 10) -> Call:
    return Call(operation, sealed, time.monotonic() + seconds, "id")


@asynccontextmanager
async def linked(handler: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[Connection]:
    left, right = socket.socketpair()
    accepting = asyncio.create_task(Connection.accept(right, handler=handler))
    async with await Connection.dial(left) as connection, await accepting:
        yield connection


async def test_a_description_is_read() -> None:
    async def handler(stream: Stream) -> None:
        assert stream.kind == "describe"
        await stream.reply(cbor2.dumps(GOOD))

    async with linked(handler) as connection:
        description = await ask_describe(connection, timeout=5)
    assert (description.pool, description.key_id, description.state) == ("demo", bytes(32), "ready")
    assert description.operations == {"echo": Operation(True, True), "once": Operation(False, False)}


@pytest.mark.parametrize(
    "change",
    [
        {"pool": 1},
        {"key_id": "text"},
        {"state": "dancing"},
        {"reason": 7},
        {"in_flight": -1},
        {"in_flight": True},
        {"version": None},
        {"operations": []},
        {"operations": {1: {"open": True, "idempotent": True}}},
        {"operations": {"a" * 65: {"open": True, "idempotent": True}}},
        {"operations": {"echo": True}},
        {"operations": {"echo": {"open": 1, "idempotent": True}}},
        {"operations": {"echo": {"open": True}}},
    ],
)
def test_a_description_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EnclaveAnswerError):
        Description.parse(cbor2.dumps({**GOOD, **change}))


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80", cbor2.dumps(GOOD) + b"x", b"\x40" + bytes(70_000)])
def test_bytes_that_are_no_description_are_refused(data: bytes) -> None:
    with pytest.raises(EnclaveAnswerError):
        Description.parse(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_only_our_errors_come_out(data: bytes) -> None:
    with pytest.raises(GeumgoError):
        Description.parse(data)


async def test_evidence_is_asked_for_with_nonce_and_use() -> None:
    asked = []

    async def handler(stream: Stream) -> None:
        asked.append((stream.kind, cbor2.loads(await stream.receive() or b"")))
        await stream.reply(cbor2.dumps({"kind": "nitro", "document": b"d", "statement": None}))

    async with linked(handler) as connection:
        evidence = await ask_attest(connection, b"n" * 16, "seal", timeout=5)
    assert asked == [("attest", {"nonce": b"n" * 16, "use": "seal"})]
    assert (evidence.kind, evidence.document, evidence.statement) == ("nitro", b"d", None)


async def test_evidence_that_is_none_is_refused() -> None:
    async def handler(stream: Stream) -> None:
        await stream.reply(cbor2.dumps({"kind": "nitro", "document": "text", "statement": b""}))

    async with linked(handler) as connection:
        with pytest.raises(EnclaveAnswerError):
            await ask_attest(connection, bytes(16), "seal", timeout=5)


async def test_an_operation_carries_its_name_and_whether_it_is_sealed() -> None:
    seen = []

    async def handler(stream: Stream) -> None:
        seen.append((stream.kind, dict(stream.metadata), stream.remaining))
        await stream.reply((await stream.receive() or b"")[::-1])

    async with linked(handler) as connection:
        assert await ask_call(connection, call("deidentify", sealed=True, seconds=5), b"abc") == b"cba"
    kind, metadata, remaining = seen[0]
    assert (kind, metadata) == ("operation", {"name": "deidentify", "sealed": True})
    assert 4 < remaining <= 5


async def test_a_deadline_that_has_passed_is_not_sent() -> None:
    async def handler(stream: Stream) -> None:
        raise AssertionError("nothing should come")

    async with linked(handler) as connection:
        with pytest.raises(StreamReset) as caught:
            await ask_call(connection, call(seconds=-1), b"")
    assert caught.value.code == "deadline_exceeded"


async def echo(stream: Stream) -> None:
    async for message in stream:
        if message == b"fail":
            raise GeumgoError("no", code="invalid_request")
        if message == b"hang":
            await asyncio.Event().wait()
        await stream.send(message)


async def several(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_a_stream_answers_each_message() -> None:
    async with linked(echo) as connection:
        messages = [b"%d" % number for number in range(500)]
        answers = [answer async for answer in ask_stream(connection, call(), several(*messages))]
        assert answers == messages
        assert connection.in_flight == 0


async def test_large_messages_flow_both_ways_at_once() -> None:
    async with linked(echo) as connection:
        messages = [bytes((number,)) * 3_000_000 for number in range(5)]
        answers = [answer async for answer in ask_stream(connection, call(), several(*messages))]
        assert answers == messages


async def test_a_stream_that_the_enclave_ends_shows_why() -> None:
    async with linked(echo) as connection:
        answers = []
        with pytest.raises(StreamReset) as caught:
            async for answer in ask_stream(connection, call(), several(b"a", b"fail", b"b")):
                answers.append(answer)
        assert caught.value.code == "invalid_request"
        assert answers == [b"a"]


async def test_an_error_of_the_clients_messages_is_the_streams() -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield b"a"
        raise ApiError("Not this one", code="malformed")

    async with linked(echo) as connection:
        with pytest.raises(ApiError, match="Not this one"):
            [answer async for answer in ask_stream(connection, call(), messages())]
        assert connection.in_flight == 0


async def test_a_stream_that_is_left_is_reset_on_both_sides() -> None:
    cancelled = asyncio.Event()

    async def handler(stream: Stream) -> None:
        try:
            await echo(stream)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with linked(handler) as connection:
        answers = ask_stream(connection, call(), several(b"a", b"hang"))
        assert await anext(answers) == b"a"
        await answers.aclose()
        await cancelled.wait()
        assert connection.in_flight == 0


async def test_a_connection_that_dies_ends_its_streams() -> None:
    async with linked(echo) as connection:
        answers = ask_stream(connection, call(), several(b"a", b"hang"))
        assert await anext(answers) == b"a"
        await connection.aclose()
        with pytest.raises(ChannelClosed):
            await anext(answers)
