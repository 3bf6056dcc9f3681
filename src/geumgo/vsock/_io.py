"""Waiting for a socket on any event loop.

uvloop's `sock_connect` doesn't know AF_VSOCK, and no loop's `sock_recv` can peek; readiness callbacks
work everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

__all__ = ("connect_socket", "readable", "recv_line", "writable")

_UNIX_RETRY_S = 0.01
"""A Unix socket whose backlog is full says EAGAIN and can't be waited for; so it is tried again."""


async def _ready(
    add: Callable[..., Any], remove: Callable[[socket.socket], Any], sock: socket.socket
) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add(sock, wake)
    try:
        await future
    finally:
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile: the loop forgets it by itself
            remove(sock)


async def readable(sock: socket.socket) -> None:
    """Wait until reading from `sock`, or accepting on it, doesn't block."""
    loop = asyncio.get_running_loop()
    await _ready(loop.add_reader, loop.remove_reader, sock)


async def writable(sock: socket.socket) -> None:
    """Wait until writing to `sock` doesn't block, or its connection attempt has ended."""
    loop = asyncio.get_running_loop()
    await _ready(loop.add_writer, loop.remove_writer, sock)


async def connect_socket(sock: socket.socket, address: Any) -> None:
    """Connect a non-blocking socket of any family.

    Raises:
        OSError: the connection was refused or broke.
    """
    while True:
        try:
            sock.connect(address)
            return
        except InterruptedError:
            break
        except BlockingIOError as error:
            if error.errno != errno.EAGAIN or sock.family != socket.AF_UNIX:
                break
        await asyncio.sleep(_UNIX_RETRY_S)
    await writable(sock)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def recv_line(sock: socket.socket, limit: int) -> bytes | None:
    """Return what comes up to and with the first newline, and read no byte after it.

    Returns:
        The line with its newline, or None when the peer ended first or `limit` bytes had none.
    """
    line = b""
    while len(line) < limit:
        try:
            seen = sock.recv(limit - len(line), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await readable(sock)
            continue
        if not seen:
            return None
        cut = seen.find(b"\n") + 1
        line += sock.recv(cut or len(seen))
        if cut:
            return line
    return None
