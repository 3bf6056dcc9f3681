"""The channel server: echo, describe, attest, shutdown, what bad peers get."""

from __future__ import annotations

import secrets
import time

import pytest

from geumgo.attestation import Evidence, TrustRoots, Use, verify
from geumgo.channel import Role, StreamReset
from geumgo.codec import cbor
from geumgo.keys import SUITE


def ask(nonce, use="seal"):
    return cbor.dumps({"nonce": nonce, "use": use})


async def test_echo_is_open_and_returns_the_bytes(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    body = secrets.token_bytes(3000)
    assert await kit.send(connection, "echo", body) == body
    assert await kit.send(connection, "echo", b"") == b""


async def test_describe_tells_state_key_and_operations(kit, start):
    enclave = await start()
    told = await kit.describe(await enclave.connect())
    assert told["pool"] == kit.POOL
    assert (told["state"], told["reason"], told["in_flight"]) == ("ready", None, 0)
    assert told["key_id"] == enclave.pool_key().key_id
    assert told["operations"] == {
        "deidentify": {"open": False, "idempotent": True},
        "reidentify": {"open": False, "idempotent": True},
        "decrypt": {"open": False, "idempotent": True},
        "echo": {"open": True, "idempotent": True},
    }


async def test_evidence_verifies_and_carries_nonce_key_and_configuration(kit, start, authority, configure):
    configuration = configure()
    enclave = await start(configuration=configuration)
    connection = await enclave.connect()
    nonce = secrets.token_bytes(32)
    evidence = Evidence.from_cbor(await connection.call("attest", ask(nonce)))
    roots = TrustRoots.from_pem(authority.root_pem, simulated=True)
    claims = verify(evidence, roots, now_ms=int(time.time() * 1000), nonce=nonce, use=Use.SEAL)
    assert claims.statement is not None
    assert claims.statement.key == enclave.pool_key().raw
    assert claims.statement.suite == SUITE
    assert claims.statement.pool == kit.POOL
    assert claims.statement.configuration == configuration.digest()
    assert claims.simulated


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param(b"", "malformed", id="empty"),
        pytest.param(b"\xff", "malformed", id="no CBOR"),
        pytest.param(cbor.dumps({"nonce": b"n" * 16}), "malformed", id="no use"),
        pytest.param(cbor.dumps({"nonce": "n" * 16, "use": "seal"}), "malformed", id="text nonce"),
        pytest.param(ask(b"n" * 15), "invalid_request", id="nonce too short"),
        pytest.param(ask(b"n" * 65), "invalid_request", id="nonce too long"),
        pytest.param(ask(b"n" * 16, "channel"), "invalid_request", id="no channel key"),
        pytest.param(ask(b"n" * 16, "kms"), "invalid_request", id="never for the key service"),
        pytest.param(cbor.dumps({"nonce": b"n" * 16, "use": "seal", "x": 1}), "malformed", id="extra field"),
        pytest.param(b"\x00" * 5000, "malformed", id="too long"),
    ],
)
async def test_bad_attest_messages(kit, start, message, code):
    enclave = await start()
    connection = await enclave.connect()
    with pytest.raises(StreamReset) as caught:
        await connection.call("attest", message)
    assert caught.value.code == code


async def test_unknown_kinds_and_malformed_metadata(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    for kind, metadata in (
        ("egress", {}),
        ("operation", {}),
        ("operation", {"name": 1}),
        ("operation", {"name": "echo", "sealed": 1}),
    ):
        with pytest.raises(StreamReset) as caught:
            await connection.call(kind, b"", metadata=metadata)
        assert caught.value.code == "malformed"
    assert await kit.send(connection, "echo", b"still there") == b"still there"


async def test_shutdown_is_for_the_control_role_only(kit, start):
    enclave = await start(ready=False)
    parent = await enclave.parent()
    other = await enclave.connect(Role.CONTROL)
    assert other.role is Role.CALL
    with pytest.raises(StreamReset) as caught:
        await other.call("shutdown")
    assert caught.value.code == "forbidden"
    assert await parent.connection.call("shutdown") == b""
    assert await enclave.task == 0
    assert (await parent.event("stopped"))["fields"] == {"in_flight": 0}
    await parent.connection.wait_closed()
    await other.wait_closed()
