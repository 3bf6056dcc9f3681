"""Names that cross the seal: callers, operations, pools, purposes."""

from __future__ import annotations

import re

__all__ = ("MAX_NAME", "is_name")

MAX_NAME = 64
"""Bytes of a name: longer than anyone types, short enough to repeat in every request."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def is_name(text: str) -> bool:
    """Return whether `text` is 1 to 64 ASCII letters, digits, ``.``, ``_`` or ``-``, the first no sign."""
    return _NAME.fullmatch(text) is not None
