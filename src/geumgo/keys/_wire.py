"""The bytes of a sealed request and of its answer (docs/spec/sealed-request.md). No cryptography here.

Every integer is big-endian; every field has one place and one length, so that bytes have one reading.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from geumgo.keys._names import is_name
from geumgo.keys._pool_key import ENC_SIZE, TAG_SIZE
from geumgo.keys.errors import SealError

__all__ = (
    "MAX_BODY",
    "MAX_DETAIL",
    "MAX_POLICY",
    "MAX_REQUEST",
    "REQUEST_ID_SIZE",
    "VERSION",
    "Header",
    "Inner",
    "RoutingHeader",
)

VERSION = 1
"""The only version of the format."""

REQUEST_ID_SIZE = 16
"""Bytes of a request id: random, so that no two callers meet by chance."""

MAX_BODY = 8 << 20
"""Bytes of one request's or answer's body: a batch of some 50,000 records; larger data is streamed in batches."""

MAX_POLICY = 256 << 10
"""Bytes of a compiled policy; the largest of the examples takes 2 KiB."""

MAX_DETAIL = 4 << 10
"""Bytes of text in a sealed failure: a few lines for a person."""

_CLEAR = struct.Struct(f">B32s{REQUEST_ID_SIZE}sQB")
_HEADER = struct.Struct(f">QBQ{REQUEST_ID_SIZE}s32s32s")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_SIGNATURE = 64
_FLAG_LAST = 1
_MAX_HEADER = _HEADER.size + 2 * (1 + 64)
_MAX_U64 = (1 << 64) - 1

MAX_REQUEST = (
    _CLEAR.size + 64 + ENC_SIZE + 2 + _MAX_HEADER + 4 + MAX_POLICY + 4 + MAX_BODY + _SIGNATURE + TAG_SIZE
)
"""Bytes of a whole sealed request: the sum of its parts' limits."""


def _malformed(what: str) -> SealError:
    return SealError(f"not a sealed request: {what}")


@dataclass(frozen=True, slots=True)
class RoutingHeader:
    """What a manager or gateway may read: where a sealed request goes and until when.

    None of it is authenticated in clear; the enclave compares it with what is sealed.

    Attributes:
        version: 1.
        key_id: SHA-256 of the pool key that it is sealed to.
        request_id: 16 bytes.
        operation: name of the operation.
        deadline_ms: milliseconds since 1970 after which nobody wants an answer.
        size: bytes that the routing header itself takes.
    """

    version: int
    key_id: bytes
    request_id: bytes
    operation: str
    deadline_ms: int
    size: int

    @classmethod
    def parse(cls, request: bytes) -> RoutingHeader:
        """Return what is in clear of `request`; costs microseconds whatever its size.

        Raises:
            SealError: ``malformed``, or ``too_large`` over `MAX_REQUEST`.
        """
        if len(request) > MAX_REQUEST:
            raise SealError(
                f"a sealed request of {len(request)} bytes is over the limit of {MAX_REQUEST}",
                code="too_large",
            )
        if len(request) < _CLEAR.size:
            raise _malformed("it ends within its routing header")
        version, key_id, request_id, deadline_ms, length = _CLEAR.unpack_from(request)
        if version != VERSION:
            raise _malformed(f"its version is {version}, not {VERSION}")
        size = _CLEAR.size + length
        if len(request) < size + ENC_SIZE + TAG_SIZE:
            raise _malformed("it ends before its ciphertext")
        operation = _name(bytes(request[_CLEAR.size : size]))
        return cls(version, key_id, request_id, operation, deadline_ms, size)

    def to_bytes(self) -> bytes:
        """Return the encoding."""
        operation = self.operation.encode()
        return (
            _CLEAR.pack(self.version, self.key_id, self.request_id, self.deadline_ms, len(operation))
            + operation
        )


