"""Fields that an application encrypted under its own KMS data key (docs/spec/envelope.md).

One data key serves many fields: every envelope carries it wrapped, so that the enclave needs nothing else to
ask KMS for it, once for all fields that share it. What names the key is authenticated with the field.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from geumgo.codec import cbor
from geumgo.keys.configuration import MAX_CONTEXT, MAX_TEXT, MAX_WRAPPED
from geumgo.keys.errors import EnvelopeError

__all__ = (
    "MAX_FIELD",
    "MAX_FIELDS_PER_KEY",
    "DataKey",
    "Envelope",
    "encrypt_field",
    "open_envelope",
    "parse_envelope",
)

MAX_FIELD = 1 << 20
"""Bytes of a field's plaintext: a long free text."""

MAX_FIELDS_PER_KEY = 1 << 32
"""Fields under one data key: with random nonces of 96 bits, NIST SP 800-38D §8.3 allows 2^32."""

_VERSION = 1
_NONCE = 12
_TAG = 16
_LABEL = b"geumgo/env/v1"
_MAX_TEXT_FORM = (3 + 0xFFFF + _NONCE + MAX_FIELD + _TAG + 2) // 3 * 4


class DataKey:
    """A data key, plain and wrapped, as ``GenerateDataKey`` gave it.

    Args:
        key_id: ARN of the KMS key that wraps it.
        plaintext: 32 bytes.
        wrapped: the CiphertextBlob.
        context: the encryption context with which it was made.
    """

    __slots__ = ("_aead", "_header", "_used", "context", "key_id", "wrapped")

    def __init__(self, key_id: str, plaintext: bytes, wrapped: bytes, context: Mapping[str, str]) -> None:
        if len(plaintext) != 32:
            raise EnvelopeError(f"a data key has 32 bytes, not {len(plaintext)}")
        self.key_id = key_id
        self.wrapped = wrapped
        self.context: Mapping[str, str] = MappingProxyType(dict(context))
        self._aead = AESGCM(plaintext)
        self._header = _header_bytes(key_id, wrapped, self.context)
        self._used = 0

    def __repr__(self) -> str:
        return f"DataKey(key_id={self.key_id!r}, context={dict(self.context)!r})"

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the envelope's bytes."""
        if len(plaintext) > MAX_FIELD:
            raise EnvelopeError(
                f"a field of {len(plaintext)} bytes is over the limit of {MAX_FIELD}", code="too_large"
            )
        if self._used >= MAX_FIELDS_PER_KEY:
            raise EnvelopeError(
                "this data key has encrypted as many fields as it may", fix="Generate another."
            )
        self._used += 1
        nonce = secrets.token_bytes(_NONCE)
        return self._header + nonce + self._aead.encrypt(nonce, plaintext, _LABEL + self._header)


@dataclass(frozen=True, slots=True)
class Envelope:
    """An encrypted field and what names its key. Not yet authenticated; `open_envelope` does that.

    Attributes:
        key_id: ARN of the KMS key.
        wrapped: the wrapped data key.
        context: the encryption context for KMS `Decrypt`.
        nonce: 12 bytes.
        ciphertext: with the tag.
        header: the bytes that say all but the last two, authenticated.
    """

    key_id: str
    wrapped: bytes
    context: Mapping[str, str]
    nonce: bytes
    ciphertext: bytes
    header: bytes

    def __repr__(self) -> str:
        return f"Envelope(key_id={self.key_id!r}, context={dict(self.context)!r})"


def encrypt_field(data_key: DataKey, plaintext: bytes, context: Mapping[str, str] | None = None) -> str:
    """Encrypt one field; return base64 text, which fits a CSV or JSON value.

    Args:
        data_key: the key.
        plaintext: the field's bytes, UTF-8 of a text.
        context: where given, must be the data key's own; another would make the field unreadable.

    Raises:
        EnvelopeError: too large, or another context.
    """
    if context is not None and dict(context) != dict(data_key.context):
        raise EnvelopeError(
            "this is not the encryption context with which the data key was made",
            fix="Generate a data key for each encryption context.",
        )
    return base64.b64encode(data_key.encrypt(plaintext)).decode("ascii")


def parse_envelope(text: str) -> Envelope:
    """Return the envelope that a field's text is.

    Raises:
        EnvelopeError: it is none.
    """
    if len(text) > _MAX_TEXT_FORM:
        raise EnvelopeError("an encrypted field is over the size limit", code="too_large")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _not_an_envelope() from None
    if base64.b64encode(data).decode("ascii") != text or len(data) < 3 or data[0] != _VERSION:
        raise _not_an_envelope()
    end = 3 + int.from_bytes(data[1:3], "big")
    if len(data) < end + _NONCE + _TAG:
        raise _not_an_envelope()
    key_id, wrapped, context = _parse_header(data[3:end])
    if _header_bytes(key_id, wrapped, context) != data[:end]:
        raise _not_an_envelope()
    return Envelope(
        key_id, wrapped, MappingProxyType(context), data[end : end + _NONCE], data[end + _NONCE :], data[:end]
    )


def open_envelope(envelope: Envelope, plaintext_data_key: bytes) -> bytes:
    """Return the field's plaintext.

    Raises:
        EnvelopeError: it does not open under this key.
    """
    try:
        aead = AESGCM(plaintext_data_key)
        return aead.decrypt(envelope.nonce, envelope.ciphertext, _LABEL + envelope.header)
    except (InvalidTag, ValueError):
        raise EnvelopeError("an encrypted field does not open under the data key that it names") from None


def _header_bytes(key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
    texts = (key_id, *context.keys(), *context.values())
    if len(context) > MAX_CONTEXT or not all(0 < len(text) <= MAX_TEXT for text in texts):
        raise EnvelopeError("a key id or encryption context is over a limit or empty")
    if not 0 < len(wrapped) <= MAX_WRAPPED:
        raise EnvelopeError("a wrapped data key is over the limit or empty")
    try:
        header = cbor.dumps({"key_id": key_id, "wrapped": wrapped, "context": dict(context)})
    except cbor.CborError:
        raise EnvelopeError("a key id or encryption context is not Unicode text") from None
    if len(header) > 0xFFFF:
        raise EnvelopeError("a key id and encryption context are over the limit together")
    return bytes((_VERSION,)) + len(header).to_bytes(2, "big") + header


def _parse_header(data: bytes) -> tuple[str, bytes, dict[str, str]]:
    try:
        header = cbor.loads(data, max_depth=4)
    except cbor.CborError:
        raise _not_an_envelope() from None
    if not isinstance(header, dict) or header.keys() != {"key_id", "wrapped", "context"}:
        raise _not_an_envelope()
    key_id, wrapped, context = header["key_id"], header["wrapped"], header["context"]
    if not (isinstance(key_id, str) and isinstance(wrapped, bytes) and isinstance(context, dict)):
        raise _not_an_envelope()
    if not all(isinstance(text, str) for pair in context.items() for text in pair):
        raise _not_an_envelope()
    return key_id, wrapped, context


def _not_an_envelope() -> EnvelopeError:
    return EnvelopeError(
        "a field that should be encrypted is not an envelope",
        fix="Encrypt it with geumgo.keys.envelope, or remove it from the policy's encrypted fields.",
    )
