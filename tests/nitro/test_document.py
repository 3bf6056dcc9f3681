"""The attestation document's syntax: every rule of attestation_process.md, at its edges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.nitro import AttestationDocument, DocumentError

Wrap = Callable[[Any], bytes]


def test_a_real_document(real_document: bytes) -> None:
    document = AttestationDocument.parse(real_document)
    assert document.module_id == "i-04fd167167daacf3b-enc01845e97d0b3eb4e"
    assert document.digest == "SHA384"
    assert document.timestamp_ms == 1668034320696
    assert set(document.pcrs) == set(range(16))
    assert document.pcrs[0].hex().startswith("22f9e1c949208da55eb01b9b9fc88f87")
    assert all(document.pcrs[index] == bytes(48) for index in (3, *range(5, 16)))
    assert len(document.certificate) == 639
    assert [len(certificate) for certificate in document.cabundle] == [533, 707, 792, 642]
    assert document.public_key is None
    assert document.user_data is not None
    assert document.user_data.hex() == "7c37108079b3e8a36d8a7970de1d6d4ff1461e0e35d9557c4d789df5e0576620"
    assert document.nonce is not None
    assert document.nonce.hex() == "c678c86135de539d183acff58886d98dfb9823041af9f934bf909ac0f8d96245"
    assert document.cose.encode() == real_document


def test_a_tagged_document_says_the_same(real_document: bytes) -> None:
    untagged, tagged = (AttestationDocument.parse(data) for data in (real_document, b"\xd2" + real_document))
    assert tagged.cose.tagged
    assert (tagged.pcrs, tagged.nonce, tagged.cose.payload) == (
        untagged.pcrs,
        untagged.nonce,
        untagged.cose.payload,
    )


GOOD: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one register": {"pcrs": {31: bytes(48)}},
    "all registers": {"pcrs": {index: bytes(48) for index in range(32)}},
    "registers of SHA-256": {"pcrs": {0: bytes(32)}},
    "registers of SHA-512": {"pcrs": {0: bytes(64)}},
    "the first millisecond": {"timestamp": 1},
    "the last millisecond": {"timestamp": (1 << 63) - 1},
    "one certificate above": {"cabundle": [b"r"]},
    "eight certificates above": {"cabundle": [b"r"] * 8},
    "certificates of 1024 bytes": {"certificate": bytes(1024), "cabundle": [bytes(1024)]},
    "a key of one byte": {"public_key": b"k"},
    "a key of 1024 bytes": {"public_key": bytes(1024)},
    "empty user data and nonce": {"user_data": b"", "nonce": b""},
    "user data and nonce of 1024 bytes": {"user_data": bytes(1024), "nonce": bytes(1024)},
    "a field of a later NSM": {"more": "to come"},
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_what_the_rules_allow(change: dict[str, Any], payload: dict[str, Any], document_of: Wrap) -> None:
    fields = payload | change
    document = AttestationDocument.parse(document_of(fields))
    assert document.pcrs == fields["pcrs"]
    assert document.cabundle == tuple(fields["cabundle"])
    assert (document.public_key, document.user_data, document.nonce) == (
        fields["public_key"],
        fields["user_data"],
        fields["nonce"],
    )


@pytest.mark.parametrize("field", ["public_key", "user_data", "nonce"])
def test_optional_fields_may_be_absent(field: str, payload: dict[str, Any], document_of: Wrap) -> None:
    del payload[field]
    assert getattr(AttestationDocument.parse(document_of(payload)), field) is None


@pytest.mark.parametrize(
    "field", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"]
)  # fmt: skip
@pytest.mark.parametrize("value", [None, "absent"])
def test_the_others_may_not(
    field: str, value: str | None, payload: dict[str, Any], document_of: Wrap
) -> None:
    if value is None:
        payload[field] = None
    else:
        del payload[field]
    with pytest.raises(DocumentError, match=field):
        AttestationDocument.parse(document_of(payload))


BAD: dict[str, dict[str, Any]] = {
    "module_id: empty": {"module_id": ""},
    "module_id: bytes": {"module_id": b"i-1"},
    "module_id: too long": {"module_id": "i" * 257},
    "digest: another": {"digest": "SHA256"},
    "digest: bytes": {"digest": b"SHA384"},
    "timestamp: zero": {"timestamp": 0},
    "timestamp: negative": {"timestamp": -1},
    "timestamp: too large": {"timestamp": 1 << 63},
    "timestamp: a float": {"timestamp": 1.5e12},
    "timestamp: true": {"timestamp": True},
    "timestamp: text": {"timestamp": "1700000000000"},
    "pcrs: none": {"pcrs": {}},
    "pcrs: a list": {"pcrs": [bytes(48)]},
    "pcrs: index 32": {"pcrs": {32: bytes(48)}},
    "pcrs: index -1": {"pcrs": {-1: bytes(48)}},
    "pcrs: index as text": {"pcrs": {"0": bytes(48)}},
    "pcrs: 33 of them": {"pcrs": {index: bytes(48) for index in range(33)}},
    "pcrs: 47 bytes": {"pcrs": {0: bytes(47)}},
    "pcrs: empty": {"pcrs": {0: b""}},
    "pcrs: text": {"pcrs": {0: "0" * 48}},
    "certificate: empty": {"certificate": b""},
    "certificate: 1025 bytes": {"certificate": bytes(1025)},
    "certificate: text": {"certificate": "PEM"},
    "cabundle: empty": {"cabundle": []},
    "cabundle: bytes": {"cabundle": b"root"},
    "cabundle: nine": {"cabundle": [b"r"] * 9},
    "cabundle: an empty one": {"cabundle": [b"r", b""]},
    "cabundle: one of 1025 bytes": {"cabundle": [bytes(1025)]},
    "cabundle: text": {"cabundle": ["PEM"]},
    "public_key: empty": {"public_key": b""},
    "public_key: 1025 bytes": {"public_key": bytes(1025)},
    "public_key: text": {"public_key": "key"},
    "user_data: 1025 bytes": {"user_data": bytes(1025)},
    "user_data: text": {"user_data": "data"},
    "nonce: 1025 bytes": {"nonce": bytes(1025)},
    "nonce: number": {"nonce": 1},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_what_the_rules_forbid(change: dict[str, Any], payload: dict[str, Any], document_of: Wrap) -> None:
    (field,) = change
    named = {"pcrs": "pcrs|PCR"}.get(field, field)
    with pytest.raises(DocumentError, match=named) as caught:
        AttestationDocument.parse(document_of(payload | change))
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="no CBOR"),
        pytest.param(cbor2.dumps([]), id="an array"),
        pytest.param(cbor2.dumps("SHA384"), id="text"),
        pytest.param(b"\xbf\xff", id="an indefinite map"),
        pytest.param(b"\xa2" + cbor2.dumps({"digest": "SHA384"})[1:] * 2, id="a field twice"),
    ],
)  # fmt: skip
def test_a_payload_that_is_none(content: bytes, document_of: Wrap) -> None:
    with pytest.raises(DocumentError):
        AttestationDocument.parse(document_of(content))


def test_sizes_are_bounded(payload: dict[str, Any], document_of: Wrap) -> None:
    rest = 16384 - len(cbor2.dumps(payload | {"more": bytes(1000)})) + 1000
    AttestationDocument.parse(document_of(payload | {"more": bytes(rest)}))
    with pytest.raises(DocumentError, match="over the limit"):
        AttestationDocument.parse(document_of(payload | {"more": bytes(rest + 1)}))
    with pytest.raises(DocumentError, match="over the limit"):
        AttestationDocument.parse(bytes(1 << 20))


def test_qemus_unsigned_document_is_well_formed_and_shows_that_it_is_unsigned(
    payload: dict[str, Any],
) -> None:
    fields = payload | {"certificate": bytes(64), "cabundle": [bytes(64)]}
    document = AttestationDocument.parse(
        cbor2.dumps([bytes.fromhex("a10120"), {}, cbor2.dumps(fields), bytes(64)])
    )
    assert document.cose.algorithm == -1


def test_a_document_can_not_be_changed(payload: dict[str, Any], document_of: Wrap) -> None:
    document = AttestationDocument.parse(document_of(payload))
    with pytest.raises(FrozenInstanceError):
        document.nonce = b"mine"  # type: ignore[misc]
    with pytest.raises(TypeError):
        document.pcrs[0] = bytes(48)  # type: ignore[index]


@settings(max_examples=150)
@given(st.binary(max_size=100))
def test_any_bytes_give_a_document_or_our_error(data: bytes) -> None:
    for document in (data, b"\x84\x44\xa1\x01\x38\x22\xa0" + data):
        with contextlib.suppress(DocumentError):
            AttestationDocument.parse(document)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=60) | st.text(max_size=6),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.integers(0, 33), children, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150)
@given(
    st.sampled_from(["module_id", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "nonce"]),
    _JUNK,
)
def test_fields_of_any_type_give_a_document_or_our_error(field: str, value: Any) -> None:
    fields: dict[str, Any] = {
        "module_id": "i-1-enc1",
        "digest": "SHA384",
        "timestamp": 1,
        "pcrs": {0: bytes(48)},
        "certificate": b"c",
        "cabundle": [b"r"],
    }
    data = cbor2.dumps([bytes.fromhex("a1013822"), {}, cbor2.dumps(fields | {field: value}), b""])
    with contextlib.suppress(DocumentError):
        AttestationDocument.parse(data)
