"""Ways to an NSM: the device that an enclave's kernel has, or one socket to a software NSM.

Both block for the one exchange; from asyncio, call them in a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol

from geumgo.nitro.errors import ErrorCode, MessageError, NsmRefused, NsmUnavailable
from geumgo.nitro.messages import MAX_REQUEST_SIZE, MAX_RESPONSE_SIZE

__all__ = (
    "DEVICE",
    "EXCHANGE_TIMEOUT",
    "NSM_FD_VARIABLE",
    "NSM_IOCTL",
    "DeviceTransport",
    "NsmTransport",
    "SocketTransport",
    "open_nsm",
)

DEVICE = "/dev/nsm"
"""Where the kernel of an enclave shows the NSM."""

NSM_IOCTL = 0xC0200A00
"""`_IOWR(0x0A, 0, 32 bytes)`: exchange one request for one response."""

NSM_FD_VARIABLE = "GEUMGO_NSM_FD"
"""Names the descriptor of the socket to a software NSM, where a launcher hands one over."""

EXCHANGE_TIMEOUT = 120.0
"""Seconds to wait for an answer over a socket, as long as the device's driver waits."""

_MESSAGE = struct.Struct("=QQQQ")  # request address and length, response address and length

Ioctl = Callable[[int, int, bytearray], object]


class NsmTransport(Protocol):
    """Carries requests to an NSM. Safe to use from several threads."""

    def exchange(self, request: bytes) -> bytes:
        """Return the response to one request of at most 4096 bytes.

        Raises:
            NitroError: the request is too large, or there is no NSM that answers.
        """
        ...


class DeviceTransport:
    """The NSM as the kernel shows it (driver `nsm.ko`, misc device).

    Args:
        path: the device.
        ioctl: stands in for `fcntl.ioctl`; gets the descriptor, the request number and the 32-byte
            argument, which it changes in place.

    Raises:
        NsmUnavailable: the device can't be opened.
    """

    def __init__(self, path: str = DEVICE, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._path = path
        self._ioctl = ioctl
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise NsmUnavailable(
                f"can't open the NSM device {path}: {_reason(error)}",
                why="Only a program inside an enclave has an NSM.",
                fix="Run it in an enclave; without Nitro hardware, by the process or microvm backend.",
            ) from None

    def exchange(self, request: bytes) -> bytes:
        """Return the response to one request.

        Raises:
            NsmRefused: the driver says that the request is too large (EMSGSIZE).
            NsmUnavailable: the driver failed, or the transport is closed.
            MessageError: the request is over the limit, or the driver named an impossible length.
        """
        _check_size(request)
        # c_char arrays are writable and stay where they are until this function ends.
        outgoing = ctypes.create_string_buffer(request, len(request))
        incoming = ctypes.create_string_buffer(MAX_RESPONSE_SIZE)
        message = bytearray(
            _MESSAGE.pack(
                ctypes.addressof(outgoing), len(request), ctypes.addressof(incoming), MAX_RESPONSE_SIZE
            )
        )
        try:
            self._ioctl(self._fd, NSM_IOCTL, message)
        except (OSError, ValueError) as error:  # ValueError: the transport is closed
            if isinstance(error, OSError) and error.errno == errno.EMSGSIZE:
                raise NsmRefused("the request", ErrorCode.INPUT_TOO_LARGE) from None
            raise NsmUnavailable(f"the NSM device {self._path} failed: {_reason(error)}") from None
        length: int = _MESSAGE.unpack(message)[3]
        if length > MAX_RESPONSE_SIZE:
            raise MessageError(f"the NSM driver reports a response of {length} bytes")
        return incoming.raw[:length]

    def close(self) -> None:
        """Close the device; later exchanges fail."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class SocketTransport:
    """An NSM behind one SOCK_SEQPACKET descriptor: a packet with the request, a packet with the response.

    Plain `send` and `recv` only: a sandbox that hands over this descriptor needs to allow no more.

    Args:
        fd: the descriptor, which the transport owns from now on.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, fd: int, *, timeout: float = EXCHANGE_TIMEOUT) -> None:
        try:
            # With the type named, Python asks the kernel nothing; a sandbox may not allow getsockopt.
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
            self._socket.settimeout(timeout)
        except (OSError, ValueError, OverflowError) as error:
            raise NsmUnavailable(f"descriptor {fd} is no socket to an NSM: {_reason(error)}") from None
        self._lock = threading.Lock()

    def exchange(self, request: bytes) -> bytes:
        """Return the response to one request.

        Raises:
            NsmUnavailable: the other side closed, failed, or did not answer in time; the transport is
                closed then, since a late answer would be taken for the next request's.
            MessageError: the request or the response is over its limit.
        """
        _check_size(request)
        with self._lock:
            try:
                self._socket.send(request)
                response = self._socket.recv(MAX_RESPONSE_SIZE + 1)
            except TimeoutError:
                self._socket.close()
                raise NsmUnavailable("the NSM did not answer in time") from None
            except OSError as error:
                self._socket.close()
                raise NsmUnavailable(f"the NSM can't be reached: {_reason(error)}") from None
            if not response:
                self._socket.close()
                raise NsmUnavailable(
                    "the NSM closed its socket", fix="The launcher ended; start the enclave again."
                )
        if len(response) > MAX_RESPONSE_SIZE:
            raise MessageError(f"the NSM response has more than {MAX_RESPONSE_SIZE} bytes")
        return response

    def close(self) -> None:
        """Close the socket; later exchanges fail."""
        with contextlib.suppress(OSError):
            self._socket.close()


def open_nsm() -> NsmTransport:
    """Return the transport to this enclave's NSM: the socket that `GEUMGO_NSM_FD` names, else `/dev/nsm`.

    Whose NSM it is makes no difference to trust: who verifies the documents chooses the roots.

    Raises:
        NsmUnavailable: there is neither.
    """
    text = os.environ.get(NSM_FD_VARIABLE)
    if text is None:
        return DeviceTransport()
    if not text.isascii() or not text.isdigit() or len(text) > 9:  # fits a C int
        raise NsmUnavailable(f"{NSM_FD_VARIABLE} is not a descriptor's number")
    return SocketTransport(int(text))


def _check_size(request: bytes) -> None:
    if not 0 < len(request) <= MAX_REQUEST_SIZE:
        raise MessageError(
            f"an NSM request has 1 to {MAX_REQUEST_SIZE} bytes, not {len(request)}", code="too_large"
        )


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
