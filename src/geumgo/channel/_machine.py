"""The protocol of one connection, without IO: bytes in, events out; calls in, bytes out.

The specification is docs/spec/channel.md; its section numbers stand here. This file has the receiving
half, and with it the whole; what the owner calls is in the base class.
"""

from __future__ import annotations

from typing import Final

from geumgo.channel._errors import ProtocolError
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
from geumgo.channel._sending import SendingHalf
from geumgo.channel._settings import (
    FRAME_COST,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MAX_UNREAD_BACKLOG,
    MAX_WINDOW,
    STREAM_SLACK,
)
from geumgo.channel._state import Side, StreamState
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
)

__all__ = ("ChannelMachine", "Side")

_MAX_LENGTH: Final = HEADER_SIZE - 4 + MAX_PAYLOAD
_OPEN_SIZE: Final = HEADER_SIZE + OPEN_HEAD.size
_DEADLINE_SIZE: Final = 4
_PING_SIZE: Final = 8
_BOTH: Final = END_STREAM | END_MESSAGE
_NOT_BOTH: Final = ~_BOTH
_FRAME_PRICE: Final = FRAME_COST - (HEADER_SIZE - 4)  # with a frame's length, what a DATA frame costs


class ChannelMachine(SendingHalf):
    """One side of one connection.

    Args:
        side: dialling or accepting.
        settings: what this side allows.
        role: what the dialling side asks for.
        grant: on the accepting side, decides about the role that the peer asks for.
        budget: counts long messages in memory; shared between connections or, if None, its own.
        now: monotonic seconds, to forgive old misbehaviour.
    """

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
        state = StreamState(
            stream, True, self._initial_send_window, self._stream_window - price, True, not end
        )
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
        self, flags: int, stream: int, payload: bytes, state: StreamState | None, events: list[Event]
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

    def _part(self, state: StreamState, payload: bytes, price: int, events: list[Event]) -> None:
        """Keep a part of a message. Its credit returns at once: a message may exceed the window."""
        if state.parts is None:
            state.parts = []
        state.parts.append(payload)
        state.parts_size += len(payload)
        if self._hold(state, price, state.parts_size, events):
            self._credit(state, price)

    def _hold(self, state: StreamState, price: int, size: int, events: list[Event]) -> bool:
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

    def _overrun(self, state: StreamState, code: str, events: list[Event]) -> None:
        self._charge()
        self._reply(reset_frame(state.id, code, code == "busy"))
        self._forget(state)
        events.append(WasReset(state.id, code, code == "busy"))

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
