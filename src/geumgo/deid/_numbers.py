"""Rules for identifiers made of digits: shape, digits, separators → entity and score.

Scores before context words: about 0.9 is certain, 0.5 is worth replacing, below it a context word is
needed. Sources: docs/deidentification.md, "What is found".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from itertools import product
from typing import NamedTuple

from geumgo.deid._checksums import (
    RANDOM_SINCE,
    birth_date,
    brn_is_valid,
    crn_is_valid,
    frn_is_valid,
    luhn_is_valid,
    rrn_is_valid,
)

__all__ = ("CERTAIN", "MAX_GROUPS", "SHAPES", "Hit", "Rule", "Shape", "Window")

Hit = tuple[str, int, int, float]
"""Entity, start, end, score."""


class Window:
    """Consecutive groups of digits in a folded text."""

    __slots__ = ("digits", "end", "lengths", "separators", "start", "text")

    def __init__(
        self,
        text: str,
        start: int,
        end: int,
        groups: Sequence[str],
        lengths: tuple[int, ...],
        separators: Sequence[str],
    ) -> None:
        self.text = text
        self.start = start
        self.end = end
        self.digits = "".join(groups)
        self.lengths = lengths
        self.separators = separators

    def hit(self, entity: str, score: float, *, start: int | None = None) -> Hit:
        """Return a hit on this window."""
        return (entity, self.start if start is None else start, self.end, score)

    def joined_by(self, mark: str) -> bool:
        """Return whether every separator holds `mark` and apart from it only spaces."""
        return all(s == mark or s.strip() == mark for s in self.separators)

    def chained(self) -> bool:
        """Return whether a dash or dot ties this window to more digits: it may be part of a longer number."""
        text, start, end = self.text, self.start, self.end
        before = start >= 2 and text[start - 1] in "-." and text[start - 2].isdigit()
        return before or (end + 1 < len(text) and text[end] in "-." and text[end + 1].isdigit())


Rule = Callable[[Window], Hit | None]

_COVERS = frozenset("*xX●○#")


def _person(window: Window) -> Hit | None:
    """Resident (G 1–4, 9, 0) and foreigner (G 5–8) registration numbers."""
    digits = window.digits
    born = birth_date(digits)
    if born is None:
        return None
    foreign = digits[6] in "5678"
    valid = frn_is_valid(digits) if foreign else rrn_is_valid(digits)
    apart = bool(window.separators)
    if valid:
        score = 0.95 if apart else 0.85
    elif born >= RANDOM_SINCE.replace(day=1):
        score = 0.75 if apart else 0.5  # random digits: a check digit that fails says nothing
    else:
        score = 0.55 if apart else 0.35  # changed since 2020-10, or mistyped: still someone's number
    return window.hit("FRN" if foreign else "RRN", score)


def _masked_person(window: Window) -> Hit | None:
    """A number whose end is already masked, 960101-1******: birth date and sex are still there."""
    covered = window.text[window.end : window.end + 6]
    if len(covered) < 6 or not _COVERS.issuperset(covered) or birth_date(window.digits) is None:
        return None
    return ("FRN" if window.digits[6] in "5678" else "RRN", window.start, window.end + 6, 0.75)


def _corporation(window: Window) -> Hit | None:
    digits = window.digits
    if not crn_is_valid(digits) or digits == digits[0] * 13:
        return None
    return window.hit("CRN", 0.7 if window.joined_by("-") and window.separators else 0.3)


def _business(window: Window) -> Hit | None:
    digits = window.digits
    if not brn_is_valid(digits) or digits == digits[0] * 10:
        return None
    if not window.separators:
        return window.hit("BRN", 0.35)
    return window.hit("BRN", 0.9 if window.joined_by("-") else 0.5)


def _card(window: Window) -> Hit | None:
    digits = window.digits
    if digits[0] not in "234569" or digits == digits[0] * len(digits):
        return None
    apart = bool(window.separators)
    if luhn_is_valid(digits):
        return window.hit("CARD", 0.95 if apart else 0.8)
    return window.hit("CARD", 0.4 if apart else 0.2)


_MOBILE = ("010", "011", "016", "017", "018", "019")
_AREAS = frozenset(
    {
        "031",
        "032",
        "033",
        "041",
        "042",
        "043",
        "044",
        "051",
        "052",
        "053",
        "054",
        "055",
        "061",
        "062",
        "063",
        "064",
    }
)
_SERVICE = frozenset({"070", "080", "060", "030"})
_REPRESENTATIVE = ("15", "16", "18")


def _phone_score(number: str) -> float:
    """Score a national number that begins with 0, separators aside."""
    length = len(number)
    if number.startswith(_MOBILE):
        return 0.9 if length == 11 else (0.75 if length == 10 and number[2] != "0" else 0.0)
    if number.startswith("02"):
        return 0.75 if length in (9, 10) else 0.0
    if number.startswith("050"):
        return 0.75 if length in (11, 12) else 0.0
    if number[:3] in _AREAS or number[:3] in _SERVICE:
        return 0.75 if length in (10, 11) else 0.0
    return 0.0


def _phone(window: Window) -> Hit | None:
    text, start = window.text, window.start
    digits = window.digits
    plus = start > 0 and text[start - 1] == "+"
    if plus or digits.startswith("0082"):
        country, rest = ("82", digits[2:]) if plus else ("0082", digits[4:])
        if not digits.startswith(country) or (window.lengths[0] != len(country) and window.separators):
            return None
        national = rest if rest.startswith("0") else "0" + rest
        score = 0.95 if _phone_score(national) else 0.0
        return window.hit("PHONE", score, start=start - 1 if plus else start) if score else None
    if window.separators and window.lengths[0] > 4:
        return None
    score = _phone_score(digits)
    if not score:
        return None
    if window.separators:
        # 010-1234-5678, 02) 123-4567; in a longer chain of groups it is more likely something else.
        score -= 0.35 if window.chained() else 0.0
    else:
        score -= 0.1 if digits.startswith(_MOBILE) else 0.35
        if text[start - 1 : start] == "-" or text[window.end : window.end + 1] == "-":
            score -= 0.2
    return window.hit("PHONE", score)


def _representative(window: Window) -> Hit | None:
    """15xx, 16xx and 18xx numbers, eight digits without an area code."""
    digits = window.digits
    if not digits.startswith(_REPRESENTATIVE):
        return None
    if not window.separators:
        return window.hit("PHONE", 0.15)
    return window.hit("PHONE", 0.25 if window.chained() or not window.joined_by("-") else 0.6)


_LICENCE_REGIONS = frozenset({*(f"{n}" for n in range(11, 27)), "28"})


def _licence(window: Window) -> Hit | None:
    digits = window.digits
    if digits[:2] not in _LICENCE_REGIONS:
        return None
    if not window.separators:
        return window.hit("DRIVER_LICENCE", 0.15)
    return window.hit("DRIVER_LICENCE", 0.8 if window.joined_by("-") else 0.5)


_BANK_SHAPES: dict[tuple[int, ...], tuple[str, ...]] = {
    (3, 4, 4, 2): ("301", "302", "312", "351", "352", "355", "356", "101", "112"),  # NongHyup, Busan
    (6, 2, 6): ("",),  # Kookmin, Korea Post
    (3, 3, 6): ("110", "100", "140", "150", "160", "120"),  # Shinhan, K bank
    (4, 3, 6): ("1002", "1005", "1006"),  # Woori
    (3, 6, 5): ("",),  # Hana
    (3, 6, 2, 3): ("",),  # Industrial Bank
    (4, 2, 7): ("3333", "3388", "3355", "3310", "7777", "7979"),  # Kakao
    (4, 4, 4): ("1000", "1001", "1908", "1002"),  # Toss
    (4, 4, 4, 1): ("9002", "9003", "9004", "9005"),  # MG
    (3, 2, 6, 1): ("5",),  # iM (Daegu)
    (3, 2, 6): ("",),  # SC, Kookmin's older
    (3, 3, 6, 1): ("",),
    (6, 2, 5): ("",),
}
"""Shapes of account numbers and the beginnings that are told apart without a context word ("" is any)."""

_WEAK_SHAPES = frozenset({(3, 2, 6), (6, 2, 5), (3, 3, 6, 1)})
"""Shapes that other numbers have too: they need a context word."""


def _account(window: Window) -> Hit | None:
    if not window.joined_by("-"):
        return None
    digits = window.digits
    if window.chained() or digits == digits[0] * len(digits):
        return None
    if window.lengths in _WEAK_SHAPES:
        return window.hit("ACCOUNT", 0.3)
    known = digits.startswith(_BANK_SHAPES[window.lengths])
    return window.hit("ACCOUNT", 0.65 if known else 0.35)


def _account_by_context(window: Window) -> Hit | None:
    """Ten to fourteen digits in any grouping: only with a word such as 계좌 near by."""
    if window.separators and not window.joined_by("-"):
        return None
    if window.separators and window.chained():
        return None
    return window.hit("ACCOUNT", 0.15)


def _insurance(window: Window) -> Hit | None:
    return window.hit("HEALTH_INSURANCE", 0.1)


def _ip(window: Window) -> Hit | None:
    if any(s != "." for s in window.separators) or window.chained():
        return None
    parts = window.text[window.start : window.end].split(".")
    if any(int(p) > 255 or (len(p) > 1 and p[0] == "0") for p in parts):
        return None
    return window.hit("IP", 0.35 if sum(window.lengths) == 4 else 0.6)


def _birthday(window: Window) -> Hit | None:
    """Year, month, day in any usual form: a birth date only with a word such as 생년월일 near by."""
    digits = window.digits
    lengths = window.lengths
    if window.chained():
        return None
    if lengths == (6,):
        year, month, day = 2000 + int(digits[:2]), int(digits[2:4]), int(digits[4:])
    elif lengths == (8,):
        year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
    else:
        if len({s.strip() for s in window.separators}) > 1:
            return None
        year = int(digits[: lengths[0]])
        month = int(digits[lengths[0] : lengths[0] + lengths[1]])
        day = int(digits[lengths[0] + lengths[1] :])
        year += 2000 if lengths[0] == 2 else 0
    try:
        born = date(year, month, day)
    except ValueError:
        return None
    return window.hit("BIRTH_DATE", 0.2) if 1850 <= born.year <= 2100 else None


class Shape(NamedTuple):
    """The rules of one shape.

    Attributes:
        rules: tried in turn on the window.
        weak: tried when none of `rules` was certain; they need a context word.
    """

    rules: tuple[Rule, ...]
    weak: tuple[Rule, ...]


CERTAIN = 0.71
"""A hit of this score needs no context word and no weak rule: those reach 0.7."""


def _shapes() -> dict[tuple[int, ...], Shape]:
    strong: dict[tuple[int, ...], list[Rule]] = {}
    weak: dict[tuple[int, ...], list[Rule]] = {}

    def add(rule: Rule, *shapes: tuple[int, ...], to: dict[tuple[int, ...], list[Rule]] = strong) -> None:
        for shape in shapes:
            if rule not in to.setdefault(shape, []):
                to[shape].append(rule)

    add(_person, (6, 7), (13,))
    add(_masked_person, (6, 1), (7,))
    add(_corporation, (6, 7), (13,))
    add(_business, (3, 2, 5), (10,))
    add(_card, (4, 4, 4, 4), (16,), (4, 6, 5), (15,), (4, 6, 4), (14,))
    for area in (2, 3, 4):
        add(_phone, (area, 3, 4), (area, 4, 4))
    add(_phone, (9,), (10,), (11,), (12,), (13,), (3, 7), (3, 8), (2, 7), (2, 8))
    # +82 10 1234 5678, +82 (0)10 1234 5678, +82 1012345678, 0082 …
    for country, area in product((2, 4), (1, 2, 3)):
        add(_phone, (country, area, 3, 4), (country, area, 4, 4), (country, area, 7), (country, area, 8))
        add(_phone, (country, 1, area, 3, 4), (country, 1, area, 4, 4))
        add(_phone, (country, 8), (country, 9), (country, 10), (country, 11))
    add(_representative, (4, 4), (8,))
    add(_licence, (2, 2, 6, 2), (12,))
    add(_account, *_BANK_SHAPES)
    add(_ip, *product((1, 2, 3), repeat=4))
    add(_birthday, *product((2, 4), (1, 2), (1, 2)), (6,), (8,), to=weak)
    add(_insurance, (11,), (1, 10), to=weak)
    groups: list[tuple[int, ...]] = [(n,) for n in range(10, 15)]
    groups += product(range(2, 7), range(2, 9))
    groups += product(range(2, 7), range(2, 8), range(1, 8))
    groups += product(range(2, 7), range(2, 8), range(1, 8), range(1, 5))
    add(_account_by_context, *(shape for shape in groups if 10 <= sum(shape) <= 14), to=weak)
    return {
        shape: Shape(tuple(strong.get(shape, ())), tuple(weak.get(shape, ()))) for shape in {**strong, **weak}
    }


SHAPES: dict[tuple[int, ...], Shape] = _shapes()
"""Which rules look at a window, by the lengths of its groups."""

MAX_GROUPS = max(map(len, SHAPES))
"""Most groups of one identifier."""
