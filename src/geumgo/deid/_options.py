"""Reads the options of a rule one by one, each with its type and bounds, and refuses what is left."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from geumgo.deid._errors import PolicyError
from geumgo.deid._limits import MAX_OPTION_CHARS

__all__ = ("Options", "decimal_of", "did_you_mean", "plain")

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,9})?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_MAX_INTEGER = 10**18


def decimal_of(value: Any) -> Decimal | None:
    """Return a number that a policy holds as an integer or as decimal text, or None if it is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value) if abs(value) < _MAX_INTEGER else None
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    return None


def plain(value: Decimal) -> int | str:
    """Return the one spelling of a number in a compiled policy: an integer, else decimal text."""
    if value == value.to_integral_value():
        return int(value)
    return f"{value.normalize():f}"


def did_you_mean(word: object, choices: Collection[str]) -> str:
    """Return a sentence that names the nearest choice, or all of them."""
    near = difflib.get_close_matches(str(word)[:64], choices, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return "Use one of: " + ", ".join(sorted(choices)) + "."


class Options:
    """The options of one map in a policy; every getter checks, `done` refuses what nobody asked for."""

    def __init__(self, raw: Any, path: tuple[str | int, ...]) -> None:
        self.path = path
        if not isinstance(raw, Mapping):
            raise PolicyError("must be a map of options", path=path, fix="Write `name: {technique: …}`.")
        for key in raw:
            if not isinstance(key, str):
                raise PolicyError("option names must be text", path=path)
        self._raw: Mapping[str, Any] = raw
        self._asked: set[str] = set()

    def fail(self, name: str, what: str, *, why: str = "", fix: str = "") -> PolicyError:
        """Return the error for one option."""
        return PolicyError(
            what, path=(*self.path, name) if name in self._raw else self.path, why=why, fix=fix
        )

    def has(self, name: str) -> bool:
        """Return whether the option was given."""
        return name in self._raw

    def take(self, name: str) -> Any:
        """Return the raw value, None where it is absent."""
        self._asked.add(name)
        return self._raw.get(name)

    def text(
        self,
        name: str,
        default: str | None = None,
        *,
        least: int = 0,
        most: int = MAX_OPTION_CHARS,
        required: bool = False,
    ) -> str | None:
        """Return a text of `least` to `most` characters."""
        value = self.take(name)
        if value is None:
            if required:
                raise self.fail(name, f"the option '{name}' is missing", fix=f"Add `{name}: …`.")
            return default
        return self.checked(name, value, least, most)

    def checked(self, name: str, value: Any, least: int, most: int) -> str:
        """Return `value` if it is text of `least` to `most` characters without control characters."""
        if not isinstance(value, str):
            raise self.fail(name, "must be text", fix="Put it in quotes.")
        if not least <= len(value) <= most:
            raise self.fail(name, f"must have {least} to {most} characters, has {len(value)}")
        if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise self.fail(name, "may not hold control characters")
        return value

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str:
        """Return one of `choices`."""
        value = self.take(name)
        if value is None:
            if default is None:
                raise self.fail(name, f"the option '{name}' is missing", fix=did_you_mean("", choices))
            return default
        if not isinstance(value, str) or value not in choices:
            shown = f"'{value[:64]}' is" if isinstance(value, str) else "this is"
            raise self.fail(
                name, f"{shown} not a value that '{name}' takes", fix=did_you_mean(value, choices)
            )
        return value

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int | None:
        """Return a whole number within bounds."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(name, "must be a whole number")
        if not least <= value <= most:
            raise self.fail(name, f"must be between {least} and {most}")
        return value

    def decimal(self, name: str, *, positive: bool = False, required: bool = False) -> Decimal | None:
        """Return a number of at most 18 digits and 9 decimals."""
        value = self.take(name)
        if value is None:
            if required:
                raise self.fail(name, f"the option '{name}' is missing", fix=f"Add `{name}: …`.")
            return None
        number = decimal_of(value)
        if number is None:
            raise self.fail(name, "must be a number", why="At most 18 digits and 9 decimals, no exponent.")
        if positive and number <= 0:
            raise self.fail(name, "must be above zero")
        return number

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, "must be true or false")
        return value

    def day(self, name: str) -> date | None:
        """Return a calendar date written YYYY-MM-DD."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, str) and _DATE.fullmatch(value):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass
        raise self.fail(name, "must be a calendar date", fix="Write it as YYYY-MM-DD.")

    def done(self) -> None:
        """Refuse the options that no getter asked for."""
        for name in self._raw:
            if name not in self._asked:
                raise PolicyError(
                    f"there is no option '{name[:64]}' here",
                    path=(*self.path, name[:64]),
                    fix=did_you_mean(name, self._asked),
                )
