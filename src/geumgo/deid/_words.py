"""Identifiers that aren't made of digits alone: e-mail, address, IPv6.

Each pattern is bounded: where it starts, it looks at a fixed number of characters at most, and it can
only start at a character that is rare in text. So the whole is linear in the text's length.
"""

from __future__ import annotations

import ipaddress
import re

from geumgo.deid._addresses import SIDO_PATTERN
from geumgo.deid._numbers import Hit

__all__ = ("find_words",)

_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]*")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})?(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_LOCAL_MAX = 64  # RFC 5321 §4.5.3.1.1

# Digits alone are a town before 동 and 길 (and 종로 5가), else a house number with a particle: 152로.
_TOWN = r"(?![0-9]+[읍면리로]|[0-9]{2,}가)[가-힣0-9·.]{1,12}(?:읍|면|동|가|리|로|길)"
_NUMBER = r"(?:지하 ?|산 ?)?[0-9]{1,5}(?:-[0-9]{1,5})?(?:번지|호)?"
_BUILDING = r"(?:[가-힣A-Za-z0-9]{1,12}(?:아파트|빌딩|타워|맨션|빌라|오피스텔) ?)?"
_UNIT = rf"(?:, ?| ){_BUILDING}(?:[0-9A-Za-z가-힣]{{1,5}}동 ?)?(?:[0-9]{{1,4}}층 ?)?[0-9]{{1,5}}호"
_SIDO = re.compile(SIDO_PATTERN)
_ADDRESS = re.compile(
    rf" ?(?:[가-힣]{{1,6}}[시군구] ){{0,2}}{_TOWN}(?: ?{_TOWN}){{0,2}}(?: ?{_NUMBER})?(?:{_UNIT})?"
    r"(?: ?\([가-힣0-9, ]{1,30}\))?"
)
_DISTRICT = re.compile(r" [가-힣]{1,6}[시군구](?: [가-힣]{1,6}구)?(?![가-힣])")

_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]{3,39}(?![0-9A-Za-z:])")


def find_words(text: str) -> list[Hit]:
    """Return entity, start, end and score of what is found in a folded text."""
    found: list[Hit] = []
    at = text.find("@")
    while at >= 0:
        _email(text, at, found)
        at = text.find("@", at + 1)
    for start in _SIDO.finditer(text):
        match = _ADDRESS.match(text, start.end())
        if match is not None:
            found.append(("ADDRESS", start.start(), match.end(), 0.7))
            continue
        match = _DISTRICT.match(text, start.end())
        if match is not None:
            found.append(("ADDRESS", start.start(), match.end(), 0.4))
    if "::" in text or text.count(":") >= 7:
        for match in _IPV6.finditer(text):
            if match[0].count(":") >= 2 and _is_ipv6(match[0]):
                found.append(("IP", match.start(), match.end(), 0.6))
    return found


def _email(text: str, at: int, found: list[Hit]) -> None:
    domain = _DOMAIN.match(text, at + 1, at + 256)
    if domain is None:
        return
    # Matched backwards from the @, so that no start is tried twice.
    local = _LOCAL.match(text[max(0, at - _LOCAL_MAX) : at][::-1])
    start = at - (local.end() if local is not None else 0)
    while start < at and text[start] in ".'":
        start += 1
    if start < at:
        found.append(("EMAIL", start, domain.end(), 0.95))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return any(c != ":" for c in text)
