"""The pool's key pair, and the one HPKE suite that requests and answers use (RFC 9180)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from geumgo.keys.errors import SealError

__all__ = (
    "ENC_SIZE",
    "SUITE",
    "TAG_SIZE",
    "HpkeOpenError",
    "PoolKeyPair",
    "PoolPublicKey",
    "hpke_open",
    "hpke_seal",
)

SUITE = "hpke-x25519-sha256-aes256gcm"
"""The suite's name in a statement: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode."""

ENC_SIZE = 32
"""Bytes of an encapsulated X25519 key."""

TAG_SIZE = 16
"""Bytes of the AES-GCM tag at the end of a ciphertext."""

SEED_SIZE = 32
"""Bytes of the pool seed."""

_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_KEM_SUITE_ID = b"KEM\x00\x20"  # RFC 9180 §4.1: "KEM" || I2OSP(kem_id, 2), DHKEM(X25519, HKDF-SHA256)


class HpkeOpenError(Exception):
    """Raised when a ciphertext does not open; callers turn it into their room's error."""


def hpke_seal(plaintext: bytes, key: X25519PublicKey, info: bytes) -> bytes:
    """Return encapsulated key ‖ ciphertext ‖ tag."""
    return _HPKE.encrypt(plaintext, key, info)


def hpke_open(ciphertext: bytes | memoryview, key: X25519PrivateKey, info: bytes) -> bytes:
    """Return the plaintext of encapsulated key ‖ ciphertext ‖ tag.

    Raises:
        HpkeOpenError: it does not open, for whatever reason.
    """
    try:
        return _HPKE.decrypt(ciphertext, key, info)
    except (InvalidTag, ValueError):
        raise HpkeOpenError from None


@dataclass(frozen=True)
class PoolPublicKey:
    """The key to which callers seal: 32 bytes of X25519, taken out of verified evidence.

    Raises:
        SealError: it has another length, or is a point of low order, to which everyone has the secret.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise SealError(f"a pool key has 32 bytes, not {len(self.raw)}")
        try:
            X25519PrivateKey.generate().exchange(self.public)
        except ValueError:
            raise SealError("this pool key is not a usable X25519 key") from None

    @cached_property
    def key_id(self) -> bytes:
        """SHA-256 of the raw public key, 32 bytes."""
        return hashlib.sha256(self.raw).digest()

    @cached_property
    def public(self) -> X25519PublicKey:
        """The key as the cryptography library has it."""
        return X25519PublicKey.from_public_bytes(self.raw)


class PoolKeyPair:
    """The pool's HPKE key pair. Every enclave that gets the seed has the same one."""

    __slots__ = ("private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private = private
        self.public = PoolPublicKey(private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"PoolKeyPair(key_id={self.key_id.hex()})"

    @classmethod
    def from_seed(cls, seed: bytes) -> PoolKeyPair:
        """Return the pair that RFC 9180 §7.1.3 ``DeriveKeyPair`` makes of the 32-byte pool seed.

        Raises:
            SealError: the seed has another length.
        """
        if len(seed) != SEED_SIZE:
            raise SealError(f"a pool seed has {SEED_SIZE} bytes, not {len(seed)}")
        return cls(X25519PrivateKey.from_private_bytes(_derive_private(seed)))

    @classmethod
    def generate(cls) -> PoolKeyPair:
        """Return a new pair: a pool of one."""
        return cls.from_seed(secrets.token_bytes(SEED_SIZE))

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the raw public key, 32 bytes."""
        return self.public.key_id


def _derive_private(ikm: bytes) -> bytes:
    extract = hmac.digest(b"", b"HPKE-v1" + _KEM_SUITE_ID + b"dkp_prk" + ikm, "sha256")
    # One block of HKDF-Expand is enough for 32 bytes: T(1) = HMAC(prk, info || 0x01).
    labelled = (32).to_bytes(2, "big") + b"HPKE-v1" + _KEM_SUITE_ID + b"sk"
    return hmac.digest(extract, labelled + b"\x01", "sha256")
