"""Fields that an application encrypted under its own KMS data key: decrypted inside, then de-identified."""

from __future__ import annotations

import json

import pytest

from geumgo import keys
from geumgo.client import GatewayError

CONTEXT = {"app": "crm"}


@pytest.fixture
async def data_key(stack):
    """A data key of the application, as it gets one from its key service."""
    record = stack.pool.record()
    plaintext, wrapped = await stack.pool.kms().generate_data_key(record.data_key_id, CONTEXT)
    return keys.DataKey(record.data_key_id, plaintext, wrapped, CONTEXT)


def table(rows):
    return json.dumps({"columns": ["id", "phone"], "rows": rows}).encode()


async def test_decrypted_inside_then_masked(connect, data_key, encrypted_policy):
    sealed = [keys.encrypt_field(data_key, f"010-1234-{n:04}".encode(), CONTEXT) for n in range(20)]
    body = table([[str(n), text] for n, text in enumerate(sealed)])
    answer = json.loads(await connect("crm").call("deidentify", body, policy=encrypted_policy.to_bytes()))
    assert [row[1][-4:] for row in answer["rows"]] == [f"{n:04}" for n in range(20)]
    assert all("1234-" not in row[1] for row in answer["rows"])


async def test_decrypt_for_the_caller_with_the_key(connect, data_key, encrypted_policy):
    values = [keys.encrypt_field(data_key, text.encode(), CONTEXT) for text in ("김민수", "010-1234-5678")]
    body = json.dumps({"values": values}).encode()
    answer = json.loads(await connect("crm").call("decrypt", body, policy=encrypted_policy.to_bytes()))
    assert answer["values"] == ["김민수", "010-1234-5678"]


async def refused(client, operation, body, policy):
    with pytest.raises((keys.OperationFailed, GatewayError)) as caught:
        await client.call(operation, body, policy=policy)
    return caught.value.code


async def test_not_for_a_caller_without_the_key(connect, data_key, encrypted_policy):
    value = keys.encrypt_field(data_key, b"010-1234-5678", CONTEXT)
    assert (
        await refused(connect("records"), "deidentify", table([["1", value]]), encrypted_policy.to_bytes())
        == "forbidden"
    )
    body = json.dumps({"values": [value]}).encode()
    assert await refused(connect("records"), "decrypt", body, encrypted_policy.to_bytes()) == "forbidden"
    assert await refused(connect("dpo"), "decrypt", body, encrypted_policy.to_bytes()) == "forbidden"


async def test_not_under_a_policy_that_the_image_does_not_list(connect, data_key, policy):
    value = keys.encrypt_field(data_key, b"010-1234-5678", CONTEXT)
    assert (
        await refused(connect("crm"), "deidentify", table([["1", value]]), policy.to_bytes()) == "forbidden"
    )


async def test_not_under_another_context(connect, stack, encrypted_policy):
    record = stack.pool.record()
    other = {"app": "payroll"}
    plaintext, wrapped = await stack.pool.kms().generate_data_key(record.data_key_id, other)
    value = keys.encrypt_field(keys.DataKey(record.data_key_id, plaintext, wrapped, other), b"secret", other)
    body = json.dumps({"values": [value]}).encode()
    assert await refused(connect("crm"), "decrypt", body, encrypted_policy.to_bytes()) == "forbidden"


async def test_a_changed_envelope(connect, data_key, encrypted_policy):
    value = keys.encrypt_field(data_key, b"010-1234-5678", CONTEXT)
    changed = value[:-6] + ("A" if value[-6] != "A" else "B") + value[-5:]
    body = json.dumps({"values": [changed]}).encode()
    assert await refused(connect("crm"), "decrypt", body, encrypted_policy.to_bytes()) == "invalid_request"
