"""CiphertextForRecipient: the fixture, both encodings, asn1crypto's opinion, damage."""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import algos, cms, core
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.codec.ber import BerError
from geumgo.keys import RecipientError, generate_recipient_key, open_ciphertext_for_recipient, public_key_der
from geumgo.keys.cms import MAX_CMS, EnvelopedData


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_recipient_key()


@pytest.fixture(scope="session")
def fixture_cms(shared_fixtures: Path) -> tuple[bytes, RSAPrivateKey]:
    data = base64.b64decode((shared_fixtures / "cms_hello_world.b64").read_bytes())
    private = load_pem_private_key((shared_fixtures / "cms_hello_world.key.pem").read_bytes(), None)
    assert isinstance(private, RSAPrivateKey)
    return data, private


def seal(key: RSAPrivateKey, plaintext: bytes, **changes: Any) -> bytes:
    """Make a CMS with asn1crypto: DER, primitive content."""
    content_key, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(AES256(content_key), CBC(iv)).encryptor()
    padded = changes.get("padded", padder.update(plaintext) + padder.finalize())
    oaep = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=changes.get("label"))
    parameters = algos.RSAESOAEPParams(
        {
            "hash_algorithm": {"algorithm": changes.get("hash", "sha256")},
            "mask_gen_algorithm": {
                "algorithm": "mgf1",
                "parameters": {"algorithm": changes.get("mgf_hash", "sha256")},
            },
            "p_source_algorithm": {"algorithm": "p_specified", "parameters": changes.get("label") or b""},
        }
    )
    recipient = cms.KeyTransRecipientInfo(
        {
            "version": changes.get("recipient_version", "v2"),
            "rid": cms.RecipientIdentifier(
                "subject_key_identifier",
                changes.get("rid", hashlib.sha256(public_key_der(key)).digest()),
            ),
            "key_encryption_algorithm": {
                "algorithm": changes.get("transport", "rsaes_oaep"),
                "parameters": None if "transport" in changes else parameters,
            },
            "encrypted_key": key.public_key().encrypt(changes.get("content_key", content_key), oaep),
        }
    )
    info = cms.RecipientInfo("ktri", recipient)
    enveloped = cms.EnvelopedData(
        {
            "version": changes.get("version", "v2"),
            "recipient_infos": [info] * changes.get("recipients", 1),
            "encrypted_content_info": {
                "content_type": changes.get("content_type", "data"),
                "content_encryption_algorithm": {
                    "algorithm": changes.get("cipher", "aes256_cbc"),
                    "parameters": changes.get("iv", iv),
                },
                "encrypted_content": encryptor.update(padded) + encryptor.finalize(),
            },
        }
    )
    return bytes(cms.ContentInfo({"content_type": "enveloped_data", "content": enveloped}).dump())


def test_fixture(fixture_cms: tuple[bytes, RSAPrivateKey]) -> None:
    data, private = fixture_cms
    parsed = EnvelopedData.parse(data)
    assert parsed.recipient.hex() == "fb09e9af2940ddcf0d2bbf6358c983af46fc5fdcedbca251d54ceab4d069cd89"
    assert parsed.iv.hex() == "2c2ff1116ae6f8573fd58fd44f980624"
    assert parsed.ciphertext.hex() == "263a97b73a5ef0ad5db0274af9fc290c"
    assert len(parsed.encrypted_key) == 256
    assert open_ciphertext_for_recipient(data, private) == b"Hello, World"


def test_fixture_with_another_key(fixture_cms: tuple[bytes, RSAPrivateKey], key: RSAPrivateKey) -> None:
    with pytest.raises(RecipientError):
        open_ciphertext_for_recipient(fixture_cms[0], key)


def test_fixture_damaged(fixture_cms: tuple[bytes, RSAPrivateKey]) -> None:
    """No damaged byte raises anything but the one error, nor ever gives another plaintext, except in the IV."""
    data, private = fixture_cms
    iv = data.index(bytes.fromhex("2c2ff1116ae6f8573fd58fd44f980624"))
    messages = set()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x41
        try:
            opened = open_ciphertext_for_recipient(bytes(changed), private)
        except RecipientError as error:
            messages.add(error.diagnostics())
        else:
            assert iv <= at < iv + 12, "this form has no integrity, but only the IV may change unnoticed"
            assert opened != b"Hello, World"
    assert len(messages) == 1


def test_every_truncation_is_refused(fixture_cms: tuple[bytes, RSAPrivateKey]) -> None:
    data, private = fixture_cms
    for size in range(len(data)):
        with pytest.raises(RecipientError):
            open_ciphertext_for_recipient(data[:size], private)
    with pytest.raises(RecipientError):
        open_ciphertext_for_recipient(data + b"\0", private)


