"""Texts with ``*`` and ``?``, matched in time that grows with the product of the lengths at the worst."""

from __future__ import annotations

__all__ = ("wildcard_match",)


def wildcard_match(pattern: str, text: str) -> bool:
    """Return whether all of `text` matches `pattern`; ``*`` is any text, ``?`` any one character.

    No regular expression: a policy's author must not be able to make one that backtracks for years.
    """
    at = star = resume = 0
    seen_star = False
    for_pattern = 0
    while at < len(text):
        if for_pattern < len(pattern) and pattern[for_pattern] == "*":
            seen_star, star, resume = True, for_pattern, at
            for_pattern += 1
        elif for_pattern < len(pattern) and pattern[for_pattern] in ("?", text[at]):
            for_pattern += 1
            at += 1
        elif seen_star:
            resume += 1
            at, for_pattern = resume, star + 1
        else:
            return False
    return not pattern[for_pattern:].strip("*")
