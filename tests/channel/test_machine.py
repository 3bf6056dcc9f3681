"""The state machine alone: handshake, streams, flow control, misbehaviour, bounds."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.channel import (
    ChannelClosed,
    ChannelMachine,
    MessageBudget,
    MessageTooLarge,
    ProtocolError,
    Role,
    Settings,
    Side,
    UsageError,
)
from geumgo.channel._events import Ended, Failed, GoAway, Message, Opened, Pong, Ready, WasReset
from geumgo.channel._settings import (
    ABUSE_BURST,
    ABUSE_PER_SECOND,
    FRAME_COST,
    MAX_PAYLOAD,
    MAX_WINDOW,
    MAX_WRITE,
    MIN_WINDOW,
    SEND_BACKLOG,
    STREAM_SLACK,
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
    WINDOW,
    Hello,
    frame,
    reset_frame,
    window_frame,
)

Make = Callable[..., Any]
SMALL = Settings(
    max_message=1 << 20,
    max_streams=4,
    stream_window=MIN_WINDOW,
    connection_window=2 * MIN_WINDOW,
    max_held=2 << 20,
)


def opening(
    stream: int, message: bytes = b"", flags: int = 0, *, kind: bytes = b"k", deadline: int = 0
) -> bytes:
    return frame(OPEN, flags, stream, OPEN_HEAD.pack(deadline, len(kind), 0) + kind + message)


def hello(**changes: Any) -> bytes:
    return frame(HELLO, 0, 0, Hello.of(changes.pop("role", Role.CALL), Settings(**changes)).to_payload())


class TestHandshake:
    def test_dialling_side_speaks_first(self) -> None:
        assert ChannelMachine(Side.DIAL, Settings()).take() == hello()
        assert ChannelMachine(Side.ACCEPT, Settings()).take() == b""

    def test_both_learn_role_and_limits(self) -> None:
        dial = ChannelMachine(Side.DIAL, SMALL, role=Role.CONTROL)
        accept = ChannelMachine(Side.ACCEPT, Settings(), grant=lambda wanted: wanted)
        assert accept.receive(dial.take()) == [Ready(Role.CONTROL, Hello.of(Role.CONTROL, SMALL))]
        assert dial.receive(accept.take()) == [Ready(Role.CONTROL, Hello.of(Role.CONTROL, Settings()))]

    def test_control_may_be_denied(self) -> None:
        dial = ChannelMachine(Side.DIAL, Settings(), role=Role.CONTROL)
        accept = ChannelMachine(Side.ACCEPT, Settings())
        accept.receive(dial.take())
        dial.receive(accept.take())
        assert dial.role is accept.role is Role.CALL

    def test_a_role_that_nobody_asked_for_is_refused(self) -> None:
        dial = ChannelMachine(Side.DIAL, Settings())
        assert isinstance(dial.receive(hello(role=Role.CONTROL))[0], Failed)

    @pytest.mark.parametrize(
        "first",
        [
            pytest.param(frame(PING, 0, 0, bytes(8)), id="another type"),
            pytest.param(frame(HELLO, 1, 0, hello()[10:]), id="flags"),
            pytest.param(frame(HELLO, 0, 1, hello()[10:]), id="stream"),
            pytest.param(frame(GOAWAY, 0, 0, b"draining"), id="refusal"),
            pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
            pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        ],
    )
    def test_anything_but_hello_first_fails(self, first: bytes) -> None:
        accept = ChannelMachine(Side.ACCEPT, Settings())
        (event,) = accept.receive(first)
        assert isinstance(event, Failed)
        assert event.error.code == "malformed"
        assert accept.take()[4] == GOAWAY
        assert accept.receive(hello()) == []

    def test_nothing_can_be_opened_before(self) -> None:
        machine = ChannelMachine(Side.DIAL, Settings())
        with pytest.raises(ChannelClosed):
            machine.open("k", {})


class TestStreams:
    def test_a_call_is_one_frame_each_way(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("operation", {"name": "echo"}, deadline_ms=5, message=b"hi", end=True)
        assert stream == 1
        request = pair.dial.take()
        (event,) = pair.accept.receive(request)
        assert event == Opened(1, "operation", {"name": "echo"}, 5, b"hi", True, FRAME_COST + 2)
        assert HEADER.unpack_from(request)[0] + 4 == len(request)
        pair.accept.consumed(1, event.cost)
        assert pair.accept.send(1, b"hello", True)
        answer = pair.accept.take()
        assert HEADER.unpack_from(answer)[0] + 4 == len(answer)
        assert pair.dial.receive(answer) == [Message(1, b"hello", True, FRAME_COST + 5, 0)]
        assert not pair.dial.is_open(1)
        assert not pair.accept.is_open(1)
        assert pair.dial.outbound == 0
        assert pair.accept.inbound == 1
        pair.accept.release()
        assert pair.accept.inbound == 0

    def test_ids_are_odd_for_the_dialling_side_and_even_for_the_other(self, machines: Make) -> None:
        pair = machines()
        assert [pair.dial.open("k", {}) for _ in range(3)] == [1, 3, 5]
        assert [pair.accept.open("k", {}) for _ in range(3)] == [2, 4, 6]

    def test_the_accepting_side_needs_the_control_role(self) -> None:
        dial, accept = ChannelMachine(Side.DIAL, Settings()), ChannelMachine(Side.ACCEPT, Settings())
        accept.receive(dial.take())
        dial.receive(accept.take())
        with pytest.raises(UsageError):
            accept.open("egress", {})
        (event,) = dial.receive(opening(2))
        assert isinstance(event, Failed)

    def test_empty_messages_are_messages(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {}, message=b"")
        pair.dial.send(stream, b"")
        pair.dial.send(stream, b"", end=True)
        pair.exchange()
        assert pair.messages(pair.seen_by_accept) == {1: [b"", b"", b""]}
        assert pair.seen_by_accept[-1].end

    def test_half_close_without_a_message(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {})
        pair.dial.end(stream)
        pair.dial.end(stream)
        pair.exchange()
        assert pair.seen_by_accept[1:] == [Ended(stream)]
        pair.accept.send(stream, b"still", False)
        pair.accept.end(stream)
        pair.exchange()
        assert pair.messages(pair.seen_by_dial) == {1: [b"still"]}
        assert not pair.dial.is_open(stream)

    def test_open_with_end_and_no_message(self, machines: Make) -> None:
        pair = machines()
        pair.dial.open("k", {}, end=True)
        pair.exchange()
        assert pair.seen_by_accept == [Opened(1, "k", {}, 0, None, True, 0)]

    def test_end_waits_behind_a_message_that_waits(self, machines: Make) -> None:
        pair = machines(SMALL)
        stream = pair.dial.open("k", {})
        assert not pair.dial.send(stream, b"x" * 300_000)
        pair.dial.end(stream)
        with pytest.raises(UsageError):
            pair.dial.send(stream, b"late")
        pair.exchange()
        assert pair.messages(pair.seen_by_accept) == {1: [b"x" * 300_000]}
        assert pair.seen_by_accept[-1].end

    def test_sending_after_the_end(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {}, message=b"", end=True)
        with pytest.raises(UsageError):
            pair.dial.send(stream, b"")

    def test_reset_ends_both_directions(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {})
        pair.exchange()
        pair.accept.reset(stream, "forbidden", False)
        pair.accept.reset(stream, "forbidden", False)
        pair.exchange()
        assert pair.seen_by_dial == [WasReset(stream, "forbidden", False)]
        assert not pair.dial.is_open(stream)
        assert not pair.accept.is_open(stream)

    def test_frames_that_cross_a_reset_are_ignored(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {})
        pair.exchange()
        pair.accept.reset(stream, "busy", True)
        pair.dial.send(stream, b"on its way")
        pair.dial.reset(stream, "cancelled")
        pair.exchange()
        assert pair.dial.error is None
        assert pair.accept.error is None

    def test_streams_that_the_peer_does_not_allow(self, machines: Make) -> None:
        pair = machines(SMALL)
        for _ in range(4):
            pair.dial.open("k", {})
        assert not pair.dial.can_open
        with pytest.raises(UsageError):
            pair.dial.open("k", {})

    def test_message_over_the_peers_limit(self, machines: Make) -> None:
        pair = machines(dial_settings=Settings(), settings=SMALL)
        with pytest.raises(MessageTooLarge):
            pair.dial.open("k", {}, message=bytes((1 << 20) + 1))
        stream = pair.dial.open("k", {})
        with pytest.raises(MessageTooLarge):
            pair.dial.send(stream, bytes((1 << 20) + 1))
        assert pair.dial.is_open(stream)

    def test_last_stream_id_drains(self, machines: Make) -> None:
        pair = machines()
        pair.dial._next = 0xFFFF_FF01
        with pytest.raises(ChannelClosed) as caught:
            pair.dial.open("k", {})
        assert caught.value.code == "draining"


class TestLongMessages:
    @pytest.mark.parametrize("size", [MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 1 << 20, 3_333_333])
    @pytest.mark.parametrize("settings", [Settings(), Settings(stream_window=MIN_WINDOW)])
    def test_any_size_arrives_whole(self, machines: Make, size: int, settings: Settings) -> None:
        pair = machines(settings)
        content = random.Random(size).randbytes(size)
        stream = pair.dial.open("k", {}, message=content)
        pair.dial.send(stream, content, end=True)
        pair.exchange()
        assert pair.messages(pair.seen_by_accept) == {stream: [content, content]}
        assert pair.accept._held == 0
        assert pair.dial.sent().count(stream) >= 1

    def test_long_messages_take_turns(self, machines: Make) -> None:
        pair = machines()
        first = pair.dial.open("k", {}, message=b"a" * (1 << 20))
        second = pair.dial.open("k", {}, message=b"b" * (1 << 20))
        pair.exchange()
        order = [event.stream for event in pair.seen_by_accept if isinstance(event, Message)]
        assert order == [first, second]
        assert len(pair.dial.sent()) == 2

    def test_a_short_message_is_not_held_up_by_a_long_one(self, machines: Make) -> None:
        pair = machines()
        pair.dial.open("k", {}, message=b"a" * (8 << 20))
        pair.dial.take()
        short = pair.dial.open("k", {}, message=b"b")
        taken = pair.dial.take()
        assert HEADER.pack(7, DATA, END_MESSAGE, short) + b"b" in taken
        assert len(taken) <= MAX_WRITE + MAX_PAYLOAD + 200

    def test_a_turn_is_about_one_write(self, machines: Make) -> None:
        pair = machines()
        pair.dial.open("k", {}, message=b"a" * (8 << 20))
        while data := pair.dial.take():
            assert len(data) <= MAX_WRITE + MAX_PAYLOAD
            pair.accept.receive(data)

    def test_too_large_for_this_side_resets_the_stream_only(self, machines: Make) -> None:
        pair = machines(SMALL)
        pair.dial._max_send = 1 << 30  # a peer that doesn't keep to our HELLO
        bad = pair.dial.open("k", {}, message=bytes((1 << 20) + 1))
        good = pair.dial.open("k", {}, message=b"fine")
        pair.exchange()
        assert WasReset(bad, "too_large", False) in pair.seen_by_dial
        assert pair.messages(pair.seen_by_accept) == {good: [b"fine"]}
        assert pair.accept._held == 0

    def test_one_frame_over_a_tiny_limit(self, machines: Make) -> None:
        tiny = Settings(max_message=10)
        pair = machines(tiny)
        pair.dial._max_send = 1 << 30
        pair.dial.open("k", {}, message=b"x" * 11)
        stream = pair.dial.open("k", {}, message=b"x" * 10)
        pair.dial.send(stream, b"x" * 11)
        pair.exchange()
        assert [event.code for event in pair.seen_by_dial if isinstance(event, WasReset)] == ["too_large"] * 2
        assert pair.messages(pair.seen_by_accept) == {stream: [b"x" * 10]}

    def test_held_messages_are_bounded(self, machines: Make) -> None:
        pair = machines(Settings(max_message=1 << 20, max_held=2 << 20))
        for _ in range(8):
            pair.dial.open("k", {}, message=bytes(1_000_000))
        pair.exchange(consume=False)
        assert 1_000_000 < pair.accept._held <= 2 << 20
        assert {event.code for event in pair.seen_by_dial if isinstance(event, WasReset)} == {"busy"}

    def test_a_budget_is_shared_and_given_back(self, machines: Make) -> None:
        budget = MessageBudget(2 << 20)
        pairs = [machines(Settings(max_message=1 << 20), budget=budget) for _ in range(4)]
        for pair in pairs:
            pair.dial.open("k", {}, message=bytes(1_000_000))
            pair.exchange(consume=False)
        assert 1_000_000 < budget.used <= 2 << 20
        assert sum(1 for pair in pairs if any(isinstance(e, WasReset) for e in pair.seen_by_dial)) == 2
        for pair in pairs:
            pair.accept.close()
        assert budget.used == 0

    def test_reading_after_close_gives_nothing_back_twice(self, machines: Make) -> None:
        budget = MessageBudget(64 << 20)
        pair = machines(budget=budget)
        pair.dial.open("k", {}, message=bytes(1_000_000))
        pair.exchange(consume=False)
        event = pair.seen_by_accept[-1]
        pair.accept.close()
        pair.accept.consumed(event.stream, event.cost, event.held)
        assert budget.used == 0


class TestFlowControl:
    def test_a_sender_stops_at_the_streams_window(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {})
        for _ in range(1000):
            pair.dial.send(stream, b"x" * 1000)
        pair.exchange(consume=False)
        arrived = len(pair.messages(pair.seen_by_accept)[stream])
        window = pair.accept.settings.stream_window
        assert window - 2000 - FRAME_COST <= arrived * (1000 + FRAME_COST) <= window

    def test_a_sender_stops_at_the_connections_window(self, machines: Make) -> None:
        pair = machines(Settings(stream_window=MIN_WINDOW, connection_window=3 * MIN_WINDOW))
        for _ in range(20):
            pair.dial.open("k", {}, message=b"x" * 60_000)
        pair.exchange(consume=False)
        assert len(pair.messages(pair.seen_by_accept)) == 3

    def test_credit_lets_it_go_on(self, machines: Make) -> None:
        pair = machines(SMALL)
        stream = pair.dial.open("k", {})
        for index in range(500):
            pair.dial.send(stream, b"%d" % index + b"x" * 1000)
        pair.exchange(consume=True)
        assert len(pair.messages(pair.seen_by_accept)[stream]) == 500

    def test_empty_messages_use_up_credit(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {})
        for _ in range(50_000):
            pair.dial.send(stream, b"")
        pair.exchange(consume=False)
        window = pair.accept.settings.stream_window
        assert len(pair.messages(pair.seen_by_accept)[stream]) <= window // FRAME_COST

    def test_a_stream_without_credit_does_not_stop_others(self, machines: Make) -> None:
        pair = machines()
        stuck = pair.dial.open("k", {}, message=b"x" * MAX_PAYLOAD)
        for _ in range(100):
            pair.dial.send(stuck, b"x" * MAX_PAYLOAD)
        pair.exchange(consume=False)
        pair.seen_by_accept.clear()
        free = pair.dial.open("k", {}, message=b"y")
        pair.exchange(consume=False)
        assert pair.messages(pair.seen_by_accept) == {free: [b"y"]}

    def test_credit_returns_for_what_crossed_a_reset(self, machines: Make) -> None:
        pair = machines(SMALL)
        for _ in range(50):
            stream = pair.dial.open("k", {})
            pair.exchange()
            pair.accept.reset(stream, "busy", True)
            pair.accept.release()
            pair.dial.send(stream, b"x" * 60_000)
            pair.exchange()
        assert pair.accept.error is None
        assert pair.dial._send_window > 60_000

    def test_window_frames_are_rare(self, machines: Make) -> None:
        pair = machines()
        stream = pair.dial.open("k", {})
        for _ in range(200):
            pair.dial.send(stream, b"x" * 1000)
        for event in pair.accept.receive(pair.dial.take()):
            if isinstance(event, Message):
                pair.accept.consumed(event.stream, event.cost)
        assert len(pair.accept.take()) <= 2 * 14

    def test_a_backlog_makes_senders_wait(self, machines: Make) -> None:
        pair = machines()
        streams = [pair.dial.open("k", {}) for _ in range(100)]
        done = [pair.dial.send(stream, b"x" * 60_000) for stream in streams]
        assert not all(done)
        assert pair.dial.backlog <= SEND_BACKLOG + MAX_PAYLOAD + 100
        assert not pair.dial.can_open
        pair.exchange()
        assert len(pair.messages(pair.seen_by_accept)) == 100


class TestDrain:
    def test_draining_refuses_new_streams_and_finishes_old(self, machines: Make) -> None:
        pair = machines()
        old = pair.dial.open("k", {})
        pair.exchange()
        pair.accept.drain()
        pair.accept.drain()
        crossing = pair.dial.open("k", {}, message=b"x", end=True)
        pair.exchange()
        assert WasReset(crossing, "draining", True) in pair.seen_by_dial
        assert GoAway("draining") in pair.seen_by_dial
        with pytest.raises(ChannelClosed) as caught:
            pair.dial.open("k", {})
        assert caught.value.code == "draining"
        with pytest.raises(ChannelClosed):
            pair.accept.open("k", {})
        pair.dial.send(old, b"still works", True)
        pair.exchange()
        assert pair.messages(pair.seen_by_accept) == {old: [b"still works"]}


class TestPing:
    def test_ping_is_answered_with_its_payload(self, machines: Make) -> None:
        pair = machines()
        pair.dial.ping(b"12345678")
        pair.exchange()
        assert pair.seen_by_dial == [Pong(b"12345678")]


def _bad_frames() -> list[Any]:
    return [
        pytest.param(b"\x00\x01\x00\x07\x03\x00\x00\x00\x00\x01", id="longer than a frame may be"),
        pytest.param(b"\xff\xff\xff\xff\x03\x00\x00\x00\x00\x01", id="4 GiB"),
        pytest.param(b"\x00\x00\x00\x05\x03\x00\x00\x00\x00\x01", id="shorter than a header"),
        pytest.param(b"\x00" * 10, id="zeros"),
        pytest.param(frame(0, 0, 0), id="type 0"),
        pytest.param(frame(9, 0, 0), id="unknown type"),
        pytest.param(hello(), id="second HELLO"),
        pytest.param(opening(2), id="OPEN with an id of the other side"),
        pytest.param(opening(0), id="OPEN of stream 0"),
        pytest.param(opening(1, flags=4), id="OPEN with an unknown flag"),
        pytest.param(opening(1) + opening(1), id="OPEN twice"),
        pytest.param(opening(5) + opening(3), id="OPEN backwards"),
        pytest.param(opening(1, b"x", END_STREAM), id="OPEN that ends within a message"),
        pytest.param(frame(OPEN, 0, 1, b"\0\0\0\0\1\0"), id="OPEN that is too short"),
        pytest.param(frame(OPEN, 0, 1, OPEN_HEAD.pack(0, 5, 0) + b"k"), id="OPEN shorter than its kind"),
        pytest.param(frame(OPEN, 0, 1, OPEN_HEAD.pack(0, 1, 9) + b"k"), id="OPEN shorter than its metadata"),
        pytest.param(opening(1, kind=b""), id="OPEN without a kind"),
        pytest.param(opening(1, kind=b"\xff"), id="OPEN with a kind that is no UTF-8"),
        pytest.param(opening(1, kind=b"k" * 65), id="OPEN with a long kind"),
        pytest.param(frame(DATA, END_MESSAGE, 1), id="DATA for a stream that nobody opened"),
        pytest.param(frame(DATA, END_MESSAGE, 2), id="DATA for a stream that we didn't open"),
        pytest.param(frame(DATA, END_MESSAGE, 0), id="DATA for stream 0"),
        pytest.param(opening(1) + frame(DATA, 4, 1, b"x"), id="DATA with an unknown flag"),
        pytest.param(opening(1) + frame(DATA, 0, 1), id="DATA that says nothing"),
        pytest.param(opening(1) + frame(DATA, END_STREAM, 1, b"x"), id="DATA that ends within a message"),
        pytest.param(
            opening(1) + frame(DATA, 0, 1, b"x") + frame(DATA, END_STREAM, 1), id="end within a message"
        ),
        pytest.param(opening(1, flags=END_STREAM) + frame(DATA, END_MESSAGE, 1), id="DATA after the end"),
        pytest.param(frame(WINDOW, 0, 0, b"\0\0\0"), id="WINDOW too short"),
        pytest.param(frame(WINDOW, 0, 0, bytes(4)), id="WINDOW of nothing"),
        pytest.param(frame(WINDOW, 1, 0, b"\0\0\0\1"), id="WINDOW with flags"),
        pytest.param(window_frame(0, MAX_WINDOW), id="WINDOW over 31 bits"),
        pytest.param(opening(1) + window_frame(1, MAX_WINDOW), id="a stream's WINDOW over 31 bits"),
        pytest.param(window_frame(7, 1), id="WINDOW for a stream that nobody opened"),
        pytest.param(reset_frame(1, "busy", True), id="RESET for a stream that nobody opened"),
        pytest.param(opening(1) + frame(RESET, 2, 1, b"busy"), id="RESET with an unknown flag"),
        pytest.param(opening(1) + frame(RESET, 0, 1, b"B\xff"), id="RESET with bytes for a code"),
        pytest.param(frame(GOAWAY, 0, 0, b""), id="GOAWAY without a code"),
        pytest.param(frame(GOAWAY, 0, 1, b"busy"), id="GOAWAY of a stream"),
        pytest.param(frame(PING, 0, 0, bytes(7)), id="PING too short"),
        pytest.param(frame(PING, 1, 0, bytes(8)), id="PING with flags"),
        pytest.param(frame(PONG, 0, 3, bytes(8)), id="PONG of a stream"),
        pytest.param(frame(PING, 0, 0, bytes(60_000)), id="PING bomb"),
    ]


class TestMisbehaviour:
    @pytest.mark.parametrize("data", _bad_frames())
    def test_the_connection_fails_once_with_our_error(self, machines: Make, data: bytes) -> None:
        pair = machines()
        events = pair.accept.receive(data)
        assert isinstance(events[-1], Failed)
        assert isinstance(events[-1].error, ProtocolError)
        assert pair.accept.error is events[-1].error
        assert pair.accept.take().endswith(frame(GOAWAY, 0, 0, b"malformed"))
        assert pair.accept.receive(opening(9)) == []
        with pytest.raises(ChannelClosed):
            pair.accept.open("k", {})

    def test_more_than_a_streams_credit(self, machines: Make) -> None:
        pair = machines(SMALL)
        piece = frame(DATA, END_MESSAGE, 1, bytes(40_000))
        events = pair.accept.receive(opening(1) + piece + piece)
        assert isinstance(events[-1], Failed)

    def test_more_than_the_connections_credit(self, machines: Make) -> None:
        pair = machines(SMALL)
        data = b"".join(opening(number, bytes(60_000), END_MESSAGE) for number in (1, 3, 5))
        events = pair.accept.receive(data)
        assert isinstance(events[-1], Failed)
        assert len(events) == 3

    def test_credit_counts_for_streams_that_are_over(self, machines: Make) -> None:
        pair = machines(SMALL)
        pair.accept.receive(opening(1) + reset_frame(1, "cancelled", False))
        events: list[Any] = []
        for _ in range(100):  # all of it is given back at once, so this may go on
            events += pair.accept.receive(frame(DATA, END_MESSAGE, 1, bytes(60_000)))
        assert events == []
        assert pair.accept.error is None

    def test_streams_over_the_limit_are_refused_cheaply(self, machines: Make) -> None:
        pair = machines(SMALL)
        events = pair.accept.receive(b"".join(opening(2 * index + 1) for index in range(10)))
        assert len(events) == 4
        assert pair.accept.take().count(b"busy") == 6

    def test_rapid_reset_is_bounded_by_unfinished_handlers(self, machines: Make) -> None:
        pair = machines(SMALL)
        data = b"".join(
            opening(2 * index + 1) + reset_frame(2 * index + 1, "cancelled", False) for index in range(1000)
        )
        events = pair.accept.receive(data)
        assert sum(isinstance(event, Opened) for event in events) == 4 * STREAM_SLACK
        assert pair.accept.inbound == 4 * STREAM_SLACK

    def test_rapid_reset_that_goes_on_is_cut_off(self, machines: Make) -> None:
        clock = [0.0]
        pair = machines(now=lambda: clock[0])
        number = 1
        while pair.accept.error is None:
            events = pair.accept.receive(opening(number) + reset_frame(number, "cancelled", False))
            if any(isinstance(event, Opened) for event in events):
                pair.accept.release()
            pair.accept.take()
            number += 2
        assert number // 2 == ABUSE_BURST + 1
        assert pair.accept.error.code == "busy"

    def test_cancellations_at_a_bearable_rate_go_on(self, machines: Make) -> None:
        clock = [0.0]
        pair = machines(now=lambda: clock[0])
        for index in range(3 * ABUSE_BURST):
            pair.accept.receive(opening(2 * index + 1) + reset_frame(2 * index + 1, "cancelled", False))
            pair.accept.release()
            clock[0] += 1.01 / ABUSE_PER_SECOND
        assert pair.accept.error is None

    def test_ping_flood(self, machines: Make) -> None:
        pair = machines(now=lambda: 0.0)
        flood = frame(PING, 0, 0, bytes(8)) * 1000
        sent = 0
        while pair.accept.error is None:
            pair.accept.receive(flood)
            pair.accept.take()
            sent += 1000
        assert sent <= ABUSE_BURST + 1000

    def test_pings_without_reading(self, machines: Make) -> None:
        pair = machines()
        for _ in range(100):
            pair.accept.receive(frame(PING, 0, 0, bytes(8)) * 1000)
        assert pair.accept.error is not None
        assert pair.accept.backlog < 600_000

    def test_open_flood_without_reading(self, machines: Make) -> None:
        pair = machines()
        number = 1
        while pair.accept.error is None:
            for event in pair.accept.receive(opening(number)):
                if isinstance(event, Opened):  # as when a short deadline passes
                    pair.accept.reset(number, "deadline_exceeded", True)
                    pair.accept.release()
            number += 2
            assert pair.accept.backlog < 1_200_000

    def test_goaway_flood(self, machines: Make) -> None:
        pair = machines(now=lambda: 0.0)
        events = pair.accept.receive(frame(GOAWAY, 0, 0, b"busy") * (ABUSE_BURST + 1))
        assert isinstance(events[-1], Failed)

    def test_tiny_parts_of_a_message_cost_what_they_take(self, machines: Make) -> None:
        pair = machines(Settings(max_message=1 << 20, max_held=2 << 20))
        pair.accept.receive(opening(1))
        part = frame(DATA, 0, 1, b"x") * 1000
        tracemalloc.start()
        try:
            for _ in range(200):
                pair.accept.receive(part)
                pair.accept.take()
            current, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert current < 8 << 20
        assert not pair.accept.is_open(1)
        assert pair.accept._held == 0

    def test_memory_of_unread_messages_is_bounded(self, machines: Make) -> None:
        pair = machines(Settings(stream_window=256 << 10, connection_window=1 << 20))
        tracemalloc.start()
        kept: list[Any] = []
        try:
            number = 1
            kept += pair.accept.receive(opening(number))
            while pair.accept.error is None:
                kept += pair.accept.receive(frame(DATA, END_MESSAGE, number) * 1000)
            current, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(kept) <= (256 << 10) // FRAME_COST + 2
        assert current < 4 << 20

    def test_an_unfinished_frame_takes_no_more_than_its_size(self, machines: Make) -> None:
        pair = machines()
        data = opening(1) + frame(DATA, END_MESSAGE, 1, bytes(MAX_PAYLOAD))
        for index in range(len(data) - 1):
            pair.accept.receive(data[index : index + 1])
        assert len(pair.accept._pending) <= MAX_PAYLOAD + 10


class Script:
    """Random use of two machines, checked against what was sent."""

    def __init__(self, pair: Any, choices: random.Random) -> None:
        self.pair, self.choices = pair, choices
        self.sent: dict[str, dict[int, list[bytes]]] = {"dial": {}, "accept": {}}
        self.open: list[tuple[str, int]] = []

    def step(self) -> None:
        side = self.choices.choice(["dial", "accept"])
        machine = getattr(self.pair, side)
        action = self.choices.random()
        content = self.choices.randbytes(self.choices.choice([0, 1, 100, 5000, 70_000, 200_000]))
        if action < 0.3 and machine.can_open:
            message = content if self.choices.random() < 0.7 else None
            stream = machine.open("k", {"n": self.choices.randrange(3)}, message=message)
            self.sent[side][stream] = [] if message is None else [message]
            self.open += [("dial", stream), ("accept", stream)]
        elif self.open:
            side, stream = self.choices.choice(self.open)
            machine = getattr(self.pair, side)
            if not machine.is_open(stream):
                return  # its OPEN hasn't arrived
            end = self.choices.random() < 0.3
            machine.send(stream, content, end)
            self.sent[side].setdefault(stream, []).append(content)
            if end:
                self.open.remove((side, stream))

    def move(self) -> None:
        """Move some bytes, cut anywhere."""
        for source, target, seen in (
            (self.pair.dial, self.pair.accept, self.pair.seen_by_accept),
            (self.pair.accept, self.pair.dial, self.pair.seen_by_dial),
        ):
            data = source.take()
            while data:
                cut = self.choices.choice([1, 7, 10, 11, 1000, 65_546, len(data)])
                events = target.receive(data[:cut])
                data = data[cut:]
                seen += events
                for event in events:
                    assert not isinstance(event, Failed), event.error
                    if isinstance(event, Message):
                        target.consumed(event.stream, event.cost, event.held)
                    elif isinstance(event, Opened):
                        target.consumed(event.stream, event.cost)
                        target.release()


class TestProperties:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 1 << 32), st.booleans())
    def test_every_message_arrives_in_order_however_it_is_cut(
        self, machines: Make, seed: int, small: bool
    ) -> None:
        pair = machines(
            Settings(max_streams=40, stream_window=MIN_WINDOW, connection_window=MIN_WINDOW)
            if small
            else Settings()
        )
        script = Script(pair, random.Random(seed))
        for _ in range(60):
            script.step()
            if script.choices.random() < 0.4:
                script.move()
        for _ in range(2000):
            script.move()
            if not (pair.dial.has_output or pair.accept.has_output):
                break
        assert pair.messages(pair.seen_by_accept) == {k: v for k, v in script.sent["dial"].items() if v}
        assert pair.messages(pair.seen_by_dial) == {k: v for k, v in script.sent["accept"].items() if v}
        assert pair.dial._held == pair.accept._held == 0

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.binary(max_size=200), max_size=8))
    def test_garbage_gives_only_our_error(self, machines: Make, pieces: list[bytes]) -> None:
        pair = machines()
        for piece in pieces:
            for event in pair.accept.receive(piece):
                assert not isinstance(event, Failed) or isinstance(event.error, ProtocolError)

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 9),
                st.integers(0, 4),
                st.integers(0, 8),
                st.one_of(
                    st.binary(max_size=40),
                    st.sampled_from(
                        [b"\0\0\0\0\1\0\0k", b"\0\0\0\0\1\0\0kmessage", b"busy", bytes(8), b"\0\0\0\1"]
                    ),
                ),
            ),
            max_size=12,
        ),
        st.integers(1, 50),
    )
    def test_frames_of_any_content_give_only_our_error(
        self, machines: Make, frames: list[tuple[int, int, int, bytes]], cut: int
    ) -> None:
        whole, parts = machines(), machines()
        data = b"".join(frame(*fields) for fields in frames)
        at_once = whole.accept.receive(data)
        piecewise = [
            e for start in range(0, len(data), cut) for e in parts.accept.receive(data[start : start + cut])
        ]
        assert [e for e in at_once if not isinstance(e, Failed)] == [
            e for e in piecewise if not isinstance(e, Failed)
        ]
        assert (whole.accept.error is None) == (parts.accept.error is None)
        assert whole.accept.take() == parts.accept.take()

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 1 << 32))
    def test_a_damaged_conversation_gives_only_our_error(self, machines: Make, seed: int) -> None:
        choices = random.Random(seed)
        pair = machines()
        for _ in range(5):
            stream = pair.dial.open("operation", {"name": "x"}, message=choices.randbytes(50))
            pair.dial.send(stream, choices.randbytes(20), choices.random() < 0.5)
        data = bytearray(pair.dial.take())
        for _ in range(choices.randrange(1, 4)):
            data[choices.randrange(len(data))] = choices.randrange(256)
        for event in pair.accept.receive(bytes(data)):
            assert not isinstance(event, Failed) or event.error.code in ("malformed", "busy")
