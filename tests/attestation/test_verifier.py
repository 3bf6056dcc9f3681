"""Verification of evidence: each question that a verifier asks, answered wrongly."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.attestation import (
    DEFAULT_MAX_AGE_MS,
    MAX_CLOCK_SKEW_MS,
    Claims,
    Evidence,
    MalformedEvidence,
    StaleEvidence,
    Statement,
    StatementInvalid,
    TrustRoots,
    Use,
    VerificationError,
    WrongConfiguration,
    WrongNonce,
    WrongStatement,
    WrongUse,
    verify,
    verify_standalone,
)

NONCE = b"n" * 32
Ask = Callable[..., tuple[Evidence, TrustRoots]]


def test_good_evidence_gives_claims(ask: Ask, statement: Statement, now_ms: int) -> None:
    evidence, roots = ask()
    claims = verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)
    assert claims == Claims(
        kind="nitro",
        measurements={f"pcr{i}": (bytes([i + 1]) * 48).hex() for i in range(16)},
        debug=False,
        simulated=False,
        issued_ms=now_ms,
        nonce=NONCE,
        public_key=statement.key,
        user_data=statement.digest(),
        statement=statement,
        module_id="i-1234567890abcdef0-enc0123456789abcdef",
    )


def test_nonce_and_use_have_no_default() -> None:
    parameters = inspect.signature(verify).parameters
    for name in ("nonce", "use", "now_ms"):
        assert parameters[name].default is inspect.Parameter.empty


@pytest.mark.parametrize("made", list(Use))
@pytest.mark.parametrize("wanted", list(Use))
def test_evidence_is_good_for_its_own_use_only(
    ask: Ask, statement: Statement, now_ms: int, made: Use, wanted: Use
) -> None:
    other = replace(statement, use=made)
    evidence, roots = ask(statement_bytes=other.to_bytes(), user_data=other.digest())
    if made is wanted:
        assert verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=wanted).statement == other
        return
    with pytest.raises(WrongUse) as caught:
        verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=wanted)
    assert caught.value.code == "wrong_use"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"use": Use.KMS}, id="use"),
        pytest.param({"suite": "another"}, id="suite"),
        pytest.param({"key": bytes(32)}, id="key"),
        pytest.param({"pool": "another"}, id="pool"),
        pytest.param({"configuration": bytes(48)}, id="configuration"),
    ],
)
def test_a_changed_statement_is_not_the_attested_one(
    ask: Ask, statement: Statement, now_ms: int, change: dict[str, Any]
) -> None:
    changed = replace(statement, **change)
    evidence, roots = ask(statement_bytes=changed.to_bytes())
    for use in Use:
        with pytest.raises(WrongStatement) as caught:
            verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=use)
        assert caught.value.code == "wrong_statement"


@pytest.mark.parametrize("user_data", [None, b"", bytes(48), b"x" * 32])
def test_a_document_that_carries_no_such_digest_vouches_for_nothing(
    ask: Ask, now_ms: int, user_data: bytes | None
) -> None:
    evidence, roots = ask(user_data=user_data)
    with pytest.raises(WrongStatement):
        verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)


@pytest.mark.parametrize("key", [None, bytes(32), bytes(range(31)), bytes(range(33))])
def test_document_and_statement_name_the_same_key(ask: Ask, now_ms: int, key: bytes | None) -> None:
    evidence, roots = ask(public_key=key)
    with pytest.raises(WrongStatement, match="key"):
        verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)


@pytest.mark.parametrize("carried", [None, b"", b"n" * 31, b"n" * 33, b"m" * 32])
def test_another_nonce_is_refused(ask: Ask, now_ms: int, carried: bytes | None) -> None:
    evidence, roots = ask(nonce=carried)
    with pytest.raises(WrongNonce) as caught:
        verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)
    assert caught.value.code == "wrong_nonce"
    assert "Ask again" in caught.value.fix


def test_who_asked_without_a_nonce_compares_none(ask: Ask, now_ms: int) -> None:
    evidence, roots = ask()
    assert verify(evidence, roots, now_ms=now_ms, nonce=None, use=Use.SEAL).nonce == NONCE


def test_an_empty_nonce_is_a_nonce(ask: Ask, now_ms: int) -> None:
    evidence, roots = ask(nonce=None)
    with pytest.raises(WrongNonce):
        verify(evidence, roots, now_ms=now_ms, nonce=b"", use=Use.SEAL)


@pytest.mark.parametrize(
    ("age_ms", "allowed"),
    [
        pytest.param(DEFAULT_MAX_AGE_MS, True, id="as old as may be"),
        pytest.param(DEFAULT_MAX_AGE_MS + 1, False, id="a millisecond older"),
        pytest.param(3_600_000, False, id="an hour"),
        pytest.param(-MAX_CLOCK_SKEW_MS, True, id="as far ahead as may be"),
        pytest.param(-MAX_CLOCK_SKEW_MS - 1, False, id="a millisecond further"),
        pytest.param(-3_600_000, False, id="an hour ahead"),
    ],
)
def test_freshness_counts_both_ways(ask: Ask, now_ms: int, age_ms: int, allowed: bool) -> None:
    evidence, roots = ask(timestamp=now_ms - age_ms)
    if allowed:
        assert verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL).issued_ms == now_ms - age_ms
        return
    with pytest.raises(StaleEvidence) as caught:
        verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)
    assert caught.value.code == "stale_evidence"
    assert "clock" in caught.value.fix


def test_the_age_can_be_set(ask: Ask, now_ms: int) -> None:
    evidence, roots = ask(timestamp=now_ms - 10_001)
    with pytest.raises(StaleEvidence, match="at most 10 s"):
        verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL, max_age_ms=10_000)
    verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL, max_age_ms=10_001)


def test_an_expected_configuration_is_compared(ask: Ask, statement: Statement, now_ms: int) -> None:
    evidence, roots = ask()
    arguments: dict[str, Any] = {"now_ms": now_ms, "nonce": NONCE, "use": Use.SEAL}
    verify(evidence, roots, **arguments, configuration=statement.configuration)
    for other in (bytes(48), b"", statement.configuration[:47]):
        with pytest.raises(WrongConfiguration) as caught:
            verify(evidence, roots, **arguments, configuration=other)
        assert caught.value.code == "wrong_configuration"


@pytest.mark.parametrize("use", list(Use))
def test_without_a_statement_evidence_is_for_a_key_service_only(platform: Any, now_ms: int, use: Use) -> None:
    document = platform.saying(public_key=b"spki").document()
    evidence, roots = Evidence("nitro", document), platform.trusted(document)
    if use is Use.KMS:
        claims = verify(evidence, roots, now_ms=now_ms, nonce=None, use=use)
        assert (claims.statement, claims.public_key) == (None, b"spki")
        with pytest.raises(WrongConfiguration):
            verify(evidence, roots, now_ms=now_ms, nonce=None, use=use, configuration=bytes(48))
        return
    with pytest.raises(WrongUse):
        verify(evidence, roots, now_ms=now_ms, nonce=None, use=use)


def test_a_statement_can_not_be_left_out(ask: Ask, now_ms: int) -> None:
    evidence, roots = ask()
    for use in Use:
        with pytest.raises(WrongUse):
            verify(replace(evidence, statement=None), roots, now_ms=now_ms, nonce=NONCE, use=use)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_of_the_statement_fails(evidence_once: Any, data: st.DataObject) -> None:
    evidence, roots, now_ms = evidence_once
    damaged = bytearray(evidence.statement)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((WrongStatement, StatementInvalid)):
        verify(replace(evidence, statement=bytes(damaged)), roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_of_the_evidence_fails(evidence_once: Any, data: st.DataObject) -> None:
    evidence, roots, now_ms = evidence_once
    damaged = bytearray(evidence.to_cbor())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VerificationError):
        verify(Evidence.from_cbor(bytes(damaged)), roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)


@pytest.fixture(scope="module")
def evidence_once(platform: Any) -> tuple[Evidence, TrustRoots, int]:
    statement = Statement(Use.SEAL, "s", b"k" * 32, "demo", bytes(48))
    document = platform.saying(public_key=statement.key, user_data=statement.digest(), nonce=NONCE).document()
    at = cbor2.loads(cbor2.loads(document)[2])["timestamp"]
    return Evidence("nitro", document, statement.to_bytes()), platform.trusted(document), at


def test_evidence_of_two_enclaves_can_not_be_mixed(ask: Ask, statement: Statement, now_ms: int) -> None:
    other = replace(statement, key=b"o" * 32)
    mine, roots = ask()
    theirs, _ = ask(statement_bytes=other.to_bytes(), user_data=other.digest(), public_key=other.key)
    with pytest.raises(WrongStatement):
        verify(replace(mine, statement=theirs.statement), roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)


@pytest.mark.parametrize("zero", [(0, 1, 2, 8), (0,), (1,), (2,)], ids=str)
def test_zero_registers_mean_debug(ask: Ask, now_ms: int, zero: tuple[int, ...]) -> None:
    pcrs = {i: bytes(48) if i in zero else b"\x01" * 48 for i in range(16)}
    evidence, roots = ask(pcrs=pcrs)
    assert verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL).debug


@pytest.mark.parametrize("zero", [(3,), (8,), tuple(range(3, 16))], ids=str)
def test_other_registers_may_be_zero(ask: Ask, now_ms: int, zero: tuple[int, ...]) -> None:
    pcrs = {i: bytes(48) if i in zero else b"\x01" * 48 for i in range(16)}
    evidence, roots = ask(pcrs=pcrs)
    assert not verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL).debug


def test_a_register_that_is_missing_is_no_better_than_zero(ask: Ask, now_ms: int) -> None:
    evidence, roots = ask(pcrs={1: b"\x01" * 48, 2: b"\x01" * 48})
    assert verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL).debug


def test_claims_are_json(ask: Ask, statement: Statement, now_ms: int) -> None:
    evidence, roots = ask()
    claims = verify(evidence, roots, now_ms=now_ms, nonce=NONCE, use=Use.SEAL)
    value = json.loads(json.dumps(claims.to_mapping()))
    assert value["nonce"] == NONCE.hex()
    assert value["measurements"]["pcr0"] == "01" * 48
    assert value["statement"] == {
        "use": "seal",
        "suite": statement.suite,
        "key": statement.key.hex(),
        "pool": "demo",
        "configuration": statement.configuration.hex(),
    }


def test_a_document_of_a_strangers_program(platform: Any, now_ms: int) -> None:
    document = platform.saying(user_data=b"whatever", nonce=NONCE).document()
    roots = platform.trusted(document)
    claims = verify_standalone(document, roots, now_ms=now_ms, nonce=NONCE)
    assert (claims.statement, claims.user_data) == (None, b"whatever")
    with pytest.raises(WrongNonce):
        verify_standalone(document, roots, now_ms=now_ms, nonce=b"mine")
    with pytest.raises(StaleEvidence):
        verify_standalone(document, roots, now_ms=now_ms + 2, nonce=None, max_age_ms=1)
    with pytest.raises(MalformedEvidence):
        verify_standalone(document[:-1], roots, now_ms=now_ms, nonce=None)


def test_the_real_document_stands_alone(real_document: bytes) -> None:
    claims = verify_standalone(real_document, TrustRoots.aws_nitro(), now_ms=1668034320696, nonce=None)
    assert not claims.debug
    assert not claims.simulated
    assert claims.measurements["pcr0"].startswith("22f9e1c949208da55eb01b9b9fc88f87")
