"""What a client may do to one connection: every order of bytes, every pace, every size."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geumgo.api import ApiSettings, HttpServer


def code(answer: Any) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["code"]


async def test_one_connection_serves_many_requests(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    for number in range(20):
        body = b"%d" % number * number
        client.post("echo", body)
        assert (await client.answer()).body == body


async def test_pipelined_requests_are_answered_in_their_order(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    for number in range(8):
        client.post("echo", b"%d" % number)
        client.get("/nowhere")
    for number in range(8):
        assert (await client.answer()).body == b"%d" % number
        assert (await client.answer()).status == 404


async def test_too_many_pipelined_requests_end_the_connection_after_those_before(stack: Any) -> None:
    await stack.serve(max_pipelined=4)
    client = await stack.client()
    request = b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
    client.send(request * 50)
    statuses = []
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        while True:
            statuses.append((await client.answer()).status)
    assert statuses[-1] == 429
    assert set(statuses[:-1]) == {200}


async def test_a_request_in_single_bytes(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    for byte in b"POST /v1/operations/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
        client.send(bytes((byte,)))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.answer()).body == b"abc"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 400), max_size=6), chunked=st.booleans(), body=st.binary(max_size=200))
async def test_any_split_of_the_bytes_gives_the_same_answer(
    stack: Any, cuts: list[int], chunked: bool, body: bytes
) -> None:
    server = await stack.serve()
    client = await stack.client()
    if chunked:
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        payload = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        head = b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    else:
        payload = body
        head = b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    data = (head + payload) * 2
    previous = 0
    for cut in sorted(min(cut, len(data)) for cut in cuts):
        client.send(data[previous:cut])
        await asyncio.sleep(0)
        previous = cut
    client.send(data[previous:])
    assert (await client.answer()).body == body
    assert (await client.answer()).body == body
    await server.aclose()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\x00b\r\n\r\n",
        b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/operations/echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\r\n\x00",
    ],
)
async def test_garbage_is_malformed_and_ends_the_connection(stack: Any, data: bytes) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(data)
    answer = await client.answer()
    assert code(answer) == (400, "malformed")
    assert answer.headers["connection"] == "close"
    assert await client.ended() == b""
    assert stack.backend.calls == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=400))
async def test_no_bytes_break_the_server(stack: Any, data: bytes) -> None:
    server = await stack.serve()
    garbage = await stack.client()
    garbage.send(data)
    garbage.writer.write_eof()
    await garbage.ended()
    client = await stack.client()
    client.post("echo", b"well")
    assert (await client.answer()).body == b"well"
    await server.aclose()


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(stack: Any) -> None:
    await stack.serve(max_body=1000)
    client = await stack.client()
    client.send(b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000000\r\n\r\n")
    answer = await client.answer()
    assert code(answer) == (413, "too_large")
    assert answer.headers["connection"] == "close"


async def test_a_slightly_too_large_body_is_skipped_and_the_connection_kept(stack: Any) -> None:
    await stack.serve(max_body=1000)
    client = await stack.client()
    client.post("echo", b"x" * 1001)
    assert code(await client.answer()) == (413, "too_large")
    client.post("echo", b"x" * 1000)
    assert len((await client.answer()).body) == 1000


async def test_a_chunked_body_is_cut_off_where_it_passes_the_limit(stack: Any) -> None:
    server = await stack.serve(max_body=1000)
    client = await stack.client()
    client.send(b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(11):
        client.send(b"64\r\n" + b"x" * 100 + b"\r\n")
    assert code(await client.answer()) == (413, "too_large")
    assert server._budget.used == 0
    assert stack.backend.calls == []


async def test_a_body_that_is_all_framing_is_refused(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(10):
        client.send(b"1;" + b"e" * 10_000 + b"\r\nx\r\n")
        await asyncio.sleep(0.01)
    assert code(await client.answer()) == (400, "malformed")


async def test_trailers_are_ignored(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(
        b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\ncontent-type: application/vnd.geumgo.sealed\r\n\r\n"
    )
    assert (await client.answer()).body == b"x"
    assert stack.backend.calls[0][0].sealed is False


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"x: 1\r\n" * 100 + b"\r\n",
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 100_000,
    ],
)
async def test_a_head_over_the_limit_is_refused(stack: Any, head: bytes) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(head)
    if not head.endswith(b"\r\n\r\n"):
        await asyncio.sleep(0.05)
        client.send(b"a" * 20_000)
    assert code(await client.answer()) == (431, "too_large")


async def test_an_endless_head_costs_no_memory(stack: Any) -> None:
    server = await stack.serve()
    client = await stack.client()
    client.send(b"GET /livez HTTP/1.1\r\n")
    for _ in range(200):
        client.send(b"x: " + b"a" * 5_000 + b"\r\n")
        await asyncio.sleep(0)
    assert code(await client.answer()) == (431, "too_large")
    assert server._budget.used == 0


async def test_the_memory_for_all_bodies_is_bounded(stack: Any) -> None:
    server = await stack.serve(max_bytes=1000)
    first = await stack.client()
    first.post("wait", b"x" * 600)
    await stack.backend.entered.wait()
    second = await stack.client()
    second.post("echo", b"x" * 600)
    answer = await second.answer()
    assert code(answer) == (429, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    stack.backend.release.set()
    assert len((await first.answer()).body) == 600
    assert server._budget.used == 0
    third = await stack.client()
    third.post("echo", b"x" * 600)
    assert (await third.answer()).status == 200


async def test_the_number_of_requests_is_bounded_and_health_still_answers(stack: Any) -> None:
    await stack.serve(max_requests=1)
    first = await stack.client()
    first.post("wait", b"")
    await stack.backend.entered.wait()
    second = await stack.client()
    second.post("echo", b"abc")
    assert code(await second.answer()) == (429, "busy")
    second.get("/livez")
    assert (await second.answer()).status == 200
    stack.backend.release.set()
    assert (await first.answer()).status == 200
    second.post("echo", b"abc")
    assert (await second.answer()).body == b"abc"


async def test_a_client_that_goes_away_cancels_the_call(stack: Any) -> None:
    server = await stack.serve()
    client = await stack.client()
    client.post("wait", b"x" * 100)
    await stack.backend.entered.wait()
    await client.aclose()
    await stack.backend.cancelled.wait()
    await server._empty.wait()
    assert server._budget.used == 0
    assert b'code="cancelled"' in server.metrics.render()


async def test_a_client_that_goes_away_before_the_call_began_holds_nothing(stack: Any) -> None:
    server = await stack.serve()
    for _ in range(30):
        client = await stack.client()
        client.post("wait", b"x" * 100)
        client.writer.transport.abort()
    await asyncio.sleep(0.05)
    await server._empty.wait()
    assert server._budget.used == 0
    assert server._active == 0


async def test_a_body_that_is_never_finished_is_given_back(stack: Any) -> None:
    server = await stack.serve()
    client = await stack.client()
    client.send(b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
    while not server._budget.used:
        await asyncio.sleep(0)
    await client.aclose()
    await server._empty.wait()
    assert (server._budget.used, server._active) == (0, 0)


async def test_expect_continue_is_answered_before_the_body(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(
        b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
    )
    assert (await client.answer()).status == 100
    client.send(b"abc")
    assert (await client.answer()).body == b"abc"


async def test_expect_continue_is_not_answered_where_the_body_is_refused(stack: Any) -> None:
    await stack.serve(max_body=2)
    client = await stack.client()
    client.send(
        b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\nexpect: 100-continue\r\n\r\n"
    )
    assert code(await client.answer()) == (413, "too_large")


async def test_an_upgrade_that_nobody_speaks_is_ignored(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    headers = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")
    for _ in range(3):
        client.post("echo", b"abc", *headers)
        client.get("/livez", *headers)
    for _ in range(3):
        assert (await client.answer()).body == b"abc"
        assert (await client.answer()).status == 200


async def test_many_upgrades_in_one_packet(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(b"GET /nowhere HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" * 3000)
    for _ in range(3000):
        assert (await client.answer()).status == 404


async def test_connect_is_no_tunnel(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n\x16\x03")
    assert code(await client.answer()) == (405, "malformed")
    assert await client.ended() == b""


async def test_an_upgrade_keeps_the_rest_of_its_head(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(
        b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: x\r\n"
        b"content-type: application/vnd.geumgo.sealed\r\nx-request-id: abc\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n"
    )
    answer = await client.answer()
    assert (answer.body, answer.headers["x-request-id"], answer.headers["connection"]) == (
        b"abc",
        "abc",
        "close",
    )
    assert stack.backend.calls[0][0].sealed is True


async def test_connection_close_is_kept(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"abc", "connection: close")
    answer = await client.answer()
    assert (answer.body, answer.headers["connection"]) == (b"abc", "close")
    assert await client.ended() == b""


async def test_what_follows_connection_close_is_not_heard(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"abc", "connection: close")
    client.post("echo", b"def")
    assert (await client.answer()).body == b"abc"
    assert await client.ended() == b""
    assert len(stack.backend.calls) == 1


@pytest.mark.parametrize(("header", "kept"), [("connection: keep-alive", True), ("x: 1", False)])
async def test_http_1_0(stack: Any, header: str, kept: bool) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(f"GET /livez HTTP/1.0\r\n{header}\r\n\r\n".encode())
    answer = await client.answer()
    assert answer.status == 200
    assert answer.headers["connection"] == ("keep-alive" if kept else "close")
    if not kept:
        assert await client.ended() == b""


# Time. Limits are shortened, the server's own sweep is what acts.


async def test_a_head_that_does_not_come_is_timed_out(stack: Any) -> None:
    await stack.serve(head_timeout=0.3)
    client = await stack.client()
    client.send(b"POST /v1/oper")
    assert code(await client.answer()) == (408, "deadline_exceeded")
    assert await client.ended() == b""


async def test_a_head_that_trickles_is_timed_out(stack: Any) -> None:
    await stack.serve(head_timeout=0.3)
    client = await stack.client()

    async def trickle() -> None:
        client.send(b"GET /livez HTTP/1.1\r\n")
        while True:
            client.send(b"x: 1\r\n")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    assert code(await client.answer()) == (408, "deadline_exceeded")
    trickling.cancel()


async def test_a_connection_that_says_nothing_is_closed(stack: Any) -> None:
    await stack.serve(head_timeout=0.3)
    client = await stack.client()
    assert await client.ended() == b""


async def test_an_idle_connection_is_closed(stack: Any) -> None:
    await stack.serve(keep_alive=0.3)
    client = await stack.client()
    client.get("/livez")
    assert (await client.answer()).status == 200
    assert await client.ended() == b""


async def test_a_body_that_trickles_is_timed_out(stack: Any) -> None:
    server = await stack.serve(body_grace=0.3, min_rate=1000)
    client = await stack.client()
    client.send(b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")

    async def trickle() -> None:
        while True:
            client.send(b"x" * 10)
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    assert code(await client.answer()) == (408, "deadline_exceeded")
    trickling.cancel()
    assert server._budget.used == 0


async def test_a_body_that_keeps_the_rate_is_not(stack: Any) -> None:
    await stack.serve(body_grace=0.3, min_rate=1000)
    client = await stack.client()
    client.send(b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3000\r\n\r\n")
    for _ in range(6):
        client.send(b"x" * 500)
        await asyncio.sleep(0.15)
    assert len((await client.answer()).body) == 3000


async def test_a_backend_that_forgets_its_deadline_is_answered_for(stack: Any) -> None:
    await stack.serve(default_timeout=0.1)
    client = await stack.client()
    client.post("wait", b"")
    assert code(await client.answer()) == (504, "deadline_exceeded")
    assert stack.backend.cancelled.is_set()
    client.post("echo", b"next")
    assert (await client.answer()).body == b"next"


async def test_a_client_that_reads_nothing_is_dropped(stack: Any) -> None:
    server = await stack.serve(write_timeout=0.3)
    client = await stack.client()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(3):
        client.post("echo", b"x" * (8 << 20))
    await server._empty.wait()
    assert server._budget.used == 0


async def test_a_client_that_does_not_close_after_a_refusal_is_closed(stack: Any) -> None:
    server = await stack.serve(linger=0.3)
    client = await stack.client()
    client.send(b"nonsense\r\n\r\n")
    assert (await client.answer()).status == 400
    await server._empty.wait()


async def test_a_large_answer_reaches_a_client_that_asked_to_close(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"x" * (15 << 20), "connection: close")
    assert len((await client.answer()).body) == 15 << 20


def test_the_defaults_fit_each_other() -> None:
    settings_ = ApiSettings()
    assert settings_.max_body <= settings_.max_bytes
    assert settings_.default_timeout <= settings_.max_timeout
    assert HttpServer.__doc__
