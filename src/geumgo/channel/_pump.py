"""Reading and writing one socket by readiness.

Readiness callbacks instead of a transport: one system call a write with a size that is ours, a receive
buffer that all connections of a thread share, and the same code for every loop and socket family
(uvloop's transports don't know AF_VSOCK).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from geumgo.channel._errors import ChannelClosed
from geumgo.channel._settings import MAX_WRITE

__all__ = ("SocketPump",)

_READ_SIZE = 256 << 10
_shared = threading.local()
"""One read buffer a thread for all its connections: it is copied out before the callback returns."""
_WRITES_A_TURN = 8
"""Full writes before other callbacks of the loop get their turn."""


class SocketPump:
    """Moves bytes between a socket and a machine.

    Args:
        loop: the running loop.
        sock: a non-blocking stream socket; the pump owns it.
        take: returns the next bytes to write, or none.
        received: told the bytes that came.
        lost: told once why nothing more comes: the peer ended, or the socket broke.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_error",
        "_loop",
        "_lost",
        "_received",
        "_sock",
        "_take",
        "_unsent",
        "_written",
        "busy",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        take: Callable[[], bytes],
        received: Callable[[bytes], None],
        lost: Callable[[ChannelClosed], None],
    ) -> None:
        if not hasattr(_shared, "buffer"):
            _shared.buffer = memoryview(bytearray(_READ_SIZE))
        self._buffer: memoryview = _shared.buffer
        self._loop = loop
        self._sock = sock
        self._take = take
        self._received = received
        self._lost = lost
        self._unsent: memoryview | None = None
        self._error: ChannelClosed | None = None
        self._written: asyncio.Future[None] | None = None
        self._closed = False
        self.busy = False
        """Whether a flush is due by itself: it is scheduled, or the socket is waited for."""
        loop.add_reader(sock, self._on_readable)

    def flush_soon(self) -> None:
        """Write once the callbacks that are due now have had their say: one write for all of them."""
        if not self.busy and not self._closed:
            self.busy = True
            self._loop.call_soon(self._flush)

    def flush(self) -> None:
        """Write what there is until the socket is full."""
        if self._closed or self._unsent is not None:
            return
        for _ in range(_WRITES_A_TURN):
            data = self._take()
            if not data or not self._write(memoryview(data)):
                break
        else:
            self.flush_soon()
        if self._written is not None and not self.busy and not self._written.done():
            self._written.set_result(None)

    async def written(self, timeout: float) -> None:
        """Wait until everything has left that could be written, at most `timeout` seconds."""
        if self.busy and self._error is None and not self._closed:
            if self._written is None or self._written.done():
                self._written = self._loop.create_future()
            await asyncio.wait((self._written,), timeout=timeout)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._unsent = None
        if self._written is not None and not self._written.done():
            self._written.set_result(None)

    def _flush(self) -> None:
        if self._unsent is None:
            self.busy = False
            self.flush()

    def _write(self, data: memoryview) -> bool:
        """Write all of `data` and return True, or keep the rest, wait for the socket and return False."""
        try:
            while data:
                data = data[self._sock.send(data[:MAX_WRITE]) :]
            return True
        except (BlockingIOError, InterruptedError):
            self._unsent = data
            self.busy = True
            self._loop.add_writer(self._sock, self._on_writable)
        except OSError as error:
            # What the peer said before it went may still be there: read that, then give up.
            self._unsent = data
            self.busy = True
            self._error = ChannelClosed(f"the connection broke ({error.strerror})")
            self._loop.call_soon(self._on_readable)
        return False

    def _on_writable(self) -> None:
        data = self._unsent
        if data is None:
            return
        self._unsent = None
        self._loop.remove_writer(self._sock)
        if self._write(data):
            self._flush()

    def _on_readable(self) -> None:
        if self._closed:
            return
        try:
            count = self._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            if self._error is not None:
                self._lost(self._error)
            return
        except OSError as error:
            self._lost(ChannelClosed(f"the connection broke ({error.strerror})"))
            return
        if not count:
            self._lost(ChannelClosed("the peer closed the connection"))
            return
        try:
            self._received(bytes(self._buffer[:count]))
        except Exception:  # a defect of ours must not leave callers waiting for ever
            self._lost(ChannelClosed("the connection failed by an internal error"))
            raise
        if self._error is not None:
            self._loop.call_soon(self._on_readable)
