"""Many request and answer streams over one byte stream, with flow control; docs/spec/channel.md."""

from geumgo.channel._connection import Connection, Handler
from geumgo.channel._control import ControlSlot
from geumgo.channel._errors import (
    ChannelBusy,
    ChannelClosed,
    ChannelError,
    DeadlineExceeded,
    MessageTooLarge,
    ProtocolError,
    StreamReset,
    UsageError,
)
from geumgo.channel._machine import ChannelMachine, Side
from geumgo.channel._settings import MessageBudget, Settings
from geumgo.channel._stream import Stream
from geumgo.channel._wire import Role

__all__ = (
    "ChannelBusy",
    "ChannelClosed",
    "ChannelError",
    "ChannelMachine",
    "Connection",
    "ControlSlot",
    "DeadlineExceeded",
    "Handler",
    "MessageBudget",
    "MessageTooLarge",
    "ProtocolError",
    "Role",
    "Settings",
    "Side",
    "Stream",
    "StreamReset",
    "UsageError",
)
