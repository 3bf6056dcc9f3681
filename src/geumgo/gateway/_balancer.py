"""Which enclave gets a call, and who waits for a place. No IO."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Iterable

from geumgo.api import ApiError
from geumgo.gateway._member import Member, MemberState
from geumgo.gateway._settings import GatewaySettings

__all__ = ("Balancer", "Wanted")


class Wanted:
    """What a call needs of an enclave.

    Args:
        operation: the operation's name, or None where any ready enclave will do.
        key_id: the pool key that the request is sealed to, or None.
        tried: members that had this call already.
    """

    __slots__ = ("key_id", "operation", "tried")

    def __init__(self, operation: str | None, key_id: bytes | None, tried: Collection[Member] = ()) -> None:
        self.operation = operation
        self.key_id = key_id
        self.tried = tried

    def fits(self, member: Member) -> bool:
        """Return whether `member` can carry the call out at all."""
        connection, description = member.connection, member.description
        if member.state is not MemberState.READY or connection is None or description is None:
            return False
        if connection.closed or connection.draining or member in self.tried:
            return False
        if self.operation is not None and self.operation not in description.operations:
            return False
        return self.key_id is None or description.key_id == self.key_id


class Balancer:
    """Gives each call to the enclave with the fewest calls for its weight; queues while all are full.

    Args:
        settings: limits and times.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._queue: deque[tuple[Wanted, asyncio.Future[Member]]] = deque()
        self.members: dict[str, Member] = {}

    @property
    def queued(self) -> int:
        """Calls that wait for a place."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Calls that enclaves have."""
        return sum(member.in_flight for member in self.members.values())

    async def acquire(self, wanted: Wanted, deadline: float) -> Member:
        """Return a member with a place for this call; it must be released.

        Args:
            wanted: what the call needs.
            deadline: `time.monotonic()` at which nobody wants it any more.

        Raises:
            ApiError: `unknown_operation`, `reattest`, `starting` or `unavailable` where no member can do it,
                `busy` where the queue is full or no place came free, `deadline_exceeded`.
        """
        member, possible = self._choose(wanted)
        if member is not None and not self._queue:
            member.in_flight += 1
            return member
        if not possible:
            raise self.refusal(wanted)
        if len(self._queue) >= self._settings.max_queue:
            raise ApiError(f"{len(self._queue)} calls wait already", code="busy")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Member] = loop.create_future()
        entry = (wanted, future)
        self._queue.append(entry)
        self._serve()
        patience = time.monotonic() + self._settings.queue_wait
        try:
            async with asyncio.timeout(min(deadline, patience) - time.monotonic()):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())  # the place came in the moment in which the wait ended
            self._discard(entry)
            if not isinstance(error, TimeoutError):
                raise
        if time.monotonic() >= deadline:
            raise ApiError("The deadline passed in the queue", code="deadline_exceeded")
        raise ApiError("No enclave had a place in time", code="busy")

    def release(self, member: Member) -> None:
        """Give back the place that :meth:`acquire` gave."""
        member.in_flight -= 1
        if self._queue:
            self._serve()

    def changed(self) -> None:
        """A member came, went or changed its state: calls that wait may go on, or have nothing to wait for."""
        if self._queue:
            self._serve()

    def refusal(self, wanted: Wanted) -> ApiError:
        """Return why no member can carry out what is wanted."""
        ready = [m for m in self.members.values() if m.state is MemberState.READY and m not in wanted.tried]
        if ready and wanted.operation is not None:
            able = [m for m in ready if m.description and wanted.operation in m.description.operations]
            if not able:
                return ApiError("No enclave here has this operation", code="unknown_operation")
            if wanted.key_id is not None and all(
                m.description and m.description.key_id != wanted.key_id for m in able
            ):
                return ApiError("No enclave here holds the key that this is sealed to", code="reattest")
        reason = self.not_ready() or "unavailable"
        return ApiError("No enclave can take this call now", code=reason)

    def not_ready(self) -> str | None:
        """Return None where an enclave is ready, `starting` where one may become so, else `unavailable`."""
        states = {member.state for member in self.members.values()}
        if MemberState.READY in states:
            return None
        coming = states & {MemberState.STARTING, MemberState.CONNECTING}
        return "starting" if coming else "unavailable"

    def _choose(self, wanted: Wanted) -> tuple[Member | None, bool]:
        """Return the least loaded member with a place, and whether any member could do it at all."""
        best: Member | None = None
        least = 0.0
        possible = False
        for member in self.members.values():
            if not wanted.fits(member):
                continue
            possible = True
            if member.in_flight >= member.capacity:
                continue
            load = (member.in_flight + 1) / member.weight
            if best is None or load < least:
                best, least = member, load
        return best, possible

    def _serve(self) -> None:
        """Give places to those who wait, in their order; one that nobody can serve fails."""
        rest: deque[tuple[Wanted, asyncio.Future[Member]]] = deque()
        places = True
        while self._queue and places:
            wanted, future = self._queue.popleft()
            if future.done():
                continue
            member, possible = self._choose(wanted)
            if member is not None:
                member.in_flight += 1
                future.set_result(member)
            elif not possible:
                future.set_exception(self.refusal(wanted))
            else:
                rest.append((wanted, future))
                places = self._any_place()
        self._queue.extendleft(reversed(rest))

    def _any_place(self) -> bool:
        return any(m.in_flight < m.capacity for m in _usable(self.members.values()))

    def _discard(self, entry: tuple[Wanted, asyncio.Future[Member]]) -> None:
        if entry in self._queue:
            self._queue.remove(entry)


def _usable(members: Iterable[Member]) -> Iterable[Member]:
    return (member for member in members if member.state is MemberState.READY)
