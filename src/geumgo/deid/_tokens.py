"""Tokens: FF1 over the symbols of a value, so that a number stays a number of the same form.

Separators stay where they are; kept ends stay and tweak the rest, so that equal middles of different
numbers give different tokens. Format: docs/spec/compiled-policy.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from geumgo.deid._errors import BadValue
from geumgo.deid._ff1 import Ff1
from geumgo.deid._fold import fold
from geumgo.deid._keyed import bound_label
from geumgo.deid._limits import MAX_VALUE_CHARS
from geumgo.deid._rules import ALPHABETS, Token

__all__ = ("SEPARATORS", "Tokeniser")

SEPARATORS = " -./()+_:,"
"""What may stand between symbols, after folding; anything else would pass in clear, so it is refused."""

_TWEAK = 8
"""Bytes of a tweak: a hash of scope and kept ends that leaves room for counter and number in one block."""

_MAX_LAYOUTS = 1_024
"""Layouts that are remembered; a column has a handful, and a hostile one fills the table and empties it."""

_MAX_SEPARATORS = 64
"""Separators of one value: putting them back costs the product of their number and the length."""

_WIDE = 0xFEE0
"""From an ASCII symbol to its full-width form."""


class _Layout(NamedTuple):
    """Where separators stand in a value, by ascending offset, and how many symbols there are."""

    separators: tuple[tuple[int, str], ...]
    symbols: int


class Tokeniser:
    """Makes tokens under one key and rule, and turns them back."""

    def __init__(self, rule: Token, key: bytes) -> None:
        self._alphabet = ALPHABETS[rule.alphabet]
        self._radix = len(self._alphabet)
        self._digits = rule.alphabet == "digits"
        self._index = {c: i for i, c in enumerate(self._alphabet)}
        self._ff1 = Ff1(key, self._radix)
        self._label = bound_label("token", rule.scope) + rule.alphabet.encode() + b"\0"
        self._tweak = hashlib.sha256(self._label).digest()[:_TWEAK]
        self._first, self._last = rule.keep_first, rule.keep_last
        self._least, self._most = rule.min_length, rule.max_length
        self._shape_of = {ord(c): "0" for c in self._alphabet}
        self._without = {ord(c): None for c in SEPARATORS}
        self._layouts: dict[str, _Layout] = {}

    def encrypt(self, value: str) -> str:
        """Return the token of a value.

        Raises:
            BadValue: `bad_character` or `bad_length`.
        """
        return self._one(value, self._ff1.encrypt)

    def decrypt(self, value: str) -> str:
        """Return the value of a token.

        Raises:
            BadValue: `bad_character` or `bad_length`.
        """
        return self._one(value, self._ff1.decrypt)

    def encrypt_many(self, values: Sequence[str]) -> list[str | BadValue]:
        """Return the token of each value, or what is wrong with it."""
        out: list[str | BadValue] = list(values)
        groups: dict[int, list[tuple[int, _Layout, str]]] = {}
        kept = self._first + self._last
        for index, value in enumerate(values):
            try:
                layout, symbols = self._split(value)
            except BadValue as error:
                out[index] = error
                continue
            groups.setdefault(layout.symbols - kept, []).append((index, layout, symbols))
        first = self._first
        for length, members in groups.items():
            end = first + length
            if kept:
                tweaks = [self._tweak_of(s[:first], s[end:]) for _, _, s in members]
            else:
                tweaks = [self._tweak] * len(members)
            middles = self._middles(length, tweaks, [s[first:end] for _, _, s in members])
            for (index, layout, s), middle in zip(members, middles, strict=True):
                token = s[:first] + middle + s[end:] if kept else middle
                out[index] = self._join(values[index], layout, token)
        return out

    def _middles(self, length: int, tweaks: Sequence[bytes], middles: Sequence[str]) -> list[str]:
        u, v = self._ff1.halves(length)
        number: Callable[[str], int] = int if self._digits else self._number
        lefts, rights = self._ff1.encrypt_many(
            length, tweaks, [number(m[:u]) for m in middles], [number(m[u:]) for m in middles]
        )
        if self._digits:
            form = f"%0{u}d%0{v}d"
            return [form % pair for pair in zip(lefts, rights, strict=True)]
        return [self._text(a, u) + self._text(b, v) for a, b in zip(lefts, rights, strict=True)]

    def _one(self, value: str, work: Callable[[int, bytes, int, int], tuple[int, int]]) -> str:
        layout, symbols = self._split(value)
        end = len(symbols) - self._last
        head, middle, tail = symbols[: self._first], symbols[self._first : end], symbols[end:]
        u, v = self._ff1.halves(len(middle))
        tweak = self._tweak_of(head, tail) if head or tail else self._tweak
        a, b = work(len(middle), tweak, self._number(middle[:u]), self._number(middle[u:]))
        return self._join(value, layout, head + self._text(a, u) + self._text(b, v) + tail)

    def _split(self, value: str) -> tuple[_Layout, str]:
        """Return the layout of a value and its symbols."""
        if len(value) > MAX_VALUE_CHARS:
            raise BadValue("too_long")
        text = value
        if not value.isascii():
            text = fold(value)
            if not all(map(_comes_back, value, text)):
                raise BadValue("bad_character")
        shape = text.translate(self._shape_of)
        layout = self._layouts.get(shape)
        if layout is None:
            layout = self._layout(shape)
        if not layout.separators:
            return layout, text
        return layout, text.translate(self._without)

    def _layout(self, shape: str) -> _Layout:
        separators = tuple((at, c) for at, c in enumerate(shape) if c != "0")
        if len(separators) > _MAX_SEPARATORS or any(c not in SEPARATORS for _, c in separators):
            raise BadValue("bad_character")
        symbols = len(shape) - len(separators)
        if not self._least <= symbols - self._first - self._last <= self._most:
            raise BadValue("bad_length")
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        layout = self._layouts[shape] = _Layout(separators, symbols)
        return layout

    def _join(self, value: str, layout: _Layout, symbols: str) -> str:
        for at, separator in layout.separators:
            symbols = symbols[:at] + separator + symbols[at:]
        if value.isascii():
            return symbols
        # A full-width symbol stays full-width and a long dash stays long, so that the value comes
        # back as it was written.
        index = self._index
        return "".join(
            [
                old if new not in index else (new if old.isascii() else chr(ord(new) + _WIDE))
                for new, old in zip(symbols, value, strict=True)
            ]
        )

    def _tweak_of(self, head: str, tail: str) -> bytes:
        return hashlib.sha256(self._label + f"{head}\0{tail}".encode()).digest()[:_TWEAK]

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


def _comes_back(char: str, folded: str) -> bool:
    """Return whether a character is ASCII, a full-width symbol, or no symbol at all."""
    return char.isascii() or not folded.isalnum() or ord(char) == ord(folded) + _WIDE
