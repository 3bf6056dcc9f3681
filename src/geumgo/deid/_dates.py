"""Dates: reading them, periods, age bands, and keyed shifts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from geumgo.deid._checksums import birth_date
from geumgo.deid._errors import BadValue
from geumgo.deid._fold import fold
from geumgo.deid._rules import GeneraliseAge, GeneraliseDate

__all__ = ("WrittenDate", "age_on", "generalise_age", "generalise_date", "parse_date", "shift")

_DATE = re.compile(
    r"([12][0-9]{3})(?:([-./])([0-9]{1,2})\2([0-9]{1,2})|([0-9]{2})([0-9]{2})"
    r"|(년 ?)([0-9]{1,2})월 ?([0-9]{1,2})일)"
    r"([T ][0-9:.+Z-]{1,30})?"
)
_AGE = re.compile(r"([0-9]{1,3})(?: ?세)?")
_NOT_DIGIT = re.compile(r"[^0-9]")


@dataclass(frozen=True, slots=True)
class WrittenDate:
    """A date and the way in which it was written."""

    day: date
    form: str
    rest: str

    def write(self, day: date) -> str:
        """Return another day, written the same way."""
        return self.form.format(day) + self.rest


def parse_date(value: str) -> WrittenDate:
    """Return the date that `value` writes: 1996-01-31, 1996.1.31, 1996/01/31, 19960131, 1996년 1월 31일.

    A time of day may follow; it is not looked into.
    """
    if len(value) > 64:
        raise BadValue("not_a_date")
    match = _DATE.fullmatch(fold(value).strip())
    if match is None:
        raise BadValue("not_a_date")
    year, separator, month_a, day_a, month_b, day_b, korean, month_c, day_c, rest = match.groups()
    month, day = month_a or month_b or month_c, day_a or day_b or day_c
    if separator:
        wide = len(month) == 2 and len(day) == 2
        inner = f"%m{separator}%d" if wide else "{0.month}" + separator + "{0.day}"
        form = "{0:%Y}" + separator + (f"{{0:{inner}}}" if wide else inner)
    elif korean:
        form = "{0:%Y}년 {0.month}월 {0.day}일"
    else:
        form = "{0:%Y%m%d}"
    try:
        return WrittenDate(date(int(year), int(month), int(day)), form, rest or "")
    except ValueError:
        raise BadValue("not_a_date") from None


def _birth_from_rrn(value: str) -> date:
    digits = _NOT_DIGIT.sub("", fold(value)) if len(value) <= 64 else ""
    day = birth_date(digits) if 7 <= len(digits) <= 13 else None
    if day is None:
        raise BadValue("not_a_registration_number")
    return day


def _reader(source: str) -> Callable[[str], date]:
    return _birth_from_rrn if source == "rrn" else lambda value: parse_date(value).day


def generalise_date(rule: GeneraliseDate) -> Callable[[str], str]:
    """Return the technique that writes the period a date lies in: 1996-01, 1996-Q1, 1996-H1, 1996, 1990s."""
    read = _reader(rule.source)
    write: Callable[[date], str] = {
        "month": lambda d: f"{d.year:04d}-{d.month:02d}",
        "quarter": lambda d: f"{d.year:04d}-Q{(d.month + 2) // 3}",
        "half": lambda d: f"{d.year:04d}-H{1 if d.month < 7 else 2}",
        "year": lambda d: f"{d.year:04d}",
        "decade": lambda d: f"{d.year // 10:03d}0s",
    }[rule.to]
    return lambda value: write(read(value))


def age_on(birth: date, day: date) -> int:
    """Return full years (만 나이) of someone born on `birth`, on `day`."""
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def generalise_age(rule: GeneraliseAge, reference: date | None) -> Callable[[str], str]:
    """Return the technique that writes the band an age lies in: `30-39`, `<20`, `80+`."""
    read = _reader(rule.source)

    def age(value: str) -> int:
        if reference is None or rule.source == "age":
            match = _AGE.fullmatch(fold(value).strip()) if len(value) <= 64 else None
            if match is None:
                raise BadValue("not_an_age")
            return int(match[1])
        return age_on(read(value), reference)

    def band(value: str) -> str:
        years = age(value)
        if not 0 <= years <= 150:
            raise BadValue("out_of_range")
        if rule.bottom is not None and years < rule.bottom:
            return f"<{rule.bottom}"
        if rule.top is not None and years >= rule.top:
            return f"{rule.top}+"
        low = years - years % rule.band
        return f"{low}-{low + rule.band - 1}"

    return band


def shift(written: WrittenDate, days: int) -> str:
    """Return a date moved by `days`, written as it was."""
    try:
        return written.write(written.day + timedelta(days=days))
    except OverflowError:
        raise BadValue("out_of_range") from None
