"""When a dead enclave is started again: exponential back-off, and a state that says "crash loop".

Pure: times are arguments, in seconds of any monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ("RestartSettings", "Restarts")


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Limits of restarting; seconds."""

    first: float = 0.5
    """Wait after the first death: an accident is over quickly."""
    longest: float = 60.0
    """Wait that is never exceeded, so that a repaired key policy is noticed within a minute."""
    healthy: float = 60.0
    """An enclave that ran this long starts with a clean slate."""
    loop: int = 5
    """Deaths in a row, none healthy, after which the state is `crash_loop`."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often this enclave died; a new value after each death."""

    settings: RestartSettings = field(default_factory=RestartSettings)
    total: int = 0
    in_a_row: int = 0

    def died(self, ran: float) -> Restarts:
        """Return the count after a death of an enclave that ran `ran` seconds."""
        in_a_row = 1 if ran >= self.settings.healthy else self.in_a_row + 1
        return replace(self, total=self.total + 1, in_a_row=in_a_row)

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        if self.in_a_row == 0:
            return 0.0
        return min(self.settings.longest, self.settings.first * 2.0 ** min(self.in_a_row - 1, 32))

    @property
    def looping(self) -> bool:
        """Whether the enclave dies again and again."""
        return self.in_a_row >= self.settings.loop
