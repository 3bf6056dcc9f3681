"""What the parent answers on the control connection."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from geumgo._base import GeumgoError
from geumgo.channel import Connection, ControlSlot, Role, StreamReset
from geumgo.codec import cbor
from geumgo.manager._control import ControlHandler, CredentialError, EnvironmentCredentials, FileCredentials
from geumgo.manager._egress import Egress

KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "never in a log"}


@pytest.fixture
async def asking(tmp_path):
    """The enclave's end of a control connection whose parent has a credentials file; and the events it logged."""
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(KEYS))
    events: list = []
    handler = ControlHandler(
        egress=Egress(frozenset()), credentials=FileCredentials(path), event=events.append
    )
    ours, theirs = socket.socketpair()

    async def unused(stream):
        raise GeumgoError("nothing is served here")

    accepting = asyncio.create_task(Connection.accept(theirs, handler=unused, control=ControlSlot()))
    parent = await Connection.dial(ours, role=Role.CONTROL, handler=handler)
    enclave = await accepting
    yield enclave, events, path
    await parent.aclose()
    await enclave.aclose()


async def test_credentials(asking):
    enclave, _, path = asking
    answer = cbor.loads(await enclave.call("credentials"))
    assert answer == {**KEYS, "session_token": None, "expires_ms": None}
    path.write_text(json.dumps({**KEYS, "session_token": "t", "expires_ms": 5}))
    answer = cbor.loads(await enclave.call("credentials"))
    assert answer["session_token"] == "t", "read anew each time: they expire"
    assert answer["expires_ms"] == 5


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"access_key_id": 1}', "\xff"])
async def test_unreadable_credentials(asking, content):
    enclave, _, path = asking
    path.write_text(content)
    with pytest.raises(StreamReset) as caught:
        await enclave.call("credentials")
    assert caught.value.code == "keys_unavailable"
    assert caught.value.retryable


def test_credentials_of_the_environment():
    source = EnvironmentCredentials({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert source.read()["session_token"] is None
    with pytest.raises(CredentialError, match="AWS_SECRET_ACCESS_KEY") as caught:
        EnvironmentCredentials({"AWS_ACCESS_KEY_ID": "secret-id"}).read()
    assert "secret-id" not in caught.value.diagnostics()


async def test_unknown_kinds_are_refused(asking):
    enclave, _, _ = asking
    with pytest.raises(StreamReset) as caught:
        await enclave.call("shell")
    assert caught.value.code == "malformed"


async def test_log_events_are_flattened(asking):
    enclave, events, _ = asking
    stream = await enclave.open("log")
    fields = {"n": 1, "ok": True, "text": "x" * 1000, "nested": {"a": 1}, "list": [1]}
    await stream.send(cbor.dumps({"t": 5, "code": "started", "level": "info", "fields": fields}))
    await stream.send(cbor.dumps({"code": "odd", "level": "shout", "fields": "none"}), end=True)
    while len(events) < 2:
        await asyncio.sleep(0)
    assert events[0]["fields"] == {"n": 1, "ok": True, "text": "x" * 256, "nested": "{'a': 1}", "list": "[1]"}
    assert events[1] == {"code": "odd", "level": "info", "t": None, "fields": {}}


@pytest.mark.parametrize(
    "message", [b"", b"\xff", cbor.dumps([1]), cbor.dumps({"code": 5}), b"\xa1\x64code" + b"\x80"]
)
async def test_bad_events_end_the_stream(asking, message):
    enclave, events, _ = asking
    stream = await enclave.open("log")
    await stream.send(message)
    with pytest.raises(StreamReset) as caught:
        await stream.receive()
    assert caught.value.code == "malformed"
    assert events == []


async def test_what_a_hostile_enclave_logs_stays_one_line_of_json(asking):
    enclave, events, _ = asking
    stream = await enclave.open("log")
    fields = {"a": float("nan"), "b": float("inf"), "c": 1 << 62, "d": 'x"}\n{"event":"forged', "e": b"\xff"}
    await stream.send(cbor.dumps({"t": 1, "code": "x\ny", "level": "fatal", "fields": fields}))
    stream.end()
    while not events:
        await asyncio.sleep(0)

    def none(constant):
        raise AssertionError(f"{constant} is no JSON")

    line = json.dumps(events[0])
    assert json.loads(line, parse_constant=none)["level"] == "info"
    assert "\n" not in line
