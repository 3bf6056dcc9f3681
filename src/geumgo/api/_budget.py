"""Memory for bodies is given out before it is taken."""

from __future__ import annotations

__all__ = ("ByteBudget",)


class ByteBudget:
    """Counts the bytes of all bodies that a server holds, over all its edges.

    Args:
        limit: bytes that may be held at one time.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Count `size` bytes; return False, and count nothing, where that would pass the limit."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def count(self, size: int) -> None:
        """Count `size` bytes that are there already, even over the limit: what comes next is refused then."""
        self.used += size

    def give(self, size: int) -> None:
        """Give `size` bytes back."""
        self.used -= size

    def __repr__(self) -> str:
        return f"<ByteBudget [{self.used} of {self.limit} bytes]>"
