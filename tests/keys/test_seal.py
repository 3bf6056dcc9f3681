"""Sealed requests and answers: what opens, what must not, and which code says so."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo._base import CODES, GeumgoError
from geumgo.keys import (
    MAX_BODY,
    MAX_DEADLINE_AHEAD_MS,
    MAX_POLICY,
    AnswerError,
    AnswerOpener,
    CallerKey,
    OperationFailed,
    PoolKeyPair,
    PoolPublicKey,
    RoutingHeader,
    SealError,
    open_request,
    seal_answer,
    seal_failure,
    seal_request,
)
from geumgo.keys._pool_key import hpke_seal
from geumgo.keys._wire import Header, Inner

NOW = 1_700_000_000_000
DEADLINE = NOW + 30_000


def seal(pair: PoolKeyPair, caller: CallerKey, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"operation": "deidentify", "body": b'{"rows":[]}', "deadline_ms": DEADLINE}
    return seal_request(pair.public, caller, **{**arguments, **changes})


def refused(request: bytes, pair: PoolKeyPair, callers: dict[str, bytes], now: int = NOW) -> str:
    with pytest.raises(SealError) as caught:
        open_request(request, pair, callers, now_ms=now)
    return caught.value.code


def test_round_trip(pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]) -> None:
    sealed = seal(pair, caller, policy=b"policy", sequence=7, last=False, request_id=b"r" * 16)
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    assert (opened.operation, opened.caller, opened.body) == ("deidentify", "records", b'{"rows":[]}')
    assert (opened.sequence, opened.last, opened.deadline_ms) == (7, False, DEADLINE)
    assert (opened.policy, opened.policy_digest) == (b"policy", hashlib.sha256(b"policy").digest())
    assert opened.request_id == sealed.request_id == b"r" * 16
    assert opened.digest == hashlib.sha256(sealed.request).digest()
    assert sealed.answer_opener.open(seal_answer(opened, b"result")) == b"result"
    assert sealed.answer_opener.open(seal_answer(opened, b"")) == b""


@settings(max_examples=25, deadline=None)
@given(
    body=st.binary(max_size=300),
    policy=st.binary(max_size=100),
    sequence=st.integers(0, 2**64 - 1),
    last=st.booleans(),
    operation=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    ahead=st.integers(1, MAX_DEADLINE_AHEAD_MS),
)
def test_any_request_survives(
    pair: PoolKeyPair,
    caller: CallerKey,
    callers: dict[str, bytes],
    body: bytes,
    policy: bytes,
    sequence: int,
    last: bool,
    operation: str,
    ahead: int,
) -> None:
    sealed = seal(
        pair,
        caller,
        body=body,
        policy=policy,
        sequence=sequence,
        last=last,
        operation=operation,
        deadline_ms=NOW + ahead,
    )
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    assert (opened.body, opened.policy, opened.sequence, opened.last, opened.operation) == (
        body,
        policy,
        sequence,
        last,
        operation,
    )
    clear = RoutingHeader.parse(sealed.request)
    assert (clear.version, clear.key_id, clear.operation) == (1, pair.key_id, operation)
    assert (clear.request_id, clear.deadline_ms) == (opened.request_id, opened.deadline_ms)


def test_every_flipped_byte_of_a_request_is_refused(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    request = seal(pair, caller, policy=b"p").request
    key_id = range(1, 33)
    for at in range(len(request)):
        for bit in (0x01, 0x80):
            changed = bytearray(request)
            changed[at] ^= bit
            # X25519 ignores the top bit of a point (RFC 7748 §5), but HPKE binds the encapsulated bytes themselves.
            code = refused(bytes(changed), pair, callers)
            assert code == ("reattest" if at in key_id else "malformed"), at


def test_every_flipped_byte_of_an_answer_is_refused(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    sealed = seal(pair, caller)
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    for answer in (seal_answer(opened, b"result"), seal_failure(opened, "forbidden", "no", False)):
        for at in range(len(answer)):
            changed = bytearray(answer)
            changed[at] ^= 1
            with pytest.raises(AnswerError):
                sealed.answer_opener.open(bytes(changed))
        for size in range(len(answer)):
            with pytest.raises(AnswerError):
                sealed.answer_opener.open(answer[:size])
        with pytest.raises(AnswerError):
            sealed.answer_opener.open(answer + b"\0")


def test_every_truncation_and_extension_of_a_request_is_refused(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    request = seal(pair, caller).request
    for size in range(len(request)):
        assert refused(request[:size], pair, callers) == "malformed"
    assert refused(request + b"\0", pair, callers) == "malformed"


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400))
def test_garbage_never_raises_anything_else(
    pair: PoolKeyPair, callers: dict[str, bytes], data: bytes
) -> None:
    for request in (data, b"\x01" + pair.key_id + data):
        with pytest.raises(SealError):
            open_request(request, pair, callers, now_ms=NOW)
    with pytest.raises(AnswerError):
        AnswerOpener(X25519PrivateKey.generate(), b"d" * 32, b"i" * 16).open(b"\x01" + data)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_garbage_inside_the_seal_never_raises_anything_else(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes], data: bytes
) -> None:
    clear = RoutingHeader(1, pair.key_id, b"r" * 16, "echo", DEADLINE, 0).to_bytes()
    info = b"geumgo/req/v1" + pair.key_id
    header = Header("echo", b"r" * 16, 0, True, DEADLINE, b"d" * 32, b"k" * 32, "records").to_bytes()
    for plaintext in (data, len(header).to_bytes(2, "big") + header + data, b"\0\x70" + data):
        request = clear + hpke_seal(plaintext, pair.public.public, info)
        assert refused(request, pair, callers) in ("malformed", "too_large", "unknown_caller")


@pytest.mark.parametrize(
    ("field", "value"),
    [("operation", "reidentify"), ("deadline_ms", DEADLINE + 1), ("request_id", b"x" * 16)],
)
def test_relabelled_in_clear(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes], field: str, value: object
) -> None:
    request = seal(pair, caller, request_id=b"r" * 16).request
    clear = RoutingHeader.parse(request)
    relabelled = dataclasses.replace(clear, **{field: value}).to_bytes() + request[clear.size :]
    assert refused(relabelled, pair, callers) == "malformed"


def test_relabelling_a_late_request_does_not_revive_it(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    request = seal(pair, caller).request
    clear = RoutingHeader.parse(request)
    later = dataclasses.replace(clear, deadline_ms=DEADLINE + 60_000).to_bytes() + request[clear.size :]
    assert refused(later, pair, callers, now=DEADLINE + 1) == "malformed"


def test_other_pool_key(pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]) -> None:
    assert refused(seal(PoolKeyPair.generate(), caller).request, pair, callers) == "reattest"


def test_sealed_to_another_key_but_labelled_for_this(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    request = seal(PoolKeyPair.generate(), caller).request
    assert refused(request[:1] + pair.key_id + request[33:], pair, callers) == "malformed"


def test_unknown_name_and_wrong_key_look_the_same(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    messages = []
    for key in (CallerKey.generate("nobody"), CallerKey.generate("records")):
        with pytest.raises(SealError) as caught:
            open_request(seal(pair, key).request, pair, callers, now_ms=NOW)
        messages.append((caught.value.code, caught.value.diagnostics()))
    assert messages[0] == messages[1]
    assert messages[0][0] == "unknown_caller"


def test_a_request_cannot_be_resealed_to_another_pool(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    """The signature covers the key id, so who opened a request can't pass it on to another pool."""
    other = PoolKeyPair.generate()
    request = seal(pair, caller).request
    from geumgo.keys._pool_key import hpke_open

    clear = RoutingHeader.parse(request)
    plaintext = hpke_open(request[clear.size :], pair.private, b"geumgo/req/v1" + pair.key_id)
    moved = dataclasses.replace(clear, key_id=other.key_id).to_bytes()
    moved += hpke_seal(plaintext, other.public.public, b"geumgo/req/v1" + other.key_id)
    assert refused(moved, other, callers) == "unknown_caller"


