"""The statement: one encoding, vectors for other implementations, and what is none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.attestation import Statement, StatementInvalid, Use

VECTORS = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "spec" / "vectors" / "statement.json").read_text()
)

STATEMENTS = st.builds(
    Statement,
    use=st.sampled_from(Use),
    suite=st.text(min_size=1, max_size=30),
    key=st.binary(min_size=1, max_size=1024),
    pool=st.text(max_size=30),
    configuration=st.binary(min_size=48, max_size=48),
)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: str(vector["name"]))
def test_the_published_vectors(vector: dict[str, Any]) -> None:
    fields = vector["statement"]
    statement = Statement(
        use=Use(fields["use"]),
        suite=fields["suite"],
        key=bytes.fromhex(fields["key"]),
        pool=fields["pool"],
        configuration=bytes.fromhex(fields["configuration"]),
    )
    assert statement.to_bytes().hex() == vector["encoded"]
    assert statement.digest().hex() == vector["sha384"]
    assert Statement.parse(bytes.fromhex(vector["encoded"])) == statement


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: str(vector["name"]))
def test_the_published_negative_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(StatementInvalid):
        Statement.parse(bytes.fromhex(vector["encoded"]))


@given(STATEMENTS)
def test_what_is_written_is_read_back(statement: Statement) -> None:
    encoded = statement.to_bytes()
    assert Statement.parse(encoded) == statement
    assert statement.digest() == hashlib.sha384(encoded).digest()


@given(STATEMENTS, STATEMENTS)
def test_different_statements_have_different_digests(one: Statement, other: Statement) -> None:
    assert (one.digest() == other.digest()) is (one == other)


@settings(max_examples=300)
@given(STATEMENTS, st.data())
def test_a_flipped_byte_changes_the_statement_or_breaks_it(statement: Statement, data: st.DataObject) -> None:
    encoded = bytearray(statement.to_bytes())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = Statement.parse(bytes(encoded))
    except StatementInvalid:
        return
    assert other != statement
    assert other.to_bytes() == bytes(encoded)


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_any_bytes_give_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(StatementInvalid):
        Statement.parse(data)


FIELDS = {"v": 1, "use": "seal", "suite": "s", "key": b"k", "pool": "", "configuration": bytes(48)}

WRONG: dict[str, dict[Any, Any]] = {
    "version 0": {"v": 0},
    "version 2": {"v": 2},
    "version true": {"v": True},
    "version 1.0": {"v": 1.0},
    "version text": {"v": "1"},
    "unknown use": {"use": "sign"},
    "use in capitals": {"use": "SEAL"},
    "use as bytes": {"use": b"seal"},
    "no suite": {"suite": ""},
    "suite of 129 bytes": {"suite": "s" * 129},
    "suite of 43 Hangul": {"suite": "금" * 43},
    "suite as a number": {"suite": 1},
    "no key": {"key": b""},
    "key of 1025 bytes": {"key": bytes(1025)},
    "key as text": {"key": "k"},
    "pool of 129 bytes": {"pool": "p" * 129},
    "pool as null": {"pool": None},
    "configuration of 47 bytes": {"configuration": bytes(47)},
    "configuration of 32 bytes": {"configuration": bytes(32)},
    "configuration as hex": {"configuration": "00" * 48},
    "one field more": {"more": 1},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_statement(change: dict[Any, Any]) -> None:
    assert Statement.parse(cbor2.dumps(FIELDS, canonical=True))
    with pytest.raises(StatementInvalid) as caught:
        Statement.parse(cbor2.dumps(FIELDS | change, canonical=True))
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_may_be_missing(field: str) -> None:
    with pytest.raises(StatementInvalid):
        Statement.parse(cbor2.dumps({k: v for k, v in FIELDS.items() if k != field}, canonical=True))


def test_only_the_deterministic_encoding_is_read() -> None:
    with pytest.raises(StatementInvalid):
        Statement.parse(cbor2.dumps(FIELDS))  # fields in another order
    with pytest.raises(StatementInvalid):
        Statement.parse(cbor2.dumps(FIELDS, canonical=True) + b"\x00")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"suite": ""}, id="no suite"),
        pytest.param({"suite": "s" * 129}, id="long suite"),
        pytest.param({"pool": "p" * 129}, id="long pool"),
        pytest.param({"pool": "\ud800"}, id="pool that is no Unicode"),
        pytest.param({"key": b""}, id="no key"),
        pytest.param({"key": bytes(1025)}, id="long key"),
        pytest.param({"configuration": b""}, id="no configuration"),
    ],
)
def test_none_can_be_made_that_would_not_be_read(statement: Statement, change: dict[str, Any]) -> None:
    with pytest.raises(StatementInvalid):
        replace(statement, **change)


def test_the_largest_statement_is_read() -> None:
    largest = Statement(Use.CHANNEL, "s" * 128, bytes(1024), "p" * 128, bytes(48))
    assert Statement.parse(largest.to_bytes()) == largest
