"""How long jobs tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("Progress", "silent")

Progress = Callable[[str, float], None]
"""Called with what is being done and the finished part of the whole, 0.0 to 1.0."""


def silent(step: str, fraction: float) -> None:
    """Tell nobody."""
