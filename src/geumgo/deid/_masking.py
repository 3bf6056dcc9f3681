"""Masks: characters covered, with what people need to recognise left open."""

from __future__ import annotations

import re
from collections.abc import Callable

from geumgo.deid._rules import Mask

__all__ = ("masker",)

_HANGUL = re.compile(r"[가-힣]+")


def masker(rule: Mask) -> Callable[[str], str]:
    """Return the technique."""
    if rule.as_ == "name":
        return lambda value: _name(value, rule)
    if rule.as_ == "email":
        return lambda value: _email(value, rule)
    if rule.positions:
        return _by_position(rule)
    return _by_ends(rule)


def _is_covered(rule: Mask) -> Callable[[str], bool]:
    digits, letters, symbols = (name in rule.classes for name in ("digits", "letters", "symbols"))
    if digits and letters and not symbols:
        return str.isalnum

    def covered(char: str) -> bool:
        # isalnum first: a character like ² is alphanumeric, a digit, and no letter.
        if not char.isalnum():
            return symbols
        return digits if char.isdigit() or char.isnumeric() else letters

    return covered


def _by_ends(rule: Mask) -> Callable[[str], str]:
    covered, with_ = _is_covered(rule), rule.with_
    first, last, length = rule.keep_first or 0, rule.keep_last or 0, rule.length

    def mask(value: str) -> str:
        where = [i for i, char in enumerate(value) if covered(char)]
        # A value no longer than what is kept would pass whole: it is covered whole instead.
        hide = where[first : len(where) - last] if len(where) > first + last else where
        if not hide:
            return value
        if length is not None:
            return value[: hide[0]] + with_ * length + value[hide[-1] + 1 :]
        out = list(value)
        for i in hide:
            out[i] = with_
        return "".join(out)

    return mask


def _by_position(rule: Mask) -> Callable[[str], str]:
    covered, with_ = _is_covered(rule), rule.with_

    def mask(value: str) -> str:
        where = [i for i, char in enumerate(value) if covered(char)]
        out = list(value)
        for begin, end in rule.positions:
            for i in where[begin - 1 : end]:
                out[i] = with_
        return "".join(out)

    return mask


def _name(value: str, rule: Mask) -> str:
    """홍길동 → 홍*동, 김철 → 김*, 남궁민수 → 남**수; John Smith → J*** S****."""
    text = value.strip()
    with_ = rule.with_
    if _HANGUL.fullmatch(text):
        if len(text) == 1:
            return with_
        hidden = rule.length or max(len(text) - 2, 1)
        return text[0] + with_ * hidden + (text[-1] if len(text) > 2 else "")
    words = []
    for word in text.split():
        hidden = rule.length or max(len(word) - 1, 1)
        words.append((word[0] if len(word) > 1 else "") + with_ * hidden)
    return " ".join(words)


def _email(value: str, rule: Mask) -> str:
    """hong.gildong@example.com → h***********@example.com; without an @ all is covered."""
    local, at, domain = value.rpartition("@")
    with_ = rule.with_
    if not at or not local:
        return with_ * (rule.length or max(len(value), 1))
    hidden = rule.length or max(len(local) - 1, 1)
    return (local[0] if len(local) > 1 else "") + with_ * hidden + at + domain
