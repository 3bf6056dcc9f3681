"""Time that the parent can't set: the security module's, carried on by the monotonic clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from geumgo.enclave._errors import Refused

__all__ = ("TrustedClock",)

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine is suspended


def _ticks_ms() -> int:
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class TrustedClock:
    """A clock that is set from attestation documents of the local security module.

    It never goes back: an id of a request that was forgotten at its deadline must not become valid again.

    Args:
        ticks: monotonic milliseconds.
    """

    def __init__(self, ticks: Callable[[], int] = _ticks_ms) -> None:
        self._ticks = ticks
        self._offset: int | None = None
        self._floor = 0
        self._lock = threading.Lock()

    @property
    def synchronised(self) -> bool:
        """Whether a document's time has been seen."""
        return self._offset is not None

    def ticks(self) -> int:
        """Return monotonic milliseconds, to be given to :meth:`synchronise`."""
        return self._ticks()

    def synchronise(self, timestamp_ms: int, *, before: int, after: int) -> int:
        """Set the clock from a document that was made between two readings of :meth:`ticks`.

        Args:
            timestamp_ms: the document's timestamp, milliseconds since 1970.
            before: ticks when it was asked for.
            after: ticks when it came.

        Returns:
            By how many milliseconds the clock moved; 0 the first time.
        """
        offset = timestamp_ms - (before + after) // 2
        with self._lock:
            moved = 0 if self._offset is None else offset - self._offset
            self._offset = offset
        return moved

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01T00:00:00Z.

        Raises:
            Refused: `starting`, the clock was never set.
        """
        with self._lock:
            if self._offset is None:
                raise Refused("starting", "the enclave's clock is not set yet")
            self._floor = max(self._floor, self._ticks() + self._offset)
            return self._floor
