"""Egress: the allowlist, and the bytes both ways over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.channel import Connection, ControlSlot, Role, StreamReset
from geumgo.manager import _egress
from geumgo.manager._egress import Destination, Egress, EgressError, load_allowlist, parse_destination


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kms.ap-northeast-2.amazonaws.com:443", Destination("kms.ap-northeast-2.amazonaws.com", 443)),
        ("KMS.example.:8443", Destination("kms.example", 8443)),
        ("[::1]:80", Destination("::1", 80)),
        ("127.0.0.1:1", Destination("127.0.0.1", 1)),
    ],
)
def test_destinations(text, expected):
    assert parse_destination(text) == expected
    assert parse_destination(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:٣", "host:1x"]
)
def test_bad_destinations(text):
    with pytest.raises(EgressError):
        parse_destination(text)


@given(st.text(max_size=40))
def test_any_text_is_a_destination_or_our_error(text):
    with contextlib.suppress(EgressError):
        assert 0 < parse_destination(text).port < 65536


def test_aws_allowlist(tmp_path):
    path = tmp_path / "vsock-proxy.yaml"
    path.write_text(
        "allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n- {address: 10.0.0.1, port: 80}\n"
    )
    assert load_allowlist(path) == {
        Destination("kms.us-east-1.amazonaws.com", 443),
        Destination("10.0.0.1", 80),
    }
    path.write_text("allowlist: []\n")
    assert load_allowlist(path) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "allowlist: 1",
        "allowlist: [1]",
        "allowlist: [{address: a}]",
        "allowlist: [{address: a, port: x}]",
        "allowlist: [{address: 1, port: 1}]",
        "allowlist: [{address: a, port: true}]",
        "allowlist: [{address: a, port: 99999}]",
        "{",
        "\x00",
        "a: &a [*a]",
    ],
)
def test_bad_allowlists(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(EgressError):
        load_allowlist(path)


def test_missing_allowlist(tmp_path):
    with pytest.raises(EgressError, match="can't be read"):
        load_allowlist(tmp_path / "none.yaml")


@pytest.fixture
async def far():
    """A TCP server that answers each byte with its complement and ends when its client does."""
    ended = asyncio.Event()

    async def serve(reader, writer):
        while chunk := await reader.read(65536):
            writer.write(bytes(255 - byte for byte in chunk[:1]) + chunk[1:])
            await writer.drain()
        writer.write(b"bye")
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], ended
    server.close()
    await server.wait_closed()


@pytest.fixture
async def enclave_side():
    """The two ends of a control connection; the manager's serves `egress` with the handler given."""
    made = []

    async def connect(egress: Egress) -> Connection:
        ours, theirs = socket.socketpair()

        async def unused(stream):
            raise GeumgoError("nothing is served here")

        accepting = asyncio.create_task(Connection.accept(theirs, handler=unused, control=ControlSlot()))
        parent = await Connection.dial(ours, role=Role.CONTROL, handler=egress.serve)
        enclave = await accepting
        made.extend((parent, enclave))
        return enclave

    yield connect
    for connection in made:
        await connection.aclose()


async def test_carries_both_ways_with_half_close(far, enclave_side):
    port, ended = far
    egress = Egress(frozenset({Destination("127.0.0.1", port)}))
    enclave = await enclave_side(egress)
    stream = await enclave.open("egress", metadata={"host": "127.0.0.1", "port": port})
    await stream.send(b"\x00hello")
    assert await stream.receive() == b"\xffhello"
    await stream.send(b"", end=True)
    assert await stream.receive() == b"bye"
    await ended.wait()
    while egress.open:
        await asyncio.sleep(0)
    assert (egress.bytes_out, egress.bytes_in) == (6, 9)


async def test_a_megabyte_each_way(far, enclave_side):
    port, _ = far
    enclave = await enclave_side(Egress(frozenset({Destination("127.0.0.1", port)})))
    stream = await enclave.open("egress", metadata={"host": "127.0.0.1", "port": port})

    async def send():
        for _ in range(32):
            await stream.send(b"\xff" * 32768)
        await stream.send(b"", end=True)

    sending = asyncio.create_task(send())
    received = 0
    while (chunk := await stream.receive()) is not None:
        received += len(chunk)
    await sending
    assert received == (1 << 20) + 3


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        pytest.param({"host": "127.0.0.1", "port": 1}, "forbidden", id="another port"),
        pytest.param({"host": "169.254.169.254", "port": 80}, "forbidden", id="instance metadata"),
        pytest.param({"host": "localhost", "port": 1}, "forbidden", id="another name"),
        pytest.param({"host": "127.0.0.1"}, "malformed", id="no port"),
        pytest.param({"host": b"127.0.0.1", "port": 1}, "malformed", id="bytes"),
        pytest.param({"host": "127.0.0.1", "port": True}, "malformed", id="true is no port"),
    ],
)
async def test_refused(far, enclave_side, metadata, code):
    port, _ = far
    egress = Egress(frozenset({Destination("127.0.0.1", port)}))
    enclave = await enclave_side(egress)
    stream = await enclave.open("egress", metadata=metadata)
    with pytest.raises(StreamReset) as caught:
        await stream.receive()
    assert caught.value.code == code
    assert egress.open == 0


async def test_nobody_listens(enclave_side):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    enclave = await enclave_side(Egress(frozenset({Destination("127.0.0.1", port)})))
    stream = await enclave.open("egress", metadata={"host": "127.0.0.1", "port": port})
    with pytest.raises(StreamReset) as caught:
        await stream.receive()
    assert caught.value.code == "unavailable"
    assert caught.value.retryable


async def test_too_many(far, enclave_side, monkeypatch):
    monkeypatch.setattr(_egress, "MAX_CONNECTIONS", 1)
    port, _ = far
    enclave = await enclave_side(Egress(frozenset({Destination("127.0.0.1", port)})))
    where = {"host": "127.0.0.1", "port": port}
    first = await enclave.open("egress", metadata=where)
    await first.send(b"x")
    await first.receive()
    second = await enclave.open("egress", metadata=where)
    with pytest.raises(StreamReset) as caught:
        await second.receive()
    assert caught.value.code == "busy"


async def test_idle_connections_are_given_up(far, enclave_side, monkeypatch):
    monkeypatch.setattr(_egress, "IDLE_TIMEOUT", 0.05)
    port, _ = far
    enclave = await enclave_side(Egress(frozenset({Destination("127.0.0.1", port)})))
    stream = await enclave.open("egress", metadata={"host": "127.0.0.1", "port": port})
    with pytest.raises(StreamReset) as caught:
        await stream.receive()
    assert caught.value.code == "deadline_exceeded"


async def test_a_reset_by_the_enclave_closes_the_connection(far, enclave_side):
    port, ended = far
    egress = Egress(frozenset({Destination("127.0.0.1", port)}))
    enclave = await enclave_side(egress)
    stream = await enclave.open("egress", metadata={"host": "127.0.0.1", "port": port})
    await stream.send(b"x")
    await stream.receive()
    stream.reset("cancelled")
    await ended.wait()
