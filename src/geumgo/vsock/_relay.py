"""Moving bytes between two stream sockets.

Measured: `sock_recv_into` and `sock_sendall` of the standard loop with a reused buffer beat streams,
protocols and splice; and AF_VSOCK has no zero-copy path in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass

__all__ = ("RELAY_BUFFER", "RelayCounters", "relay")

RELAY_BUFFER = 256 << 10
"""Bytes that one direction holds: large enough to be fast, far from the 2 MiB at which vsock stalls."""

_SPARE_BUFFERS = 8
"""Buffers kept for the next relay; more than that many at once are rare in a sidecar."""
_spare: list[bytearray] = []


@dataclass(slots=True)
class RelayCounters:
    """What a relay has moved so far; may be shared by many relays and read at any time.

    Attributes:
        a_to_b: bytes from the first socket to the second.
        b_to_a: bytes the other way.
        failed: directions that ended by an error instead of an end of stream.
    """

    a_to_b: int = 0
    b_to_a: int = 0
    failed: int = 0


class _Progress:
    """Bytes moved by one relay in both directions, for the idle check."""

    __slots__ = ("moved",)

    def __init__(self) -> None:
        self.moved = 0


async def relay(
    a: socket.socket,
    b: socket.socket,
    *,
    counters: RelayCounters | None = None,
    idle_timeout: float | None = None,
) -> None:
    """Move bytes both ways until both directions have ended; then close both sockets.

    The end of one direction is passed on (`SHUT_WR`) while the other goes on. A slow receiver slows the
    sender: one buffer a direction is all that is held. A connection that breaks ends both directions;
    that is counted, not raised, since the two ends see it themselves.

    Args:
        a: a connected, non-blocking stream socket; the relay owns it from here on.
        b: another.
        counters: where to count.
        idle_timeout: seconds without a byte in either direction after which both are cut; it is looked
            at once in that time, so the cut comes after one to two of it.
    """
    counters = RelayCounters() if counters is None else counters
    progress = _Progress()
    forth = asyncio.ensure_future(_pump(a, b, counters, progress, True))
    back = asyncio.ensure_future(_pump(b, a, counters, progress, False))
    pending = {forth, back}
    try:
        while pending:
            before = progress.moved
            done, pending = await asyncio.wait(
                pending, timeout=idle_timeout, return_when=asyncio.FIRST_EXCEPTION
            )
            if any(pump.exception() is not None for pump in done):
                return
            if pending and not done and progress.moved == before:
                counters.failed += 1
                return
    finally:
        try:
            await _stop(forth, back)
        finally:
            loop = asyncio.get_running_loop()
            for sock in (a, b):
                # Of a pump that a second cancellation left waiting.
                loop.remove_reader(sock)
                loop.remove_writer(sock)
                sock.close()


async def _stop(*pumps: asyncio.Task[None]) -> None:
    for pump in pumps:
        pump.cancel()
    if not all(pump.done() for pump in pumps):
        await asyncio.wait(pumps)
    for pump in pumps:
        if not pump.cancelled():
            pump.exception()  # counted already; unread, it would be logged


async def _pump(
    source: socket.socket, sink: socket.socket, counters: RelayCounters, progress: _Progress, forth: bool
) -> None:
    """Move bytes one way until the source ends, then end the sink's direction.

    Raises:
        OSError: either socket broke.
    """
    loop = asyncio.get_running_loop()
    buffer = _spare.pop() if _spare else bytearray(RELAY_BUFFER)
    try:
        with memoryview(buffer) as view:
            while count := await loop.sock_recv_into(source, view):
                await loop.sock_sendall(sink, view[:count])
                progress.moved += count
                if forth:
                    counters.a_to_b += count
                else:
                    counters.b_to_a += count
        with contextlib.suppress(OSError):  # it is gone already: its other direction says so
            sink.shutdown(socket.SHUT_WR)
    except OSError:
        counters.failed += 1
        raise
    finally:
        if len(_spare) < _SPARE_BUFFERS:
            _spare.append(buffer)
