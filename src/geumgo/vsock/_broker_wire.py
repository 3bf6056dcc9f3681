"""The packets between a sandboxed program and its launcher: 16 bytes each, at most one descriptor.

One SOCK_SEQPACKET pair carries them, so a packet is never split or joined. Big-endian fields:
u8 version (1) · u8 kind · u16 error number · u32 id · u32 CID · u32 port. Fields that a kind does not
use are zero.
"""

from __future__ import annotations

import array
import contextlib
import enum
import os
import socket
import struct
from dataclasses import dataclass

from geumgo.vsock._errors import VsockError

__all__ = ("PACKET_SIZE", "BrokerError", "Kind", "Packet", "receive", "send")

_PACKET = struct.Struct("!BBHIII")
PACKET_SIZE = _PACKET.size
_VERSION = 1
_DESCRIPTOR = array.array("i").itemsize


class BrokerError(VsockError):
    """Raised when the other side of the broker's socket breaks the protocol or is gone."""

    code = "broker"
    retryable = False


class Kind(enum.IntEnum):
    """What a packet says."""

    DIAL = 1
    """Program: connect to CID and port; `id` names the attempt."""
    LISTEN = 2
    """Program: hand over what arrives for `port`."""
    UNLISTEN = 3
    """Program: no more of that. Not answered."""
    CANCEL = 4
    """Program: forget attempt `id`. Not answered; an answer that was on its way still arrives."""
    DIALLED = 16
    """Launcher: attempt `id` is connected; carries the socket."""
    LISTENING = 17
    """Launcher: `id` was granted."""
    REFUSED = 18
    """Launcher: attempt `id` failed with the error number."""
    ACCEPTED = 19
    """Launcher: a connection for `port` from `CID` (all ones: not known); carries the socket."""


_FROM_PROGRAM = frozenset((Kind.DIAL, Kind.LISTEN, Kind.UNLISTEN, Kind.CANCEL))
_WITH_SOCKET = frozenset((Kind.DIALLED, Kind.ACCEPTED))


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet without its descriptor."""

    kind: Kind
    id: int = 0
    cid: int = 0
    port: int = 0
    error: int = 0

    @property
    def from_program(self) -> bool:
        """Whether the program sends such packets (else the launcher does)."""
        return self.kind in _FROM_PROGRAM

    def to_bytes(self) -> bytes:
        """Return the 16 bytes."""
        return _PACKET.pack(_VERSION, self.kind, self.error, self.id, self.cid, self.port)

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Return the packet that exactly these bytes are.

        Raises:
            BrokerError: another length, version or kind.
        """
        if len(data) != PACKET_SIZE:
            raise BrokerError("a broker packet has another length than 16 bytes")
        version, kind, error, id_, cid, port = _PACKET.unpack(data)
        if version != _VERSION:
            raise BrokerError(f"broker protocol version {version} is not known")
        try:
            return cls(Kind(kind), id_, cid, port, error)
        except ValueError:
            raise BrokerError(f"broker packet kind {kind} is not known") from None


def send(sock: socket.socket, packet: Packet, passed: socket.socket | None = None) -> None:
    """Send one packet, with a socket if its kind carries one.

    Raises:
        BlockingIOError: the other side does not read; wait until the socket is writable.
        OSError: the other side is gone, or the kernel refuses to pass the descriptor.
    """
    if passed is None:
        sock.send(packet.to_bytes())
        return
    rights = array.array("i", (passed.fileno(),))
    sock.sendmsg((packet.to_bytes(),), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, rights),))


def receive(sock: socket.socket) -> tuple[Packet, socket.socket | None] | None:
    """Return the next packet and the socket that came with it; None when the other side closed.

    A packet whose kind carries a socket comes without it when this process has no descriptor left.

    Raises:
        BlockingIOError: nothing is there yet.
        BrokerError: not a packet, or a socket too many or too few for its kind.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        PACKET_SIZE + 1, socket.CMSG_SPACE(_DESCRIPTOR), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = _descriptors(ancillary)
    try:
        if not data and not ancillary:
            return None
        if flags & socket.MSG_TRUNC:
            raise BrokerError("a broker packet has another length than 16 bytes")
        packet = Packet.parse(data)
        if flags & socket.MSG_CTRUNC and not descriptors:
            return packet, None  # this process is out of descriptors; that one connection is lost
        if len(descriptors) != (packet.kind in _WITH_SOCKET):
            raise BrokerError(f"a {packet.kind.name} packet carries {len(descriptors)} descriptors")
        if not descriptors:
            return packet, None
        try:
            passed = socket.socket(fileno=descriptors[0])
        except OSError:
            raise BrokerError("the descriptor in a broker packet is no socket") from None
        descriptors.clear()
        passed.setblocking(False)
        return packet, passed
    finally:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
