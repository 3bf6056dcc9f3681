"""The protocol of one connection, without IO: bytes in, events out; calls in, bytes out.

The specification is docs/spec/channel.md; its section numbers stand here.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Final

import msgspec

from geumgo.channel._errors import ChannelClosed, MessageTooLarge, ProtocolError, UsageError
from geumgo.channel._events import (
    Ended,
    Event,
    Failed,
    GoAway,
    Message,
    Opened,
    Pong,
    Ready,
    WasReset,
)
from geumgo.channel._metadata import Metadata, OpenCodec
from geumgo.channel._settings import (
    ABUSE_BURST,
    ABUSE_PER_SECOND,
    FRAME_COST,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MAX_REPLY_BACKLOG,
    MAX_UNREAD_BACKLOG,
    MAX_WINDOW,
    MAX_WRITE,
    SEND_BACKLOG,
    STREAM_SLACK,
    MessageBudget,
    Settings,
)
from geumgo.channel._wire import (
    DATA,
    END_MESSAGE,
    END_STREAM,
    GOAWAY,
    HEADER,
    HELLO,
    OPEN,
    OPEN_HEAD,
    PING,
    PONG,
    RESET,
    RETRYABLE,
    WINDOW,
    WINDOW_PAYLOAD,
    Hello,
    Role,
    frame,
    goaway_frame,
    parse_code,
    reset_frame,
    window_frame,
)

__all__ = ("ChannelMachine", "Side")

_LAST_STREAM: Final = 0xFFFF_FF00
"""Stream ids aren't used twice; near the end of 32 bits a connection drains itself."""
_MAX_LENGTH: Final = HEADER_SIZE - 4 + MAX_PAYLOAD
_OPEN_SIZE: Final = HEADER_SIZE + OPEN_HEAD.size
_OPEN_FRAME: Final = Struct(">IBBII")  # the header and the deadline
_DEADLINE_SIZE: Final = 4
_PING_SIZE: Final = 8
_BOTH: Final = END_STREAM | END_MESSAGE
_NOT_BOTH: Final = ~_BOTH
_FRAME_PRICE: Final = FRAME_COST - (HEADER_SIZE - 4)  # with a frame's length, what a DATA frame costs


class Side(enum.Enum):
    """Which end of the connection: the dialling side's streams have odd ids, the other's even."""

    DIAL = 1
    ACCEPT = 0


