"""The enclave API of one enclave, in front of a supervisor with real channels."""

from __future__ import annotations

import asyncio
import time

import pytest

from geumgo._base import GeumgoError
from geumgo.api import ApiError, Call
from geumgo.channel import StreamReset
from geumgo.manager import _backend
from geumgo.manager._backend import OneEnclave
from geumgo.manager._supervisor import Supervisor


@pytest.fixture
async def one(launcher, spec):
    """A manager's backend whose enclave is ready, its supervisor, and the launcher."""

    async def handler(stream):
        raise GeumgoError("nothing is asked here")

    supervisor = Supervisor(
        launcher, spec, handler=handler, publish=lambda state: None, report=lambda *_, **__: None
    )
    running = asyncio.create_task(supervisor.run())
    backend = OneEnclave(supervisor)
    assert backend.ready() == "starting"
    while backend.ready() is not None:
        await asyncio.sleep(0)
    yield backend, supervisor, launcher
    supervisor.stop()
    await running


def call(operation: str, seconds: float = 10.0) -> Call:
    return Call(operation, False, time.monotonic() + seconds, "id")


async def test_calls_pass_through(one):
    backend, _, launcher = one
    assert await backend.call(call("echo"), b"hello") == b"HELLO"
    seen = launcher.launched[0].seen[-1]
    assert (seen.metadata["name"], seen.metadata["sealed"]) == ("echo", False)


async def test_streams_answer_in_order(one):
    backend, _, _ = one

    async def messages():
        for text in (b"a", b"b", b"c"):
            yield text

    assert [answer async for answer in backend.stream(call("echo"), messages())] == [b"A", b"B", b"C"]


async def test_attest(one):
    backend, _, _ = one
    evidence = await backend.attest(b"n" * 32, "seal", deadline=time.monotonic() + 10)
    assert evidence.kind == "nitro"
    assert b"n" * 32 in evidence.document
    assert evidence.statement == b"s"


async def test_the_enclaves_codes_pass_through(one):
    backend, _, _ = one
    with pytest.raises(StreamReset) as caught:
        await backend.call(call("fail"), b"")
    assert caught.value.code == "forbidden"


async def test_deadline(one):
    backend, _, _ = one
    with pytest.raises(GeumgoError) as caught:
        await backend.call(call("hang", 0.05), b"")
    assert caught.value.code == "deadline_exceeded"


async def test_too_many_calls_are_refused_at_once(one, monkeypatch):
    monkeypatch.setattr(_backend, "MAX_IN_FLIGHT", 2)
    backend, _, _ = one
    hanging = [asyncio.create_task(backend.call(call("hang"), b"")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await backend.call(call("echo"), b"")
    assert caught.value.code == "busy"
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert await backend.call(call("echo"), b"x") == b"X"


async def test_what_it_says_of_its_enclave(one):
    backend, supervisor, launcher = one
    (shown,) = backend.enclaves()
    assert shown["enclave_state"] == "ready"
    assert shown["key_id"] == (b"\x01" * 32).hex()
    assert shown["operations"] == {"echo": {"open": True, "idempotent": True}}
    launcher.failures.append(GeumgoError("no memory", code="launch_failed"))
    launcher.launched[0].die()
    while supervisor.connection is not None:
        await asyncio.sleep(0)
    (shown,) = backend.enclaves()
    assert shown["enclave_state"] is None
    with pytest.raises(ApiError) as caught:
        await backend.call(call("echo"), b"x")
    assert caught.value.code in ("unavailable", "starting")
    assert caught.value.retryable


async def test_draining(one):
    backend, _, _ = one
    backend.draining = True
    assert backend.ready() == "draining"
