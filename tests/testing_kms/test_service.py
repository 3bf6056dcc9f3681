"""The emulator's actions, without a server."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geumgo.testing.kms._errors import ServiceError

DAY = 86_400_000


def plain(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["Plaintext"])


def only(action: str | list[str], principal: str = "*", **condition: Any) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": principal if principal == "*" else {"AWS": principal},
        "Action": action,
        "Resource": "*",
    }
    if condition:
        statement["Condition"] = condition
    return {"Version": "2012-10-17", "Statement": [statement]}


def test_key_metadata(kms: Any) -> None:
    made = kms.call("CreateKey", Description="pool")["KeyMetadata"]
    described = kms.call("DescribeKey", KeyId=made["KeyId"])["KeyMetadata"]
    assert made == described
    assert re.fullmatch(f"arn:aws:kms:{kms.region}:{kms.account}:key/[0-9a-f-]{{36}}", made["Arn"])
    assert (made["Description"], made["KeyState"], made["Origin"], made["MultiRegion"]) == (
        "pool",
        "Enabled",
        "AWS_KMS",
        False,
    )


def test_encrypt_and_decrypt(kms: Any) -> None:
    key = kms.key()
    made = kms.call("Encrypt", KeyId=key, Plaintext=b"secret", EncryptionContext={"a": "1", "b": "2"})
    assert made["KeyId"] == key
    blob = base64.b64decode(made["CiphertextBlob"])
    assert b"secret" not in blob
    for context in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}):
        answer = kms.call("Decrypt", CiphertextBlob=blob, EncryptionContext=context)
        assert (plain(answer), answer["KeyId"]) == (b"secret", key)
    assert (
        plain(kms.call("Decrypt", CiphertextBlob=blob, KeyId=key, EncryptionContext={"a": "1", "b": "2"}))
        == b"secret"
    )


@pytest.mark.parametrize(
    "context", [{}, {"a": "1"}, {"a": "1", "b": "3"}, {"A": "1", "b": "2"}, {"a1": "", "b": "2"}]
)
def test_another_context(kms: Any, context: dict[str, str]) -> None:
    blob = kms.call("Encrypt", KeyId=kms.key(), Plaintext=b"x", EncryptionContext={"a": "1", "b": "2"})
    error = kms.refused(
        "Decrypt", CiphertextBlob=base64.b64decode(blob["CiphertextBlob"]), EncryptionContext=context
    )
    assert error.kind == "InvalidCiphertextException"


def test_every_flipped_byte_of_a_blob(kms: Any) -> None:
    blob = kms.blob(kms.key())
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1
        error = kms.refused("Decrypt", CiphertextBlob=bytes(changed))
        in_key_id = 4 <= at < 20
        assert error.kind == ("AccessDeniedException" if in_key_id else "InvalidCiphertextException"), at


def test_a_blob_of_another_key(kms: Any) -> None:
    first, second = kms.key(), kms.key()
    error = kms.refused("Decrypt", CiphertextBlob=kms.blob(first), KeyId=second)
    assert error.kind == "IncorrectKeyException"


@pytest.mark.parametrize(
    ("members", "size"),
    [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 64}, 64)],
)
def test_data_keys(kms: Any, members: dict[str, Any], size: int) -> None:
    key = kms.key()
    made = kms.call("GenerateDataKey", KeyId=key, EncryptionContext={"a": "b"}, **members)
    assert len(plain(made)) == size
    blob = base64.b64decode(made["CiphertextBlob"])
    assert plain(kms.call("Decrypt", CiphertextBlob=blob, EncryptionContext={"a": "b"})) == plain(made)
    without = kms.call("GenerateDataKeyWithoutPlaintext", KeyId=key, **members)
    assert without.keys() == {"CiphertextBlob", "KeyId"}
    assert len(plain(kms.call("Decrypt", CiphertextBlob=base64.b64decode(without["CiphertextBlob"])))) == size


def test_random(kms: Any) -> None:
    first, second = (plain(kms.call("GenerateRandom", NumberOfBytes=32)) for _ in range(2))
    assert len(first) == len(second) == 32
    assert first != second


def test_aliases(kms: Any) -> None:
    first, second = kms.key(), kms.key()
    kms.call("CreateAlias", AliasName="alias/data", TargetKeyId=first)
    kms.call("CreateAlias", AliasName="alias/more", TargetKeyId=second)
    arn = f"arn:aws:kms:{kms.region}:{kms.account}:alias/data"
    for name in ("alias/data", arn):
        assert kms.call("DescribeKey", KeyId=name)["KeyMetadata"]["Arn"] == first
        assert kms.call("Encrypt", KeyId=name, Plaintext=b"x")["KeyId"] == first
    listed = kms.call("ListAliases")["Aliases"]
    assert [(alias["AliasName"], alias["TargetKeyId"]) for alias in listed] == [
        ("alias/data", first.rpartition("/")[2]),
        ("alias/more", second.rpartition("/")[2]),
    ]
    assert listed[0]["AliasArn"] == arn
    assert [a["AliasName"] for a in kms.call("ListAliases", KeyId=second)["Aliases"]] == ["alias/more"]
    assert (
        kms.refused("CreateAlias", AliasName="alias/data", TargetKeyId=second).kind
        == "AlreadyExistsException"
    )
    assert (
        kms.refused("CreateAlias", AliasName="alias/aws/x", TargetKeyId=second).kind
        == "InvalidAliasNameException"
    )
    kms.call("DeleteAlias", AliasName="alias/data")
    assert kms.refused("DescribeKey", KeyId="alias/data").kind == "NotFoundException"
    assert kms.refused("DeleteAlias", AliasName="alias/data").kind == "NotFoundException"


def test_lists_in_pages(kms: Any) -> None:
    keys = sorted(kms.key() for _ in range(5))
    for n, key in enumerate(keys):
        kms.call("CreateAlias", AliasName=f"alias/{n}", TargetKeyId=key)
    for action, member, name in (("ListKeys", "Keys", "KeyArn"), ("ListAliases", "Aliases", "AliasName")):
        found, marker = [], ""
        while True:
            page = kms.call(action, Limit=2, Marker=marker)
            assert len(page[member]) <= 2
            found += [entry[name] for entry in page[member]]
            if not page["Truncated"]:
                break
            marker = page["NextMarker"]
        assert found == (keys if action == "ListKeys" else [f"alias/{n}" for n in range(5)])


def test_disabled_key(kms: Any) -> None:
    key = kms.key()
    blob = kms.blob(key)
    kms.call("DisableKey", KeyId=key)
    assert kms.call("DescribeKey", KeyId=key)["KeyMetadata"]["Enabled"] is False
    assert kms.refused("Decrypt", CiphertextBlob=blob).kind == "DisabledException"
    assert kms.refused("GenerateDataKey", KeyId=key, KeySpec="AES_256").kind == "DisabledException"
    kms.call("EnableKey", KeyId=key)
    kms.call("Decrypt", CiphertextBlob=blob)


def test_deletion(kms: Any, clock: Any) -> None:
    key = kms.key()
    blob = kms.blob(key)
    kms.call("CreateAlias", AliasName="alias/x", TargetKeyId=key)
    answer = kms.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    assert answer["DeletionDate"] == (clock.ms + 7 * DAY) / 1000
    for action, members in (
        ("Decrypt", {"CiphertextBlob": blob}),
        ("EnableKey", {"KeyId": key}),
        ("DisableKey", {"KeyId": key}),
        ("ScheduleKeyDeletion", {"KeyId": key}),
        ("PutKeyPolicy", {"KeyId": key, "Policy": json.dumps(only("kms:*"))}),
    ):
        assert kms.refused(action, **members).kind == "KMSInvalidStateException"
    clock.ms += 7 * DAY - 1
    assert kms.call("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    clock.ms += 1
    assert kms.refused("DescribeKey", KeyId=key).kind == "NotFoundException"
    assert kms.refused("Decrypt", CiphertextBlob=blob).kind == "AccessDeniedException"
    assert kms.call("ListAliases")["Aliases"] == []


def test_default_policy(kms: Any) -> None:
    key = kms.key()
    text = kms.call("GetKeyPolicy", KeyId=key, PolicyName="default")["Policy"]
    assert json.loads(text)["Statement"][0]["Principal"] == {"AWS": f"arn:aws:iam::{kms.account}:root"}
    kms.call("DescribeKey", kms.parent, KeyId=key)


def test_a_policy_is_kept_as_it_was_written(kms: Any) -> None:
    text = json.dumps(only("kms:*"), indent=3) + "\n"
    key = kms.key()
    kms.call("PutKeyPolicy", KeyId=key, Policy=text, PolicyName="default")
    assert kms.call("GetKeyPolicy", KeyId=key)["Policy"] == text


def test_a_policy_governs_at_once(kms: Any) -> None:
    key = kms.key(only(["kms:Decrypt", "kms:PutKeyPolicy"], kms.admin.arn))
    error = kms.refused("DescribeKey", KeyId=key)
    assert error.kind == "AccessDeniedException"
    assert error.message == (
        f"User: {kms.admin.arn} is not authorized to perform: kms:DescribeKey on resource: {key} because no "
        "resource-based policy allows the kms:DescribeKey action"
    )
    denying = only("kms:*")
    denying["Statement"].append({**only("kms:Encrypt")["Statement"][0], "Effect": "Deny"})
    kms.call("PutKeyPolicy", KeyId=key, Policy=json.dumps(denying))
    kms.call("DescribeKey", KeyId=key)
    assert "explicit deny" in kms.refused("Encrypt", KeyId=key, Plaintext=b"x").message


def test_lockout_safety_check(kms: Any) -> None:
    locked = only("kms:Decrypt")
    says = "The new key policy will not allow you to update the key policy in the future."
    error = kms.refused("CreateKey", Policy=json.dumps(locked))
    assert (error.kind, error.message) == ("MalformedPolicyDocumentException", says)
    assert kms.call("ListKeys")["Keys"] == []
    key = kms.key()
    assert kms.refused("PutKeyPolicy", KeyId=key, Policy=json.dumps(locked)).message == says
    kms.call("PutKeyPolicy", KeyId=key, Policy=json.dumps(locked), BypassPolicyLockoutSafetyCheck=True)
    # And now nobody can: that is what the release does.
    again = {"KeyId": key, "Policy": json.dumps(only("kms:*")), "BypassPolicyLockoutSafetyCheck": True}
    for principal in (kms.admin, kms.parent):
        assert kms.refused("PutKeyPolicy", principal, **again).kind == "AccessDeniedException"
    assert kms.key(locked)


def test_a_policy_that_is_refused_changes_nothing(kms: Any) -> None:
    key = kms.key()
    before = kms.call("GetKeyPolicy", KeyId=key)
    for bad in ("{}", "", json.dumps(only("kms:Nothing")), json.dumps(only("kms:*", StringNope={"a": "b"}))):
        error = kms.refused("PutKeyPolicy", KeyId=key, Policy=bad, BypassPolicyLockoutSafetyCheck=True)
        assert error.kind in ("MalformedPolicyDocumentException", "ValidationException")
    assert kms.call("GetKeyPolicy", KeyId=key) == before


def test_encryption_context_conditions(kms: Any) -> None:
    policy = only(["kms:GenerateDataKey*", "kms:Decrypt"], StringEquals={"kms:EncryptionContext:App": "crm"})
    key = kms.key(policy)
    good = {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": {"app": "crm", "more": "x"}}
    kms.call("GenerateDataKey", **good)
    for context in ({}, {"app": "CRM"}, {"application": "crm"}):
        assert (
            kms.refused("GenerateDataKey", **{**good, "EncryptionContext": context}).kind
            == "AccessDeniedException"
        )
    ambiguous = {**good, "EncryptionContext": {"app": "crm", "APP": "evil"}}
    assert kms.refused("GenerateDataKey", **ambiguous).kind == "ValidationException"


def test_principals(kms: Any) -> None:
    key = kms.key(only("kms:*", f"arn:aws:iam::{kms.account}:role/geumgo-parent"))
    assert kms.refused("DescribeKey", KeyId=key).kind == "AccessDeniedException"
    kms.call("DescribeKey", kms.parent, KeyId=key)


@pytest.mark.parametrize(
    ("action", "members", "kind"),
    [
        ("Sign", {}, "UnknownOperationException"),
        ("", {}, "UnknownOperationException"),
        ("__class__", {}, "UnknownOperationException"),
        ("DescribeKey", {}, "ValidationException"),
        ("DescribeKey", {"KeyId": "x"}, "NotFoundException"),
        ("DescribeKey", {"KeyId": ""}, "ValidationException"),
        ("DescribeKey", {"KeyId": 1}, "ValidationException"),
        ("DescribeKey", {"KeyId": "x" * 3000}, "ValidationException"),
        ("DescribeKey", {"KeyId": "x", "GrantTokens": []}, "ValidationException"),
        ("DescribeKey", {"KeyId": "arn:aws:kms:us-east-1:111122223333:key/x"}, "NotFoundException"),
        ("CreateKey", {"Origin": "EXTERNAL"}, "ValidationException"),
        ("CreateKey", {"MultiRegion": True}, "UnsupportedOperationException"),
        ("CreateKey", {"KeySpec": "RSA_2048"}, "ValidationException"),
        ("Encrypt", {"KeyId": "x", "Plaintext": ""}, "ValidationException"),
        ("Encrypt", {"KeyId": "x", "Plaintext": "***"}, "ValidationException"),
        ("Encrypt", {"KeyId": "x", "Plaintext": "A" * 8000}, "ValidationException"),
        ("Decrypt", {"CiphertextBlob": "AAAA"}, "InvalidCiphertextException"),
        ("Decrypt", {"CiphertextBlob": ""}, "ValidationException"),
        ("GenerateRandom", {"NumberOfBytes": 0}, "ValidationException"),
        ("GenerateRandom", {"NumberOfBytes": 1025}, "ValidationException"),
        ("GenerateRandom", {}, "ValidationException"),
        ("GenerateDataKey", {"KeyId": "x"}, "ValidationException"),
        ("GenerateDataKey", {"KeyId": "x", "KeySpec": "AES_256", "NumberOfBytes": 3}, "ValidationException"),
        ("ScheduleKeyDeletion", {"KeyId": "x", "PendingWindowInDays": 1}, "ValidationException"),
        ("CreateAlias", {"AliasName": "data", "TargetKeyId": "x"}, "ValidationException"),
        ("ListKeys", {"Limit": 0}, "ValidationException"),
        ("PutKeyPolicy", {"KeyId": "x", "Policy": "{}", "PolicyName": "other"}, "ValidationException"),
    ],
)
def test_refusals(kms: Any, action: str, members: dict[str, Any], kind: str) -> None:
    assert kms.refused(action, **members).kind == kind


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"\xff", b"[" * 5000, b'{"a":' * 5000])
def test_bodies_that_are_no_object(kms: Any, body: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        kms.service.handle("ListKeys", body, kms.admin)
    assert caught.value.kind in ("SerializationException", "ValidationException")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    action=st.sampled_from(
        [
            "CreateKey",
            "Decrypt",
            "Encrypt",
            "GenerateDataKey",
            "PutKeyPolicy",
            "ListAliases",
            "GenerateRandom",
        ]
    ),
    members=st.dictionaries(
        st.sampled_from(
            ["KeyId", "Policy", "Plaintext", "CiphertextBlob", "EncryptionContext", "Recipient", "Limit"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    ),
)
def test_anything_is_answered_or_refused(kms: Any, action: str, members: dict[str, Any]) -> None:
    try:
        kms.call(action, **members)
    except ServiceError as error:
        assert "Exception" in error.kind  # noqa: PT017


def test_records(kms: Any) -> None:
    key = kms.key(only("kms:*"))
    made = kms.call("GenerateDataKey", KeyId=key, KeySpec="AES_256", EncryptionContext={"app": "crm"})
    kms.refused("Decrypt", CiphertextBlob=base64.b64decode(made["CiphertextBlob"]))
    created, generated, failed = kms.store.events()
    assert created["eventName"] == "CreateKey"
    assert created["requestParameters"]["policy"] == json.dumps(only("kms:*"))
    assert created["requestParameters"]["bypassPolicyLockoutSafetyCheck"] is True
    assert created["responseElements"]["keyMetadata"]["arn"] == key
    assert created["userIdentity"]["arn"] == kms.admin.arn
    assert created["eventTime"] == "2027-01-15T08:00:00Z"
    assert generated["resources"][0]["ARN"] == key
    assert generated["requestParameters"]["encryptionContext"] == {"app": "crm"}
    assert "errorCode" not in generated
    assert failed["errorCode"] == "InvalidCiphertext"


def test_records_hold_no_secrets(kms: Any) -> None:
    key = kms.key()
    blob = kms.call("Encrypt", KeyId=key, Plaintext=b"900101-1234567")["CiphertextBlob"]
    kms.call("Decrypt", CiphertextBlob=base64.b64decode(blob))
    plaintext = kms.call("GenerateDataKey", KeyId=key, KeySpec="AES_256")["Plaintext"]
    material = kms.store.key(key.rpartition("/")[2]).material
    text = json.dumps(kms.store.events())
    for secret in ("900101", base64.b64encode(b"900101-1234567").decode(), blob, plaintext, material.hex()):
        assert secret not in text
    assert repr(material)[2:-1] not in repr(kms.store.key(key.rpartition("/")[2]))


def test_old_records_go_but_not_those_of_policies(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geumgo.testing.kms._store.MAX_EVENTS", 10)
    key = kms.key()
    for _ in range(1100):
        kms.store.add_event({"eventName": "Decrypt"}, keep=False)
    names = [event["eventName"] for event in kms.store.events()]
    assert names[0] == "CreateKey"
    assert len(names) < 120
    assert key