class _Outgoing:
    """A message that couldn't leave at once, and how much of it has."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, end: bool) -> None:
        self.data = memoryview(data)
        self.offset = 0
        self.end = end


class _Stream(msgspec.Struct, gc=False):
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
    queue: deque[_Outgoing] | None = None
    ready: bool = False  # stands in the machine's round of streams that can send


class ChannelMachine:
    """One side of one connection.

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
        self._streams: dict[int, _Stream] = {}
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
        self._round: deque[_Stream] = deque()
        self._sent: list[int] = []
        if self._dials:
            self._put(frame(HELLO, 0, 0, Hello.of(role, settings).to_payload()))

    # ---- what the owner asks -------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether `open` would start a stream at once, as far as limits go."""
        return self.backlog < SEND_BACKLOG and self.outbound < self._max_outbound

    @property
    def has_output(self) -> bool:
        """Whether `take` would return bytes."""
        return bool(self._out) or (bool(self._round) and self._send_window > FRAME_COST)

    def is_open(self, stream: int) -> bool:
        """Return whether the stream is not over in both directions."""
        return stream in self._streams

    # ---- sending --------------------------------------------------------------------------------

    def open(
        self,
        kind: str,
        metadata: Metadata,
        *,
        deadline_ms: int = 0,
        message: bytes | None = None,
        end: bool = False,
    ) -> int:
        """Open a stream, with its first message if there is one, and return its id (§4).

        Raises:
            ChannelClosed: the connection failed, or a side drains.
            UsageError: this side may not open streams, or `can_open` is false.
            MessageTooLarge: message, kind or metadata.
        """
        if not self._may_open or self._next > _LAST_STREAM:
            raise self._cannot_open()
        if self.backlog >= SEND_BACKLOG or self.outbound >= self._max_outbound:
            raise UsageError("too many streams are open")
        length = 0 if message is None else len(message)
        if length > self._max_send:
            raise self._too_large(length)
        opening = self._codec.encode(kind, metadata)
        number = self._next
        self._next = number + 2
        state = _Stream(number, False, self._initial_send_window, self._stream_window)
        self._streams[number] = state
        self.outbound += 1
        size = _DEADLINE_SIZE + len(opening)
        flags = 0
        inline = message is None
        if inline:
            if end:
                flags = END_STREAM
                state.send_open = False
        elif size + length <= MAX_PAYLOAD and not self._round:
            price = FRAME_COST + length
            if price <= self._send_window:  # a new stream's own window holds any frame
                self._send_window -= price
                state.send_window -= price
                inline = True
                size += length
                flags = END_MESSAGE
                if end:
                    flags = _BOTH
                    state.send_open = False
        self._out.append(_OPEN_FRAME.pack(6 + size, OPEN, flags, number, deadline_ms) + opening)
        self.backlog += HEADER_SIZE + size
        if message is not None:
            if not inline:
                self._enqueue(state, message, end)
            elif message:
                self._out.append(message)
        return number

    def _cannot_open(self) -> ChannelClosed | UsageError:
        if self.peer is None or self._closed or self.error is not None:
            return ChannelClosed("the channel is not open")
        if self.draining or self.peer_draining or self._next > _LAST_STREAM:
            return ChannelClosed("the channel takes no new calls", code="draining")
        return UsageError("only the control role lets the accepting side open streams")

    def _too_large(self, size: int) -> MessageTooLarge:
        return MessageTooLarge(
            f"a message of {size} bytes; the peer takes {self._max_send}",
            fix="Split it into several messages.",
        )

    def send(self, stream: int, message: bytes, end: bool = False) -> bool:
        """Send a message on a stream (§5); with `end`, the last one.

        Returns:
            True if it left for the output as a whole; False if it waits for the peer's credit, or for
            others: then `sent` will name the stream once for this message.

        Raises:
            UsageError: the stream is over, or this side ended it.
            MessageTooLarge: the peer doesn't take messages of this size.
        """
        state = self._streams.get(stream)
        if state is None or not state.send_open:
            raise UsageError("this side of the stream has ended already")
        size = len(message)
        if size > self._max_send:
            raise self._too_large(size)
        price = FRAME_COST + size
        if (
            price <= state.send_window
            and price <= self._send_window
            and size <= MAX_PAYLOAD
            and not self._round
            and not state.queue
            and self.backlog < SEND_BACKLOG
        ):
            state.send_window -= price
            self._send_window -= price
            self.backlog += HEADER_SIZE + size
            if end:
                self._out.append(HEADER.pack(6 + size, DATA, _BOTH, stream))
                state.send_open = False
                if not state.recv_open:
                    self._forget(state)
            else:
                self._out.append(HEADER.pack(6 + size, DATA, END_MESSAGE, stream))
            self._out.append(message)
            return True
        if state.queue and state.queue[-1].end:
            raise UsageError("this side of the stream has ended already")
        self._enqueue(state, message, end)
        return False

    def end(self, stream: int) -> None:
        """End this side of a stream without another message; does nothing where it has ended."""
        state = self._streams.get(stream)
        if state is None or not state.send_open:
            return
        if state.queue:
            state.queue[-1].end = True
            return
        state.send_open = False
        self._put(frame(DATA, END_STREAM, stream))
        if not state.recv_open:
            self._forget(state)

    def reset(self, stream: int, code: str, retryable: bool = False) -> None:
        """End a stream by an error, in both directions (§6); does nothing where it is over."""
        state = self._streams.get(stream)
        if state is not None:
            self._put(reset_frame(stream, code, retryable))
            self._forget(state)

    def consumed(self, stream: int, price: int, held: int = 0) -> None:
        """Say that a message was read: the peer gets its credit back (§5), the budget its bytes."""
        if held and not self._closed:
            self._held -= held
            self._budget.used -= held
        self._credit(self._streams.get(stream), price)

    def release(self) -> None:
        """Say that a stream that the peer opened takes no more of this side's resources."""
        self.inbound -= 1

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life (§7); the payload, 8 bytes, comes back in a Pong."""
        self._put(frame(PING, 0, 0, payload))

    def drain(self) -> None:
        """Refuse new streams from here on and tell the peer (§8)."""
        if not self.draining:
            self.draining = True
            self._may_open = False
            self._put(goaway_frame("draining"))

    def close(self) -> None:
        """Give back what this connection holds of a shared budget; nothing works after it."""
        self._budget.used -= self._held
        self._held = 0
        self._streams.clear()
        self._round.clear()
        self._out.clear()
        self.backlog = 0
        self._closed = True
        self._may_open = False

    def take(self) -> bytes:
        """Return the bytes to write next; streams with long messages take turns, a frame each.

        What is returned may exceed one write's worth; the writer cuts it (`MAX_WRITE`).
        """
        if self._round:
            self._fill()
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        self.backlog = 0
        self._replies = 0
        return data

    def sent(self) -> list[int]:
        """Return the streams whose oldest waiting message has left with `take`, once a message."""
        sent = self._sent
        if sent:
            self._sent = []
        return sent

    def _enqueue(self, state: _Stream, message: bytes, end: bool) -> None:
        if state.queue is None:
            state.queue = deque()
        state.queue.append(_Outgoing(message, end))
        self._join_round(state)

    def _join_round(self, state: _Stream) -> None:
        if not state.ready and state.send_window > FRAME_COST:
            state.ready = True
            self._round.append(state)

    def _fill(self) -> None:
        """Cut frames from waiting messages until a write's worth is there or the credit is used up."""
        turns = self._round
        while turns and self.backlog < MAX_WRITE and self._send_window > FRAME_COST:
            state = turns.popleft()
            state.ready = False
            queue = state.queue
            if not queue or state.send_window <= FRAME_COST:
                continue  # over meanwhile, or a WINDOW brings it back
            message = queue[0]
            rest = len(message.data) - message.offset
            room = min(MAX_PAYLOAD, rest, state.send_window - FRAME_COST, self._send_window - FRAME_COST)
            flags = 0
            if room == rest:
                queue.popleft()
                self._sent.append(state.id)
                flags = _BOTH if message.end else END_MESSAGE
            self._out.append(HEADER.pack(6 + room, DATA, flags, state.id))
            self._out.append(message.data[message.offset : message.offset + room])
            self.backlog += HEADER_SIZE + room
            message.offset += room
            state.send_window -= FRAME_COST + room
            self._send_window -= FRAME_COST + room
            if flags == _BOTH:
                state.send_open = False
                if not state.recv_open:
                    self._forget(state)
            elif queue:
                self._join_round(state)

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self.backlog += len(data)

    def _reply(self, data: bytes) -> None:
        """Put what the peer provoked; a peer that provokes and doesn't read is cut off."""
        self._replies += len(data)
        if self._replies > MAX_REPLY_BACKLOG:
            raise ProtocolError("the peer provokes answers and doesn't read them", code="busy")
        self._put(data)

    def _forget(self, state: _Stream) -> None:
        del self._streams[state.id]
        if state.inbound:
            self._open_inbound -= 1
        else:
            self.outbound -= 1
        if state.parts_held:
            self._held -= state.parts_held
            self._budget.used -= state.parts_held
        state.queue = None  # it may stand in the round still

    # ---- receiving ------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer, cut anywhere, and return what they mean.

        Never raises for what the peer sends: the last event is then a :class:`Failed`, `take` returns
        a GOAWAY for the peer, and later bytes are ignored.
        """
        events: list[Event] = []
        if self._closed or self.error is not None:
            return events
        pending = self._pending
        if pending:
            pending += data
            if len(pending) < self._need:
                return events
            data = bytes(pending)
            pending.clear()
        position, size = 0, len(data)
        streams = self._streams
        whole = HEADER_SIZE - 4 + self._max_message
        try:
            while size - position >= HEADER_SIZE:
                length, kind, flags, stream = HEADER.unpack_from(data, position)
                if not HEADER_SIZE - 4 <= length <= _MAX_LENGTH:
                    raise ProtocolError("a frame's length is out of range")
                stop = position + 4 + length
                if stop > size:
                    self._need = stop - position
                    pending += data[position:]
                    return events
                if self.peer is None:
                    self._on_hello(kind, flags, stream, data[position + HEADER_SIZE : stop], events)
                elif kind == DATA:
                    state = streams.get(stream)
                    if (
                        state is not None
                        and END_MESSAGE <= flags <= _BOTH
                        and length <= whole
                        and state.recv_open
                        and state.parts is None
                    ):  # what nearly every frame is: a message of one frame
                        price = _FRAME_PRICE + length
                        self._recv_window -= price
                        state.recv_window -= price
                        if self._recv_window < 0 or state.recv_window < 0:
                            raise ProtocolError("the peer sent more than its credit")
                        end = flags == _BOTH
                        events.append(Message(stream, data[position + HEADER_SIZE : stop], end, price, 0))
                        if end:
                            state.recv_open = False
                            if not state.send_open:
                                self._forget(state)
                    else:
                        self._on_data(flags, stream, data[position + HEADER_SIZE : stop], state, events)
                elif kind == OPEN:
                    self._on_open(flags, stream, data, position, stop, events)
                else:
                    self._on_control(kind, flags, stream, data[position + HEADER_SIZE : stop], events)
                position = stop
        except ProtocolError as error:
            self.error = error
            self._may_open = False
            self._put(goaway_frame(error.code))
            events.append(Failed(error))
            return events
        if position < size:
            self._need = HEADER_SIZE
            pending += data[position:]
        return events

    def _on_hello(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        """§3: each side's first frame, and only that, is HELLO."""
        if kind == GOAWAY:
            raise ProtocolError(f"the peer refused the connection [{parse_code(payload)}]")
        if kind != HELLO or flags or stream:
            raise ProtocolError("the peer doesn't speak Geumgo's channel protocol")
        peer = Hello.parse(payload)
        if self._dials:
            if peer.role is Role.CONTROL and self.role is not Role.CONTROL:
                raise ProtocolError("the peer granted a role that nobody asked for")
            self.role = peer.role
        else:
            self.role = self._grant(peer.role)
            self._put(frame(HELLO, 0, 0, Hello.of(self.role, self.settings).to_payload()))
        self.peer = peer
        self._send_window = peer.connection_window
        self._initial_send_window = peer.stream_window
        self._max_outbound = peer.max_streams
        self._max_send = peer.max_message
        self._may_open = not self.draining and (self._dials or self.role is Role.CONTROL)
        events.append(Ready(self.role, peer))

    def _on_open(
        self, flags: int, stream: int, data: bytes, position: int, stop: int, events: list[Event]
    ) -> None:
        """§4."""
        if flags & _NOT_BOTH or stream & 1 != self._parity or stream <= self._highest:
            raise ProtocolError("an OPEN has bad flags or a bad stream id")
        if self._dials and self.role is not Role.CONTROL:
            raise ProtocolError("the peer opened a stream without the control role")
        if self.backlog > MAX_UNREAD_BACKLOG:
            raise ProtocolError("the peer opens streams and doesn't read what becomes of them", code="busy")
        start = position + HEADER_SIZE
        if stop - position < _OPEN_SIZE:
            raise ProtocolError("an OPEN is too short")
        deadline_ms, name, packed = OPEN_HEAD.unpack_from(data, start)
        body = position + _OPEN_SIZE + name + packed
        if body > stop:
            raise ProtocolError("an OPEN is shorter than its parts")
        kind, metadata = self._codec.decode(data[start + _DEADLINE_SIZE : body])
        self._highest = stream
        size = stop - body
        price = 0
        if size or flags & END_MESSAGE:
            if flags & _BOTH == END_STREAM:
                raise ProtocolError("a stream ended within a message")
            price = FRAME_COST + size
            self._recv_window -= price
            if self._recv_window < 0:
                raise ProtocolError("the peer sent more than its credit")
        if (
            self.draining
            or self._open_inbound >= self._max_inbound
            or self.inbound >= self._max_inbound * STREAM_SLACK
            or size > self._max_message
        ):
            self._refuse(stream, size, price)
            return
        self._open_inbound += 1
        self.inbound += 1
        end = flags & END_STREAM != 0
        state = _Stream(stream, True, self._initial_send_window, self._stream_window - price, True, not end)
        self._streams[stream] = state
        if flags & END_MESSAGE:
            events.append(Opened(stream, kind, metadata, deadline_ms, data[body:stop], end, price))
            return
        events.append(Opened(stream, kind, metadata, deadline_ms, None, end, 0))
        if size:
            self._part(state, data[body:stop], price, events)

    def _refuse(self, stream: int, size: int, price: int) -> None:
        """§4: answer an OPEN that this side doesn't take; it makes no event."""
        self._charge()
        self._credit(None, price)
        code = "draining" if self.draining else "too_large" if size > self._max_message else "busy"
        self._reply(reset_frame(stream, code, code != "too_large"))

    def _on_data(
        self, flags: int, stream: int, payload: bytes, state: _Stream | None, events: list[Event]
    ) -> None:
        """§5."""
        if flags & _NOT_BOTH:
            raise ProtocolError("a DATA frame has bad flags")
        size = len(payload)
        price = FRAME_COST + size if size or flags & END_MESSAGE else 0
        if not (price or flags):
            raise ProtocolError("a DATA frame says nothing")
        self._recv_window -= price
        if self._recv_window < 0:
            raise ProtocolError("the peer sent more than its credit")
        if state is None:
            self._known(stream)
            self._credit(None, price)  # it crossed a reset
            return
        if not state.recv_open:
            raise ProtocolError("DATA came after the end of its stream")
        state.recv_window -= price
        if state.recv_window < 0:
            raise ProtocolError("the peer sent more than its credit")
        end = flags & END_STREAM != 0
        if not flags & END_MESSAGE:
            if end:
                if size or state.parts:
                    raise ProtocolError("a stream ended within a message")
                events.append(Ended(stream))
                state.recv_open = False
                if not state.send_open:
                    self._forget(state)
            else:
                self._part(state, payload, price, events)
            return
        held = 0
        if state.parts is not None:
            state.parts.append(payload)
            size += state.parts_size
            if not self._hold(state, price, size, events):
                return
            payload = b"".join(state.parts)
            held = state.parts_held
            state.parts = None
            state.parts_size = state.parts_held = 0
            self._credit(state, price)
            price = 0
        elif size > self._max_message:
            self._overrun(state, "too_large", events)
            return
        events.append(Message(stream, payload, end, price, held))
        if end:
            state.recv_open = False
            if not state.send_open:
                self._forget(state)

    def _part(self, state: _Stream, payload: bytes, price: int, events: list[Event]) -> None:
        """Keep a part of a message. Its credit returns at once: a message may exceed the window."""
        if state.parts is None:
            state.parts = []
        state.parts.append(payload)
        state.parts_size += len(payload)
        if self._hold(state, price, state.parts_size, events):
            self._credit(state, price)

    def _hold(self, state: _Stream, price: int, size: int, events: list[Event]) -> bool:
        """Charge the budget for a part; where a limit is passed, reset the stream and return False."""
        state.parts_held += price
        self._held += price
        self._budget.used += price
        if size > self._max_message:
            self._credit(None, price)
            self._overrun(state, "too_large", events)
            return False
        if self._held > self.settings.max_held or self._budget.used > self._budget.limit:
            self._credit(None, price)
            self._overrun(state, "busy", events)
            return False
        return True

    def _overrun(self, state: _Stream, code: str, events: list[Event]) -> None:
        self._charge()
        self._reply(reset_frame(state.id, code, code == "busy"))
        self._forget(state)
        events.append(WasReset(state.id, code, code == "busy"))

    def _credit(self, state: _Stream | None, price: int) -> None:
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

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind == WINDOW:
            self._on_window(flags, stream, payload)
        elif kind == RESET:
            if flags & ~RETRYABLE:
                raise ProtocolError("a RESET has bad flags")
            code = parse_code(payload)
            self._known(stream)
            state = self._streams.get(stream)
            if state is not None:
                if state.inbound:
                    self._charge()
                self._forget(state)
                events.append(WasReset(stream, code, bool(flags)))
        elif flags or stream:
            raise ProtocolError("a frame of the connection has flags or a stream id")
        elif kind == GOAWAY:
            self._charge()
            self.peer_draining = True
            self._may_open = False
            events.append(GoAway(parse_code(payload)))
        elif kind in (PING, PONG) and len(payload) == _PING_SIZE:
            if kind == PONG:
                events.append(Pong(payload))
            else:
                self._charge()
                self._reply(frame(PONG, 0, 0, payload))
        else:
            raise ProtocolError("a frame is of no known type, or has a bad size")

    def _on_window(self, flags: int, stream: int, payload: bytes) -> None:
        """§5: more credit, for the connection (0) or a stream."""
        if flags or len(payload) != WINDOW_PAYLOAD.size:
            raise ProtocolError("a WINDOW frame is malformed")
        credit: int = WINDOW_PAYLOAD.unpack(payload)[0]
        if not credit:
            raise ProtocolError("a WINDOW frame gives nothing")
        if not stream:
            self._send_window += credit
            if self._send_window > MAX_WINDOW:
                raise ProtocolError("the peer gave more credit than there is")
            return
        self._known(stream)
        state = self._streams.get(stream)
        if state is not None:
            state.send_window += credit
            if state.send_window > MAX_WINDOW:
                raise ProtocolError("the peer gave more credit than there is")
            if state.queue:
                self._join_round(state)

    def _known(self, stream: int) -> None:
        """Check that a frame's stream was opened at some time."""
        mine = bool(stream & 1) == self._dials
        if not stream or (stream >= self._next if mine else stream > self._highest):
            raise ProtocolError("a frame is for a stream that nobody opened")

    def _charge(self) -> None:
        """Count a frame that makes work and brings nothing (§9)."""
        self._tokens -= 1
        if self._tokens < 0:
            now = self._now()
            self._tokens += min(ABUSE_BURST, (now - self._tokens_at) * ABUSE_PER_SECOND)
            self._tokens_at = now
            if self._tokens < 0:
                raise ProtocolError("the peer resets or pings far too often", code="busy")
