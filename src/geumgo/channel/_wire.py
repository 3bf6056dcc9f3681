"""The bytes on the wire; see docs/spec/channel.md, whose section numbers stand here.

§2 frame: u32 length of what follows, u8 type, u8 flags, u32 stream id, payload; big endian.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from struct import Struct
from typing import Final

from geumgo._base import CODES
from geumgo.channel._errors import ProtocolError
from geumgo.channel._settings import MAX_CODE, MAX_WINDOW, MIN_WINDOW, Settings

__all__ = (
    "DATA",
    "END_MESSAGE",
    "END_STREAM",
    "GOAWAY",
    "HEADER",
    "HELLO",
    "MAGIC",
    "OPEN",
    "OPEN_HEAD",
    "PING",
    "PONG",
    "RESET",
    "RETRYABLE",
    "VERSION",
    "WINDOW",
    "WINDOW_PAYLOAD",
    "Hello",
    "Role",
    "frame",
    "goaway_frame",
    "parse_code",
    "reset_frame",
    "window_frame",
)

HEADER: Final = Struct(">IBBI")

HELLO: Final = 1
OPEN: Final = 2
DATA: Final = 3
WINDOW: Final = 4
RESET: Final = 5
GOAWAY: Final = 6
PING: Final = 7
PONG: Final = 8

END_STREAM: Final = 0x01
"""OPEN and DATA: the sender sends nothing more on this stream."""
END_MESSAGE: Final = 0x02
"""OPEN and DATA: the payload's message bytes are the last of the message."""
RETRYABLE: Final = 0x01
"""RESET: the same call may succeed later."""

OPEN_HEAD: Final = Struct(">IBH")
"""Relative deadline in milliseconds (0: none), bytes of the kind, bytes of the metadata."""
WINDOW_PAYLOAD: Final = Struct(">I")

MAGIC: Final = b"GMGO"
VERSION: Final = 1
_HELLO = Struct(">4sBBHIIII")
_CODE = re.compile(rb"[a-z][a-z_]*\Z")


class Role(enum.Enum):
    """What a connection may be used for: `control` also for streams that the accepting side opens."""

    CALL = "call"
    CONTROL = "control"


_ROLES = (Role.CALL, Role.CONTROL)


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of each side (§3): what it wants or grants, and what it allows."""

    role: Role
    max_message: int
    max_streams: int
    stream_window: int
    connection_window: int

    @classmethod
    def of(cls, role: Role, settings: Settings) -> Hello:
        """Return what a side with these settings says."""
        return cls(
            role,
            settings.max_message,
            settings.max_streams,
            settings.stream_window,
            settings.connection_window,
        )

    def to_payload(self) -> bytes:
        """Return the payload of the HELLO frame."""
        return _HELLO.pack(
            MAGIC,
            VERSION,
            _ROLES.index(self.role),
            0,
            self.max_message,
            self.max_streams,
            self.stream_window,
            self.connection_window,
        )

    @classmethod
    def parse(cls, payload: bytes) -> Hello:
        """Return what the payload says.

        Raises:
            ProtocolError: another protocol or version, or a limit out of range.
        """
        if len(payload) != _HELLO.size or payload[:4] != MAGIC:
            raise ProtocolError("the peer doesn't speak Geumgo's channel protocol")
        _, version, role, reserved, message, streams, window, connection = _HELLO.unpack(payload)
        if version != VERSION:
            raise ProtocolError(f"the peer speaks version {version} of the channel protocol, not {VERSION}")
        if (
            role >= len(_ROLES)
            or reserved
            or not 1 <= message <= MAX_WINDOW
            or streams > MAX_WINDOW
            or not MIN_WINDOW <= window <= MAX_WINDOW
            or not MIN_WINDOW <= connection <= MAX_WINDOW
        ):
            raise ProtocolError("a limit in the peer's HELLO is out of range")
        return cls(_ROLES[role], message, streams, window, connection)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one whole frame."""
    return HEADER.pack(6 + len(payload), kind, flags, stream) + payload


def window_frame(stream: int, credit: int) -> bytes:
    """Return the frame that gives the peer `credit` more bytes, on a stream or (0) the connection."""
    return HEADER.pack(10, WINDOW, 0, stream) + WINDOW_PAYLOAD.pack(credit)


def reset_frame(stream: int, code: str, retryable: bool) -> bytes:
    """Return the frame that ends a stream by an error; codes that are not ours become `internal`."""
    if code not in CODES:
        code, retryable = "internal", False
    return frame(RESET, RETRYABLE if retryable else 0, stream, code.encode())


def goaway_frame(code: str) -> bytes:
    """Return the frame that says that no new streams are taken."""
    return frame(GOAWAY, 0, 0, code.encode())


def parse_code(payload: bytes) -> str:
    """Return the error code in a RESET or GOAWAY; one that this version doesn't know is `internal`.

    Raises:
        ProtocolError: it isn't a code at all.
    """
    if len(payload) > MAX_CODE or not _CODE.match(payload):
        raise ProtocolError("an error code from the peer is malformed")
    code = payload.decode("ascii")
    return code if code in CODES else "internal"