@pytest.mark.parametrize("part", ["policy", "body", "header"])
def test_parts_exchanged_inside_by_someone_who_can_seal(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes], part: str
) -> None:
    from geumgo.keys._pool_key import hpke_open

    info = b"geumgo/req/v1" + pair.key_id
    request = seal(pair, caller, policy=b"strict").request
    clear = RoutingHeader.parse(request)
    inner = Inner.parse(hpke_open(request[clear.size :], pair.private, info))
    donor = seal(pair, caller, policy=b"lax", body=b"other").request
    other = Inner.parse(hpke_open(donor[clear.size :], pair.private, info))
    mixed = dataclasses.replace(inner, **{part: getattr(other, part)})
    forged = clear.to_bytes() + hpke_seal(mixed.to_bytes(), pair.public.public, info)
    assert refused(forged, pair, callers) == ("malformed" if part == "policy" else "unknown_caller")


@pytest.mark.parametrize(
    ("now", "code"),
    [
        pytest.param(DEADLINE, "deadline_exceeded", id="at the deadline"),
        pytest.param(DEADLINE + 1, "deadline_exceeded", id="after it"),
        pytest.param(DEADLINE - MAX_DEADLINE_AHEAD_MS - 1, "forbidden", id="too far ahead"),
    ],
)
def test_deadline(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes], now: int, code: str
) -> None:
    assert refused(seal(pair, caller).request, pair, callers, now=now) == code


