"""Tokens: FF1 over the symbols of a value, so that a number stays a number of the same form.

Separators stay where they are; kept ends stay and tweak the rest, so that equal middles of different
numbers give different tokens. Format: docs/spec/compiled-policy.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
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
"""Separators of one value; no number is written with more."""

_WIDE = 0xFEE0
"""From an ASCII symbol to its full-width form."""


class _Layout(NamedTuple):
    """Where separators stand in a value.

    Attributes:
        symbols: how many symbols there are.
        apart: whether there are separators at all; without them the next two are not used.
        pick: takes the runs of symbols out of a value.
        cut: cuts symbols into the same runs.
        form: puts the runs between the separators.
    """

    symbols: int
    apart: bool
    pick: Callable[[str], tuple[str, ...]]
    cut: Callable[[str], tuple[str, ...]]
    form: str

    def take(self, value: str) -> str:
        """Return the symbols of a value of this layout."""
        return "".join(self.pick(value)) if self.apart else value

    def join(self, symbols: str) -> str:
        """Return symbols with this layout's separators."""
        return self.form % self.cut(symbols) if self.apart else symbols


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
        groups: dict[str, list[int]] = {}
        shape_of = self._shape_of
        for index, value in enumerate(values):
            if value.isascii() and len(value) <= MAX_VALUE_CHARS:
                groups.setdefault(value.translate(shape_of), []).append(index)
                continue
            try:
                out[index] = self.encrypt(value)
            except BadValue as error:
                out[index] = error
        for shape, members in groups.items():
            try:
                layout = self._layout(shape)
            except BadValue as error:
                for index in members:
                    out[index] = error
                continue
            tokens = self._like_tokens(layout, [layout.take(values[index]) for index in members])
            for index, token in zip(members, tokens, strict=True):
                out[index] = token
        return out

    def _like_tokens(self, layout: _Layout, symbols: Sequence[str]) -> list[str]:
        """Return the tokens of values of one layout."""
        first, end = self._first, layout.symbols - self._last
        length = end - first
        if self._first or self._last:
            tweaks = [self._tweak_of(s[:first], s[end:]) for s in symbols]
            middles = self._middles(length, tweaks, [s[first:end] for s in symbols])
            middles = [s[:first] + middle + s[end:] for s, middle in zip(symbols, middles, strict=True)]
        else:
            middles = self._middles(length, [self._tweak] * len(symbols), symbols)
        if not layout.apart:
            return middles
        form, cut = layout.form, layout.cut
        return [form % cut(s) for s in middles]

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
        text = value
        if len(value) > MAX_VALUE_CHARS:
            raise BadValue("too_long")
        if not value.isascii():
            text = fold(value)
            if not all(map(_comes_back, value, text)):
                raise BadValue("bad_character")
        layout = self._layout(text.translate(self._shape_of))
        symbols = layout.take(text)
        end = layout.symbols - self._last
        head, middle, tail = symbols[: self._first], symbols[self._first : end], symbols[end:]
        u, v = self._ff1.halves(len(middle))
        tweak = self._tweak_of(head, tail) if head or tail else self._tweak
        a, b = work(len(middle), tweak, self._number(middle[:u]), self._number(middle[u:]))
        token = layout.join(head + self._text(a, u) + self._text(b, v) + tail)
        return token if text is value else self._as_written(token, value)

    def _layout(self, shape: str) -> _Layout:
        """Return the layout of a folded value whose symbols are all written 0."""
        layout = self._layouts.get(shape)
        if layout is not None:
            return layout
        where = [at for at, c in enumerate(shape) if c != "0"]
        if len(where) > _MAX_SEPARATORS or any(shape[at] not in SEPARATORS for at in where):
            raise BadValue("bad_character")
        symbols = len(shape) - len(where)
        if not self._least <= symbols - self._first - self._last <= self._most:
            raise BadValue("bad_length")
        # Runs of symbols lie between separators: [begin, end) in the value, less the separators before it.
        runs = [slice(a + 1, b) for a, b in pairwise([-1, *where, len(shape)])]
        cuts = [slice(run.start - n, run.stop - n) for n, run in enumerate(runs)]
        form = "%s" + "".join(f"{shape[at]}%s" for at in where)
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        layout = self._layouts[shape] = _Layout(
            symbols, bool(where), itemgetter(*runs), itemgetter(*cuts), form
        )
        return layout

    def _as_written(self, token: str, value: str) -> str:
        """Return a token with full-width symbols and long dashes where the value has them."""
        index = self._index
        return "".join(
            [
                old if new not in index else (new if old.isascii() else chr(ord(new) + _WIDE))
                for new, old in zip(token, value, strict=True)
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
