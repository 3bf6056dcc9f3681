"""The parent's side of the heartbeat (ARCHITECTURE "Heartbeat"): one byte, answered by itself."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from geumgo import vsock

__all__ = ("BEAT_TIMEOUT", "heartbeat_address", "wait_for_heartbeat")

BEAT_TIMEOUT = 2.0
"""Seconds for the byte of a connection that was made; its sender has nothing else to do."""


def heartbeat_address(uds: Path) -> vsock.Address:
    """Return where an enclave with this hybrid socket sends its heartbeat."""
    return vsock.Address.hybrid(uds, vsock.HEARTBEAT_PORT)


async def wait_for_heartbeat(listener: vsock.Listener) -> None:
    """Wait for a good heartbeat and answer it. It says that something lives there, and no more.

    Raises:
        VsockError: the listener was closed.
    """
    loop = asyncio.get_running_loop()
    beat = bytes((vsock.HEARTBEAT_BYTE,))
    while True:
        sock, _ = await listener.accept()
        with sock, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(BEAT_TIMEOUT):
                if await loop.sock_recv(sock, 1) == beat:
                    await loop.sock_sendall(sock, beat)
                    return
