"""What a neighbour on the node, who may dial the port, or a caller gone bad tries with the enclave's memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import msgspec
import pytest

from geumgo._base import GeumgoError
from geumgo.channel import ChannelMachine, Settings, Side, StreamReset
from geumgo.channel._settings import MIN_WINDOW
from geumgo.enclave import Enclave
from geumgo.enclave._limits import Limits
from geumgo.keys import DataKey, OperationFailed, encrypt_field
from geumgo.keys._wire import MAX_REQUEST

OPEN = {"name": "echo", "sealed": False}


class Greedy:
    """A peer that sends as fast as it may and gives no credit for what it gets."""

    def __init__(self, sock) -> None:
        self.machine = ChannelMachine(
            Side.DIAL, Settings(stream_window=MIN_WINDOW, connection_window=MIN_WINDOW, max_message=1 << 20)
        )
        self.sock = sock
        self.closed = False
        self.streams = 0

    async def pump(self, seconds: float = 0.02) -> None:
        """Write what is there, and hear what the other side says meanwhile."""
        loop = asyncio.get_running_loop()
        if data := self.machine.take():
            with contextlib.suppress(OSError):
                await loop.sock_sendall(self.sock, data)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        heard = await loop.sock_recv(self.sock, 1 << 16)
                    except OSError:
                        heard = b""
                    if not heard:
                        self.closed = True
                        return
                    self.machine.receive(heard)

    async def echo(self, count: int, size: int) -> None:
        for _ in range(count):
            while not self.closed and (self.machine.peer is None or not self.machine.can_open):
                await self.pump()
            if self.closed:
                return
            self.machine.open("operation", OPEN, message=bytes(size), end=True)
            self.streams += 1
            await self.pump(0.002)


async def test_answers_that_nobody_takes_are_bounded(kit, start):
    enclave = await start(limits=Limits(unread_bytes=4 << 20))
    server = enclave.program.server
    honest = await enclave.connect()
    greedy = [Greedy(enclave.listener.dial()) for _ in range(2)]
    highest = 0
    for _ in range(10):
        for one in greedy:
            await one.echo(20, 60_000)
        highest = max(highest, server.unread)
        assert await kit.send(honest, "echo", bytes(500_000)) == bytes(500_000)
    for one in greedy:
        await one.pump(0.1)
    assert sum(one.streams for one in greedy) * 60_000 > 8 << 20, "they did ask for more than there may be"
    assert highest <= (4 << 20) + 60_000
    assert any(one.closed for one in greedy)
    assert not honest.closed
    for one in greedy:
        one.sock.close()
    while server.unread:
        await asyncio.sleep(0.001)


async def test_who_takes_nothing_gets_no_more_work_done(kit, start):
    """Also the manager's connection, which is never closed for this."""
    enclave = await start(limits=Limits(unread_bytes=2 << 20))
    greedy = Greedy(enclave.listener.dial())
    await greedy.echo(60, 60_000)
    await greedy.pump(0.2)
    assert enclave.program.server.unread <= 2 << 20
    assert not greedy.closed, "half of what there may be is no reason to close"
    assert await kit.send(await enclave.connect(), "echo", b"x") == b"x"
    greedy.sock.close()


async def test_streams_that_do_nothing_are_bounded_over_all_connections(kit, start):
    enclave = await start(limits=Limits(streams=100))
    connections = [await enclave.connect() for _ in range(2)]
    streams = [
        await connection.open("operation", metadata=OPEN) for connection in connections for _ in range(80)
    ]
    refused = 0
    for stream in streams:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                try:
                    await stream.receive()
                except StreamReset as error:
                    refused += error.code == "busy"
    assert refused == 60
    with pytest.raises(StreamReset) as caught:
        await kit.send(await enclave.connect(), "echo", b"x")
    assert (caught.value.code, caught.value.retryable) == ("busy", True)
    for connection in connections:
        await connection.aclose()
    later = await enclave.connect()
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(StreamReset):
                assert await kit.send(later, "echo", b"x") == b"x"
                break


async def test_the_manager_is_heard_however_many_streams_others_hold(kit, start):
    enclave = await start(limits=Limits(streams=10), ready=False)
    parent = await enclave.parent()
    await enclave.ready()
    other = await enclave.connect()
    for _ in range(20):
        await other.open("operation", metadata=OPEN)
    await asyncio.sleep(0.01)
    assert (await kit.describe(parent.connection))["state"] == "ready"


async def test_a_long_deadline_does_not_let_an_empty_stream_wait_long(start):
    enclave = await start(limits=Limits(first_message=0.1))
    stream = await (await enclave.connect()).open("operation", metadata=OPEN, timeout=3600)
    with pytest.raises(GeumgoError) as caught:
        await asyncio.wait_for(stream.receive(), 5)
    assert caught.value.code == "deadline_exceeded"


async def test_connections_that_never_say_hello_do_not_keep_others_out(kit, start):
    enclave = await start(limits=Limits(connections=4))
    silent = [enclave.listener.dial() for _ in range(12)]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(2):
        assert await kit.send(await enclave.connect(), "echo", b"x") == b"x"
    for sock in silent:
        sock.close()


