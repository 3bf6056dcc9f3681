"""Listening: AF_VSOCK, or the Unix socket ``<uds>_<port>`` that an enclave's dialling arrives at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat

from geumgo.vsock._address import Address
from geumgo.vsock._dial import unix_path, vsock_socket
from geumgo.vsock._errors import ListenFailed, VsockError
from geumgo.vsock._io import readable

__all__ = ("Listener", "bind_unix", "listen", "unlink_unix")


class Listener:
    """A listening vsock or Unix socket. Use :func:`listen` to make one."""

    def __init__(self, sock: socket.socket, address: Address, inode: tuple[int, int] | None = None) -> None:
        self.address = address
        self._sock = sock
        self._inode = inode
        self._turn = asyncio.Lock()  # a loop keeps one reader a descriptor
        self._waiting: asyncio.Task[None] | None = None
        self._closed = False

    async def accept(self) -> tuple[socket.socket, int | None]:
        """Return the next connection, non-blocking, and the CID of its peer where the kernel knows it.

        Raises:
            VsockError: the listener is closed, or the process is out of descriptors (retryable).
        """
        async with self._turn:
            while not self._closed:
                try:
                    sock, peer = self._sock.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    self._waiting = asyncio.ensure_future(readable(self._sock))
                    try:
                        await asyncio.wait((self._waiting,))
                    finally:
                        self._waiting.cancel()
                    continue
                except OSError as error:
                    raise VsockError(f"can't accept on {self.address} ({error.strerror})") from None
                sock.setblocking(False)
                return sock, peer[0] if self.address.uds is None else None
        raise VsockError(f"the listener of {self.address} is closed", code="closed", retryable=False)

    def close(self) -> None:
        """Stop listening; removes the Unix socket's file if it is still ours. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._waiting is not None:
            self._waiting.cancel()  # wakes accept(), which says that the listener is closed
            self._waiting.get_loop().remove_reader(self._sock)
        self._sock.close()
        if self._inode is not None and self.address.uds is not None:
            unlink_unix(f"{self.address.uds}_{self.address.port}", self._inode)

    def __repr__(self) -> str:
        return f"<Listener {self.address} {'closed' if self._closed else 'open'}>"


def bind_unix(path: str, backlog: int) -> tuple[socket.socket, tuple[int, int]]:
    """Return a socket that listens on `path` (mode 0600), and the file's (device, inode).

    A socket file that a dead process left is replaced; one that answers is not.

    Raises:
        ListenFailed: somebody listens there already, or the folder can't be written.
        VsockError: the path is too long.
    """
    unix_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        _remove_stale(path)
        sock.bind(path)
        # Nobody can connect between bind and chmod: that needs listen.
        os.chmod(path, 0o600)
        sock.listen(backlog)
        status = os.stat(path)
    except OSError as error:
        sock.close()
        raise ListenFailed(
            f"can't listen on {path} ({error.strerror})",
            fix="Check that the folder exists, is yours, and that no other process uses this name.",
        ) from None
    except BaseException:
        sock.close()
        raise
    return sock, (status.st_dev, status.st_ino)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
            except BlockingIOError:
                pass  # its backlog is full: it lives
    raise ListenFailed(
        f"{path} is taken", why="Another process listens there, or it is no socket.", fix="Stop it first."
    )


def unlink_unix(path: str, inode: tuple[int, int]) -> None:
    """Remove `path` if it still is the file that was bound."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if (status.st_dev, status.st_ino) == inode:
            os.unlink(path)


async def listen(address: Address, *, backlog: int = 128) -> Listener:
    """Listen at `address`; with `uds`, on ``<uds>_<port>``: the parent's side of what an enclave dials.

    Raises:
        ListenFailed: the address is taken or not ours.
        VsockError: this machine has no vsock.
    """
    if address.uds is not None:
        unix, inode = bind_unix(f"{address.uds}_{address.port}", backlog)
        return Listener(unix, address, inode)
    sock = vsock_socket()
    try:
        sock.bind((address.cid, address.port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ListenFailed(f"can't listen on {address} ({error.strerror})") from None
    return Listener(sock, address)
