"""Connections over real sockets, on both loops."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from geumgo._base import GeumgoError
from geumgo.channel import (
    ChannelBusy,
    ChannelClosed,
    Connection,
    ControlSlot,
    DeadlineExceeded,
    MessageTooLarge,
    ProtocolError,
    Role,
    Settings,
    Stream,
    StreamReset,
    UsageError,
)
from geumgo.channel._settings import MAX_PAYLOAD, MAX_WAITING, MAX_WRITE, MIN_WINDOW

Pair = Callable[..., Awaitable[tuple[Connection, Connection]]]


class Gate:
    """A handler that waits, and tells what became of it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = 0
        self.running = 0
        self.peak = 0

    async def __call__(self, stream: Stream) -> None:
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.entered.set()
        try:
            await self.release.wait()
            await stream.reply(b"done")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self.left.set()


async def eventually(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds (the test's timeout is the bound)."""
    while not condition():
        await asyncio.sleep(0.001)


class TestCall:
    async def test_answer(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            assert stream.kind == "operation"
            assert dict(stream.metadata) == {"name": "up", "sealed": False}
            assert stream.remaining is None
            message = await stream.receive()
            assert message is not None
            assert await stream.receive() is None
            await stream.reply(message.upper())

        dial, accept = await pair(handler)
        assert await dial.call("operation", b"abc", metadata={"name": "up", "sealed": False}) == b"ABC"
        await eventually(lambda: not accept.in_flight)
        assert dial.in_flight == 0

    @pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD - 12, MAX_PAYLOAD, 1 << 20, 16 << 20])
    async def test_any_size_both_ways(self, pair: Pair, size: int) -> None:
        dial, _ = await pair(_reply)
        content = random.Random(size).randbytes(size)
        assert await dial.call("k", content) == content

    async def test_other_buffers_are_copied(self, pair: Pair) -> None:
        dial, _ = await pair(_reply)
        buffer = bytearray(b"abc")
        task = asyncio.ensure_future(dial.call("k", buffer))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        buffer[:] = b"xyz"
        assert await task == b"abc"

    async def test_many_at_once_in_any_order(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            message = await stream.receive() or b""
            await asyncio.sleep(message[0] / 20_000)
            await stream.reply(message)

        dial, _ = await pair(handler)
        messages = [random.Random(index).randbytes(1 + index % 3000) for index in range(500)]
        assert await asyncio.gather(*(dial.call("k", message) for message in messages)) == messages

    async def test_both_directions_on_a_control_connection(self, pair: Pair) -> None:
        dial, accept = await pair(_reply, dial_handler=_reply)
        assert await asyncio.gather(dial.call("a", b"1"), accept.call("b", b"2")) == [b"1", b"2"]

    async def test_our_error_crosses_as_its_code(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            raise GeumgoError("with a detail that stays inside", code="busy", retryable=True)

        dial, _ = await pair(handler)
        with pytest.raises(StreamReset) as caught:
            await dial.call("k")
        assert (caught.value.code, caught.value.retryable) == ("busy", True)
        assert "detail" not in str(caught.value)

    @pytest.mark.parametrize("error", [ValueError("secret"), GeumgoError("x", code="a_local_code")])
    async def test_other_errors_cross_as_internal(self, pair: Pair, error: Exception) -> None:
        async def handler(stream: Stream) -> None:
            raise error

        dial, accept = await pair(handler)
        with pytest.raises(StreamReset) as caught:
            await dial.call("k")
        assert (caught.value.code, caught.value.retryable) == ("internal", False)
        assert await dial.ping() >= 0
        assert accept.in_flight == 0

    async def test_no_answer_is_internal(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            return

        dial, _ = await pair(handler)
        with pytest.raises(StreamReset) as caught:
            await dial.call("k", b"x")
        assert caught.value.code == "internal"

    async def test_answer_with_the_end_apart(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            await stream.send(b"answer")
            await asyncio.sleep(0.01)

        dial, _ = await pair(handler)
        assert await dial.call("k") == b"answer"

    async def test_two_answers_are_internal(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            await stream.send(b"x" * 1_000_000)
            await stream.send(b"y" * 1_000_000)

        dial, accept = await pair(handler)
        with pytest.raises(StreamReset) as caught:
            await dial.call("k")
        assert caught.value.code == "internal"
        assert dial._machine._held == 0
        await eventually(lambda: not accept.in_flight)

    async def test_nobody_serves(self, pair: Pair) -> None:
        _, accept = await pair()
        with pytest.raises(StreamReset) as caught:
            await accept.call("egress")
        assert caught.value.code == "unknown_operation"

    async def test_message_over_the_peers_limit(self, pair: Pair) -> None:
        dial, _ = await pair(_reply, settings=Settings(max_message=1000))
        with pytest.raises(MessageTooLarge):
            await dial.call("k", bytes(1001))
        assert len(await dial.call("k", bytes(1000))) == 1000


async def _reply(stream: Stream) -> None:
    await stream.reply(await stream.receive() or b"")


class TestCancel:
    async def test_cancelling_a_call_cancels_its_handler(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        task = asyncio.ensure_future(dial.call("k"))
        await gate.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gate.left.wait()
        assert gate.cancelled == 1
        await eventually(lambda: not accept.in_flight)
        assert dial.in_flight == 0
        assert dial._machine._streams == accept._machine._streams == {}

    async def test_cancelling_before_the_handler_has_run(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        task = asyncio.ensure_future(dial.call("k"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await dial.ping() >= 0
        await eventually(lambda: not accept.in_flight)
        assert accept._machine.inbound == 0

    async def test_a_handler_may_be_cancelled_from_outside(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

        dial, _ = await pair(handler)
        with pytest.raises(StreamReset) as caught:
            await dial.call("k")
        assert caught.value.code == "cancelled"

    async def test_cancelling_a_send_that_waits_resets_the_stream(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        stream = await dial.open("k")
        task = asyncio.ensure_future(stream.send(bytes(4 << 20)))
        await gate.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gate.left.wait()
        with pytest.raises(StreamReset):
            await stream.send(b"")
        await eventually(lambda: not accept.in_flight)
        assert dial.in_flight == 0

    async def test_cancelling_a_receive_keeps_the_stream(self, pair: Pair) -> None:
        dial, _ = await pair()
        async with await dial.open("k") as stream:
            task = asyncio.ensure_future(stream.receive())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.send(b"x")
            assert await stream.receive() == b"x"

    async def test_a_thousand_cancelled_calls_leave_nothing(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        tasks = [asyncio.ensure_future(dial.call("k", bytes(100), timeout=30)) for _ in range(1000)]
        await eventually(lambda: gate.running > 500)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: not accept.in_flight)
        assert dial._deadlines._ticks == {}
        assert accept._deadlines._ticks == {}
        assert dial._machine.outbound == accept._machine.inbound == 0


class TestDeadline:
    async def test_a_call_ends_on_both_sides(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        with pytest.raises(DeadlineExceeded) as caught:
            await dial.call("k", timeout=0.05)
        assert (caught.value.code, caught.value.retryable) == ("deadline_exceeded", True)
        await gate.left.wait()
        assert gate.cancelled == 1
        await eventually(lambda: not accept.in_flight)

    async def test_the_server_keeps_it_too(self, raw_peer: Any) -> None:
        gate = Gate()
        peer, connection = await raw_peer(gate)
        peer.machine.open("k", {}, deadline_ms=30, message=b"", end=True)
        await peer.send(peer.machine.take())
        await peer.read()
        (event,) = peer.events
        assert event.code == "deadline_exceeded"
        await eventually(lambda: not connection.in_flight)
        assert gate.cancelled == 1

    async def test_remaining_counts_down(self, pair: Pair) -> None:
        seen: list[float | None] = []

        async def handler(stream: Stream) -> None:
            seen.append(stream.remaining)
            await asyncio.sleep(0.01)
            seen.append(stream.remaining)
            await stream.reply(b"")

        dial, _ = await pair(handler)
        await dial.call("k", timeout=5)
        first, second = seen
        assert first is not None
        assert second is not None
        assert 5 >= first > second > 4

    async def test_a_streams_deadline(self, pair: Pair) -> None:
        dial, accept = await pair()
        stream = await dial.open("k", timeout=0.05)
        with pytest.raises(DeadlineExceeded):
            await stream.receive()
        with pytest.raises(DeadlineExceeded):
            await stream.send(b"")
        await eventually(lambda: not accept.in_flight)
        assert dial.in_flight == 0

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("-inf")])
    async def test_no_time_at_all(self, pair: Pair, timeout: float) -> None:
        dial, _ = await pair(_reply)
        with pytest.raises(DeadlineExceeded):
            await dial.call("k", timeout=timeout)

    async def test_a_great_deal_of_time(self, pair: Pair) -> None:
        dial, _ = await pair(_reply)
        assert await dial.call("k", b"x", timeout=float("inf")) == b"x"
        assert await dial.call("k", b"x", timeout=1e300) == b"x"

    async def test_a_call_that_waits_for_its_turn_has_a_deadline(self, pair: Pair) -> None:
        gate = Gate()
        dial, _ = await pair(gate, settings=Settings(max_streams=1))
        first = asyncio.ensure_future(dial.call("k"))
        await gate.entered.wait()
        with pytest.raises(DeadlineExceeded):
            await dial.call("k", timeout=0.05)
        gate.release.set()
        assert await first == b"done"


class TestStreams:
    async def test_messages_both_ways_in_order(self, pair: Pair) -> None:
        dial, _ = await pair()
        async with await dial.open("k", metadata={"host": "h", "port": 443}) as stream:
            for index in range(100):
                await stream.send(b"%d" % index)
            stream.end()
            assert [message async for message in stream] == [b"%d" % index for index in range(100)]
            assert await stream.receive() is None

    async def test_half_close_by_the_server_first(self, pair: Pair) -> None:
        got: list[bytes] = []
        done = asyncio.Event()

        async def handler(stream: Stream) -> None:
            await stream.reply(b"only this")
            async for message in stream:
                got.append(message)
            done.set()

        dial, _ = await pair(handler)
        async with await dial.open("k") as stream:
            assert await stream.receive() == b"only this"
            assert await stream.receive() is None
            await stream.send(b"more")
            await stream.send(b"", end=True)
            await done.wait()
        assert got == [b"more", b""]

    async def test_the_answer_survives_a_handler_that_does_not_read_on(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            await stream.receive()
            await stream.reply(b"enough")

        dial, accept = await pair(handler)
        async with await dial.open("k") as stream:
            await stream.send(b"1")
            await eventually(lambda: stream._error is not None)
            assert await stream.receive() == b"enough"
            assert await stream.receive() is None
            with pytest.raises(StreamReset):
                await stream.send(b"2")
        await eventually(lambda: not accept.in_flight)
        assert dial.in_flight == 0

    async def test_messages_before_an_error_are_received(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            await stream.send(b"part")
            raise GeumgoError("x", code="forbidden")

        dial, _ = await pair(handler)
        stream = await dial.open("k")
        assert await stream.receive() == b"part"
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == "forbidden"
        assert "forbidden" in repr(stream)

    async def test_leaving_the_block_resets(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        async with await dial.open("k"):
            await gate.entered.wait()
        await gate.left.wait()
        assert gate.cancelled == 1
        await eventually(lambda: not accept.in_flight)

    async def test_what_has_arrived_is_had_without_waiting(self, pair: Pair) -> None:
        async def server(stream: Stream) -> None:
            assert stream.unread == 1
            first = stream.receive_nowait()
            with pytest.raises(UsageError):
                stream.receive_nowait()
            await stream.reply(first)

        dial, _ = await pair(server)
        for number in range(100):  # more than the window: what is taken this way is credited, too
            assert await dial.call("k", bytes([number]) * 8192) == bytes([number]) * 8192

    async def test_misuse(self, pair: Pair) -> None:
        dial, _ = await pair()
        stream = await dial.open("k")
        waiting = asyncio.ensure_future(stream.receive())
        await asyncio.sleep(0)
        with pytest.raises(UsageError):
            await stream.receive()
        stream.end()
        stream.end()
        with pytest.raises(UsageError):
            await stream.send(b"late")
        assert await waiting is None
        stream.reset("cancelled")
        assert "ended/ended" in repr(stream)

    async def test_local_codes_do_not_cross(self, pair: Pair) -> None:
        gate = Gate()
        dial, _ = await pair(gate)
        stream = await dial.open("k")
        stream.reset("my_local_code")
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == "internal"

    async def test_a_thousand_streams_at_once(self, pair: Pair) -> None:
        both_sides = asyncio.Event()
        open_now = 0

        async def handler(stream: Stream) -> None:
            nonlocal open_now
            open_now += 1
            if open_now == 1000:
                both_sides.set()
            async for message in stream:
                await stream.send(message)

        dial, accept = await pair(handler)

        async def one(index: int) -> None:
            content = random.Random(index).randbytes(200)
            async with await dial.open("k") as stream:
                await stream.send(content)
                assert await stream.receive() == content
                await both_sides.wait()
                await stream.send(content * 10, end=True)
                assert [message async for message in stream] == [content * 10]

        await asyncio.gather(*(one(index) for index in range(1000)))
        await eventually(lambda: not accept.in_flight)
        assert dial.in_flight == 0

    async def test_more_streams_than_allowed_take_turns(self, pair: Pair) -> None:
        gate = Gate()
        gate.release.set()
        dial, _ = await pair(gate, settings=Settings(max_streams=5))
        answers = await asyncio.gather(*(dial.call("k", timeout=20) for _ in range(300)))
        assert answers == [b"done"] * 300
        assert gate.peak <= 10
        assert dial._turns._admitted == 0

    async def test_turns_are_not_lost_by_cancelling(self, pair: Pair) -> None:
        gate = Gate()
        dial, _ = await pair(gate, settings=Settings(max_streams=2))
        tasks = [asyncio.ensure_future(dial.call("k")) for _ in range(30)]
        await eventually(lambda: gate.running == 2)
        for task in tasks[::2]:
            task.cancel()
        gate.release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.result() for task in tasks[1::2]] == [b"done"] * 15
        assert dial._turns._admitted == 0
        assert not dial._turns._waiting

    async def test_too_many_that_wait(self, pair: Pair) -> None:
        gate = Gate()
        dial, _ = await pair(gate, settings=Settings(max_streams=1))
        tasks = [asyncio.ensure_future(dial.call("k")) for _ in range(MAX_WAITING + 1)]
        await gate.entered.wait()
        with pytest.raises(ChannelBusy):
            await dial.call("k")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def test_a_peer_that_takes_no_streams(self, pair: Pair) -> None:
        dial, _ = await pair(settings=Settings(max_streams=0))
        with pytest.raises(UsageError):
            await dial.call("k")


class TestFlowControl:
    async def test_a_receiver_that_does_not_read_stops_the_sender(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        stream = await dial.open("k")

        async def flood() -> None:
            while True:
                await stream.send(bytes(10_000))

        task = asyncio.ensure_future(flood())
        await gate.entered.wait()
        await eventually(lambda: dial._machine.is_open(stream.id) and not dial._machine.has_output)
        await dial.ping()
        (inbound,) = accept._streams.values()
        window = accept._settings.stream_window
        assert sum(len(data) for data, _, _ in inbound._messages) <= window
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_stuck_stream_does_not_stop_others(self, pair: Pair) -> None:
        async def handler(stream: Stream) -> None:
            if stream.kind == "stuck":
                await asyncio.Event().wait()
            await _reply(stream)

        dial, _ = await pair(handler)
        stuck = asyncio.ensure_future(dial.call("stuck", bytes(1 << 20)))
        for _ in range(20):
            assert await dial.call("k", b"x" * 50_000) == b"x" * 50_000
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

    async def test_smallest_windows(self, pair: Pair) -> None:
        tight = Settings(stream_window=MIN_WINDOW, connection_window=MIN_WINDOW)
        dial, _ = await pair(_reply, settings=tight)
        content = [random.Random(index).randbytes(300_000) for index in range(8)]
        assert await asyncio.gather(*(dial.call("k", item) for item in content)) == content

    async def test_a_socket_that_is_full(self, pair: Pair) -> None:
        dial, accept = await pair()
        for connection in (dial, accept):
            connection._pump._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with await dial.open("k") as stream:
            for size in (100_000, 1, 300_000):
                await stream.send(bytes(size))
            stream.end()
            assert [len(message) async for message in stream] == [100_000, 1, 300_000]

    async def test_writes_stay_in_their_range(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        dial, _ = await pair(_reply)
        sizes: list[int] = []
        sock = dial._pump._sock

        class Recorder:
            def send(self, data: memoryview) -> int:
                sizes.append(len(data))
                return sock.send(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(sock, name)

        monkeypatch.setattr(dial._pump, "_sock", Recorder())
        await asyncio.gather(
            dial.call("k", bytes(4 << 20)), *(dial.call("k", bytes(900)) for _ in range(500))
        )
        monkeypatch.undo()
        assert max(sizes) <= MAX_WRITE
        assert sum(sizes) / len(sizes) > 32 << 10


class TestControl:
    async def test_first_that_asks_gets_it(self, pair: Pair) -> None:
        slot = ControlSlot()
        first, accepted = await pair(slot=slot)
        second, _ = await pair(slot=slot)
        third, _ = await pair(slot=slot, role=Role.CALL)
        assert (first.role, second.role, third.role) == (Role.CONTROL, Role.CALL, Role.CALL)
        assert slot.holder is accepted
        assert "taken" in repr(slot)

    async def test_it_is_free_again_when_the_connection_closes(self, pair: Pair) -> None:
        slot = ControlSlot()
        first, accepted = await pair(slot=slot)
        await first.aclose()
        await accepted.wait_closed()
        assert slot.holder is None
        again, _ = await pair(slot=slot)
        assert again.role is Role.CONTROL

    async def test_call_connections_take_nothing_from_the_enclave(self, pair: Pair) -> None:
        _, accept = await pair(role=Role.CALL)
        with pytest.raises(UsageError):
            await accept.open("egress")

    async def test_a_server_without_a_slot_grants_none(self) -> None:
        ours, theirs = socket.socketpair()
        dial, accept = await asyncio.gather(
            Connection.dial(ours, role=Role.CONTROL), Connection.accept(theirs, handler=_reply)
        )
        assert dial.role is Role.CALL
        await dial.aclose()
        await accept.aclose()


class TestDrain:
    async def test_in_flight_finishes_and_new_is_refused(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        old = asyncio.ensure_future(dial.call("k"))
        await gate.entered.wait()
        draining = asyncio.ensure_future(accept.drain())
        await eventually(lambda: dial.draining)
        with pytest.raises(ChannelClosed) as caught:
            await dial.call("k")
        assert (caught.value.code, caught.value.retryable) == ("draining", True)
        assert not draining.done()
        gate.release.set()
        assert await old == b"done"
        await draining
        assert "draining" in repr(accept)

    async def test_waiting_callers_are_told(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate, settings=Settings(max_streams=1))
        first = asyncio.ensure_future(dial.call("k"))
        await gate.entered.wait()
        second = asyncio.ensure_future(dial.call("k"))
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(accept.drain())
        with pytest.raises(ChannelClosed) as caught:
            await second
        assert caught.value.code == "draining"
        gate.release.set()
        assert await first == b"done"
        await draining

    async def test_draining_ends_with_the_connection(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        call = asyncio.ensure_future(dial.call("k"))
        await gate.entered.wait()
        draining = asyncio.ensure_future(accept.drain())
        await asyncio.sleep(0)
        await dial.aclose()
        await draining
        with pytest.raises(ChannelClosed):
            await call
        await accept.drain()


class TestClose:
    async def test_calls_in_flight_fail_as_unavailable(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        call = asyncio.ensure_future(dial.call("k"))
        stream = await dial.open("k")
        receiving = asyncio.ensure_future(stream.receive())
        sending = asyncio.ensure_future(stream.send(bytes(4 << 20)))
        ping = asyncio.ensure_future(dial.ping())
        await gate.entered.wait()
        await accept.aclose()
        for task in (call, receiving, sending):
            with pytest.raises(ChannelClosed) as caught:
                await task
            assert (caught.value.code, caught.value.retryable) == ("unavailable", True)
        await asyncio.gather(ping, return_exceptions=True)
        await dial.wait_closed()
        assert gate.cancelled == 2
        assert dial.closed
        assert accept.closed
        with pytest.raises(ChannelClosed):
            await dial.call("k")
        with pytest.raises(ChannelClosed):
            await dial.open("k")
        with pytest.raises(ChannelClosed):
            await dial.ping()

    async def test_what_was_answered_still_arrives(self, pair: Pair) -> None:
        dial, accept = await pair(_reply)

        async def handler(stream: Stream) -> None:
            await stream.reply(b"x" * 200_000)
            await accept.aclose()

        accept._handler = handler
        assert await dial.call("k") == b"x" * 200_000
        await dial.wait_closed()

    async def test_closing_does_not_wait_for_a_peer_that_does_not_read(self, raw_peer: Any) -> None:
        async def handler(stream: Stream) -> None:
            await stream.reply(bytes(200_000))

        peer, connection = await raw_peer(handler, Settings(close_timeout=0.05))
        for _ in range(20):
            peer.machine.open("k", {})
        await peer.send(peer.machine.take())
        await eventually(lambda: connection._pump._unsent is not None)
        await connection.aclose()
        assert connection.closed

    async def test_a_peer_that_vanishes_while_we_write(self, pair: Pair) -> None:
        gate = Gate()
        dial, accept = await pair(gate)
        sending = asyncio.ensure_future(dial.call("k", bytes(8 << 20)))
        await gate.entered.wait()
        accept._loop.remove_reader(accept._pump._sock)
        accept._pump._sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ChannelClosed):
            await sending
        await dial.wait_closed()

    async def test_answers_that_arrived_before_the_end_count(self, raw_peer: Any) -> None:
        """The peer answers and goes; our next write fails first, and its answer is still read."""
        peer, connection = await raw_peer()
        call = asyncio.ensure_future(connection.call("k"))
        await asyncio.sleep(0)
        await peer.read()
        peer.machine.send(2, b"answer", True)
        await peer.send(peer.machine.take())
        peer.sock.close()
        connection._machine.ping(bytes(8))
        connection._pump.flush()
        assert await call == b"answer"
        await connection.wait_closed()

    async def test_closing_twice_and_context(self, pair: Pair) -> None:
        dial, accept = await pair(_reply)
        async with dial:
            assert await dial.call("k", b"x") == b"x"
        await dial.aclose()
        await accept.wait_closed()
        assert isinstance(accept.error, ChannelClosed)
        assert "closed" in repr(dial)

    async def test_nothing_is_left_in_memory(self, pair: Pair) -> None:
        dial, accept = await pair(_reply)
        for _ in range(200):
            await dial.call("k", bytes(1000), timeout=5)
        await eventually(lambda: not accept.in_flight)
        gc.collect()
        streams = [thing for thing in gc.get_objects() if isinstance(thing, Stream)]
        assert not [stream for stream in streams if stream._connection is accept]


class TestHandshake:
    async def test_silence(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(ChannelClosed) as caught:
            await Connection.dial(ours, settings=Settings(handshake_timeout=0.05))
        assert caught.value.retryable
        assert ours.fileno() == -1

    async def test_end_of_stream(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        with pytest.raises(ChannelClosed):
            await Connection.accept(ours, handler=_reply)

    async def test_another_protocol(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(ProtocolError):
                await Connection.dial(ours)
            assert theirs.recv(1000).endswith(b"malformed")

    async def test_cancelled(self) -> None:
        ours, theirs = socket.socketpair()
        task = asyncio.ensure_future(Connection.dial(ours))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ours.fileno() == -1
        theirs.close()


class TestPing:
    async def test_ping(self, pair: Pair) -> None:
        dial, accept = await pair()
        assert 0 <= await dial.ping() < 5
        assert 0 <= await accept.ping() < 5

    async def test_no_answer(self, raw_peer: Any) -> None:
        _, connection = await raw_peer()
        with pytest.raises(DeadlineExceeded):
            await connection.ping(0.02)
        pings = [asyncio.ensure_future(connection.ping()) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(ChannelBusy):
            await connection.ping()
        for task in pings:
            task.cancel()
        await asyncio.gather(*pings, return_exceptions=True)


class TestMisbehaviour:
    async def test_garbage_closes_with_a_reason(self, raw_peer: Any) -> None:
        gate = Gate()
        peer, connection = await raw_peer(gate)
        peer.machine.open("k", {})
        await peer.send(peer.machine.take() + bytes(10))
        events = await peer.until_closed()
        assert events[-1].code == "malformed"
        assert isinstance(connection.error, ProtocolError)
        await connection.wait_closed()
        assert connection._streams == {}

    async def test_rapid_reset(self, raw_peer: Any) -> None:
        gate = Gate()
        peer, connection = await raw_peer(gate, Settings(max_streams=16))
        for _ in range(50):
            for _ in range(200):
                peer.machine.outbound = 0
                peer.machine.reset(peer.machine.open("k", {}), "cancelled")
            await peer.send(peer.machine.take())
            assert gate.peak <= 32
            assert len(connection._streams) <= 32
        await eventually(lambda: not connection.in_flight)

    async def test_random_bytes_after_the_handshake(self, raw_peer: Any) -> None:
        for seed in range(30):
            peer, connection = await raw_peer()
            await peer.send(random.Random(seed).randbytes(2000))
            await connection.wait_closed()
            assert isinstance(connection.error, ProtocolError)


class TestStress:
    @pytest.mark.parametrize("seed", range(3))
    async def test_everything_at_once(self, pair: Pair, seed: int) -> None:
        """Calls, streams, cancellations, deadlines and failures together; then nothing is left."""
        choices = random.Random(seed)

        async def handler(stream: Stream) -> None:
            mode = stream.metadata.get("mode")
            if mode == "fail":
                raise ValueError
            if mode == "hang":
                await asyncio.Event().wait()
            async for message in stream:
                if mode == "slow":
                    await asyncio.sleep(0.001)
                await stream.send(message)

        dial, accept = await pair(
            handler, dial_handler=handler, settings=Settings(max_streams=50, connection_window=1 << 20)
        )

        async def one(connection: Connection) -> None:
            mode = choices.choice(["echo", "echo", "slow", "fail", "hang", "cancel", "leave"])
            content = choices.randbytes(choices.choice([0, 10, 1000, 60_000, 400_000]))
            if mode == "hang":
                with pytest.raises(DeadlineExceeded):
                    await connection.call("k", content, metadata={"mode": mode}, timeout=0.05)
            elif mode == "fail":
                with pytest.raises(StreamReset):
                    await connection.call("k", content, metadata={"mode": mode})
            elif mode == "cancel":
                task = asyncio.ensure_future(connection.call("k", content, metadata={"mode": "hang"}))
                await asyncio.sleep(choices.random() / 100)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            elif mode == "leave":
                async with await connection.open("k", metadata={"mode": "slow"}) as stream:
                    await stream.send(content)
            else:
                async with await connection.open("k", metadata={"mode": mode}) as stream:
                    for _ in range(3):
                        await stream.send(content)
                        assert await stream.receive() == content
                    stream.end()
                    assert await stream.receive() is None

        await asyncio.gather(*(one(choices.choice([dial, accept])) for _ in range(300)))
        await eventually(lambda: not dial.in_flight and not accept.in_flight)
        for connection in (dial, accept):
            machine = connection._machine
            assert machine._streams == {}
            assert (machine.inbound, machine.outbound, machine._held) == (0, 0, 0)
            assert connection._deadlines._ticks == {}
        assert await dial.call("k", b"alive", metadata={"mode": "echo"}) == b"alive"