def test_deadline_is_not_told_to_strangers(pair: PoolKeyPair, callers: dict[str, bytes]) -> None:
    late = seal(pair, CallerKey.generate("records")).request
    assert refused(late, pair, callers, now=DEADLINE + 1) == "unknown_caller"


def test_swapped_answers_fail(pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]) -> None:
    first, second = seal(pair, caller), seal(pair, caller)
    answers = [
        seal_answer(open_request(sealed.request, pair, callers, now_ms=NOW), b"result")
        for sealed in (first, second)
    ]
    for sealed, answer in ((first, answers[1]), (second, answers[0])):
        with pytest.raises(AnswerError):
            sealed.answer_opener.open(answer)


def test_an_answer_is_bound_to_the_request_as_it_arrived(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    sealed = seal(pair, caller)
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    elsewhere = dataclasses.replace(opened, digest=hashlib.sha256(sealed.request + b"x").digest())
    with pytest.raises(AnswerError):
        sealed.answer_opener.open(seal_answer(elsewhere, b"result"))


def test_a_replay_is_answered_to_the_same_key(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    sealed = seal(pair, caller)
    first = open_request(sealed.request, pair, callers, now_ms=NOW)
    again = open_request(bytes(sealed.request), pair, callers, now_ms=NOW + 1)
    assert first == again
    one, two = seal_answer(first, b"result"), seal_answer(again, b"result")
    assert one != two
    assert sealed.answer_opener.open(one) == sealed.answer_opener.open(two) == b"result"


def test_every_request_has_a_reply_key_of_its_own(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    opened = [
        open_request(seal(pair, caller, request_id=b"r" * 16).request, pair, callers, now_ms=NOW)
        for _ in range(8)
    ]
    assert len({request.reply_key for request in opened}) == 8


@pytest.mark.parametrize("retryable", [True, False])
@pytest.mark.parametrize("detail", ["", "the 3rd row has no name", "행 3", "x" * 10_000, "행" * 3000])
def test_failure(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes], detail: str, retryable: bool
) -> None:
    sealed = seal(pair, caller)
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    with pytest.raises(OperationFailed) as caught:
        sealed.answer_opener.open(seal_failure(opened, "invalid_request", detail, retryable))
    assert (caught.value.code, caught.value.retryable) == ("invalid_request", retryable)
    assert detail.startswith(caught.value.detail)
    assert len(caught.value.detail.encode()) > min(4000, len(detail.encode()) - 1)
    assert caught.value.detail in caught.value.diagnostics()


def test_failure_codes_are_those_of_the_wire(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]
) -> None:
    sealed = seal(pair, caller)
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    for code in CODES:
        with pytest.raises(OperationFailed) as caught:
            sealed.answer_opener.open(seal_failure(opened, code, "", False))
        assert caught.value.code == code
    with pytest.raises(SealError):
        seal_failure(opened, "my_own", "", False)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\x02",
        b"\x01",
        b"\x01\x00",
        b"\x01\x02\x00",
        b"\x01\x00\x05abc",
        b"\x01\x00\x03abc",
        b"\x01\x00\xff",
    ],
)
def test_malformed_failure(
    pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes], plaintext: bytes
) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    sealed = seal(pair, caller)
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    key = X25519PublicKey.from_public_bytes(opened.reply_key)
    answer = b"\x01" + hpke_seal(plaintext, key, b"geumgo/res/v1" + opened.digest)
    with pytest.raises(AnswerError):
        sealed.answer_opener.open(answer)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"operation": ""}, "invalid_request", id="no operation"),
        pytest.param({"operation": "de identify"}, "invalid_request", id="a space"),
        pytest.param({"operation": "x" * 65}, "invalid_request", id="a long name"),
        pytest.param({"operation": "가명"}, "invalid_request", id="not ASCII"),
        pytest.param({"request_id": b"short"}, "invalid_request", id="a short id"),
        pytest.param({"sequence": -1}, "invalid_request", id="a negative sequence"),
        pytest.param({"deadline_ms": 1 << 64}, "invalid_request", id="a deadline over 64 bits"),
        pytest.param({"body": bytes(MAX_BODY + 1)}, "too_large", id="a large body"),
        pytest.param({"policy": bytes(MAX_POLICY + 1)}, "too_large", id="a large policy"),
    ],
)
def test_what_a_caller_may_not_seal(
    pair: PoolKeyPair, caller: CallerKey, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(SealError) as caught:
        seal(pair, caller, **changes)
    assert caught.value.code == code


def test_largest_request(pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]) -> None:
    sealed = seal(pair, caller, operation="o" * 64, body=bytes(MAX_BODY), policy=bytes(MAX_POLICY))
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    assert len(sealed.answer_opener.open(seal_answer(opened, bytes(MAX_BODY)))) == MAX_BODY
    with pytest.raises(SealError) as caught:
        seal_answer(opened, bytes(MAX_BODY + 1))
    assert caught.value.code == "too_large"
    assert refused(sealed.request + bytes(1 << 20), pair, callers) == "too_large"


