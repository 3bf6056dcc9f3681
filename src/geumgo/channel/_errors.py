"""What can go wrong on a channel.

ChannelError
  ├─ ChannelClosed       the connection is gone, or takes no new streams ("unavailable", "draining")
  │    └─ ProtocolError  ... because the peer broke the rules ("malformed")
  ├─ StreamReset         this stream was ended by an error code
  │    └─ DeadlineExceeded
  ├─ ChannelBusy         too many callers wait on this side already
  ├─ MessageTooLarge     over the limit that the peer, or this side, set
  └─ UsageError          the program used the channel in a way that can't work
"""

from __future__ import annotations

from geumgo._base import CODES, GeumgoError

__all__ = (
    "ChannelBusy",
    "ChannelClosed",
    "ChannelError",
    "DeadlineExceeded",
    "MessageTooLarge",
    "ProtocolError",
    "StreamReset",
    "UsageError",
)


class ChannelError(GeumgoError):
    """Raised when something on a channel fails."""


class ChannelClosed(ChannelError):
    """Raised when the connection is closed or closes, or takes no new streams.

    Whether the peer carried out what was in flight is unknown: repeat only what is idempotent. With code
    `draining` the call was not sent.
    """

    code = "unavailable"
    retryable = True


class ProtocolError(ChannelClosed):
    """Raised when the peer sent what the protocol forbids; the connection is closed."""

    code = "malformed"
    retryable = False


class StreamReset(ChannelError):
    """Raised when a stream was ended by an error code, by the peer or by this side.

    Args:
        code: one of `geumgo._base.CODES`.
        retryable: whether the peer says that the same call may succeed later (a hint).
    """

    def __init__(self, code: str, retryable: bool = False) -> None:
        title = CODES[code].title if code in CODES else "the stream was reset"
        super().__init__(title, code=code, retryable=retryable)


class DeadlineExceeded(StreamReset):
    """Raised when the deadline of a call or stream passed, whichever side noticed first."""

    def __init__(self) -> None:
        super().__init__("deadline_exceeded", True)


class ChannelBusy(ChannelError):
    """Raised when too many callers wait for a stream on this side already."""

    code = "busy"
    retryable = True


class MessageTooLarge(ChannelError):
    """Raised when a message, or metadata, is over a limit."""

    code = "too_large"


class UsageError(ChannelError):
    """Raised when the program itself misuses the channel, such as by sending after the end."""

    code = "channel_misused"
