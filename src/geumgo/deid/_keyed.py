"""Keyed techniques: pseudonyms, encryption of whole values, tokens of the same form, date shifts.

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
from collections.abc import Callable, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from geumgo.deid._errors import BadValue
from geumgo.deid._ff1 import Ff1
from geumgo.deid._fold import fold
from geumgo.deid._limits import MAX_VALUE_CHARS
from geumgo.deid._rules import ALPHABETS, DateShift, Encrypt, Pseudonym, Token

__all__ = ("Cipher", "Tokeniser", "date_shifter", "pseudonymiser")

_BLOCK = 64  # bytes of a SHA-256 block
_NONCE = 16  # bytes of randomness in a random-mode ciphertext: no two alike among 2^64 values
_SPACES = re.compile(r"\s+")
_NOT_DIGIT = re.compile(r"[^0-9]")
_NOT_ALPHANUMERIC = re.compile(r"[^0-9A-Za-z가-힣]")
_SEPARATORS = " -./()+_:,"


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


def _label(use: str, scope: str) -> bytes:
    # A length before the scope: no scope and value can be split into another scope and value.
    encoded = scope.encode()
    return f"geumgo/deid/{use}/v1".encode() + b"\0" + len(encoded).to_bytes(2, "big") + encoded


def _normaliser(kind: str) -> Callable[[str], str]:
    def text(value: str) -> str:
        return _SPACES.sub(" ", unicodedata.normalize("NFKC", value)).strip()

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
    mac = _Hmac(key, _label("pseudonym", rule.scope))
    normalise = _normaliser(rule.normalise)
    prefix, length = rule.prefix, rule.length

    def base32(value: str) -> str:
        return prefix + base64.b32encode(mac.digest(_utf8(normalise(value))))[:length].decode().lower()

    def hexadecimal(value: str) -> str:
        return prefix + mac.digest(_utf8(normalise(value))).hex()[:length]

    return base32 if rule.format == "base32" else hexadecimal


def date_shifter(rule: DateShift, key: bytes) -> Callable[[str], int]:
    """Return the function from a subject to its shift, -days … days without 0."""
    mac = _Hmac(key, _label("date_shift", rule.scope))
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
        self._bound = _label("encrypt", rule.scope)

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


class Tokeniser:
    """FF1 over the symbols of a value; separators stay where they are, kept ends stay and tweak the rest."""

    def __init__(self, rule: Token, key: bytes) -> None:
        self._alphabet = ALPHABETS[rule.alphabet]
        self._radix = len(self._alphabet)
        self._digits = rule.alphabet == "digits"
        self._index = {c: i for i, c in enumerate(self._alphabet)}
        self._ff1 = Ff1(key, self._radix)
        self._label = _label("token", rule.scope) + rule.alphabet.encode() + b"\0"
        self._tweak = hashlib.sha256(self._label).digest()[:8]
        self._first, self._last = rule.keep_first, rule.keep_last
        self._least, self._most = rule.min_length, rule.max_length
        symbols = re.escape(self._alphabet) if not self._digits else "0-9"
        self._other = re.compile(f"[^{symbols}]")
        self._allowed = frozenset(self._alphabet + _SEPARATORS)

    def encrypt(self, value: str) -> str:
        """Return the token of a value."""
        return self._one(value, self._ff1.encrypt)

    def decrypt(self, value: str) -> str:
        """Return the value of a token."""
        return self._one(value, self._ff1.decrypt)

    def encrypt_many(self, values: Sequence[str]) -> list[str | BadValue]:
        """Return the token of each value, or what is wrong with it; one AES call a round for like values."""
        out: list[str | BadValue] = []
        groups: dict[tuple[int, bytes], list[tuple[int, str, str, str]]] = {}
        for index, value in enumerate(values):
            try:
                head, middle, tail = self._split(value)
            except BadValue as error:
                out.append(error)
                continue
            out.append(value)
            groups.setdefault((len(middle), self._tweak_of(head, tail)), []).append(
                (index, head, middle, tail)
            )
        for (length, tweak), members in groups.items():
            u, v = self._ff1.halves(length)
            number = self._number
            lefts, rights = self._ff1.encrypt_many(
                length,
                tweak,
                [number(m[:u]) for _, _, m, _ in members],
                [number(m[u:]) for _, _, m, _ in members],
            )
            for (index, head, _, tail), a, b in zip(members, lefts, rights, strict=True):
                out[index] = self._join(values[index], head + self._text(a, u) + self._text(b, v) + tail)
        return out

    def _one(self, value: str, work: Callable[[int, bytes, int, int], tuple[int, int]]) -> str:
        head, middle, tail = self._split(value)
        length = len(middle)
        u, v = self._ff1.halves(length)
        a, b = work(length, self._tweak_of(head, tail), self._number(middle[:u]), self._number(middle[u:]))
        return self._join(value, head + self._text(a, u) + self._text(b, v) + tail)

    def _split(self, value: str) -> tuple[str, str, str]:
        if len(value) > MAX_VALUE_CHARS:
            raise BadValue("too_long")
        text = value if value.isascii() else fold(value)
        symbols = self._other.sub("", text)
        if len(symbols) != len(text) and not self._allowed.issuperset(text):
            raise BadValue("bad_character")
        if text is not value and not all(_comes_back(c, f) for c, f in zip(value, text, strict=True)):
            raise BadValue("bad_character")
        end = len(symbols) - self._last
        if not self._least <= end - self._first <= self._most:
            raise BadValue("bad_length")
        return symbols[: self._first], symbols[self._first : end], symbols[end:]

    def _tweak_of(self, head: str, tail: str) -> bytes:
        if not head and not tail:
            return self._tweak
        return hashlib.sha256(self._label + head.encode() + b"\0" + tail.encode()).digest()[:8]

    def _number(self, symbols: str) -> int:
        if self._digits:
            return int(symbols)
        total = 0
        for c in symbols:
            total = total * self._radix + self._index[c]
        return total

    def _text(self, number: int, length: int) -> str:
        if self._digits:
            return f"{number:0{length}d}"
        out = []
        for _ in range(length):
            number, rest = divmod(number, self._radix)
            out.append(self._alphabet[rest])
        return "".join(reversed(out))

    def _join(self, value: str, symbols: str) -> str:
        if len(symbols) == len(value) and value.isascii():
            return symbols
        folded = value if value.isascii() else fold(value)
        if not value.isascii():
            # A full-width digit stays full-width, so that the value comes back as it was written.
            new = iter(symbols)
            return "".join(
                (_widen(next(new), old) if c in self._index else old)
                for c, old in zip(folded, value, strict=True)
            )
        for match in self._other.finditer(value):
            at = match.start()
            symbols = symbols[:at] + match[0] + symbols[at:]
        return symbols


def _comes_back(char: str, folded: str) -> bool:
    """Return whether a character is ASCII, a full-width symbol, or a separator of any kind."""
    return char.isascii() or not folded.isalnum() or ord(char) == ord(folded) + 0xFEE0


def _widen(symbol: str, like: str) -> str:
    if like.isascii():
        return symbol
    return chr(ord(symbol) + 0xFEE0)
