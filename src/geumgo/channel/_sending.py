"""The half of the machine that its owner calls: streams, messages, credit, bytes to write."""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final

from geumgo.channel._errors import ChannelClosed, MessageTooLarge, UsageError
from geumgo.channel._metadata import Metadata
from geumgo.channel._settings import FRAME_COST, HEADER_SIZE, MAX_PAYLOAD, MAX_WRITE, SEND_BACKLOG
from geumgo.channel._state import MachineState, Outgoing, StreamState
from geumgo.channel._wire import (
    DATA,
    END_MESSAGE,
    END_STREAM,
    HEADER,
    OPEN,
    PING,
    frame,
    goaway_frame,
    reset_frame,
)

__all__ = ("SendingHalf",)

_LAST_STREAM: Final = 0xFFFF_FF00
"""Stream ids aren't used twice; near the end of 32 bits a connection drains itself."""
_OPEN_FRAME: Final = Struct(">IBBII")  # the header and the deadline
_DEADLINE_SIZE: Final = 4
_BOTH: Final = END_STREAM | END_MESSAGE


class SendingHalf(MachineState):
    """What the owner of a machine asks of it."""

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
        state = StreamState(number, False, self._initial_send_window, self._stream_window)
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

    def _enqueue(self, state: StreamState, message: bytes, end: bool) -> None:
        if state.queue is None:
            state.queue = deque()
        state.queue.append(Outgoing(message, end))
        self._join_round(state)

    def _join_round(self, state: StreamState) -> None:
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
