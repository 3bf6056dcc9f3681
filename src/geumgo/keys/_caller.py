"""A caller's signing key (Ed25519)."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from geumgo.keys._names import is_name
from geumgo.keys.errors import SealError

__all__ = ("CallerKey",)

MAX_PEM = 16 << 10
"""Bytes of a key file; an Ed25519 key in PEM takes 119."""


class CallerKey:
    """The key with which a caller signs inside the seal; the measured configuration lists its public half.

    Args:
        name: the name under which the measured configuration lists it.
        private: the Ed25519 key.
    """

    __slots__ = ("_private", "name", "public_bytes")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        if not is_name(name):
            raise SealError(
                "a caller's name is 1 to 64 letters, digits, dots, dashes or underscores",
                fix="Choose the name that the measured configuration lists.",
                code="invalid_request",
            )
        self.name = name
        self._private = private
        self.public_bytes: bytes = private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"CallerKey({self.name!r}, public={self.public_bytes.hex()})"

    @classmethod
    def generate(cls, name: str) -> CallerKey:
        """Return a new key."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes | str, name: str) -> CallerKey:
        """Return the key that a PKCS#8 PEM file holds.

        Raises:
            SealError: it is not an unencrypted Ed25519 key in PEM.
        """
        data = pem.encode() if isinstance(pem, str) else pem
        try:
            if len(data) > MAX_PEM:
                raise ValueError("too large")
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SealError(
                "this is not an unencrypted Ed25519 private key in PEM",
                fix="Make one with `openssl genpkey -algorithm ed25519` or `geumgo caller create`.",
                code="invalid_request",
            )
        return cls(name, key)

    def to_pem(self) -> bytes:
        """Return the private key as PKCS#8 PEM; write it to a file of mode 0600."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._private.sign(message)
