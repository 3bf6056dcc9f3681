"""Callers' keys and purpose keys."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from geumgo.keys import CallerKey, PurposeKey, SealError


def test_pem_round_trip() -> None:
    key = CallerKey.generate("records")
    for pem in (key.to_pem(), key.to_pem().decode()):
        again = CallerKey.from_pem(pem, "records")
        assert (again.name, again.public_bytes) == (key.name, key.public_bytes)
    Ed25519PublicKey.from_public_bytes(key.public_bytes).verify(key.sign(b"m"), b"m")
    assert len(key.public_bytes) == 32
    assert key.to_pem().decode() not in repr(key)


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "가", "a\n"])
def test_bad_name(name: str) -> None:
    with pytest.raises(SealError):
        CallerKey.generate(name)


def test_other_keys_are_refused() -> None:
    rsa = generate_private_key(65537, 2048)
    for pem in (
        b"",
        b"garbage",
        b"x" * 100_000,
        rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")),
    ):
        with pytest.raises(SealError) as caught:
            CallerKey.from_pem(pem, "records")
        assert caught.value.fix


@given(st.binary(max_size=200))
def test_garbage_pem(data: bytes) -> None:
    for pem in (data, b"-----BEGIN PRIVATE KEY-----\n" + data + b"\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(SealError):
            CallerKey.from_pem(pem, "records")


def test_purpose_keys_differ_by_use_and_by_key() -> None:
    keys = {
        PurposeKey.derive(bytes([n]) * 32, use) for n in range(3) for use in ("pseudonym", "token", "encrypt")
    }
    assert len(keys) == 9
    assert all(len(key) == 32 for key in keys)


def test_purpose_key_is_stable() -> None:
    """Data lives longer than code: this value may never change."""
    key = bytes(range(32))
    derived = PurposeKey.derive(key, "pseudonym")
    assert derived.hex() == "6e8e9f71db0ff4d102e7176cdd244408653de40f45338138a31819e1ad8b7d80"
    # RFC 5869 §2.3 by hand: T(1) = HMAC(key, info || 0x01)
    assert derived == hmac.digest(key, b"geumgo/purpose/v1/pseudonym\x01", "sha256")


@pytest.mark.parametrize(("key", "use"), [(bytes(31), "token"), (bytes(32), "other"), (bytes(32), "")])
def test_purpose_key_refusals(key: bytes, use: str) -> None:
    with pytest.raises(SealError):
        PurposeKey.derive(key, use)