def test_an_oversized_part_made_by_hand_is_refused_before_it_is_cut(
    pair: PoolKeyPair, callers: dict[str, bytes]
) -> None:
    for plaintext, code in (
        (b"\xff\xff", "too_large"),
        (b"\0\0" + (MAX_POLICY + 1).to_bytes(4, "big"), "too_large"),
        (b"\0\0" + bytes(4) + (MAX_BODY + 1).to_bytes(4, "big"), "too_large"),
        (b"\0\0" + bytes(4) + (64).to_bytes(4, "big") + bytes(64), "malformed"),
    ):
        clear = RoutingHeader(1, pair.key_id, b"r" * 16, "echo", DEADLINE, 0).to_bytes()
        request = clear + hpke_seal(plaintext, pair.public.public, b"geumgo/req/v1" + pair.key_id)
        assert refused(request, pair, callers) == code


def test_unusable_reply_key(pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]) -> None:
    opened = open_request(seal(pair, caller).request, pair, callers, now_ms=NOW)
    with pytest.raises(SealError):
        seal_answer(dataclasses.replace(opened, reply_key=bytes(32)), b"result")


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytes(32), b"\x01" + bytes(31)])
def test_unusable_pool_key(raw: bytes) -> None:
    with pytest.raises(SealError):
        PoolPublicKey(raw)


def test_nothing_secret_in_a_repr(pair: PoolKeyPair, caller: CallerKey, callers: dict[str, bytes]) -> None:
    sealed = seal(pair, caller, body=b"900101-1234567", policy=b"POLICY")
    opened = open_request(sealed.request, pair, callers, now_ms=NOW)
    shown = " ".join(map(repr, (sealed, opened, pair, caller, sealed.answer_opener)))
    assert "900101" not in shown
    assert "POLICY" not in shown
    assert opened.reply_key.hex() not in shown
    assert repr(opened.reply_key) not in shown


def test_seed_derivation_follows_rfc_9180() -> None:
    """RFC 9180 appendix A.1.1 (DHKEM(X25519, HKDF-SHA256)): ikmR, skRm, pkRm."""
    ikm = bytes.fromhex("6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037")
    pair = PoolKeyPair.from_seed(ikm)
    expected = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"
    assert pair.private.private_bytes_raw().hex() == expected
    assert pair.public.raw.hex() == "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"
    assert pair.key_id == hashlib.sha256(pair.public.raw).digest()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_seed_of_another_length(size: int) -> None:
    with pytest.raises(SealError):
        PoolKeyPair.from_seed(bytes(size))


def test_errors_are_ours() -> None:
    for error in (SealError, AnswerError, OperationFailed):
        assert issubclass(error, GeumgoError)
