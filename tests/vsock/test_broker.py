"""The broker's two ends on a real socket pair, and each end against a peer that misbehaves."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.vsock import ConnectFailed, ListenFailed, VsockError
from geumgo.vsock import provider as provider_module
from geumgo.vsock._broker_wire import PACKET_SIZE, BrokerError, Kind, Packet, receive, send
from geumgo.vsock.broker import (
    MAX_BACKLOG,
    MAX_DIALS,
    MAX_LISTENERS,
    BrokerClient,
    BrokerServer,
)
from geumgo.vsock.provider import provider


def seqpacket() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def stream() -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


class Ends:
    """A client and a server whose dials a test decides."""

    def __init__(self) -> None:
        inside, outside = seqpacket()
        self.far: list[socket.socket] = []
        self.asked: list[tuple[int, int]] = []
        self.client = BrokerClient.from_fd(inside.fileno())
        inside.close()
        self.server = BrokerServer(outside, self.dial)
        self.gate: asyncio.Event | None = None

    async def dial(self, cid: int, port: int) -> socket.socket:
        self.asked.append((cid, port))
        if self.gate is not None:
            await self.gate.wait()
        if cid != 3:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        near, far = stream()
        self.far.append(far)
        return near

    async def close(self) -> None:
        self.client.close()
        await self.server.aclose()
        for sock in self.far:
            sock.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    yield ends
    await ends.close()


async def test_a_dialled_socket_is_the_socket_itself(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    with await ends.client.connect(3, 9000) as sock:
        assert ends.asked == [(3, 9000)]
        assert sock.gettimeout() == 0
        assert not os.get_inheritable(sock.fileno())
        await loop.sock_sendall(sock, b"hello")
        assert await loop.sock_recv(ends.far[0], 10) == b"hello"


async def test_a_refused_dial_says_why(ends: Ends) -> None:
    with pytest.raises(ConnectFailed, match="No such device"):
        await ends.client.connect(16, 7007)


async def test_many_dials_at_once(ends: Ends) -> None:
    socks = await asyncio.gather(*(ends.client.connect(3, port) for port in range(50)))
    assert sorted(port for _, port in ends.asked) == list(range(50))
    assert len({sock.fileno() for sock in socks}) == 50
    for sock in socks:
        sock.close()


async def test_a_dial_that_takes_too_long_is_given_up_on_both_sides(ends: Ends) -> None:
    ends.gate = asyncio.Event()
    with pytest.raises(ConnectFailed, match=r"within 0\.05 s"):
        await ends.client.connect(3, 1, timeout=0.05)
    while ends.server._dials:
        await asyncio.sleep(0)
    assert ends.far == []
    ends.gate = None
    (await ends.client.connect(3, 2)).close()


async def test_too_many_dials_are_refused_and_the_rest_go_on(ends: Ends) -> None:
    ends.gate = asyncio.Event()
    waiting = [asyncio.create_task(ends.client.connect(3, port)) for port in range(MAX_DIALS)]
    while len(ends.asked) < MAX_DIALS:
        await asyncio.sleep(0)
    with pytest.raises(ConnectFailed, match="temporarily unavailable"):
        await ends.client.connect(3, 1)
    ends.gate.set()
    for sock in await asyncio.gather(*waiting):
        sock.close()


async def test_what_arrives_for_a_port_is_accepted_there(ends: Ends) -> None:
    listener = await ends.client.listen(7007)
    assert ends.server.ports == {7007}
    near, far = stream()
    assert ends.server.offer(7007, near, 3)
    assert near.fileno() == -1
    sock, cid = await listener.accept()
    assert cid == 3
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(far, b"x")
    assert await loop.sock_recv(sock, 2) == b"x"
    near, second = stream()
    assert ends.server.offer(7007, near)
    other, cid = await listener.accept()
    assert cid is None
    for open_ in (sock, other, far, second):
        open_.close()
    assert "0 waiting" in repr(listener)


async def test_a_port_nobody_listens_on_takes_nothing(ends: Ends) -> None:
    near, far = stream()
    assert not ends.server.offer(7007, near)
    assert far.recv(1) == b""
    far.close()


async def test_a_closed_listener_accepts_nothing_more(ends: Ends) -> None:
    listener = await ends.client.listen(7007)
    accepting = asyncio.create_task(listener.accept())
    await asyncio.sleep(0)
    listener.close()
    listener.close()
    with pytest.raises(VsockError) as caught:
        await accepting
    assert caught.value.code == "closed"
    while ends.server.ports:
        await asyncio.sleep(0)
    (await ends.client.listen(7007)).close()


async def test_a_port_can_be_listened_on_once(ends: Ends) -> None:
    await ends.client.listen(7007)
    with pytest.raises(ListenFailed):
        await ends.client.listen(7007)


async def test_too_many_listeners_are_refused(ends: Ends) -> None:
    for port in range(MAX_LISTENERS):
        await ends.client.listen(port)
    with pytest.raises(ListenFailed):
        await ends.client.listen(MAX_LISTENERS)
    assert len(ends.server.ports) == MAX_LISTENERS


async def test_a_full_backlog_closes_what_comes_next(ends: Ends) -> None:
    listener = await ends.client.listen(7007)
    far_ends = []
    for _ in range(MAX_BACKLOG + 1):
        near, far = stream()
        far_ends.append(far)
        assert ends.server.offer(7007, near)
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(far_ends[-1], 1) == b""
    sock, _ = await listener.accept()
    sock.close()
    listener.close()
    assert await loop.sock_recv(far_ends[1], 1) == b""  # what nobody accepted is closed too
    for far in far_ends:
        far.close()


async def test_a_program_that_does_not_read_costs_a_bounded_queue() -> None:
    inside, outside = seqpacket()
    refused = 0
    server = BrokerServer(outside, lambda cid, port: asyncio.sleep(0))  # type: ignore[arg-type,return-value]
    inside.send(Packet(Kind.LISTEN, 1, port=1).to_bytes())
    while not server.ports:
        await asyncio.sleep(0)
    far_ends = []
    for _ in range(1000):
        near, far = stream()
        far_ends.append(far)
        refused += not server.offer(1, near)
    assert refused > 0
    held = sum(far.fileno() >= 0 and _is_open(far) for far in far_ends)
    assert held == 1000 - refused
    assert held < 700
    await server.aclose()
    inside.close()
    assert not any(map(_is_open, far_ends))
    for far in far_ends:
        far.close()


def _is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True


async def test_the_launchers_end_is_the_end_of_everything(ends: Ends) -> None:
    listener = await ends.client.listen(7007)
    ends.gate = asyncio.Event()
    dialling = asyncio.create_task(ends.client.connect(3, 1))
    accepting = asyncio.create_task(listener.accept())
    while not ends.asked:
        await asyncio.sleep(0)
    await ends.server.aclose()
    for task in (dialling, accepting):
        with pytest.raises(BrokerError):
            await task
    with pytest.raises(BrokerError):
        await ends.client.connect(3, 1)
    with pytest.raises(BrokerError):
        await ends.client.listen(1)


async def test_the_programs_end_is_seen_by_the_launcher(ends: Ends) -> None:
    ends.client.close()
    await ends.server.wait_closed()
    ends.client.close()
    with pytest.raises(BrokerError):
        await ends.client.connect(3, 1)


def _with_descriptor(data: bytes, *descriptors: int) -> Callable[[socket.socket], None]:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    return lambda sock: sock.sendmsg([data], rights)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda sock: sock.send(b"x"), id="short"),
        pytest.param(lambda sock: sock.send(bytes(PACKET_SIZE)), id="version 0"),
        pytest.param(lambda sock: sock.send(bytes(PACKET_SIZE + 1)), id="long"),
        pytest.param(lambda sock: sock.send(bytes(60000)), id="very long"),
        pytest.param(lambda sock: sock.send(struct.pack("!BBHIII", 1, 99, 0, 0, 0, 0)), id="unknown kind"),
        pytest.param(
            lambda sock: sock.send(Packet(Kind.ACCEPTED).to_bytes()), id="a socket's kind without one"
        ),
        pytest.param(lambda sock: sock.send(Packet(Kind.REFUSED).to_bytes()), id="the launcher's kind"),
        pytest.param(
            _with_descriptor(Packet(Kind.DIAL, 1, 3, 1).to_bytes(), 0), id="a descriptor with a dial"
        ),
        pytest.param(
            _with_descriptor(Packet(Kind.LISTEN, 1).to_bytes(), 0, 1, 2, 0, 1), id="five descriptors"
        ),
        pytest.param(_with_descriptor(Packet(Kind.ACCEPTED).to_bytes(), 0), id="no socket"),
        pytest.param(_with_descriptor(b"", 0), id="nothing but a descriptor"),
    ],
)
async def test_a_program_that_breaks_the_protocol_loses_its_broker(
    attack: Callable[[socket.socket], None],
) -> None:
    inside, outside = seqpacket()
    before = len(os.listdir("/proc/self/fd"))
    server = BrokerServer(outside, lambda cid, port: asyncio.sleep(0))  # type: ignore[arg-type,return-value]
    attack(inside)
    with pytest.raises(BrokerError):
        await server.wait_closed()
    assert len(os.listdir("/proc/self/fd")) == before  # what it sent along is closed
    await server.aclose()
    inside.close()


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_bytes_of_a_program_are_another_error(packets: list[bytes]) -> None:
    async def run() -> None:
        inside, outside = seqpacket()

        async def refuse(cid: int, port: int) -> socket.socket:
            raise OSError(errno.ECONNREFUSED, "")

        server = BrokerServer(outside, refuse)
        for packet in packets:
            inside.send(packet)
        inside.close()
        with contextlib.suppress(BrokerError):
            await server.wait_closed()
        await server.aclose()

    asyncio.run(run())


@given(
    st.sampled_from(Kind),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFF),
)
def test_packets_round_trip(kind: Kind, id_: int, cid: int, port: int, error: int) -> None:
    packet = Packet(kind, id_, cid, port, error)
    assert Packet.parse(packet.to_bytes()) == packet
    assert len(packet.to_bytes()) == PACKET_SIZE
    assert packet.from_program is (kind < Kind.DIALLED)


async def test_answers_nobody_waits_for_are_closed() -> None:
    inside, outside = seqpacket()
    client = BrokerClient.from_fd(inside.fileno())
    waiting = asyncio.create_task(client.connect(3, 1))
    await asyncio.sleep(0)
    packet, _ = receive(outside) or pytest.fail("nothing came")
    near, far = stream()
    stray, other = stream()
    send(outside, Packet(Kind.DIALLED, packet.id ^ 1), stray)
    send(outside, Packet(Kind.ACCEPTED, port=9), stray)
    stray.close()
    send(outside, Packet(Kind.DIALLED, packet.id), near)
    near.close()
    (await waiting).close()
    assert other.recv(1) == b""
    for sock in (inside, outside, far, other):
        sock.close()
    client.close()


async def test_a_launcher_that_answers_nonsense_fails_that_call() -> None:
    inside, outside = seqpacket()
    client = BrokerClient.from_fd(inside.fileno())
    waiting = asyncio.create_task(client.connect(3, 1))
    await asyncio.sleep(0)
    packet, _ = receive(outside) or pytest.fail("nothing came")
    outside.send(Packet(Kind.DIAL, packet.id).to_bytes())
    with pytest.raises(BrokerError):
        await waiting
    waiting = asyncio.create_task(client.connect(3, 1))
    await asyncio.sleep(0)
    outside.send(b"nonsense")
    with pytest.raises(BrokerError):
        await waiting
    client.close()
    inside.close()
    outside.close()


async def test_being_out_of_descriptors_costs_one_connection(ends: Ends) -> None:
    listener = await ends.client.listen(7007)
    near, far = stream()
    assert ends.server.offer(7007, near)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        for _ in range(5):
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    far.close()
    near, far = stream()
    assert ends.server.offer(7007, near)
    sock, _ = await asyncio.wait_for(listener.accept(), 5)
    sock.close()
    far.close()


def test_a_client_moves_to_the_next_loop() -> None:
    inside, outside = seqpacket()
    client = BrokerClient.from_fd(inside.fileno())

    async def beat() -> None:
        async def dial(cid: int, port: int) -> socket.socket:
            near, far = stream()
            far.close()
            return near

        server = BrokerServer(socket.socket(fileno=os.dup(outside.fileno())), dial)
        (await client.connect(3, 9000)).close()
        server.close()

    for _ in range(3):
        asyncio.run(beat())
    client.close()
    inside.close()
    outside.close()


@pytest.mark.parametrize(
    "make",
    [lambda: os.open(os.devnull, os.O_RDONLY), lambda: socket.socket(socket.AF_UNIX).detach(), lambda: 9999],
)
def test_another_descriptor_is_no_broker(make: Callable[[], int]) -> None:
    fd = make()
    with pytest.raises(BrokerError):
        BrokerClient.from_fd(fd)
    if fd != 9999:
        os.close(fd)


class TestProvider:
    async def test_the_broker_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inside, outside = seqpacket()
        monkeypatch.setenv("GEUMGO_VSOCK_FD", str(inside.fileno()))
        client: Any = provider()
        assert isinstance(client, BrokerClient)
        assert provider() is client
        client.close()
        provider_module._brokered.cache_clear()
        inside.close()
        outside.close()

    @pytest.mark.parametrize("text", ["", "x", "-1", "99999999", "3 ", "٣"])
    def test_a_variable_that_is_no_number(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("GEUMGO_VSOCK_FD", text)
        with pytest.raises(VsockError) as caught:
            provider()
        assert caught.value.code == "broker"

    async def test_the_kernels_vsock_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called = []

        async def connect(address: Any, *, timeout: float) -> str:
            called.append((str(address), timeout))
            return "socket"

        async def listen(address: Any, *, backlog: int) -> str:
            called.append((str(address), backlog))
            return "listener"

        monkeypatch.delenv("GEUMGO_VSOCK_FD", raising=False)
        monkeypatch.setattr(provider_module, "connect", connect)
        monkeypatch.setattr(provider_module, "listen", listen)
        assert await provider().connect(3, 9000, timeout=0.2) == "socket"
        assert await provider().listen(7007) == "listener"
        assert called == [("vsock:3:9000", 0.2), ("vsock:4294967295:7007", 128)]
