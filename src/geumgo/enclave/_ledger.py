"""Which requests were already carried out: the memory of operations that must not run twice."""

from __future__ import annotations

import heapq
from collections import Counter

from geumgo.enclave._errors import Refused

__all__ = ("RequestLedger",)


class RequestLedger:
    """Remembers keys until their deadline; bounded, and fails closed when it is full.

    Args:
        capacity: keys kept at a time.
        share: keys of one caller kept at a time.
        ahead_ms: how far in the future a deadline may lie.
    """

    def __init__(self, capacity: int, share: int, ahead_ms: int) -> None:
        self._capacity = capacity
        self._share = share
        self._ahead_ms = ahead_ms
        self._known: set[tuple[str, bytes]] = set()
        self._callers: Counter[str] = Counter()
        self._deadlines: list[tuple[int, tuple[str, bytes]]] = []

    def __len__(self) -> int:
        return len(self._known)

    def claim(self, caller: str, key: bytes, *, deadline_ms: int, now_ms: int) -> None:
        """Note that the request `key` of `caller` is being carried out.

        It stays noted when the operation fails: what it had done by then is unknown.

        Raises:
            Refused: `duplicate` (seen before), `busy` (no room), `deadline_exceeded`, or
                `invalid_request` (the deadline is too far ahead to be remembered).
        """
        while self._deadlines and self._deadlines[0][0] < now_ms:
            self._forget(heapq.heappop(self._deadlines)[1])
        if deadline_ms < now_ms:
            raise Refused("deadline_exceeded")
        entry = (caller, key)
        if entry in self._known:
            raise Refused("duplicate")
        if deadline_ms - now_ms > self._ahead_ms:
            raise Refused(
                "invalid_request",
                f"the deadline of this operation may be at most {self._ahead_ms // 1000} s ahead",
            )
        if len(self._known) >= self._capacity or self._callers[caller] >= self._share:
            raise Refused("busy")
        self._known.add(entry)
        self._callers[caller] += 1
        heapq.heappush(self._deadlines, (deadline_ms, entry))

    def _forget(self, entry: tuple[str, bytes]) -> None:
        self._known.discard(entry)
        self._callers[entry[0]] -= 1
