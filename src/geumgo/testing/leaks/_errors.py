"""What a search raises. It never passes for a search that found nothing."""

from __future__ import annotations

from geumgo._base import GeumgoError

__all__ = ("LeakSearchError",)


class LeakSearchError(GeumgoError):
    """Raised when something can't be searched.

    Codes: ``value_too_short``, ``memory_unreadable``, ``process_gone``, ``file_unreadable``,
    ``recorded_too_much``.
    """

    code = "leak_search"
