"""Evidence on its way: JSON, CBOR and files, each with one reading."""

from __future__ import annotations

import base64
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.attestation import Evidence, MalformedEvidence

EVIDENCE = st.builds(
    Evidence,
    kind=st.just("nitro"),
    document=st.binary(min_size=1, max_size=300).filter(lambda data: data[:1] not in (b"\xa2", b"\xa3")),
    statement=st.none() | st.binary(min_size=1, max_size=100),
)


@given(EVIDENCE)
def test_every_way_gives_the_same_back(evidence: Evidence) -> None:
    assert Evidence.from_json(evidence.to_json()) == evidence
    assert Evidence.from_json(evidence.to_json().decode()) == evidence
    assert Evidence.from_cbor(evidence.to_cbor()) == evidence
    assert Evidence.from_bytes(evidence.to_json()) == evidence
    assert Evidence.from_bytes(b" \r\n\t" + evidence.to_json()) == evidence
    assert Evidence.from_bytes(evidence.to_cbor()) == evidence


def test_the_json_is_what_the_api_promises() -> None:
    value = json.loads(Evidence("nitro", b"\xff\x00", b"s").to_json())
    assert value == {"kind": "nitro", "document": base64.b64encode(b"\xff\x00").decode(), "statement": "cw=="}
    assert json.loads(Evidence("nitro", b"d").to_json())["statement"] is None


def test_the_cbor_is_what_the_channel_promises() -> None:
    assert cbor2.loads(Evidence("nitro", b"d", b"s").to_cbor()) == {
        "kind": "nitro",
        "document": b"d",
        "statement": b"s",
    }


def test_a_bare_document_is_evidence_of_itself(real_document: bytes) -> None:
    for data in (real_document, b"\xd2" + real_document):
        assert Evidence.from_bytes(data) == Evidence("nitro", data, None)


def test_the_statement_may_be_absent() -> None:
    assert Evidence.from_json(b'{"kind":"nitro","document":"AA=="}').statement is None
    assert Evidence.from_cbor(cbor2.dumps({"kind": "nitro", "document": b"d"})).statement is None


BAD_JSON = {
    "nothing": "",
    "null": "null",
    "an array": "[]",
    "no fields": "{}",
    "no document": '{"kind":"nitro"}',
    "another kind": '{"kind":"tpm","document":"AA=="}',
    "kind as a number": '{"kind":1,"document":"AA=="}',
    "empty document": '{"kind":"nitro","document":""}',
    "not base64": '{"kind":"nitro","document":"A-_"}',
    "half of base64": '{"kind":"nitro","document":"A"}',
    "empty statement": '{"kind":"nitro","document":"AA==","statement":""}',
    "statement as a map": '{"kind":"nitro","document":"AA==","statement":{}}',
    "one field more": '{"kind":"nitro","document":"AA==","more":1}',
    "something after it": '{"kind":"nitro","document":"AA=="}x',
    "an error document": '{"type":"about:blank","title":"x","status":503,"code":"starting"}',
    "deep": "[" * 5000,
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_json_that_is_none(text: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(MalformedEvidence) as caught:
            Evidence.from_json(data)
        assert caught.value.code == "malformed"


BAD_CBOR: dict[str, Any] = {
    "null": None,
    "an array": ["nitro", b"d", b"s"],
    "no fields": {},
    "no document": {"kind": "nitro", "statement": b"s"},
    "another kind": {"kind": "tpm", "document": b"d"},
    "document as text": {"kind": "nitro", "document": "d"},
    "statement as text": {"kind": "nitro", "document": b"d", "statement": "s"},
    "empty document": {"kind": "nitro", "document": b""},
    "one field more": {"kind": "nitro", "document": b"d", "more": 1},
    "a tag": cbor2.CBORTag(18, {"kind": "nitro", "document": b"d"}),
}


@pytest.mark.parametrize("value", BAD_CBOR.values(), ids=BAD_CBOR.keys())
def test_cbor_that_is_none(value: Any) -> None:
    with pytest.raises(MalformedEvidence):
        Evidence.from_cbor(cbor2.dumps(value))


def test_sizes_are_bounded() -> None:
    with pytest.raises(MalformedEvidence):
        Evidence("nitro", bytes((64 << 10) + 1))
    with pytest.raises(MalformedEvidence):
        Evidence("nitro", b"d", bytes(2049))
    for read in (Evidence.from_bytes, Evidence.from_json, Evidence.from_cbor):
        with pytest.raises(MalformedEvidence, match="at most"):
            read(bytes((128 << 10) + 1))


def test_the_largest_evidence_travels() -> None:
    largest = Evidence("nitro", bytes(64 << 10), bytes(2048))
    assert Evidence.from_json(largest.to_json()) == largest
    assert Evidence.from_cbor(largest.to_cbor()) == largest


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: ("{" + text).encode("utf-8", "ignore")))
def test_any_bytes_give_evidence_or_an_error_of_ours(data: bytes) -> None:
    for read in (Evidence.from_bytes, Evidence.from_json, Evidence.from_cbor):
        try:
            evidence = read(data)
        except MalformedEvidence:
            continue
        assert evidence.document
