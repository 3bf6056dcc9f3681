"""Recipient: who gets the key, and in which form. The table of the issue."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from asn1crypto import cms as asn1_cms
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PCR0, PCR1, PCR2 = ("ab" * 48, "bc" * 48, "cd" * 48)
ZERO = "00" * 48
HOUR = 3_600_000


def policy(operator: str = "StringEqualsIgnoreCase", **conditions: str) -> dict[str, Any]:
    keys = {f"kms:RecipientAttestation:{name}": value for name, value in conditions.items()}
    allow = {"Effect": "Allow", "Principal": "*", "Resource": "*"}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {**allow, "Action": "kms:GenerateDataKeyWithoutPlaintext"},
            {**allow, "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Condition": {operator: keys}},
        ],
    }


GOOD = {"PCR0": PCR0, "PCR1": PCR1, "PCR2": PCR2}


def released(kms: Any, enclave: Any, rule: dict[str, Any]) -> bool:
    """Whether `rule` gives the enclave a key, by Decrypt and GenerateDataKey alike."""
    key = kms.key(rule)
    outcomes = set()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Decrypt", {"CiphertextBlob": kms.blob(key)}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
    ]
    for action, members in calls:
        try:
            answer = kms.call(action, kms.parent, **members, Recipient=enclave.recipient())
        except Exception as error:
            assert getattr(error, "kind", "") == "AccessDeniedException"  # noqa: PT017
            outcomes.add(False)
        else:
            assert len(enclave.open(answer)) == 32
            assert "Plaintext" not in answer
            outcomes.add(True)
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        pytest.param(policy(**GOOD), True, id="the image"),
        pytest.param(policy(ImageSha384=PCR0), True, id="ImageSha384"),
        pytest.param(policy(PCR0=PCR0.upper()), True, id="upper-case hex, case ignored"),
        pytest.param(policy("StringEquals", PCR0=PCR0), True, id="lower-case hex, exact"),
        pytest.param(policy("StringEquals", PCR0=PCR0.upper()), False, id="upper-case hex, exact"),
        pytest.param(policy(PCR0=PCR1), False, id="another image"),
        pytest.param(policy(**{**GOOD, "PCR2": PCR0}), False, id="another application"),
        pytest.param(policy(PCR0=ZERO), False, id="a policy for debug enclaves"),
        pytest.param(policy(PCR3=ZERO), True, id="a register that is zero"),
        pytest.param(policy(PCR16=ZERO), False, id="a register that is not in the document"),
        pytest.param(policy("StringNotEquals", PCR16=PCR0), True, id="a negation of an absent register"),
        pytest.param(policy("StringEqualsIfExists", PCR16=PCR0), True, id="an absent register, if it exists"),
        pytest.param(policy("StringNotEquals", PCR0=PCR0), False, id="any image but this"),
        pytest.param(policy("StringLike", PCR0="ab*"), True, id="like"),
    ],
)
def test_conditions(kms: Any, enclave: Any, rule: dict[str, Any], given: bool) -> None:
    assert released(kms, enclave, rule) is given


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        pytest.param(policy(**GOOD), False, id="an image's policy"),
        pytest.param(policy(PCR0=ZERO), True, id="zeros, asked for by name"),
        pytest.param(policy("StringNotEquals", PCR0=ZERO), False, id="anything but debug"),
    ],
)
def test_debug_enclave(kms: Any, debug_enclave: Any, rule: dict[str, Any], given: bool) -> None:
    assert released(kms, debug_enclave, rule) is given


@pytest.mark.parametrize("operator", ["StringEqualsIgnoreCase", "StringEquals", "StringLike"])
def test_no_recipient(kms: Any, operator: str) -> None:
    key = kms.key(policy(operator, PCR0=PCR0))
    blob = kms.blob(key)
    for principal in (kms.admin, kms.parent):
        assert kms.refused("Decrypt", principal, CiphertextBlob=blob).kind == "AccessDeniedException"
        error = kms.refused("GenerateDataKey", principal, KeyId=key, KeySpec="AES_256")
        assert error.kind == "AccessDeniedException"


def test_no_condition_no_attestation_needed(kms: Any, enclave: Any) -> None:
    key = kms.key()
    answer = kms.call("Decrypt", CiphertextBlob=kms.blob(key), Recipient=enclave.recipient())
    assert "Plaintext" not in answer
    assert len(enclave.open(answer)) == 32


def test_wrong_root(kms: Any, other_authority_enclave: Any) -> None:
    key = kms.key(policy(**GOOD))
    error = kms.refused(
        "Decrypt", CiphertextBlob=kms.blob(key), Recipient=other_authority_enclave.recipient()
    )
    assert (error.kind, "untrusted_root" in error.message) == ("ValidationException", True)


def test_wrong_root_even_where_no_condition_asks(kms: Any, other_authority_enclave: Any) -> None:
    key = kms.key()
    for action, members in (
        ("Decrypt", {"CiphertextBlob": kms.blob(key)}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
        ("GenerateRandom", {"NumberOfBytes": 32}),
    ):
        error = kms.refused(action, **members, Recipient=other_authority_enclave.recipient())
        assert error.kind == "ValidationException"


def test_expired_document(kms: Any, enclave: Any, clock: Any) -> None:
    key = kms.key(policy(**GOOD))
    blob, recipient = kms.blob(key), enclave.recipient()
    clock.ms += 2 * HOUR
    kms.call("Decrypt", CiphertextBlob=blob, Recipient=recipient)
    clock.ms += 2 * HOUR
    error = kms.refused("Decrypt", CiphertextBlob=blob, Recipient=recipient)
    assert (error.kind, "expired_certificate" in error.message) == ("ValidationException", True)
    kms.call("Decrypt", CiphertextBlob=blob, Recipient=enclave.recipient())


def test_document_from_the_future(kms: Any, enclave: Any, clock: Any) -> None:
    key = kms.key(policy(**GOOD))
    blob, recipient = kms.blob(key), enclave.recipient()
    clock.ms -= 2 * HOUR
    assert kms.refused("Decrypt", CiphertextBlob=blob, Recipient=recipient).kind == "ValidationException"


def test_every_flipped_byte_of_a_document(kms: Any, enclave: Any) -> None:
    blob = kms.blob(kms.key(policy(**GOOD)))
    recipient = enclave.recipient()
    document = recipient["AttestationDocument"]
    for at in range(0, len(document), 37):
        changed = document[:at] + bytes([document[at] ^ 1]) + document[at + 1 :]
        error = kms.refused(
            "Decrypt", CiphertextBlob=blob, Recipient={**recipient, "AttestationDocument": changed}
        )
        assert error.kind == "ValidationException"


@pytest.mark.parametrize(
    "public_key",
    [
        pytest.param(None, id="none"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            id="an EC key",
        ),
        pytest.param(
            rsa.generate_private_key(65537, 1024)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            id="a short RSA key",
        ),
    ],
)
def test_public_keys_that_cannot_be(kms: Any, enclave: Any, public_key: bytes | None) -> None:
    blob = kms.blob(kms.key())
    error = kms.refused("Decrypt", CiphertextBlob=blob, Recipient=enclave.recipient(public_key=public_key))
    assert (error.kind, "RSA" in error.message) == ("ValidationException", True)


@pytest.mark.parametrize(
    "recipient",
    [
        {},
        {"AttestationDocument": "AAAA"},
        {"AttestationDocument": "", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
        {"AttestationDocument": "AAAA", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
        {"AttestationDocument": "AAAA", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
        {"AttestationDocument": "***", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
    ],
)
def test_recipients_that_are_none(kms: Any, recipient: dict[str, Any]) -> None:
    blob = kms.blob(kms.key())
    assert kms.refused("Decrypt", CiphertextBlob=blob, Recipient=recipient).kind == "ValidationException"


def test_recipient_where_there_can_be_none(kms: Any, enclave: Any) -> None:
    key = kms.key()
    for action, members in (
        ("Encrypt", {"Plaintext": b"x"}),
        ("GenerateDataKeyWithoutPlaintext", {"KeySpec": "AES_256"}),
    ):
        error = kms.refused(action, KeyId=key, **members, Recipient=enclave.recipient())
        assert error.kind == "ValidationException"


def test_random_for_a_recipient(kms: Any, enclave: Any) -> None:
    answer = kms.call("GenerateRandom", NumberOfBytes=40, Recipient=enclave.recipient())
    assert answer.keys() == {"CiphertextForRecipient"}
    assert len(enclave.open(answer)) == 40


def test_the_answer_is_cms_as_aws_sends_it(kms: Any, enclave: Any) -> None:
    answer = kms.call("GenerateRandom", NumberOfBytes=32, Recipient=enclave.recipient())
    data = base64.b64decode(answer["CiphertextForRecipient"])
    # nitro.md §5: indefinite lengths, version 2, one recipient in a set of definite length.
    assert data.startswith(bytes.fromhex("3080 06092a864886f70d010703 a080 3080 020102 3182"))
    parsed = asn1_cms.ContentInfo.load(data)
    assert parsed["content_type"].native == "enveloped_data"
    content = parsed["content"]["encrypted_content_info"]
    assert content["content_encryption_algorithm"]["algorithm"].native == "aes256_cbc"
    assert len(content["encrypted_content"].native) == 48


def test_a_deny_without_recipient(kms: Any, enclave: Any) -> None:
    """The pattern that AWS documents: deny what is not the image; a negation holds of an absent key."""
    rule = policy(**GOOD)
    rule["Statement"].append(
        {
            "Effect": "Deny",
            "Principal": "*",
            "Resource": "*",
            "Action": "kms:Decrypt",
            "Condition": {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": PCR0}},
        }
    )
    rule["Statement"].append({"Effect": "Allow", "Principal": "*", "Resource": "*", "Action": "kms:Decrypt"})
    key = kms.key(rule)
    blob = kms.blob(key)
    kms.call("Decrypt", CiphertextBlob=blob, Recipient=enclave.recipient())
    assert "explicit deny" in kms.refused("Decrypt", CiphertextBlob=blob).message


def test_records_name_the_image(kms: Any, enclave: Any) -> None:
    kms.call("Decrypt", CiphertextBlob=kms.blob(kms.key()), Recipient=enclave.recipient())
    record = kms.store.events()[-1]
    assert record["additionalEventData"] == {"recipient": {"attestationDocumentEnclaveImageDigest": PCR0}}
    assert 'AttestationDocument"' not in json.dumps(record)