@dataclass(frozen=True, slots=True)
class Header:
    """The signed header inside the seal.

    Attributes:
        operation: name of the operation.
        request_id: 16 bytes.
        sequence: place in the caller's stream, from 0.
        last: whether the stream ends here.
        deadline_ms: milliseconds since 1970.
        policy_digest: SHA-256 of the compiled policy.
        reply_key: X25519 public key, made for this request; as secret as the body.
        caller: name of who signed.
    """

    operation: str
    request_id: bytes
    sequence: int
    last: bool
    deadline_ms: int
    policy_digest: bytes
    reply_key: bytes
    caller: str

    def __repr__(self) -> str:
        # The reply key stays out: who knows it can forge an answer.
        return f"Header(operation={self.operation!r}, caller={self.caller!r}, sequence={self.sequence})"

    def to_bytes(self) -> bytes:
        """Return the encoding, which is what is signed."""
        operation, caller = self.operation.encode(), self.caller.encode()
        return b"".join(
            (
                _HEADER.pack(
                    self.sequence,
                    _FLAG_LAST if self.last else 0,
                    self.deadline_ms,
                    self.request_id,
                    self.policy_digest,
                    self.reply_key,
                ),
                bytes((len(operation),)),
                operation,
                bytes((len(caller),)),
                caller,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Return the header that `data` is.

        Raises:
            SealError: ``malformed``.
        """
        if not _HEADER.size + 4 <= len(data) <= _MAX_HEADER:
            raise _malformed("its header has an impossible length")
        sequence, flags, deadline_ms, request_id, policy_digest, reply_key = _HEADER.unpack_from(data)
        if flags & ~_FLAG_LAST:
            raise _malformed("its header has unknown flags")
        start = _HEADER.size
        end = start + 1 + data[start]
        operation = data[start + 1 : end]
        # A length past the end leaves no byte for the caller's length and so ends here.
        if end >= len(data) or end + 1 + data[end] != len(data):
            raise _malformed("the names of its header do not fill it")
        caller = data[end + 1 :]
        return cls(
            _name(operation),
            request_id,
            sequence,
            bool(flags),
            deadline_ms,
            policy_digest,
            reply_key,
            _name(caller),
        )


@dataclass(frozen=True, slots=True)
class Inner:
    """What the seal holds: the signed header, the policy, the body, the signature."""

    header: bytes
    policy: bytes
    body: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"Inner(policy of {len(self.policy)} bytes, body of {len(self.body)} bytes)"

    def to_bytes(self) -> bytes:
        """Return the encoding, the plaintext of the seal."""
        return b"".join(
            (
                _U16.pack(len(self.header)),
                self.header,
                _U32.pack(len(self.policy)),
                self.policy,
                _U32.pack(len(self.body)),
                self.body,
                self.signature,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Inner:
        """Return what `data`, the opened seal, holds.

        Raises:
            SealError: ``malformed``; ``too_large`` for a policy or body over its limit.
        """
        header, at = _counted(data, 0, _U16, _MAX_HEADER, "header")
        policy, at = _counted(data, at, _U32, MAX_POLICY, "policy")
        body, at = _counted(data, at, _U32, MAX_BODY, "body")
        if len(data) - at != _SIGNATURE:
            raise _malformed("its signature does not end it")
        return cls(header, policy, body, data[at:])


def check_request(header: Header, policy: bytes, body: bytes) -> None:
    """Refuse what a caller may not send.

    Raises:
        SealError: ``invalid_request`` for a name, id, number or key out of range; ``too_large``.
    """
    if not is_name(header.operation):
        raise SealError(
            "an operation's name is 1 to 64 letters, digits, dots, dashes or underscores",
            code="invalid_request",
        )
    if len(header.request_id) != REQUEST_ID_SIZE:
        raise SealError(f"a request id has {REQUEST_ID_SIZE} bytes", code="invalid_request")
    if not (0 <= header.sequence <= _MAX_U64 and 0 <= header.deadline_ms <= _MAX_U64):
        raise SealError("sequence number and deadline are unsigned 64-bit numbers", code="invalid_request")
    for what, value, limit in (("policy", policy, MAX_POLICY), ("body", body, MAX_BODY)):
        if len(value) > limit:
            raise SealError(
                f"a {what} of {len(value)} bytes is over the limit of {limit}",
                fix="Send it in smaller batches." if what == "body" else "",
                code="too_large",
            )


def _counted(data: bytes, at: int, count: struct.Struct, limit: int, what: str) -> tuple[bytes, int]:
    start = at + count.size
    if start > len(data):
        raise _malformed(f"it ends before its {what}")
    (length,) = count.unpack_from(data, at)
    if length > limit:
        raise SealError(f"its {what} of {length} bytes is over the limit of {limit}", code="too_large")
    if length > len(data) - start:
        raise _malformed(f"it ends within its {what}")
    return data[start : start + length], start + length


def _name(data: bytes) -> str:
    # latin-1 never fails, and is_name accepts ASCII only.
    text = data.decode("latin-1")
    if not is_name(text):
        raise _malformed("a name in it is not a name")
    return text
