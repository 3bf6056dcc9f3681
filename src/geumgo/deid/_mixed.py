"""Identifiers of digits and one or two letters: passports and vehicle plates.

They are looked for where a group of digits is, so that text without digits costs nothing.
"""

from __future__ import annotations

import re

from geumgo.deid._numbers import Hit

__all__ = ("find_mixed",)

_PASSPORT = frozenset("MSRODmsrod")
_PLATE_LETTERS = (
    "가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주"  # private cars
    "아바사자배하허호국합육해공"  # taxis, delivery, hire, forces
)
_PLATE = {
    before + letter + after: 0.4 if after else 0.6
    for before in ("", " ")
    for letter in _PLATE_LETTERS
    for after in ("", " ")
}
"""What stands between the two numbers of a plate; with a space behind it, "3호 1234" looks the same."""


_FOUR = re.compile(r"[0-9]{4}(?![0-9])")


def find_mixed(text: str, start: int, end: int) -> Hit | None:
    """Return the passport or plate whose first group of digits is `text[start:end]`, of 2, 3 or 8 digits."""
    letter = start > 0 and text[start - 1] in _PASSPORT and not _is_latin(text, start - 2)
    if end - start == 8:
        if letter and not _is_latin(text, end):
            return ("PASSPORT", start - 1, end, 0.55)
        return None
    if letter and end - start == 3 and _is_latin(text, end) and _FOUR.match(text, end + 1):
        return None if _is_latin(text, end + 5) else ("PASSPORT", start - 1, end + 5, 0.75)
    for length in (1, 2, 3):
        score = _PLATE.get(text[end : end + length])
        if score is not None and _FOUR.match(text, end + length):
            return ("VEHICLE", start, end + length + 4, score)
    return None


def _is_latin(text: str, at: int) -> bool:
    char = text[at : at + 1] if at >= 0 else ""
    return char.isascii() and char.isalnum()