async def test_json_that_grows_when_it_is_parsed_counts_as_what_it_becomes(kit, start, configure):
    app = Enclave()
    entered, gate = asyncio.Event(), asyncio.Event()

    class Lists(msgspec.Struct):
        rows: list[list[str]]

    Lists.__module__ = __name__
    globals()["Lists"] = Lists

    async def count(request: Lists) -> int:
        entered.set()
        await gate.wait()
        return len(request.rows)

    count.__annotations__ = {"request": Lists, "return": int}
    app.operation("count", open=True, idempotent=True)(count)
    operations = {"count": {"open": True}, "echo": {"open": True}}
    enclave = await start(app, configure(operations=operations), limits=Limits(in_flight_bytes=1 << 20))
    connection = await enclave.connect()
    body = json.dumps({"rows": [[]] * 10_000}).encode()
    assert len(body) < 50_000
    first = asyncio.create_task(kit.send(connection, "count", body))
    await entered.wait()
    with pytest.raises(StreamReset) as caught:
        await kit.send(connection, "count", body)
    assert caught.value.code == "busy"
    assert await kit.send(connection, "echo", body) == body, "bytes stay what they are"
    gate.set()
    assert await first == b"10000"


async def test_requests_given_up_do_not_pile_up_questions_to_the_key_service(kit, start, kms):
    """A known caller sends envelopes under ever new data keys and goes away, again and again."""
    enclave = await start(limits=Limits(data_key_calls=2, data_key_waiting=50))
    connection = await enclave.connect()
    kms.gate = asyncio.Event()

    def body() -> bytes:
        values = []
        for _ in range(10):
            wrapped = kms.wrap(kit.DATA_ARN, {"app": "crm"})
            key = DataKey(kit.DATA_ARN, kms.plaintext(wrapped), wrapped, {"app": "crm"})
            values.append(encrypt_field(key, b"x"))
        return json.dumps({"values": values}).encode()

    asking = enclave.program._keys._data_keys._asking
    codes = set()
    for _ in range(20):
        try:
            await enclave.call(connection, "dpo", "decrypt", body(), timeout=0.02)
        except GeumgoError as error:
            codes.add(error.code)
        assert len(asking) <= 50
    assert codes == {"deadline_exceeded", "busy"}
    kms.gate.set()
    while asking:
        await asyncio.sleep(0.001)
    assert json.loads(await enclave.call(connection, "dpo", "decrypt", body()))["values"] == ["x"] * 10


async def test_one_caller_can_not_use_up_what_is_remembered_for_all(kit, start, configure, callers):
    app = Enclave()

    @app.operation("pay")
    def pay(request: bytes) -> bytes:
        return request

    configuration = configure(pooled=False, operations={"pay": {"callers": ["records", "dpo"]}})
    enclave = await start(app, configuration, limits=Limits(remembered_requests=8, remembered_per_caller=5))
    connection = await enclave.connect()
    for _ in range(5):
        assert await enclave.call(connection, "records", "pay", b"1") == b"1"
    with pytest.raises(StreamReset) as caught:
        await enclave.call(connection, "records", "pay", b"1")
    assert caught.value.code == "busy"
    assert await enclave.call(connection, "dpo", "pay", b"1") == b"1"
    soon = int(time.time() * 1000) + 300
    sealed = enclave.seal("dpo", "pay", b"2", deadline_ms=soon)
    assert sealed.answer_opener.open(await kit.send(connection, "pay", sealed.request, sealed=True)) == b"2"
    with pytest.raises(OperationFailed) as again:
        sealed.answer_opener.open(await kit.send(connection, "pay", sealed.request, sealed=True))
    assert again.value.code == "duplicate"


async def test_a_caller_reaches_no_key_of_another(kit, start, kms, configure):
    """The purposes, KMS keys and contexts of B, asked for by A: refused before the key service hears of it."""
    enclave = await start()
    connection = await enclave.connect()
    before = len(kms.asked)
    wrapped = kms.wrap(kit.DATA_ARN, {"app": "crm"})
    key = DataKey(kit.DATA_ARN, kms.plaintext(wrapped), wrapped, {"app": "crm"})
    seed = configure().pool_key
    stolen = DataKey(seed.key_id, bytes(32), seed.ciphertext, seed.context)
    relabelled = DataKey(kit.DATA_ARN, bytes(32), seed.ciphertext, {"app": "crm", "geumgo:pool": "demo"})
    attempts = [
        ("app", "decrypt", encrypt_field(key, b"x"), "forbidden"),  # no such operation for it
        ("records", "decrypt", encrypt_field(key, b"x"), "forbidden"),
        ("dpo", "decrypt", encrypt_field(stolen, b"x"), "forbidden"),  # the pool's own seed
        ("dpo", "decrypt", encrypt_field(relabelled, b"x"), "forbidden"),
    ]
    for caller, operation, value, code in attempts:
        with pytest.raises(OperationFailed) as caught:
            await enclave.call(connection, caller, operation, json.dumps({"values": [value]}).encode())
        assert caught.value.code == code, (caller, operation)
    assert len(kms.asked) == before


async def test_sealed_tables_count_as_what_they_become(kit, start, kms):
    enclave = await start(limits=Limits(in_flight_bytes=1 << 20))
    connection = await enclave.connect()
    kms.gate = asyncio.Event()
    wrapped = kms.wrap(kit.DATA_ARN, {"app": "crm"})
    key = DataKey(kit.DATA_ARN, kms.plaintext(wrapped), wrapped, {"app": "crm"})
    body = json.dumps({"values": [encrypt_field(key, b"x")] * 450}).encode()
    assert 6 * len(body) < 1 << 20 < 12 * len(body)
    waiting = asyncio.create_task(enclave.call(connection, "dpo", "decrypt", body))
    while not kms.asked_for_data():
        await asyncio.sleep(0.001)
    with pytest.raises(StreamReset) as caught:
        await enclave.call(connection, "dpo", "decrypt", body)
    assert caught.value.code == "busy"
    kms.gate.set()
    assert len(json.loads(await waiting)["values"]) == 450


def test_the_largest_batch_is_always_let_in():
    limits = Limits()
    assert MAX_REQUEST * limits.sealed_growth <= limits.in_flight_bytes
    assert limits.open_body * limits.open_growth <= limits.in_flight_bytes
