"""Load, floods, garbage, raising operations, cancellation, streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading

import pytest

from geumgo.channel import StreamReset
from geumgo.codec import cbor
from geumgo.enclave import Context, Enclave, Refused
from geumgo.enclave._limits import Limits
from geumgo.keys import OperationFailed

SECRET = "900101-1234568"


async def test_a_thousand_calls_at_once(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    bodies = [secrets.token_bytes(100) for _ in range(1000)]
    assert await asyncio.gather(*(kit.send(connection, "echo", body) for body in bodies)) == bodies


def gated(**flags) -> tuple[Enclave, asyncio.Event, asyncio.Event]:
    app, entered, gate = Enclave(), asyncio.Event(), asyncio.Event()

    @app.operation("wait", idempotent=True, **flags)
    async def wait(request: bytes) -> bytes:
        entered.set()
        await gate.wait()
        return request

    return app, entered, gate


WAIT = {"wait": {"open": True}, "echo": {"open": True}}


async def test_more_than_may_be_in_flight_is_busy(kit, start, configure):
    app, entered, gate = gated(open=True)
    enclave = await start(app, configure(operations=WAIT), limits=Limits(in_flight=2))
    connection = await enclave.connect()
    waiting = [asyncio.create_task(kit.send(connection, "wait", b"")) for _ in range(2)]
    await entered.wait()
    while (await kit.describe(connection))["in_flight"] < 2:
        await asyncio.sleep(0)
    with pytest.raises(StreamReset) as caught:
        await kit.send(connection, "echo", b"")
    assert (caught.value.code, caught.value.retryable) == ("busy", True)
    gate.set()
    await asyncio.gather(*waiting)
    assert await kit.send(connection, "echo", b"again") == b"again"


async def test_more_bytes_than_may_be_in_flight_are_busy(kit, start, configure):
    app, entered, gate = gated(open=True)
    enclave = await start(app, configure(operations=WAIT), limits=Limits(in_flight_bytes=1000))
    connection = await enclave.connect()
    waiting = asyncio.create_task(kit.send(connection, "wait", bytes(900)))
    await entered.wait()
    with pytest.raises(StreamReset) as caught:
        await kit.send(connection, "echo", bytes(200))
    assert caught.value.code == "busy"
    assert await kit.send(connection, "echo", bytes(50)) == bytes(50)
    gate.set()
    await waiting


async def test_an_attest_flood_does_not_starve_operations(kit, start):
    enclave = await start(limits=Limits(attest_waiting=8, attest_waiting_per_connection=4, attest_burst=20))
    flood = [await enclave.connect() for _ in range(4)]
    other = await enclave.connect()
    ask = cbor.dumps({"nonce": b"n" * 16, "use": "seal"})

    async def attest(connection) -> str:
        try:
            await connection.call("attest", ask)
        except StreamReset as error:
            return error.code
        return "ok"

    asked = [asyncio.create_task(attest(connection)) for connection in flood for _ in range(100)]
    for _ in range(20):
        assert await kit.send(other, "echo", b"x") == b"x"
    outcomes = await asyncio.gather(*asked)
    assert set(outcomes) == {"ok", "busy"}
    assert outcomes.count("ok") <= 40
    assert (await kit.describe(other))["state"] == "ready"


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_on_a_connection_ends_that_connection_only(kit, start, seed):
    enclave = await start()
    sock = enclave.listener.dial()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        await loop.sock_sendall(sock, bytes((seed * 37 + index * 11) % 256 for index in range(20_000)))
    while True:
        try:
            if not await loop.sock_recv(sock, 65536):
                break
        except OSError:
            break
    sock.close()
    assert await kit.send(await enclave.connect(), "echo", b"x") == b"x"


async def test_an_idle_connection_makes_room_for_a_new_one(kit, start, configure):
    app, entered, gate = gated(open=True)
    enclave = await start(app, configure(operations=WAIT), limits=Limits(connections=3))
    idle, used = await enclave.connect(), await enclave.connect()  # and the parent's
    call = asyncio.create_task(kit.send(used, "wait", b"kept"))
    await entered.wait()
    newest = await enclave.connect()
    await idle.wait_closed()
    busy = asyncio.create_task(kit.send(newest, "wait", b"too"))
    while (await kit.describe(used))["in_flight"] < 2:
        await asyncio.sleep(0)
    sock = enclave.listener.dial()  # nothing is idle now
    assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    sock.close()
    gate.set()
    assert await asyncio.gather(call, busy) == [b"kept", b"too"]
    assert enclave.program.server._control.connection is not None  # the manager's is never taken


async def test_a_connection_that_says_nothing_is_given_up(start):
    enclave = await start()
    left, right = socket.socketpair()
    right.close()
    left.setblocking(False)
    enclave.program.server.take(left)
    while len(enclave.program.server._tasks) > 1:
        await asyncio.sleep(0)


RAISES = {
    "ValueError": lambda: ValueError(SECRET),
    "KeyError": lambda: KeyError(SECRET),
    "SystemExit": lambda: SystemExit(SECRET),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(SECRET),
    "StopIteration": lambda: StopIteration(SECRET),
    "TimeoutError": lambda: TimeoutError(SECRET),
    "CancelledError": lambda: asyncio.CancelledError(SECRET),
    "own": lambda: type(SECRET.replace("-", "_"), (Exception,), {})(SECRET),
    "group": lambda: ExceptionGroup(SECRET, [ValueError(SECRET)]),
    "refused": lambda: Refused("invalid_request", SECRET),
    "recursion": lambda: RecursionError(SECRET),
    "memory": lambda: MemoryError(SECRET),
}


def raising() -> Enclave:
    app = Enclave()

    @app.operation("araise", open=True, idempotent=True)
    async def araise(request: str) -> str:
        raise RAISES[request]()

    @app.operation("raise", open=True, idempotent=True)
    def raise_(request: str) -> str:
        raise RAISES[request]()

    @app.operation("sealed-raise", idempotent=True)
    async def sealed_raise(request: str) -> str:
        raise RAISES[request]()

    return app


@pytest.mark.parametrize("kind", RAISES)
async def test_a_raising_operation_leaves_no_trace_outside(kit, start, configure, kind, capfd):
    operations = {"araise": {"open": True}, "raise": {"open": True}, "sealed-raise": {"callers": ["app"]}}
    enclave = await start(raising(), configure(operations=operations), ready=False)
    parent = await enclave.parent()
    await enclave.ready()
    connection = await enclave.connect()
    relayed = []
    for operation in ("araise", "raise"):
        with pytest.raises(StreamReset) as caught:
            await kit.send(connection, operation, kind.encode())
        assert caught.value.code == ("invalid_request" if kind == "refused" else "operation_failed")
        relayed.append(repr(caught.value))
    sealed = enclave.seal("app", "sealed-raise", kind.encode())
    answer = await kit.send(connection, "sealed-raise", sealed.request, sealed=True)
    with pytest.raises(OperationFailed) as failed:
        sealed.answer_opener.open(answer)
    if kind != "refused":
        assert failed.value.code == "operation_failed"
        assert SECRET not in failed.value.detail
        await parent.event("operation_raised", 3)
    written = capfd.readouterr()
    for place in (*relayed, json.dumps(parent.events), written.out, written.err, answer.decode("latin-1")):
        for text in (SECRET, SECRET.replace("-", ""), SECRET.replace("-", "_")):
            assert text not in place
    told = await kit.describe(connection)
    assert (told["state"], told["in_flight"]) == ("ready", 0)


async def test_bad_bodies_are_refused_by_their_types(kit, start, configure):
    app = Enclave()

    @app.operation("numbers", open=True, idempotent=True)
    async def numbers(request: list[int]) -> int:
        return sum(request)

    @app.operation("text", open=True, idempotent=True)
    def text(request: str) -> str:
        return request.upper()

    @app.operation("nothing", open=True, idempotent=True)
    async def nothing() -> None:
        return None

    operations = {name: {"open": True} for name in ("numbers", "text", "nothing")}
    enclave = await start(app, configure(operations=operations))
    connection = await enclave.connect()
    assert await kit.send(connection, "numbers", b"[1,2,3]") == b"6"
    assert await kit.send(connection, "text", "하나a".encode()) == "하나A".encode()
    assert await kit.send(connection, "nothing", b"") == b""
    for name, body in (
        ("numbers", b'["x"]'),
        ("numbers", b""),
        ("numbers", b"[" * 100_000),
        ("text", b"\xff"),
        ("nothing", b"x"),
    ):
        with pytest.raises(StreamReset) as caught:
            await kit.send(connection, name, body)
        assert caught.value.code == "invalid_request"


async def test_cancelling_a_call_cancels_the_operation(kit, start, configure):
    app, entered, gone = Enclave(), asyncio.Event(), asyncio.Event()

    @app.operation("hang", open=True, idempotent=True)
    async def hang(request: bytes) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return b""

    enclave = await start(app, configure(operations={"hang": {"open": True}}))
    connection = await enclave.connect()
    call = asyncio.create_task(kit.send(connection, "hang", b""))
    await entered.wait()
    call.cancel()
    await gone.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    while (await kit.describe(connection))["in_flight"]:
        await asyncio.sleep(0)


async def test_deadlines_end_operations(kit, start, configure):
    import time

    app, _, _ = gated()
    enclave = await start(app, configure(operations={"wait": {"callers": ["app"]}}))
    connection = await enclave.connect()
    with pytest.raises(StreamReset) as caught:
        await enclave.call(connection, "app", "wait", b"", timeout=0.2)
    assert caught.value.code == "deadline_exceeded"
    with pytest.raises(StreamReset) as caught:  # the sealed deadline holds without the transport's
        await enclave.call(connection, "app", "wait", b"", deadline_ms=int(time.time() * 1000) + 300)
    assert (caught.value.code, caught.value.retryable) == ("deadline_exceeded", True)
    while (await kit.describe(connection))["in_flight"]:
        await asyncio.sleep(0)


async def test_threads_that_go_on_after_a_cancel_keep_their_place(kit, start, configure):
    app, gate, entered = Enclave(), threading.Event(), threading.Event()

    @app.operation("block", open=True, idempotent=True)
    def block(request: bytes) -> bytes:
        entered.set()
        gate.wait(20)
        return request

    operations = {"block": {"open": True}, "echo": {"open": True}}
    enclave = await start(app, configure(operations=operations), limits=Limits(threads=1))
    connection = await enclave.connect()
    with pytest.raises(StreamReset):
        await kit.send(connection, "block", b"first", timeout=0.1)
    assert entered.is_set()
    second = asyncio.create_task(kit.send(connection, "block", b"second"))
    assert await kit.send(connection, "echo", b"x") == b"x"  # the loop is free
    assert not second.done()
    gate.set()
    assert await second == b"second"


async def test_streams_answer_in_order_with_bounded_read_ahead(kit, start, configure):
    app, running, most = Enclave(), 0, 0

    @app.operation("slow", open=True, idempotent=True)
    async def slow(request: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(secrets.randbelow(20)):
            await asyncio.sleep(0)
        running -= 1
        return request

    limits = Limits(read_ahead=3)
    enclave = await start(app, configure(operations={"slow": {"open": True}}), limits=limits)
    connection = await enclave.connect()
    stream = await connection.open("operation", metadata={"name": "slow", "sealed": False})
    count = 300

    async def write() -> None:
        for index in range(count):
            await stream.send(b"%d" % index, end=index == count - 1)

    writer = asyncio.create_task(write())
    answers = [answer async for answer in stream]
    await writer
    assert answers == [b"%d" % index for index in range(count)]
    assert 1 < most <= limits.read_ahead + 2


async def test_sealed_streams_answer_each_message_to_its_own_key(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    sealed = [enclave.seal("app", "echo", b"%d" % n, sequence=n, last=n == 9) for n in range(10)]
    stream = await connection.open("operation", metadata={"name": "echo", "sealed": True})
    for index, one in enumerate(sealed):
        await stream.send(one.request, end=index == 9)
    answers = [answer async for answer in stream]
    assert [one.answer_opener.open(a) for one, a in zip(sealed, answers, strict=True)] == [
        b"%d" % n for n in range(10)
    ]


async def test_ping_pong_on_a_stream(kit, start):
    enclave = await start()
    stream = await (await enclave.connect()).open("operation", metadata={"name": "echo"})
    for index in range(5):
        await stream.send(b"%d" % index)
        assert await stream.receive() == b"%d" % index
    stream.end()
    assert await stream.receive() is None


async def test_an_error_in_a_stream_comes_after_the_answers_before_it(kit, start, configure):
    app = Enclave()

    @app.operation("picky", open=True, idempotent=True)
    async def picky(request: str) -> str:
        if request == "bad":
            raise ValueError(SECRET)
        return request

    enclave = await start(app, configure(operations={"picky": {"open": True}}))
    connection = await enclave.connect()
    stream = await connection.open("operation", metadata={"name": "picky", "sealed": False})
    for text in (b"a", b"b", b"bad", b"c"):
        await stream.send(text)
    assert await stream.receive() == b"a"
    assert await stream.receive() == b"b"
    with pytest.raises(StreamReset) as caught:
        await stream.receive()
    assert caught.value.code == "operation_failed"
    while (await kit.describe(connection))["in_flight"]:
        await asyncio.sleep(0)


async def test_a_sealed_failure_in_a_stream_does_not_end_it(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    stream = await connection.open("operation", metadata={"name": "decrypt", "sealed": True})
    bad = enclave.seal("dpo", "decrypt", b"{}")
    good = enclave.seal("dpo", "decrypt", b'{"values":[]}')
    await stream.send(bad.request)
    await stream.send(good.request, end=True)
    first, second = [answer async for answer in stream]
    with pytest.raises(OperationFailed):
        bad.answer_opener.open(first)
    assert good.answer_opener.open(second) == b'{"values":[]}'


async def test_shutdown_lets_requests_finish(kit, start, configure):
    app, entered, gate = gated(open=True)
    enclave = await start(app, configure(operations=WAIT), ready=False)
    parent = await enclave.parent()
    await enclave.ready()
    connection = await enclave.connect()
    call = asyncio.create_task(kit.send(connection, "wait", b"kept"))
    await entered.wait()
    await parent.connection.call("shutdown")
    await parent.event("draining")
    gate.set()
    assert await call == b"kept"
    assert await enclave.task == 0


async def test_a_request_that_does_not_end_is_cut_off(kit, start, configure):
    app, entered, _ = gated(open=True)
    enclave = await start(
        app, configure(operations=WAIT), limits=Limits(drain=0.1, farewell=0.1), ready=False
    )
    parent = await enclave.parent()
    await enclave.ready()
    call = asyncio.create_task(kit.send(await enclave.connect(), "wait", b""))
    await entered.wait()
    await parent.connection.call("shutdown")
    assert await enclave.task == 1
    with pytest.raises(Exception, match=r"closed|cancelled|down"):
        await call


async def test_context_runs_large_work_elsewhere(kit, start, configure):
    app = Enclave()

    @app.operation("where", open=True, idempotent=True)
    async def where(request: bytes, context: Context) -> str:
        return str(await context.run(threading.get_ident) == threading.get_ident())

    enclave = await start(app, configure(operations={"where": {"open": True}}))
    connection = await enclave.connect()
    assert await kit.send(connection, "where", b"") == b"True"
    assert await kit.send(connection, "where", bytes(100_000)) == b"False"


async def test_a_debug_enclave_says_what_went_wrong_on_its_console(kit, start, configure, authority, capfd):
    from geumgo.testing.nsm import SoftwareNsm

    operations = {"araise": {"open": True}}
    zeros = SoftwareNsm(authority, {})  # as a debug enclave's registers are
    enclave = await start(raising(), configure(operations=operations), transport=zeros)
    assert enclave.program.debug
    with pytest.raises(StreamReset):
        await kit.send(await enclave.connect(), "araise", b"ValueError")
    assert "Traceback" in capfd.readouterr().err
