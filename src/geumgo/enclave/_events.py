"""The events that may leave the enclave as logs: codes, levels and typed fields, nothing else.

A field's value is a number, a truth value, or a word: an error code, an operation's name, the name of a
built-in exception. No event has a field for text, so a record can't end up in a log by mistake.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ("EVENTS", "Event", "Field", "exception_name", "word")

# Begins with a letter, so that no number that names a person is a word.
_WORD = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)
_EXCEPTIONS = frozenset(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)


class Field(Enum):
    """What a field holds."""

    COUNT = "count"
    """A whole number from 0 to 2^53."""
    OFFSET = "offset"
    """A whole number, also below zero."""
    FLAG = "flag"
    """True or false."""
    WORD = "word"
    """Lower-case letters, digits, `_`, `.`, `-`: codes and names of the measured configuration."""
    EXCEPTION = "exception"
    """The name of a built-in exception, or `other`: a program's own names might carry data."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its level (`info`, `warn`, `error`) and its fields."""

    level: str
    fields: Mapping[str, Field] = field(default_factory=dict)

    def admits(self, values: Mapping[str, object]) -> bool:
        """Return whether `values` has exactly this event's fields with values of their types."""
        return values.keys() == self.fields.keys() and all(
            _admits(kind, values[name]) for name, kind in self.fields.items()
        )


def _admits(kind: Field, value: object) -> bool:
    match kind:
        case Field.COUNT:
            return type(value) is int and 0 <= value <= 1 << 53
        case Field.OFFSET:
            return type(value) is int and abs(value) <= 1 << 53
        case Field.FLAG:
            return type(value) is bool
        case Field.WORD:
            return type(value) is str and _WORD.fullmatch(value) is not None
        case Field.EXCEPTION:
            return type(value) is str and (value == "other" or value in _EXCEPTIONS)


def word(text: str) -> str:
    """Return `text` where it is a word that a log may carry, else `other`."""
    return text if _WORD.fullmatch(text) else "other"


def exception_name(error: BaseException) -> str:
    """Return the built-in name of an exception's class, `other` for any class that a program made."""
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" and kind.__name__ in _EXCEPTIONS else "other"


EVENTS: Mapping[str, Event] = {
    "started": Event("info", {"milliseconds": Field.COUNT, "operations": Field.COUNT, "debug": Field.FLAG}),
    "bad_configuration": Event("error", {"reason": Field.WORD}),
    "ready": Event("info", {"milliseconds": Field.COUNT, "attempts": Field.COUNT}),
    "pool_key_refused": Event(
        "warn", {"reason": Field.WORD, "attempt": Field.COUNT, "pause_ms": Field.COUNT}
    ),
    "purpose_key_refused": Event("warn", {"purpose": Field.WORD, "reason": Field.WORD}),
    "data_key_refused": Event("warn", {"reason": Field.WORD}),
    "nsm_failed": Event("error", {"reason": Field.WORD}),
    "clock_set": Event("info", {"moved_ms": Field.OFFSET}),
    "control_opened": Event("info"),
    "control_lost": Event("warn"),
    "connections_full": Event("warn", {"connections": Field.COUNT}),
    "answers_unread": Event("warn", {"bytes": Field.COUNT}),
    "channel_refused": Event("warn", {"reason": Field.WORD}),
    "operation_raised": Event("error", {"operation": Field.WORD, "exception": Field.EXCEPTION}),
    "internal_error": Event("error", {"place": Field.WORD, "exception": Field.EXCEPTION}),
    "draining": Event("info", {"in_flight": Field.COUNT}),
    "stopped": Event("info", {"in_flight": Field.COUNT}),
    "log_dropped": Event("warn", {"count": Field.COUNT}),
}
"""Every event, by code."""
