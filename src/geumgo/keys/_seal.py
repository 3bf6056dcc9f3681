"""Seal a request to the pool, open it inside, and back again (docs/spec/sealed-request.md).

Steps of `open_request`, by the specification's numbers:

1. parse what is in clear; 2. compare the key id; 3. open the seal; 4. parse what it holds; 5. verify the
caller's signature; 6. what is in clear equals what is sealed; 7. the policy's digest; 8. the deadline.

Until 5 an answer depends only on what the sender made himself, and an unknown name and a wrong signature
are one error on one path, so an answer teaches nothing about anyone else's request.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from geumgo._base import CODES
from geumgo.keys._caller import CallerKey
from geumgo.keys._pool_key import (
    ENC_SIZE,
    TAG_SIZE,
    HpkeOpenError,
    PoolKeyPair,
    PoolPublicKey,
    hpke_open,
    hpke_seal,
)
from geumgo.keys._wire import (
    MAX_BODY,
    MAX_DETAIL,
    REQUEST_ID_SIZE,
    VERSION,
    Header,
    Inner,
    RoutingHeader,
    check_request,
)
from geumgo.keys.errors import AnswerError, OperationFailed, SealError

__all__ = (
    "MAX_DEADLINE_AHEAD_MS",
    "AnswerOpener",
    "OpenedRequest",
    "Sealed",
    "open_request",
    "seal_answer",
    "seal_failure",
    "seal_request",
)

MAX_DEADLINE_AHEAD_MS = 3_600_000
"""How far ahead a deadline may lie: an enclave remembers request ids until then."""

_REQUEST_INFO = b"geumgo/req/v1"
_ANSWER_INFO = b"geumgo/res/v1"
_SIGNATURE_LABEL = b"geumgo/sig/v1"
_VERSION_BYTE = bytes((VERSION,))
_ANSWER, _FAILURE = 0, 1
_MAX_ANSWER = 1 + ENC_SIZE + 1 + MAX_BODY + TAG_SIZE
# A decoy (the base point's Y) for names that nobody has, so that they cost the same as a wrong signature.
_NOBODY = bytes.fromhex("58" + "66" * 31)


class AnswerOpener:
    """Opens the answers to one sealed request; the only holder of its reply key."""

    __slots__ = ("_info", "_private", "request_id")

    def __init__(self, private: X25519PrivateKey, digest: bytes, request_id: bytes) -> None:
        self._private = private
        self._info = _ANSWER_INFO + digest
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"AnswerOpener(request_id={self.request_id.hex()})"

    def open(self, answer: bytes) -> bytes:
        """Return the body of the enclave's answer.

        Raises:
            OperationFailed: the answer opens and says that the operation failed.
            AnswerError: it is not the answer to this request.
        """
        if not 1 + ENC_SIZE + TAG_SIZE < len(answer) <= _MAX_ANSWER or answer[:1] != _VERSION_BYTE:
            raise _not_the_answer()
        try:
            plaintext = hpke_open(memoryview(answer)[1:], self._private, self._info)
        except HpkeOpenError:
            raise _not_the_answer() from None
        if plaintext[0] == _ANSWER:
            return plaintext[1:]
        raise _parse_failure(plaintext)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed request, and what opens its answer."""

    request: bytes
    answer_opener: AnswerOpener
    request_id: bytes

    def __repr__(self) -> str:
        return f"Sealed({len(self.request)} bytes, request_id={self.request_id.hex()})"


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A request that a known caller signed and sealed to this pool; only `open_request` makes one.

    Attributes:
        operation, request_id, sequence, last, deadline_ms: as in the signed header.
        policy: the compiled policy, empty where the caller sent none.
        policy_digest: SHA-256 of it.
        body: the operation's input.
        caller: name of who signed.
        digest: SHA-256 of the request as it arrived.
        reply_key: X25519 public key for the answer, secret.
    """

    operation: str
    request_id: bytes
    sequence: int
    last: bool
    deadline_ms: int
    policy: bytes
    policy_digest: bytes
    body: bytes
    caller: str
    digest: bytes
    reply_key: bytes

    def __repr__(self) -> str:
        return (
            f"OpenedRequest(operation={self.operation!r}, caller={self.caller!r}, "
            f"request_id={self.request_id.hex()}, sequence={self.sequence}, last={self.last})"
        )


def seal_request(
    pool: PoolPublicKey,
    caller: CallerKey,
    *,
    operation: str,
    body: bytes,
    policy: bytes = b"",
    sequence: int = 0,
    last: bool = True,
    deadline_ms: int,
    request_id: bytes | None = None,
) -> Sealed:
    """Seal `body` for `operation` to the pool, signed by `caller`.

    Args:
        pool: the pool's key, out of evidence that the caller verified.
        caller: who signs.
        operation: its name.
        body: at most `MAX_BODY` bytes.
        policy: the compiled policy, at most `MAX_POLICY` bytes.
        sequence: place in a stream, from 0.
        last: whether the stream ends with this request.
        deadline_ms: milliseconds since 1970.
        request_id: 16 bytes; random where not given. A retry sends the same bytes again, never seals anew.

    Raises:
        SealError: ``invalid_request`` or ``too_large``.
    """
    reply = X25519PrivateKey.generate()
    header = Header(
        operation=operation,
        request_id=secrets.token_bytes(REQUEST_ID_SIZE) if request_id is None else request_id,
        sequence=sequence,
        last=last,
        deadline_ms=deadline_ms,
        policy_digest=hashlib.sha256(policy).digest(),
        reply_key=reply.public_key().public_bytes_raw(),
        caller=caller.name,
    )
    check_request(header, policy, body)
    signed = header.to_bytes()
    inner = Inner(signed, policy, body, caller.sign(_to_be_signed(pool.key_id, signed, body)))
    clear = RoutingHeader(VERSION, pool.key_id, header.request_id, operation, deadline_ms, 0).to_bytes()
    request = clear + hpke_seal(inner.to_bytes(), pool.public, _REQUEST_INFO + pool.key_id)
    opener = AnswerOpener(reply, hashlib.sha256(request).digest(), header.request_id)
    return Sealed(request, opener, header.request_id)


def open_request(
    request: bytes, pair: PoolKeyPair, callers: Mapping[str, bytes], *, now_ms: int
) -> OpenedRequest:
    """Open a sealed request and verify that one of `callers` signed it for this pool.

    Args:
        request: the bytes as they arrived.
        pair: the pool's keys.
        callers: name → raw Ed25519 public key, as the measured configuration lists them.
        now_ms: trusted time, milliseconds since 1970.

    Raises:
        SealError: ``malformed`` or ``too_large``; ``reattest`` if sealed to another key; ``unknown_caller`` if none of
            `callers` signed it; ``deadline_exceeded``; ``forbidden`` for a deadline too far ahead.
    """
    clear = RoutingHeader.parse(request)  # 1
    if clear.key_id != pair.key_id:  # 2
        raise SealError(
            "the request is sealed to a key that this enclave does not hold",
            fix="Ask for evidence again, verify it, and seal to the key in it.",
            code="reattest",
        )
    try:  # 3
        plaintext = hpke_open(memoryview(request)[clear.size :], pair.private, _REQUEST_INFO + pair.key_id)
    except HpkeOpenError:
        raise SealError("not a sealed request: the seal does not open") from None
    inner = Inner.parse(plaintext)  # 4
    header = Header.parse(inner.header)
    _verify(header.caller, callers, inner, pair.key_id)  # 5
    if (header.operation, header.request_id, header.deadline_ms) != (  # 6
        clear.operation,
        clear.request_id,
        clear.deadline_ms,
    ):
        raise SealError("not a sealed request: what is in clear differs from what is sealed")
    if hashlib.sha256(inner.policy).digest() != header.policy_digest:  # 7
        raise SealError("not a sealed request: the policy is not the one that was signed")
    if now_ms >= header.deadline_ms:  # 8
        raise SealError(
            "the request's deadline has passed",
            fix="Seal a new one.",
            code="deadline_exceeded",
            retryable=False,
        )
    if header.deadline_ms - now_ms > MAX_DEADLINE_AHEAD_MS:
        raise SealError(
            f"the request's deadline lies more than {MAX_DEADLINE_AHEAD_MS // 60_000} minutes ahead",
            code="forbidden",
        )
    return OpenedRequest(
        operation=header.operation,
        request_id=header.request_id,
        sequence=header.sequence,
        last=header.last,
        deadline_ms=header.deadline_ms,
        policy=inner.policy,
        policy_digest=header.policy_digest,
        body=inner.body,
        caller=header.caller,
        digest=hashlib.sha256(request).digest(),
        reply_key=header.reply_key,
    )


def seal_answer(opened: OpenedRequest, body: bytes) -> bytes:
    """Seal the operation's result to the caller.

    Raises:
        SealError: ``too_large``.
    """
    if len(body) > MAX_BODY:
        raise SealError(f"an answer of {len(body)} bytes is over the limit of {MAX_BODY}", code="too_large")
    return _to_caller(opened, bytes((_ANSWER,)) + body)


def seal_failure(opened: OpenedRequest, code: str, detail: str, retryable: bool) -> bytes:
    """Seal a failure to the caller; `detail` is cut at `MAX_DETAIL` bytes.

    Raises:
        SealError: ``internal``: `code` is none of those that cross a wire.
    """
    if code not in CODES:
        raise SealError("this failure's code is not one that crosses a wire", code="internal")
    name = code.encode()
    text = detail.encode("utf-8", "replace")[:MAX_DETAIL].decode("utf-8", "ignore").encode()
    return _to_caller(opened, bytes((_FAILURE, retryable, len(name))) + name + text)


def _to_caller(opened: OpenedRequest, plaintext: bytes) -> bytes:
    key = X25519PublicKey.from_public_bytes(opened.reply_key)
    try:
        return _VERSION_BYTE + hpke_seal(plaintext, key, _ANSWER_INFO + opened.digest)
    except ValueError:  # a point of low order: the caller signed a key to which nothing can be sealed
        raise SealError("the request's reply key is not usable") from None


def _parse_failure(plaintext: bytes) -> AnswerError | OperationFailed:
    if len(plaintext) < 3 or plaintext[0] != _FAILURE or plaintext[1] > 1:
        return _not_the_answer()
    end = 3 + plaintext[2]
    if end > len(plaintext) or len(plaintext) - end > MAX_DETAIL:
        return _not_the_answer()
    code = plaintext[3:end].decode("latin-1")
    if code not in CODES:
        return _not_the_answer()
    return OperationFailed(code, plaintext[end:].decode("utf-8", "replace"), retryable=bool(plaintext[1]))


def _not_the_answer() -> AnswerError:
    return AnswerError(
        "the answer does not open",
        why="Something between the caller and the enclave altered it or answered in its place.",
        fix="Send the same request again through another gateway if the operation is idempotent.",
    )


def _to_be_signed(key_id: bytes, header: bytes, body: bytes) -> bytes:
    return b"".join((_SIGNATURE_LABEL, key_id, header, hashlib.sha256(body).digest()))


def _verify(name: str, callers: Mapping[str, bytes], inner: Inner, key_id: bytes) -> None:
    known = callers.get(name)
    try:
        _public_key(known or _NOBODY).verify(inner.signature, _to_be_signed(key_id, inner.header, inner.body))
        verified = known is not None
    except (InvalidSignature, ValueError):
        verified = False
    if not verified:
        raise SealError(
            "no caller that this enclave knows signed the request",
            fix="Use the key that the measured configuration lists under the caller's name.",
            code="unknown_caller",
        )


@lru_cache(maxsize=1024)
def _public_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)
