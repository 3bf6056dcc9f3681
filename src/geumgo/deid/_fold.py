"""Folds the many ways to write a digit, a dash or a space to one, character for character.

A fold never changes the length, so an offset in the folded text is an offset in the original.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ("fold", "fold_visible")

_DASHES = "‐‑‒–—―−－﹣⁃˗ーㅡ─━﹘ｰ∼～〜"
_DASH = {ord(c): "-" for c in _DASHES}
_MIDDLE_DOTS = {ord(c): "." for c in "・·ㆍ‧｡。"}
_SPECIAL = {ord(c): p for c, p in zip("＠﹫．（）／：＋＿", "@@.()/:+_", strict=True)}

_UNUSUAL = re.compile(r"[^\x00-\x7f가-힣]")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)


class _Folding(dict[int, str]):
    """A translation table that fills itself: at most one entry for each character there is."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        out = char
        if code > 127:
            category = unicodedata.category(char)
            if category == "Nd":
                out = str(unicodedata.digit(char))
            elif category == "Zs":
                out = " "
            elif 0xFF21 <= code <= 0xFF5A:
                folded = chr(code - 0xFEE0)
                out = folded if folded.isalpha() else char
        self[code] = out
        return out


_TABLE = _Folding({**_DASH, **_MIDDLE_DOTS, **_SPECIAL, ord("\t"): " "})


def fold(text: str) -> str:
    """Return `text` with ASCII digits, Latin letters, dashes, dots, spaces and @; of the same length."""
    if _UNUSUAL.search(text) is None:
        return text.replace("\t", " ")
    return text.translate(_TABLE)


def fold_visible(text: str) -> tuple[str, list[int] | None]:
    """Return `text` folded and without invisible characters, and the offset of each character that is left.

    The offsets have one entry more than the text, its end; None where nothing was taken out.
    """
    if _UNUSUAL.search(text) is None:  # every invisible character is unusual
        return text.replace("\t", " "), None
    if _INVISIBLE.search(text) is None:
        return text.translate(_TABLE), None
    kept = [i for i, c in enumerate(text) if not _INVISIBLE.match(c)]
    return "".join([text[i] for i in kept]).translate(_TABLE), [*kept, len(text)]
