"""Check digits and shapes of Korean identifiers and cards; digits only, no separators.

Sources: reference rules of the resident, foreigner, business and corporate registration numbers;
ISO/IEC 7812-1 (Luhn).
"""

from __future__ import annotations

from datetime import date
from operator import mul

__all__ = (
    "RANDOM_SINCE",
    "birth_date",
    "brn_is_valid",
    "crn_is_valid",
    "frn_is_valid",
    "luhn_is_valid",
    "rrn_is_valid",
)

RANDOM_SINCE = date(2020, 10, 5)
"""From this day on new and changed numbers end in random digits, without a check digit."""

_CENTURY = {
    "9": 1800,
    "0": 1800,
    "1": 1900,
    "2": 1900,
    "5": 1900,
    "6": 1900,
    "3": 2000,
    "4": 2000,
    "7": 2000,
    "8": 2000,
}
_RRN_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_BRN_WEIGHTS = (1, 3, 7, 1, 3, 7, 1, 3, 5)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def birth_date(digits: str) -> date | None:
    """Return the birth date in the first seven digits of a resident or foreigner number, if there is one."""
    century = _CENTURY.get(digits[6:7])
    if century is None:
        return None
    try:
        return date(century + int(digits[0:2]), int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return None


def _weighted(digits: str) -> int:
    return sum(map(mul, _RRN_WEIGHTS, map(int, digits)))


def rrn_is_valid(digits: str) -> bool:
    """Return whether 13 digits carry a resident number's check digit and region code (before 2020-10)."""
    return int(digits[7:9]) <= 95 and (11 - _weighted(digits) % 11) % 10 == int(digits[12])


def frn_is_valid(digits: str) -> bool:
    """Return whether 13 digits carry a foreigner number's check digit (before 2020-10)."""
    return (13 - _weighted(digits) % 11) % 10 == int(digits[12])


def brn_is_valid(digits: str) -> bool:
    """Return whether 10 digits carry a business registration number's check digit."""
    total: int = sum(map(mul, _BRN_WEIGHTS, map(int, digits))) + int(digits[8]) * 5 // 10
    return (10 - total % 10) % 10 == int(digits[9])


def crn_is_valid(digits: str) -> bool:
    """Return whether 13 digits carry a corporate registration number's check digit."""
    total = sum(int(d) * (1 + i % 2) for i, d in enumerate(digits[:12]))
    return (10 - total % 10) % 10 == int(digits[12])


def luhn_is_valid(digits: str) -> bool:
    """Return whether the digits pass Luhn's check and are not one digit repeated."""
    if digits == digits[0] * len(digits):
        return False
    total = sum(map(int, digits[-1::-2])) + sum(_DOUBLED[int(d)] for d in digits[-2::-2])
    return total % 10 == 0
