"""Dialling: AF_VSOCK, or hybrid vsock's CONNECT handshake on a Unix socket."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

from geumgo.vsock._address import Address
from geumgo.vsock._errors import ConnectFailed, HandshakeError, VsockError
from geumgo.vsock._io import connect_socket, recv_line

__all__ = ("MAX_HANDSHAKE_LINE", "UNIX_PATH_MAX", "VSOCK_VARIABLE", "connect", "unix_path", "vsock_socket")

VSOCK_VARIABLE = "GEUMGO_VSOCK"
"""Names the hybrid vsock socket of the enclave, where there is no AF_VSOCK."""

MAX_HANDSHAKE_LINE = 32
"""Bytes of a handshake line: ``CONNECT 4294967295\\n`` has 19; the same limit as Firecracker's."""
UNIX_PATH_MAX = 107
"""Bytes of a Unix socket's path that Linux's sockaddr_un holds beside the final NUL."""

_OK = re.compile(rb"OK [0-9]{1,10}\n\Z")


def unix_path(path: str) -> str:
    """Return `path` if the kernel takes it as a Unix socket's name.

    Raises:
        VsockError: it is too long.
    """
    if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_MAX:
        raise VsockError(
            f"the path of a Unix socket is over {UNIX_PATH_MAX} bytes",
            fix="Choose a runtime folder with a shorter path.",
            code="bad_address",
            retryable=False,
        )
    return path


def vsock_socket() -> socket.socket:
    """Return a new, non-blocking AF_VSOCK stream socket.

    Raises:
        VsockError: this kernel, container or interpreter has no AF_VSOCK.
    """
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise VsockError("this Python has no AF_VSOCK", code="no_vsock", retryable=False)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise VsockError(
            f"an AF_VSOCK socket can't be made ({error.strerror})",
            why="The kernel has no vsock, or the container's seccomp profile denies it.",
            fix="Load the vsock module, allow AF_VSOCK (family 40) in the profile, or use a hybrid address.",
            code="no_vsock",
            retryable=False,
        ) from None
    sock.setblocking(False)
    return sock


async def connect(address: Address, *, timeout: float = 10.0) -> socket.socket:
    """Return a connected, non-blocking stream socket to `address`.

    For a hybrid address, CONNECT has been answered with OK and no byte behind that has been read.

    Args:
        address: where to.
        timeout: seconds for everything, the handshake too.

    Where the environment's `GEUMGO_VSOCK` names an enclave's hybrid socket, an address by CID goes there:
    so a program that dials `ENCLAVE_CID` runs unchanged on a machine without AF_VSOCK.

    Raises:
        ConnectFailed: nobody listens there, or not in time.
        HandshakeError: the Unix socket answers something else than ``OK <n>``.
        VsockError: this machine has no vsock, or the path is too long.
    """
    stand_in = os.environ.get(VSOCK_VARIABLE)
    if address.uds is None and stand_in:
        address = Address.hybrid(Path(stand_in), address.port)
    if address.uds is None:
        sock = vsock_socket()
    else:
        unix_path(str(address.uds))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout):
            if address.uds is None:
                await connect_socket(sock, (address.cid, address.port))
            else:
                await connect_socket(sock, str(address.uds))
                await _handshake(sock, address)
    except TimeoutError:  # before OSError, which it is a kind of
        sock.close()
        raise ConnectFailed(f"no answer from {address} within {timeout:g} s") from None
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"can't connect to {address} ({error.strerror})") from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _handshake(sock: socket.socket, address: Address) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, b"CONNECT %d\n" % address.port)
    line = await recv_line(sock, MAX_HANDSHAKE_LINE)
    if line is None:
        raise ConnectFailed(f"nobody listens at {address}", why="The connection closed before its OK.")
    if not _OK.match(line):
        raise HandshakeError(f"{address} doesn't speak hybrid vsock", fix="Check the socket's path.")
