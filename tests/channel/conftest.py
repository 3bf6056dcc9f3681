"""Machines without IO, and connections over socket pairs, on both event loops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from geumgo.channel import (
    ChannelMachine,
    Connection,
    ControlSlot,
    Handler,
    Role,
    Settings,
    Side,
    Stream,
)
from geumgo.channel._events import Event, Failed, Message, Opened


@dataclass
class Machines:
    """Two machines and what each reported; `exchange` moves bytes until both are silent."""

    dial: ChannelMachine
    accept: ChannelMachine
    seen_by_dial: list[Event] = field(default_factory=list)
    seen_by_accept: list[Event] = field(default_factory=list)

    def exchange(self, *, consume: bool = True, cut: int = 1 << 30) -> None:
        while True:
            there, back = self.dial.take(), self.accept.take()
            if not there and not back:
                return
            for data, machine, seen in (
                (there, self.accept, self.seen_by_accept),
                (back, self.dial, self.seen_by_dial),
            ):
                for start in range(0, len(data), cut):
                    events = machine.receive(data[start : start + cut])
                    seen.extend(events)
                    for event in events:
                        if not consume:
                            continue
                        if isinstance(event, Message):
                            machine.consumed(event.stream, event.cost, event.held)
                        elif isinstance(event, Opened):
                            machine.consumed(event.stream, event.cost)

    def messages(self, seen: list[Event]) -> dict[int, list[bytes]]:
        """Whole messages by stream, first messages of OPEN included."""
        found: dict[int, list[bytes]] = {}
        for event in seen:
            if isinstance(event, Opened) and event.message is not None:
                found.setdefault(event.stream, []).append(event.message)
            elif isinstance(event, Message):
                found.setdefault(event.stream, []).append(event.data)
        return found

    def failure(self, seen: list[Event]) -> Failed:
        assert isinstance(seen[-1], Failed)
        return seen[-1]


@pytest.fixture(scope="session")
def machines() -> Callable[..., Machines]:
    """Make two machines whose handshake is done."""

    def make(
        settings: Settings | None = None, *, dial_settings: Settings | None = None, **accept: Any
    ) -> Machines:
        settings = settings or Settings()
        pair = Machines(
            ChannelMachine(Side.DIAL, dial_settings or settings, role=Role.CONTROL),
            ChannelMachine(Side.ACCEPT, settings, grant=lambda wanted: wanted, **accept),
        )
        pair.exchange()
        pair.seen_by_accept.clear()
        pair.seen_by_dial.clear()
        return pair

    return make


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test of this folder on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def echo(stream: Stream) -> None:
    """Answer each message of a stream with itself."""
    async for message in stream:
        await stream.send(message)


Pair = Callable[..., Awaitable[tuple[Connection, Connection]]]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Make two connections over a socket pair; both are closed at the end."""
    made: list[Connection] = []

    async def make(
        handler: Handler = echo,
        *,
        role: Role = Role.CONTROL,
        dial_handler: Handler | None = None,
        settings: Settings | None = None,
        dial_settings: Settings | None = None,
        slot: ControlSlot | None = None,
        **accept: Any,
    ) -> tuple[Connection, Connection]:
        ours, theirs = socket.socketpair()
        both = await asyncio.gather(
            Connection.dial(ours, role=role, handler=dial_handler, settings=dial_settings or settings),
            Connection.accept(
                theirs, handler=handler, control=slot or ControlSlot(), settings=settings, **accept
            ),
        )
        made.extend(both)
        return both[0], both[1]

    yield make
    for connection in made:
        await connection.aclose()


class RawPeer:
    """A peer that writes bytes of its choice; it has done the handshake."""

    def __init__(self, sock: socket.socket, machine: ChannelMachine) -> None:
        self.sock = sock
        self.machine = machine
        self.events: list[Event] = []

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self) -> bool:
        """Read once; False at the end of the connection."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
        except ConnectionResetError:
            return False
        self.events.extend(self.machine.receive(data))
        return bool(data)

    async def until(self, wanted: type[Event]) -> Any:
        """Read until an event of this type came, and return it."""
        while True:
            for event in self.events:
                if isinstance(event, wanted):
                    self.events.remove(event)
                    return event
            assert await self.read(), f"the connection ended before {wanted}"

    async def until_closed(self) -> list[Event]:
        while await self.read():
            pass
        return self.events


@pytest.fixture
async def raw_peer() -> AsyncIterator[Callable[..., Awaitable[tuple[RawPeer, Connection]]]]:
    """Make a raw dialling peer and the connection that accepts it."""
    made: list[tuple[RawPeer, Connection]] = []

    async def make(
        handler: Handler = echo, settings: Settings | None = None, **accept: Any
    ) -> tuple[RawPeer, Connection]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        machine = ChannelMachine(Side.DIAL, Settings(), role=Role.CONTROL)
        peer = RawPeer(ours, machine)
        accepting = asyncio.ensure_future(
            Connection.accept(theirs, handler=handler, control=ControlSlot(), settings=settings, **accept)
        )
        await peer.send(machine.take())
        connection = await accepting
        await peer.read()
        peer.events.clear()
        made.append((peer, connection))
        return peer, connection

    yield make
    for peer, connection in made:
        peer.sock.close()
        await connection.aclose()
