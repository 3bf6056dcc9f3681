"""Keyed techniques: pseudonyms, encryption of whole values, date shifts. Tokens are in `_tokens`.

Keys come as 32 bytes for a purpose and a use (`pseudonym`, `token`, `encrypt`). Every output is bound
to a scope, by default the field's name, so that equal values of two fields can't be matched.
Formats: docs/spec/compiled-policy.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from geumgo.deid._errors import BadValue
from geumgo.deid._fold import fold
from geumgo.deid._limits import MAX_VALUE_CHARS
from geumgo.deid._rules import DateShift, Encrypt, Pseudonym

__all__ = ("Cipher", "Randomness", "bound_label", "date_shifter", "pseudonymiser")

_BLOCK = 64  # bytes of a SHA-256 block
_NONCE = 16  # bytes of randomness in a random-mode ciphertext: no two alike among 2^64 values
_NOT_DIGIT = re.compile(r"[^0-9]")
_NOT_ALPHANUMERIC = re.compile(r"[^0-9A-Za-z가-힣]")


class Randomness(Protocol):
    """Returns that many random bytes."""

    def __call__(self, size: int, /) -> bytes: ...


class _Hmac:
    """HMAC-SHA256 with the two key blocks absorbed once: half the work for short messages."""

    def __init__(self, key: bytes, label: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + label)
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded))

    def digest(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def bound_label(use: str, scope: str) -> bytes:
    """Return what binds a keyed value to its use and scope."""
    # A length before the scope: no scope and value can be split into another scope and value.
    encoded = scope.encode()
    return f"geumgo/deid/{use}/v1".encode() + b"\0" + len(encoded).to_bytes(2, "big") + encoded


def _normaliser(kind: str) -> Callable[[str], str]:
    def text(value: str) -> str:
        return " ".join((value if value.isascii() else unicodedata.normalize("NFKC", value)).split())

    def squeezed(pattern: re.Pattern[str], upper: bool) -> Callable[[str], str]:
        def squeeze(value: str) -> str:
            out = pattern.sub("", fold(unicodedata.normalize("NFKC", value)))
            if not out:
                raise BadValue("bad_character")
            return out.upper() if upper else out

        return squeeze

    if kind == "none":
        return lambda value: value
    if kind == "text":
        return text
    return squeezed(_NOT_DIGIT, False) if kind == "digits" else squeezed(_NOT_ALPHANUMERIC, True)


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry
        raise BadValue("bad_character") from None


def pseudonymiser(rule: Pseudonym, key: bytes) -> Callable[[str], str]:
    """Return the technique: prefix and the first characters of HMAC-SHA256 in base32 or hex."""
    mac = _Hmac(key, bound_label("pseudonym", rule.scope))
    normalise = _normaliser(rule.normalise)
    prefix, length = rule.prefix, rule.length

    def base32(value: str) -> str:
        return prefix + base64.b32encode(mac.digest(_utf8(normalise(value))))[:length].decode().lower()

    def hexadecimal(value: str) -> str:
        return prefix + mac.digest(_utf8(normalise(value))).hex()[:length]

    return base32 if rule.format == "base32" else hexadecimal


def date_shifter(rule: DateShift, key: bytes) -> Callable[[str], int]:
    """Return the function from a subject to its shift, -days … days without 0."""
    mac = _Hmac(key, bound_label("date_shift", rule.scope))
    days = rule.days

    def shift_of(subject: str) -> int:
        number = int.from_bytes(mac.digest(_utf8(subject)), "big") % (2 * days)
        return number - days if number < days else number - days + 1

    return shift_of


class Cipher:
    """AES-256-SIV (RFC 5297) over one value; random mode adds a nonce as the last associated data."""

    def __init__(self, rule: Encrypt, key: bytes, random: Randomness) -> None:
        # SIV with AES-256 takes two 32-byte keys; both are expanded from the purpose's key.
        self._siv = AESSIV(HKDFExpand(SHA256(), 64, b"geumgo/deid/siv/v1").derive(key))
        self._random = random
        self._pad = rule.pad
        self._deterministic = rule.mode == "deterministic"
        self._prefix = "g1d." if self._deterministic else "g1r."
        self._bound = bound_label("encrypt", rule.scope)

    def encrypt(self, value: str) -> str:
        """Return `g1d.` or `g1r.` and base64url of the nonce, if any, and the SIV ciphertext."""
        plaintext = _utf8(value) + b"\x80"  # ISO/IEC 7816-4 padding hides the exact length
        plaintext += bytes(-len(plaintext) % self._pad)
        if self._deterministic:
            sealed = self._siv.encrypt(plaintext, [self._bound])
        else:
            nonce = self._random(_NONCE)
            sealed = nonce + self._siv.encrypt(plaintext, [self._bound, nonce])
        return self._prefix + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def decrypt(self, value: str) -> str:
        """Return the value; either mode's ciphertext is told by its own prefix.

        Raises:
            BadValue: `does_not_open`: another key, field or mode, or changed text.
        """
        head, body = value[:4], value[4:]
        if head not in ("g1d.", "g1r.") or len(body) > 8 * MAX_VALUE_CHARS:
            raise BadValue("does_not_open")
        try:
            sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            if head == "g1d.":
                plaintext = self._siv.decrypt(sealed, [self._bound])
            else:
                plaintext = self._siv.decrypt(sealed[_NONCE:], [self._bound, sealed[:_NONCE]])
            body_bytes, mark, rest = plaintext.rpartition(b"\x80")
            if not mark or rest.strip(b"\0"):
                raise BadValue("does_not_open")
            return body_bytes.decode()
        except (binascii.Error, InvalidTag, ValueError):
            raise BadValue("does_not_open") from None
