"""How long jobs tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("WHOLE", "Progress", "silent")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of the whole is done, and how much the whole is."""

WHOLE = 100
"""What our own steps count up to."""


def silent(step: str, done: int, total: int) -> None:
    """Tell nobody."""
