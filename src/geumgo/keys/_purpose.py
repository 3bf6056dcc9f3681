"""Keys of one purpose: a key of its own for each technique."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from geumgo.keys.errors import SealError

__all__ = ("PurposeKey",)


class PurposeKey:
    """Derives the keys that a technique uses from a purpose's 32-byte key."""

    USES: Final = frozenset({"pseudonym", "token", "encrypt"})

    @staticmethod
    def derive(purpose_key: bytes, use: str) -> bytes:
        """Return the 32-byte key of one use: HKDF-Expand-SHA256, info ``geumgo/purpose/v1/<use>``.

        Raises:
            SealError: the key has another length than 32, or the use is unknown.
        """
        if len(purpose_key) != 32:
            raise SealError(f"a purpose key has 32 bytes, not {len(purpose_key)}")
        if use not in PurposeKey.USES:
            raise SealError("no technique has this use of a purpose key")
        # The purpose key comes out of KMS uniformly random, so HKDF needs no extraction (RFC 5869 §3.3).
        return HKDFExpand(SHA256(), 32, b"geumgo/purpose/v1/" + use.encode()).derive(purpose_key)
