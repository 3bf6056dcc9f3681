"""Dialling and listening, over hybrid vsock and over a stand-in for AF_VSOCK."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from geumgo.vsock import (
    VMADDR_CID_ANY,
    Address,
    ConnectFailed,
    HandshakeError,
    ListenFailed,
    VsockError,
    _dial,
    connect,
    listen,
)


class Peer:
    """An accepted connection in the hand of a test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def read(self, count: int = 100) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, count)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


@asynccontextmanager
async def serve(path: Path, talk: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[None]:
    """Serve one connection to a Unix socket by a coroutine function, and wait until it is through."""

    async def one(listener: socket.socket) -> None:
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        with sock:
            await talk(Peer(sock))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen()
        task = asyncio.ensure_future(one(listener))
        yield
        with contextlib.suppress(ConnectionError):  # the client needn't wait for all that we say
            await task


class TestHybrid:
    @pytest.mark.parametrize("pieces", [[b"OK 1073741824\n"], [b"O", b"K", b" 1", b"\n"], [b"OK 1", b"\n"]])
    async def test_handshake_however_the_answer_is_cut(self, folder: Path, pieces: list[bytes]) -> None:
        seen: list[bytes] = []

        async def talk(peer: Peer) -> None:
            seen.append(await peer.read())
            for piece in pieces:
                await peer.write(piece)
                await asyncio.sleep(0.002)

        async with serve(folder / "v", talk):
            with closing(await connect(Address.hybrid(folder / "v", 5005))) as sock:
                assert sock.getblocking() is False
                assert seen == [b"CONNECT 5005\n"]

    async def test_no_byte_behind_the_answer_is_read(self, folder: Path) -> None:
        async def talk(peer: Peer) -> None:
            await peer.read()
            await peer.write(b"OK 7\nfirst bytes\nof the stream")

        async with serve(folder / "v", talk):
            with closing(await connect(Address.hybrid(folder / "v", 7))) as sock:
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"first bytes\nof the stream"

    @pytest.mark.parametrize(
        "answer", [b"NO\n", b"OK\n", b"OK x\n", b"ok 1\n", b"OK 1 \n", b"OK 12345678901\n", b"\n"]
    )
    async def test_another_answer(self, folder: Path, answer: bytes) -> None:
        async def talk(peer: Peer) -> None:
            await peer.read()
            await peer.write(answer)

        async with serve(folder / "v", talk):
            with pytest.raises(HandshakeError):
                await connect(Address.hybrid(folder / "v", 7))

    @pytest.mark.parametrize("answer", [b"", b"OK 1", b"x" * 100])
    async def test_an_answer_that_is_no_line(self, folder: Path, answer: bytes) -> None:
        async def talk(peer: Peer) -> None:
            await peer.read()
            await peer.write(answer)

        async with serve(folder / "v", talk):
            with pytest.raises(ConnectFailed) as caught:
                await connect(Address.hybrid(folder / "v", 7))
            assert (caught.value.code, caught.value.retryable) == ("unavailable", True)

    async def test_silence_ends_by_the_timeout(self, folder: Path) -> None:
        done = asyncio.Event()

        async def talk(peer: Peer) -> None:
            await done.wait()

        async with serve(folder / "v", talk):
            with pytest.raises(ConnectFailed, match="within"):
                await connect(Address.hybrid(folder / "v", 7), timeout=0.05)
            done.set()

    async def test_a_full_backlog_ends_by_the_timeout(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "v"))
            listener.listen(0)
            waiting = []
            try:
                with pytest.raises(ConnectFailed):
                    for _ in range(10):
                        sock = socket.socket(socket.AF_UNIX)
                        waiting.append(sock)
                        sock.setblocking(False)
                        try:
                            sock.connect(str(folder / "v"))
                        except BlockingIOError:
                            await connect(Address.hybrid(folder / "v", 7), timeout=0.05)
            finally:
                for sock in waiting:
                    sock.close()

    async def test_nobody_there(self, folder: Path) -> None:
        with pytest.raises(ConnectFailed):
            await connect(Address.hybrid(folder / "missing", 7))
        (folder / "file").touch()
        with pytest.raises(ConnectFailed):
            await connect(Address.hybrid(folder / "file", 7))

    async def test_a_path_too_long(self, folder: Path) -> None:
        address = Address.hybrid(folder / ("x" * 100), 7)
        with pytest.raises(VsockError) as caught:
            await connect(address)
        assert caught.value.code == "bad_address"
        with pytest.raises(VsockError):
            await listen(address)

    async def test_cancelling_closes(self, folder: Path) -> None:
        arrived = asyncio.Event()
        ended = asyncio.Event()

        async def talk(peer: Peer) -> None:
            await peer.read()
            arrived.set()
            assert await peer.read() == b""
            ended.set()

        async with serve(folder / "v", talk):
            task = asyncio.ensure_future(connect(Address.hybrid(folder / "v", 7)))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await ended.wait()

    async def test_an_address_by_cid_goes_to_the_named_socket(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def talk(peer: Peer) -> None:
            line = await peer.read()
            await peer.write(b"OK 1\n" + line)

        monkeypatch.setenv("GEUMGO_VSOCK", str(folder / "v"))
        async with serve(folder / "v", talk):
            with closing(await connect(Address(16, 7007))) as sock:
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"CONNECT 7007\n"


class TestListen:
    async def test_what_an_enclave_dials(self, folder: Path) -> None:
        listener = await listen(Address.hybrid(folder / "v", 9000))
        path = folder / "v_9000"
        assert path.stat().st_mode & 0o777 == 0o600
        accepting = asyncio.ensure_future(listener.accept())
        await asyncio.sleep(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            sock, cid = await accepting
            with sock:
                assert cid is None
                assert sock.getblocking() is False
                client.sendall(b"\xb7")
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b"\xb7"
        listener.close()
        listener.close()
        assert not path.exists()
        with pytest.raises(VsockError) as caught:
            await listener.accept()
        assert caught.value.code == "closed"
        assert "closed" in repr(listener)

    async def test_closing_wakes_who_waits(self, folder: Path) -> None:
        listener = await listen(Address.hybrid(folder / "v", 1))
        waiting = [asyncio.ensure_future(listener.accept()) for _ in range(3)]
        await asyncio.sleep(0.01)
        listener.close()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, VsockError)
            assert error.code == "closed"

    async def test_cancelling_an_accept(self, folder: Path) -> None:
        listener = await listen(Address.hybrid(folder / "v", 1))
        task = asyncio.ensure_future(listener.accept())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "v_1"))
            sock, _ = await listener.accept()
            sock.close()
        listener.close()

    async def test_several_wait_and_each_gets_one(self, folder: Path) -> None:
        listener = await listen(Address.hybrid(folder / "v", 1))
        waiting = [asyncio.ensure_future(listener.accept()) for _ in range(5)]
        clients = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for client in clients:
            client.connect(str(folder / "v_1"))
        accepted = await asyncio.gather(*waiting)
        assert len({sock.fileno() for sock, _ in accepted}) == 5
        for sock in [*clients, *(sock for sock, _ in accepted)]:
            sock.close()
        listener.close()

    async def test_a_dead_processs_socket_is_replaced(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "v_1"))
        listener = await listen(Address.hybrid(folder / "v", 1))
        listener.close()

    async def test_a_living_one_is_not(self, folder: Path) -> None:
        first = await listen(Address.hybrid(folder / "v", 1))
        with pytest.raises(ListenFailed):
            await listen(Address.hybrid(folder / "v", 1))
        assert (folder / "v_1").exists()
        first.close()

    async def test_nor_is_a_file(self, folder: Path) -> None:
        (folder / "v_1").write_text("mine")
        with pytest.raises(ListenFailed):
            await listen(Address.hybrid(folder / "v", 1))
        assert (folder / "v_1").read_text() == "mine"

    async def test_closing_leaves_anothers_file(self, folder: Path) -> None:
        listener = await listen(Address.hybrid(folder / "v", 1))
        os.unlink(folder / "v_1")
        (folder / "v_1").write_text("another's")
        listener.close()
        assert (folder / "v_1").exists()

    async def test_no_folder(self, folder: Path) -> None:
        with pytest.raises(ListenFailed) as caught:
            await listen(Address.hybrid(folder / "missing" / "v", 1))
        assert caught.value.code == "cannot_listen"


