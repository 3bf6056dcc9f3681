"""The emulator's CiphertextBlob: AES-256-GCM under the key's material, bound to the encryption context."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from geumgo.testing.kms._errors import ServiceError

__all__ = ("decrypt", "encrypt", "key_id_of")

_MAGIC = b"GKM1"
_NONCE = 12
_TAG = 16
_HEAD = len(_MAGIC) + 16


def encrypt(key_id: str, material: bytes, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    """Return magic ‖ key id ‖ nonce ‖ ciphertext ‖ tag."""
    head = _MAGIC + uuid.UUID(key_id).bytes
    nonce = secrets.token_bytes(_NONCE)
    return head + nonce + AESGCM(material).encrypt(nonce, plaintext, head + _context_bytes(context))


def key_id_of(blob: bytes) -> str:
    """Return the id of the key that made `blob`.

    Raises:
        ServiceError: ``InvalidCiphertextException``.
    """
    if len(blob) < _HEAD + _NONCE + _TAG or not blob.startswith(_MAGIC):
        raise _invalid()
    return str(uuid.UUID(bytes=blob[len(_MAGIC) : _HEAD]))


def decrypt(blob: bytes, material: bytes, context: Mapping[str, str]) -> bytes:
    """Return the plaintext.

    Raises:
        ServiceError: ``InvalidCiphertextException``.
    """
    nonce, rest = blob[_HEAD : _HEAD + _NONCE], blob[_HEAD + _NONCE :]
    try:
        return AESGCM(material).decrypt(nonce, rest, blob[:_HEAD] + _context_bytes(context))
    except InvalidTag:
        raise _invalid() from None


def _context_bytes(context: Mapping[str, str]) -> bytes:
    """Return the context in one unambiguous form: sorted, every text with its length before it."""
    parts = []
    for pair in sorted(context.items()):
        for text in pair:
            data = text.encode("utf-8", "surrogatepass")
            parts += [len(data).to_bytes(4, "big"), data]
    return b"".join(parts)


def _invalid() -> ServiceError:
    return ServiceError(
        "InvalidCiphertextException",
        "The ciphertext, or the encryption context with which it was made, is another.",
    )