def test_asn1crypto_reads_the_same(fixture_cms: tuple[bytes, RSAPrivateKey]) -> None:
    data, _ = fixture_cms
    ours = EnvelopedData.parse(data)
    enveloped = cms.ContentInfo.load(data)["content"]
    recipient = enveloped["recipient_infos"][0].chosen
    content = enveloped["encrypted_content_info"]
    assert recipient["rid"].chosen.native == ours.recipient
    assert recipient["encrypted_key"].native == ours.encrypted_key
    assert content["content_encryption_algorithm"]["parameters"].native == ours.iv
    assert content["encrypted_content"].native == ours.ciphertext


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 1024, 4096])
def test_primitive_encoding(key: RSAPrivateKey, size: int) -> None:
    plaintext = secrets.token_bytes(size)
    assert open_ciphertext_for_recipient(seal(key, plaintext), key) == plaintext


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_constructed_encoding_in_chunks(key: RSAPrivateKey, chunks: int) -> None:
    """RFC 5652 allows the content in several OCTET STRINGs; they are one."""
    data = seal(key, b"x" * 70)
    ciphertext = EnvelopedData.parse(data).ciphertext
    size = -(-len(ciphertext) // chunks)
    parts = [ciphertext[at : at + size] for at in range(0, len(ciphertext), size)]
    content = b"".join(core.OctetString(part).dump() for part in parts)
    # Indefinite lengths all the way down to the content: replace each definite length before it.
    enveloped = cms.ContentInfo.load(data)["content"]
    recipients = enveloped["recipient_infos"].dump()
    info = enveloped["encrypted_content_info"]
    inner = info["content_type"].dump() + info["content_encryption_algorithm"].dump()
    rebuilt = (
        b"\x30\x80" + core.ObjectIdentifier("1.2.840.113549.1.7.3").dump() + b"\xa0\x80\x30\x80\x02\x01\x02"
    )
    rebuilt += recipients + b"\x30\x80" + inner + b"\xa0\x80" + content + b"\0\0" * 5
    assert open_ciphertext_for_recipient(rebuilt, key) == b"x" * 70


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": "v0"}, id="EnvelopedData version 0"),
        pytest.param({"recipient_version": "v0"}, id="recipient version 0"),
        pytest.param({"recipients": 2}, id="two recipients"),
        pytest.param({"recipients": 0}, id="no recipient"),
        pytest.param({"rid": bytes(32)}, id="another recipient"),
        pytest.param({"rid": b""}, id="an empty recipient"),
        pytest.param({"hash": "sha1"}, id="OAEP with SHA-1"),
        pytest.param({"mgf_hash": "sha1"}, id="MGF1 with SHA-1"),
        pytest.param({"label": b"label"}, id="OAEP with a label"),
        pytest.param({"transport": "rsaes_pkcs1v15"}, id="PKCS1 v1.5"),
        pytest.param({"content_type": "signed_data"}, id="other content"),
        pytest.param({"cipher": "aes128_cbc"}, id="AES-128"),
        pytest.param({"iv": bytes(15)}, id="a short IV"),
        pytest.param({"content_key": bytes(16)}, id="a short content key"),
        pytest.param({"content_key": b""}, id="no content key"),
        pytest.param({"padded": bytes(16)}, id="padding of zero"),
        pytest.param({"padded": bytes(15) + b"\x11"}, id="padding over a block"),
        pytest.param({"padded": bytes(14) + b"\x01\x02"}, id="padding that differs"),
        pytest.param({"padded": b""}, id="no content"),
    ],
)
def test_other_forms_are_one_error(key: RSAPrivateKey, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipientError) as caught:
        open_ciphertext_for_recipient(seal(key, b"secret", **changes), key)
    assert caught.value.__cause__ is None
    with pytest.raises(RecipientError) as first_byte:
        open_ciphertext_for_recipient(b"", key)
    assert caught.value.diagnostics() == first_byte.value.diagnostics()


def test_size_limit(key: RSAPrivateKey) -> None:
    with pytest.raises(BerError) as caught:
        EnvelopedData.parse(bytes(MAX_CMS + 1))
    assert caught.value.code == "too_large"


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    for prefix in (b"", b"\x30\x80\x06\x09*\x86H\x86\xf7\r\x01\x07\x03\xa0\x80"):
        with pytest.raises(BerError):
            EnvelopedData.parse(prefix + data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutations_of_a_real_one(key: RSAPrivateKey, data: st.DataObject) -> None:
    cms_bytes = bytearray(seal(key, b"secret"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(cms_bytes) - 1))
        if data.draw(st.booleans()):
            cms_bytes[at] = data.draw(st.integers(0, 255))
        else:
            del cms_bytes[at : at + data.draw(st.integers(0, 8))]
        if not cms_bytes:
            break
    try:
        EnvelopedData.parse(bytes(cms_bytes))
    except BerError:
        return
