"""Fields encrypted under an application's data key."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.codec import cbor
from geumgo.keys import DataKey, EnvelopeError, encrypt_field, open_envelope, parse_envelope
from geumgo.keys.envelope import MAX_FIELD

KEY = bytes(range(32))
ARN = "arn:aws:kms:ap-northeast-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CONTEXT = {"app": "crm", "tenant": "A"}


@pytest.fixture
def data_key() -> DataKey:
    return DataKey(ARN, KEY, b"wrapped" * 20, CONTEXT)


@settings(max_examples=50)
@given(plaintext=st.binary(max_size=500))
def test_round_trip(plaintext: bytes) -> None:
    text = encrypt_field(DataKey(ARN, KEY, b"w", CONTEXT), plaintext)
    envelope = parse_envelope(text)
    assert (envelope.key_id, envelope.wrapped, dict(envelope.context)) == (ARN, b"w", CONTEXT)
    assert open_envelope(envelope, KEY) == plaintext


def test_form_is_the_documented_one(data_key: DataKey) -> None:
    data = base64.b64decode(encrypt_field(data_key, b"900101-1234567", CONTEXT))
    assert data[0] == 1
    size = int.from_bytes(data[1:3], "big")
    header, nonce, ciphertext = data[: 3 + size], data[3 + size : 15 + size], data[15 + size :]
    assert cbor.loads(header[3:]) == {"key_id": ARN, "wrapped": b"wrapped" * 20, "context": CONTEXT}
    assert AESGCM(KEY).decrypt(nonce, ciphertext, b"geumgo/env/v1" + header) == b"900101-1234567"


def test_one_key_many_fields(data_key: DataKey) -> None:
    texts = {encrypt_field(data_key, b"same") for _ in range(100)}
    assert len(texts) == 100
    envelopes = [parse_envelope(text) for text in texts]
    assert len({envelope.nonce for envelope in envelopes}) == 100
    assert len({envelope.wrapped for envelope in envelopes}) == 1
    assert {open_envelope(envelope, KEY) for envelope in envelopes} == {b"same"}


def test_every_flipped_byte_is_refused(data_key: DataKey) -> None:
    data = base64.b64decode(encrypt_field(data_key, b"field"))
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(EnvelopeError):
            open_envelope(parse_envelope(base64.b64encode(changed).decode()), KEY)
    for size in range(len(data)):
        with pytest.raises(EnvelopeError):
            open_envelope(parse_envelope(base64.b64encode(data[:size]).decode()), KEY)


@settings(max_examples=200)
@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x01", b"\x01\x00\x10"]))
def test_garbage(data: bytes, prefix: bytes) -> None:
    with pytest.raises(EnvelopeError):
        parse_envelope(base64.b64encode(prefix + data).decode())


@settings(max_examples=200)
@given(text=st.text(max_size=100))
def test_garbage_text(text: str) -> None:
    with pytest.raises(EnvelopeError):
        parse_envelope(text)


headers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(key_id=headers, wrapped=headers, context=headers)
def test_headers_of_other_types(key_id: object, wrapped: object, context: object) -> None:
    header = cbor.dumps({"key_id": key_id, "wrapped": wrapped, "context": context})
    data = b"\x01" + len(header).to_bytes(2, "big") + header + bytes(28)
    try:
        envelope = parse_envelope(base64.b64encode(data).decode())
    except EnvelopeError:
        return
    assert isinstance(envelope.key_id, str)
    assert isinstance(envelope.wrapped, bytes)
    assert isinstance(dict(envelope.context), dict)


def test_only_one_encoding_of_a_header() -> None:
    # The same map with its keys in another order: another text for the same field.
    header = b"\xa3\x67wrapped\x41w\x66key_id\x61k\x67context\xa0"
    assert cbor.loads(header) == {"key_id": "k", "wrapped": b"w", "context": {}}
    data = b"\x01" + len(header).to_bytes(2, "big") + header + bytes(28)
    with pytest.raises(EnvelopeError):
        parse_envelope(base64.b64encode(data).decode())


def test_base64_has_one_form(data_key: DataKey) -> None:
    text = encrypt_field(data_key, b"x")
    for changed in (
        text + "\n",
        " " + text,
        text.rstrip("=") if text.endswith("=") else text + "=",
        text[:-1],
    ):
        with pytest.raises(EnvelopeError):
            parse_envelope(changed)


def test_another_key_or_context(data_key: DataKey) -> None:
    envelope = parse_envelope(encrypt_field(data_key, b"x"))
    for wrong in (bytes(32), b"", bytes(16), bytes(31)):
        with pytest.raises(EnvelopeError):
            open_envelope(envelope, wrong)
    other = parse_envelope(encrypt_field(DataKey(ARN, KEY, b"w", {"app": "crm"}), b"x"))
    with pytest.raises(EnvelopeError):
        open_envelope(dataclasses.replace(envelope, header=other.header), KEY)
    with pytest.raises(EnvelopeError):
        encrypt_field(data_key, b"x", {"app": "crm"})


def test_limits(data_key: DataKey) -> None:
    with pytest.raises(EnvelopeError) as caught:
        encrypt_field(data_key, bytes(MAX_FIELD + 1))
    assert caught.value.code == "too_large"
    with pytest.raises(EnvelopeError) as caught:
        parse_envelope("A" * (4 << 20))
    assert caught.value.code == "too_large"
    text = encrypt_field(data_key, bytes(MAX_FIELD))
    assert open_envelope(parse_envelope(text), KEY) == bytes(MAX_FIELD)


@pytest.mark.parametrize(
    ("key_id", "plaintext", "wrapped", "context"),
    [
        pytest.param(ARN, bytes(31), b"w", {}, id="short key"),
        pytest.param("", KEY, b"w", {}, id="no key id"),
        pytest.param(ARN, KEY, b"", {}, id="nothing wrapped"),
        pytest.param(ARN, KEY, bytes(6145), {}, id="too much wrapped"),
        pytest.param(ARN, KEY, b"w", {str(n): "v" for n in range(9)}, id="nine entries"),
        pytest.param(ARN, KEY, b"w", {"": "v"}, id="an empty name"),
        pytest.param(ARN, KEY, b"w", {"n": "가" * 2049}, id="a long value"),
        pytest.param(
            ARN, KEY, b"w", {f"n{n}": "가" * 2048 for n in range(8)} | {"x" * 2048: "y"}, id="all together"
        ),
        pytest.param(
            ARN, KEY, bytes(6144), {chr(97 + n) * 2048: "가" * 2048 for n in range(8)}, id="a long header"
        ),
        pytest.param(ARN, KEY, b"w", {"n": "\ud800"}, id="a lone surrogate"),
    ],
)
def test_data_keys_that_cannot_be(
    key_id: str, plaintext: bytes, wrapped: bytes, context: dict[str, str]
) -> None:
    with pytest.raises(EnvelopeError):
        DataKey(key_id, plaintext, wrapped, context)


def test_nothing_secret_in_a_repr(data_key: DataKey) -> None:
    shown = repr(data_key) + repr(parse_envelope(encrypt_field(data_key, b"secret")))
    assert KEY.hex() not in shown
    assert repr(KEY)[2:-1] not in shown
    assert "crm" in shown
