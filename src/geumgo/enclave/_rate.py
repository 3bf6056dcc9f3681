"""A token bucket."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("TokenBucket",)


class TokenBucket:
    """Admits `rate` takes a second, and `burst` at once after a quiet time.

    Args:
        rate: tokens that come back a second.
        burst: tokens that it holds.
        time: monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, time: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._time = time
        self._tokens = float(burst)
        self._since = time()

    def take(self) -> bool:
        """Take one token; false if there is none."""
        now = self._time()
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
