"""vsock as the program inside an enclave sees it, whatever launched the enclave.

`GEUMGO_VSOCK_FD` in the environment is the broker's descriptor of the process backend; without it there is
AF_VSOCK.
"""

from __future__ import annotations

import functools
import os
import socket
from typing import Protocol

from geumgo.vsock._address import VMADDR_CID_ANY, Address
from geumgo.vsock._dial import connect
from geumgo.vsock._errors import VsockError
from geumgo.vsock._listen import listen
from geumgo.vsock.broker import BrokerClient

__all__ = ("VSOCK_FD_VARIABLE", "Accepting", "Provider", "provider")

VSOCK_FD_VARIABLE = "GEUMGO_VSOCK_FD"


class Accepting(Protocol):
    """Something that connections arrive at."""

    async def accept(self) -> tuple[socket.socket, int | None]:
        """Return the next connection, non-blocking, and its peer's CID where that is known."""
        ...

    def close(self) -> None:
        """Stop listening. Idempotent."""
        ...


class Provider(Protocol):
    """Dials and listens."""

    async def connect(self, cid: int, port: int, *, timeout: float = 10.0) -> socket.socket:
        """Return a connected, non-blocking stream socket; raises `VsockError`."""
        ...

    async def listen(self, port: int, *, backlog: int = 128) -> Accepting:
        """Listen on `port`; raises `VsockError`."""
        ...


class _Kernel:
    """AF_VSOCK."""

    async def connect(self, cid: int, port: int, *, timeout: float = 10.0) -> socket.socket:
        return await connect(Address(cid, port), timeout=timeout)

    async def listen(self, port: int, *, backlog: int = 128) -> Accepting:
        return await listen(Address(VMADDR_CID_ANY, port), backlog=backlog)


@functools.cache
def _brokered(fd: int) -> BrokerClient:
    return BrokerClient.from_fd(fd)


def provider() -> Provider:
    """Return this enclave's vsock; the same broker client each time.

    Raises:
        VsockError: `GEUMGO_VSOCK_FD` is no descriptor of a broker.
    """
    text = os.environ.get(VSOCK_FD_VARIABLE)
    if text is None:
        return _Kernel()
    if not text.isascii() or not text.isdecimal() or len(text) > 7:
        raise VsockError(f"{VSOCK_FD_VARIABLE} is not a descriptor number", code="broker", retryable=False)
    return _brokered(int(text))