class TestAfVsock:
    """The code for AF_VSOCK, with sockets that stand in for the kernel's."""

    async def test_connect_and_listen(self, vsock_stand_in: Path) -> None:
        listener = await listen(Address(VMADDR_CID_ANY, 9000))
        accepting = asyncio.ensure_future(listener.accept())
        with closing(await connect(Address(3, 9000))) as client:
            sock, cid = await accepting
            with sock:
                assert cid == 16
                await asyncio.get_running_loop().sock_sendall(client, b"\xb7")
                assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"\xb7"
        listener.close()

    async def test_nobody_listens(self, vsock_stand_in: Path) -> None:
        with pytest.raises(ConnectFailed):
            await connect(Address(16, 7007))

    async def test_taken(self, vsock_stand_in: Path) -> None:
        listener = await listen(Address(VMADDR_CID_ANY, 9000))
        with pytest.raises(ListenFailed):
            await listen(Address(VMADDR_CID_ANY, 9000))
        listener.close()

    async def test_a_connection_that_is_refused_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A non-blocking connect says EINPROGRESS first; the socket's error tells the rest."""

        class Refused(socket.socket):
            def connect(self, address: object) -> None:
                raise BlockingIOError(errno.EINPROGRESS, "in progress")

            def getsockopt(self, *args: object) -> int:  # type: ignore[override]
                return errno.ECONNRESET  # what vsock says where TCP says ECONNREFUSED

        ours, theirs = socket.socketpair()

        def make() -> socket.socket:
            sock = Refused(fileno=ours.detach())
            sock.setblocking(False)
            return sock

        monkeypatch.setattr(_dial, "vsock_socket", make)
        with theirs, pytest.raises(ConnectFailed, match="reset"):
            await connect(Address(16, 7007))

    def test_no_permission_for_the_family(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*args: object) -> socket.socket:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(_dial.socket, "socket", denied)
        with pytest.raises(VsockError) as caught:
            _dial.vsock_socket()
        assert caught.value.code == "no_vsock"
        assert "seccomp" in caught.value.diagnostics()

    def test_no_such_family(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(_dial.socket, "AF_VSOCK")
        with pytest.raises(VsockError) as caught:
            _dial.vsock_socket()
        assert caught.value.code == "no_vsock"
