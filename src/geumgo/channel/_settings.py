"""Every limit of a channel, with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from geumgo.channel._errors import UsageError

__all__ = (
    "ABUSE_BURST",
    "ABUSE_PER_SECOND",
    "FLUSH_AT",
    "FRAME_COST",
    "HEADER_SIZE",
    "MAX_CODE",
    "MAX_KIND",
    "MAX_METADATA",
    "MAX_METADATA_ITEMS",
    "MAX_PAYLOAD",
    "MAX_PINGS",
    "MAX_REPLY_BACKLOG",
    "MAX_UNREAD_BACKLOG",
    "MAX_WAITING",
    "MAX_WINDOW",
    "MAX_WRITE",
    "MIN_WINDOW",
    "SEND_BACKLOG",
    "STREAM_SLACK",
    "MessageBudget",
    "Settings",
)

HEADER_SIZE = 10
"""Bytes before a frame's payload: length, type, flags, stream id."""
MAX_PAYLOAD = 64 << 10
"""Bytes behind a frame's header. Larger messages are split, so that none holds up the others for long."""
FRAME_COST = 64
"""What each frame that carries message bytes costs of the windows beyond its bytes: about what keeping a
tiny message costs in memory. Without it a peer could queue millions of empty messages for nothing."""
MAX_KIND = 64
"""Bytes of a stream's kind: a word."""
MAX_METADATA = 4 << 10
"""Bytes of a stream's metadata: names and numbers for routing, never content."""
MAX_METADATA_ITEMS = 32
"""Entries of a stream's metadata; the largest of ours has three."""
MAX_CODE = 64
"""Bytes of an error code in RESET and GOAWAY."""
MIN_WINDOW = MAX_PAYLOAD + FRAME_COST
"""Smallest window that a side may announce: any one frame must fit."""
MAX_WINDOW = (1 << 31) - 1
"""Largest credit, as a signed 32-bit number holds (Java)."""
MAX_WRITE = 128 << 10
"""Bytes of one write call. On vsock 32 to 128 KiB is the fast range, and calls of 2 MiB stall."""
FLUSH_AT = 32 << 10
"""Bytes at which a write doesn't wait for the end of the loop's turn: the peer works on them meanwhile."""
SEND_BACKLOG = 256 << 10
"""Bytes that may wait for the socket before senders wait: two full writes."""
MAX_REPLY_BACKLOG = 256 << 10
"""Bytes of answers that a peer provokes (PONG, RESET) and doesn't read; thousands of them."""
MAX_UNREAD_BACKLOG = 1 << 20
"""Bytes of everything that wait for a peer that goes on opening streams; senders stop at a quarter of it."""
MAX_WAITING = 4096
"""Callers that wait for a free stream on one connection; beyond, `busy` at once is kinder."""
MAX_PINGS = 8
"""Pings of this side without an answer."""
STREAM_SLACK = 2
"""A peer's streams, with those whose handler still tidies up, may reach this multiple of `max_streams`:
the peer sees the answer, and may open the next stream, before the handler has returned."""
ABUSE_BURST = 20_000
"""Frames that make work and bring nothing (resets of the peer's own streams, refused streams, pings) that
a peer may send at once: many times all its streams being cancelled."""
ABUSE_PER_SECOND = 10_000
"""How many of them it may send for good. A gateway whose enclave is too slow cancels thousands a second;
their memory is bounded by the streams, so this bounds only the work, to a fraction of a core."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one side of a connection allows and waits for.

    Attributes:
        max_message: bytes of one message from the peer.
        max_streams: streams that the peer may have open at once.
        stream_window: bytes that the peer may send on one stream beyond what was read.
        connection_window: the same for all its streams together.
        max_held: bytes of messages longer than a frame that are being put together or wait to be read,
            with `FRAME_COST` for each frame, for the whole connection; beyond, streams are reset with
            `busy`. At least twice `max_message`, so that one message always fits.
        handshake_timeout: seconds until the peer's HELLO must be here.
        close_timeout: seconds that closing waits until what was written has left.

    Raises:
        UsageError: a value is out of range.
    """

    max_message: int = 16 << 20
    max_streams: int = 1024
    stream_window: int = 256 << 10
    connection_window: int = 8 << 20
    max_held: int = 64 << 20
    handshake_timeout: float = 10.0
    close_timeout: float = 1.0

    def __post_init__(self) -> None:
        if not (
            1 <= self.max_message <= MAX_WINDOW
            and self.max_held >= 2 * self.max_message
            and 0 <= self.max_streams <= 1 << 20
            and MIN_WINDOW <= self.stream_window <= self.connection_window <= MAX_WINDOW
        ):
            raise UsageError(
                "a channel setting is out of range",
                fix=f"Windows: {MIN_WINDOW} to {MAX_WINDOW}, the stream's at most the connection's; "
                "max_message at most half of max_held.",
            )


class MessageBudget:
    """Counts bytes of long messages in memory; one object may be shared by all connections of a server.

    Args:
        limit: bytes.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
