"""What both halves of the machine know: limits, credit, streams, what waits to be written."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable

import msgspec

from geumgo.channel._errors import ProtocolError
from geumgo.channel._metadata import OpenCodec
from geumgo.channel._settings import (
    ABUSE_BURST,
    ABUSE_PER_SECOND,
    HEADER_SIZE,
    MAX_REPLY_BACKLOG,
    MessageBudget,
    Settings,
)
from geumgo.channel._wire import HELLO, Hello, Role, frame, window_frame

__all__ = ("MachineState", "Outgoing", "Side", "StreamState")


class Side(enum.Enum):
    """Which end of the connection: the dialling side's streams have odd ids, the other's even."""

    DIAL = 1
    ACCEPT = 0


class Outgoing:
    """A message that couldn't leave at once, and how much of it has."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, end: bool) -> None:
        self.data = memoryview(data)
        self.offset = 0
        self.end = end


class StreamState(msgspec.Struct, gc=False):
    """What the machine knows of one stream that is not over. A Struct, for one is made each call."""

    id: int
    inbound: bool
    send_window: int
    recv_window: int
    send_open: bool = True
    recv_open: bool = True
    debt: int = 0  # consumed, not yet given back to the peer
    parts: list[bytes] | None = None  # of a message whose end isn't here
    parts_size: int = 0
    parts_held: int = 0
    queue: deque[Outgoing] | None = None
    ready: bool = False  # stands in the machine's round of streams that can send


class MachineState:
    """The state of one side of one connection; see :class:`ChannelMachine`.

    Args:
        side: dialling or accepting.
        settings: what this side allows.
        role: what the dialling side asks for.
        grant: on the accepting side, decides about the role that the peer asks for.
        budget: counts long messages in memory; shared between connections or, if None, its own.
        now: monotonic seconds, to forgive old misbehaviour.
    """

    def __init__(
        self,
        side: Side,
        settings: Settings,
        *,
        role: Role = Role.CALL,
        grant: Callable[[Role], Role] = lambda wanted: Role.CALL,
        budget: MessageBudget | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.role = role
        self.peer: Hello | None = None
        self.error: ProtocolError | None = None
        self.peer_draining = False
        self.draining = False
        self.outbound = 0
        """Streams of this side that are open."""
        self.inbound = 0
        """Streams of the peer that are open or not released yet."""
        self._open_inbound = 0  # the peer's streams that aren't over; `inbound` counts unreleased ones too
        self._closed = False
        self._dials = side is Side.DIAL
        self._grant = grant
        self._budget = MessageBudget(settings.max_held) if budget is None else budget
        self._held = 0  # this connection's part of the budget
        self._now = now
        self._codec = OpenCodec()
        self._stream_window = settings.stream_window
        self._max_inbound = settings.max_streams
        self._max_message = settings.max_message
        self._parity = 0 if self._dials else 1  # of the peer's stream ids
        self._streams: dict[int, StreamState] = {}
        self._next = 1 if self._dials else 2
        self._highest = 0  # of the peer's ids
        # receiving
        self._pending = bytearray()
        self._need = HEADER_SIZE
        self._recv_window = settings.connection_window
        self._debt = 0
        self._debt_limit = settings.connection_window // 2
        self._stream_debt_limit = settings.stream_window // 2
        self._tokens = float(ABUSE_BURST)
        self._tokens_at = now()
        # sending
        self._out: list[bytes | memoryview] = []
        self.backlog = 0
        """Bytes that wait for `take`."""
        self._replies = 0
        self._send_window = 0
        self._may_open = False
        self._max_outbound = 0  # what the peer's HELLO allows
        self._max_send = 0
        self._initial_send_window = 0
        self._round: deque[StreamState] = deque()
        self._sent: list[int] = []
        if self._dials:
            self._put(frame(HELLO, 0, 0, Hello.of(role, settings).to_payload()))

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self.backlog += len(data)

    def _reply(self, data: bytes) -> None:
        """Put what the peer provoked; a peer that provokes and doesn't read is cut off."""
        self._replies += len(data)
        if self._replies > MAX_REPLY_BACKLOG:
            raise ProtocolError("the peer provokes answers and doesn't read them", code="busy")
        self._put(data)

    def _forget(self, state: StreamState) -> None:
        del self._streams[state.id]
        if state.inbound:
            self._open_inbound -= 1
        else:
            self.outbound -= 1
        if state.parts_held:
            self._held -= state.parts_held
            self._budget.used -= state.parts_held
        state.queue = None  # it may stand in the round still

    def _credit(self, state: StreamState | None, price: int) -> None:
        """Give credit back, in pieces of half a window so that WINDOW frames stay rare."""
        self._debt += price
        if self._debt >= self._debt_limit:
            self._recv_window += self._debt
            self._put(window_frame(0, self._debt))
            self._debt = 0
        if state is not None and state.recv_open:
            state.debt += price
            if state.debt >= self._stream_debt_limit:
                state.recv_window += state.debt
                self._put(window_frame(state.id, state.debt))
                state.debt = 0

    def _charge(self) -> None:
        """Count a frame that makes work and brings nothing (§9)."""
        self._tokens -= 1
        if self._tokens < 0:
            now = self._now()
            self._tokens += min(ABUSE_BURST, (now - self._tokens_at) * ABUSE_PER_SECOND)
            self._tokens_at = now
            if self._tokens < 0:
                raise ProtocolError("the peer resets or pings far too often", code="busy")
