"""A gateway over fake enclaves on real sockets, in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from geumgo._base import GeumgoError
from geumgo.api import ApiError, Call, EdgeMetrics
from geumgo.gateway import Gateway
from geumgo.keys import RoutingHeader


def call(operation: str = "echo", *, sealed: bool = False, seconds: float = 10.0) -> Call:
    return Call(operation, sealed, time.monotonic() + seconds, "id")


async def several(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def refused(work: Any) -> GeumgoError:
    with pytest.raises(GeumgoError) as caught:
        await work
    return caught.value


async def test_a_call_reaches_an_enclave_and_comes_back(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    assert await gateway.call(call(), b"hello") == b"hello"
    assert gateway.ready() is None


async def test_sealed_bytes_pass_exactly(site: Any) -> None:
    enclave = await site.enclave("a")
    gateway = await site.gateway("a")
    body = bytes(range(256)) * 4000
    assert await gateway.call(call(sealed=True), body) == body
    assert enclave.executed == [body]


async def test_calls_spread_over_enclaves(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    tasks = [asyncio.ensure_future(gateway.call(call("slow"), b"%d" % number)) for number in range(20)]
    while len(a.executed) + len(b.executed) < 20:
        await asyncio.sleep(0.005)
    assert (len(a.executed), len(b.executed)) == (10, 10)
    assert [e["in_flight"] for e in gateway.enclaves()] == [10, 10]
    a.slow.set()
    b.slow.set()
    assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(20)]
    assert [e["in_flight"] for e in gateway.enclaves()] == [0, 0]


async def test_weights(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b", weights={"b": 4.0})
    tasks = [asyncio.ensure_future(gateway.call(call("slow"), b"")) for _ in range(20)]
    while len(a.executed) + len(b.executed) < 20:
        await asyncio.sleep(0.005)
    assert (len(a.executed), len(b.executed)) == (4, 16)
    a.slow.set()
    b.slow.set()
    await asyncio.gather(*tasks)


async def test_only_the_enclaves_named_are_used(site: Any) -> None:
    await site.enclave("a")
    await site.enclave("b")
    gateway = await site.gateway("b", only=("b",))
    assert [e["name"] for e in gateway.enclaves()] == ["b"]


async def test_evidence_is_passed_on(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    evidence = await gateway.attest(b"n" * 32, "seal", deadline=time.monotonic() + 5)
    assert (evidence.kind, evidence.document, evidence.statement) == ("nitro", b"n" * 32, b"seal")


async def test_what_is_shown_of_an_enclave(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    (shown,) = gateway.enclaves()
    assert shown["state"] == "ready"
    assert shown["pool"] == "demo"
    assert shown["key_id"] == (b"k" * 32).hex()
    assert shown["sandbox"] == "namespaces"
    assert shown["debug"] is False
    assert shown["operations"]["once"] == {"open": True, "idempotent": False}


async def test_an_unknown_operation_is_known_without_asking(site: Any) -> None:
    enclave = await site.enclave("a")
    gateway = await site.gateway("a")
    assert (await refused(gateway.call(call("nothing"), b""))).code == "unknown_operation"
    assert enclave.executed == []


async def test_the_enclaves_own_error_is_passed_on(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    error = await refused(gateway.call(call("fail"), b""))
    assert (error.code, error.retryable) == ("invalid_request", False)


# Which failures are repeated.


@pytest.mark.parametrize("code", ["unavailable", "draining", "starting"])
async def test_what_is_idempotent_goes_to_another_enclave(site: Any, code: str) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    metrics = EdgeMetrics()
    gateway = await site.gateway("a", "b", metrics=metrics)
    a.refuse = code
    for _ in range(10):
        assert await gateway.call(call(), b"x") == b"x"
    assert len(b.executed) == 10
    assert f'geumgo_gateway_retries_total{{code="{code}"}}'.encode() in metrics.render()


@pytest.mark.parametrize("code", ["unavailable", "draining", "starting"])
async def test_what_is_not_idempotent_is_not_repeated(site: Any, code: str) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    a.refuse = b.refuse = code
    error = await refused(gateway.call(call("once"), b"x"))
    assert error.code == code
    # A refusal says that nothing was done; where that is unsure, it must not be repeated blindly.
    assert error.retryable is (code != "unavailable")


@pytest.mark.parametrize(
    "code", ["busy", "forbidden", "internal", "reattest", "duplicate", "deadline_exceeded"]
)
async def test_other_codes_are_not_repeated(site: Any, code: str) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    a.refuse = b.refuse = code
    assert (await refused(gateway.call(call(), b"x"))).code == code


async def test_attempts_are_bounded(site: Any) -> None:
    enclaves = [await site.enclave(name) for name in "abcde"]
    metrics = EdgeMetrics()
    gateway = await site.gateway(*"abcde", metrics=metrics)
    for enclave in enclaves:
        enclave.refuse = "unavailable"
    error = await refused(gateway.call(call(), b"x"))
    assert (error.code, error.retryable) == ("unavailable", True)
    assert b'geumgo_gateway_retries_total{code="unavailable"} 2.0' in metrics.render()


async def test_nothing_is_repeated_after_the_deadline(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    error = await refused(gateway.call(call("slow", seconds=0.1), b"x"))
    assert error.code == "deadline_exceeded"
    assert len(a.executed) + len(b.executed) == 1


async def test_a_late_answer_of_what_is_not_idempotent_is_not_to_be_repeated(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    error = await refused(gateway.call(call("slow-once", seconds=0.1), b"x"))
    assert (error.code, error.retryable) == ("deadline_exceeded", False)


async def test_an_enclave_that_dies_is_replaced_where_that_does_no_harm(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    tasks = [asyncio.ensure_future(gateway.call(call("slow"), b"%d" % number)) for number in range(20)]
    while len(a.executed) + len(b.executed) < 20:
        await asyncio.sleep(0.005)
    await a.stop()
    b.slow.set()
    assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(20)]


async def test_an_enclave_that_dies_amid_what_is_not_idempotent(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    await site.enclave("b")
    task = asyncio.ensure_future(gateway.call(call("slow-once"), b"x"))
    await a.entered.wait()
    await a.stop()
    error = await refused(task)
    assert isinstance(error, ApiError)
    assert (error.code, error.retryable) == ("unavailable", False)
    assert "not known" in error.what


async def test_the_last_enclave_that_dies(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    task = asyncio.ensure_future(gateway.call(call("slow"), b"x"))
    await a.entered.wait()
    await a.stop()
    error = await refused(task)
    assert (error.code, error.retryable) == ("unavailable", True)
    later = await refused(gateway.call(call(), b"x"))
    assert later.code in ("starting", "unavailable")
    assert later.retryable is True


async def test_a_client_that_goes_away_frees_the_enclave(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    task = asyncio.ensure_future(gateway.call(call("slow"), b"x"))
    await a.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gateway.enclaves()[0]["in_flight"] == 0
    while any(connection.in_flight > 1 for connection in a.connections):  # a describe may be on its way
        await asyncio.sleep(0.005)


# Streams.


async def test_a_stream_stays_with_one_enclave(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    messages = [b"%d" % number for number in range(100)]
    answers = [answer async for answer in gateway.stream(call(), several(*messages))]
    assert answers == messages
    assert sorted((len(a.executed), len(b.executed))) == [0, 100]
    assert [e["in_flight"] for e in gateway.enclaves()] == [0, 0]


@pytest.mark.parametrize(("operation", "retryable"), [("slow", True), ("slow-once", False)])
async def test_a_stream_whose_enclave_dies_says_whether_to_repeat(
    site: Any, operation: str, retryable: bool
) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    answers = gateway.stream(call(operation), several(b"1", b"2"))
    first = asyncio.ensure_future(anext(answers))
    await a.entered.wait()
    await a.stop()
    error = await refused(first)
    assert (error.code, error.retryable) == ("unavailable", retryable)


async def test_a_stream_that_is_left_gives_its_place_back(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    answers = gateway.stream(call(), several(b"1", b"2", b"3"))
    assert await anext(answers) == b"1"
    assert gateway.enclaves()[0]["in_flight"] == 1
    await answers.aclose()
    assert gateway.enclaves()[0]["in_flight"] == 0


# Enclaves come and go.


async def test_ready_means_that_an_enclave_is(site: Any) -> None:
    gateway = await site.gateway()
    assert gateway.ready() == "unavailable"
    a = await site.enclave("a", state="starting")
    await site.until(gateway, lambda states: states.get("a") == "starting")
    assert gateway.ready() == "starting"
    assert (await refused(gateway.call(call(), b""))).code == "starting"
    a.description["state"] = "ready"
    await site.until(gateway, lambda states: states.get("a") == "ready")
    assert gateway.ready() is None
    a.description.update(state="failed", reason="keys_unavailable")
    await site.until(gateway, lambda states: states.get("a") == "failed")
    assert gateway.ready() == "unavailable"
    assert gateway.enclaves()[0]["reason"] == "keys_unavailable"
    gateway.draining = True
    assert gateway.ready() == "draining"


@pytest.mark.parametrize("state", ["stopped", "backoff", "crash_loop", "starting"])
async def test_an_enclave_is_dropped_when_its_manager_says_so(site: Any, state: str) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    task = asyncio.ensure_future(gateway.call(call("slow"), b"x"))
    await a.entered.wait()
    a.write(state=state)
    assert (await refused(task)).code == "unavailable"
    await site.until(gateway, lambda states: "a" not in states)


async def test_a_file_that_vanishes_drops_its_enclave(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    (a.folder / "enclave.json").unlink()
    await site.until(gateway, lambda states: "a" not in states)


async def test_an_enclave_that_is_being_stopped_finishes_what_it_has(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    task = asyncio.ensure_future(gateway.call(call("slow"), b"x"))
    await a.entered.wait()
    a.write(state="stopping")
    await site.until(gateway, lambda states: states.get("a") == "leaving")
    assert (await refused(gateway.call(call(), b"y"))).code == "unavailable"
    a.slow.set()
    assert await task == b"x"


async def test_an_enclave_that_drains_by_itself_gets_nothing_new(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    draining = [asyncio.ensure_future(connection.drain()) for connection in a.connections]
    for _ in range(10):
        assert await gateway.call(call(), b"x") == b"x"
    assert (len(a.executed), len(b.executed)) == (0, 10)
    await site.until(gateway, lambda states: states["a"] == "leaving")
    await asyncio.gather(*draining)


async def test_a_new_launch_is_another_enclave(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    (first,) = a.connections
    a.write(restarts=1)
    while len(a.connections) < 2:
        await asyncio.sleep(0.005)
    await first.wait_closed()
    await site.until(gateway, lambda states: states.get("a") == "ready")
    assert await gateway.call(call(), b"x") == b"x"


async def test_a_lost_connection_is_made_again(site: Any) -> None:
    a = await site.enclave("a")
    gateway = await site.gateway("a")
    await a.connections[0].aclose()
    while len(a.connections) < 2:
        await asyncio.sleep(0.005)
    await site.until(gateway, lambda states: states["a"] == "ready")
    assert await gateway.call(call(), b"x") == b"x"


async def test_an_enclave_that_comes_after_its_file(site: Any) -> None:
    a = await site.enclave("a")
    await a.stop()
    gateway = await site.gateway()
    await site.until(gateway, lambda states: states.get("a") == "connecting")
    await a.start()
    await site.until(gateway, lambda states: states.get("a") == "ready")


async def test_an_enclave_that_hangs_is_dropped_and_its_calls_go_elsewhere(site: Any) -> None:
    a, b = await site.enclave("a"), await site.enclave("b")
    gateway = await site.gateway("a", "b")
    a.silent = True
    tasks = [asyncio.ensure_future(gateway.call(call(seconds=30), b"%d" % number)) for number in range(10)]
    assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(10)]
    assert len(b.executed) == 10
    await site.until(gateway, lambda states: states["a"] == "connecting")


@pytest.mark.parametrize("key", ["operations", "state", "pool"])
async def test_an_enclave_that_talks_nonsense_gets_no_calls(site: Any, key: str) -> None:
    a = await site.enclave("a", **{key: 7})
    gateway = await site.gateway()
    while len(a.connections) < 3:
        await asyncio.sleep(0.005)
    assert gateway.enclaves()[0]["state"] == "connecting"
    assert (await refused(gateway.call(call(), b""))).code == "starting"


async def test_something_else_at_the_address(site: Any) -> None:
    a = await site.enclave("a")
    await a.stop()

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"OK 1\nHTTP/1.1 200 OK\r\n\r\n" * 100)
        writer.close()

    server = await asyncio.start_unix_server(other, a.socket)
    gateway = await site.gateway()
    await site.until(gateway, lambda states: states.get("a") == "connecting")
    await asyncio.sleep(0.2)
    assert gateway.enclaves()[0]["state"] == "connecting"
    server.close()


def sealed_to(key_id: bytes) -> bytes:
    return RoutingHeader(1, key_id, bytes(16), "echo", 1 << 40, 0).to_bytes() + bytes(100)


async def test_while_keys_rotate_each_request_finds_its_own(site: Any) -> None:
    old, new = await site.enclave("old", key_id=b"o" * 32), await site.enclave("new", key_id=b"n" * 32)
    gateway = await site.gateway("old", "new")
    for _ in range(5):
        await gateway.call(call(sealed=True), sealed_to(b"o" * 32))
        await gateway.call(call(sealed=True), sealed_to(b"n" * 32))
    assert set(old.executed) == {sealed_to(b"o" * 32)}
    assert set(new.executed) == {sealed_to(b"n" * 32)}
    assert (await refused(gateway.call(call(sealed=True), sealed_to(b"x" * 32)))).code == "reattest"
    assert (await refused(gateway.call(call(sealed=True), b"nonsense"))).code == "malformed"
    await gateway.call(call(), b"unsealed")


async def test_metrics_show_the_enclaves(site: Any) -> None:
    await site.enclave("a")
    metrics = EdgeMetrics()
    await site.gateway("a", metrics=metrics)
    text = metrics.render().decode()
    assert 'geumgo_gateway_enclaves{state="ready"} 1.0' in text
    assert 'geumgo_gateway_enclave_in_flight{enclave="a"} 0.0' in text
    assert "geumgo_gateway_queue 0.0" in text


async def test_a_folder_that_comes_later(site: Any, log: Any) -> None:
    missing = site.runtime / "later"
    async with Gateway(missing, log=log) as gateway:
        assert gateway.ready() == "unavailable"


async def test_members_write_themselves_in_one_line(site: Any) -> None:
    await site.enclave("a")
    gateway = await site.gateway("a")
    assert repr(gateway._balancer.members["a"]) == "<Member a ready, 0 in flight>"
