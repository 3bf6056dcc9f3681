"""What a :class:`ChannelMachine` reports about the bytes that it was given."""

from __future__ import annotations

import msgspec

from geumgo.channel._errors import ProtocolError
from geumgo.channel._metadata import Metadata
from geumgo.channel._wire import Hello, Role

__all__ = ("Ended", "Event", "Failed", "GoAway", "Message", "Opened", "Pong", "Ready", "WasReset")


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The handshake is done: the role that was granted, and what the peer allows."""

    role: Role
    peer: Hello


class Opened(msgspec.Struct, frozen=True):
    """The peer opened a stream. The receiver must call `release` once when it is through with it.

    Attributes:
        message: the first message if it came along, else None; to be consumed as a Message's.
        end: the peer sends nothing more.
        deadline_ms: milliseconds from now; 0 is none.
    """

    stream: int
    kind: str
    metadata: Metadata
    deadline_ms: int
    message: bytes | None
    end: bool
    cost: int


class Message(msgspec.Struct, frozen=True, gc=False):
    """A whole message arrived. The receiver must call `consumed` with its costs when it was read.

    Attributes:
        end: it was the last one.
        cost: bytes of the windows that it still takes.
        held: bytes of the message budget that it takes.
    """

    stream: int
    data: bytes
    end: bool
    cost: int
    held: int


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The peer sends nothing more on this stream; no message came with that."""

    stream: int


class WasReset(msgspec.Struct, frozen=True, gc=False):
    """The stream is over by an error: the peer's, or a limit of this side that the peer overran."""

    stream: int
    code: str
    retryable: bool


class GoAway(msgspec.Struct, frozen=True, gc=False):
    """The peer takes no new streams."""

    code: str


class Pong(msgspec.Struct, frozen=True, gc=False):
    """The answer to a ping."""

    payload: bytes


class Failed(msgspec.Struct, frozen=True):
    """The peer broke the protocol. Nothing more is read; what is left to send says why."""

    error: ProtocolError


Event = Ready | Opened | Message | Ended | WasReset | GoAway | Pong | Failed
