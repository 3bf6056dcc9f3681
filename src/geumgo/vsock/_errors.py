"""What can go wrong with a vsock connection.

VsockError
  ├─ AddressError        the text or numbers are no vsock address
  ├─ ConnectFailed       nobody answers at the address
  ├─ HandshakeError      the other side doesn't speak hybrid vsock
  └─ ListenFailed        the address can't be listened on
"""

from __future__ import annotations

from geumgo._base import GeumgoError

__all__ = ("AddressError", "ConnectFailed", "HandshakeError", "ListenFailed", "VsockError")


class VsockError(GeumgoError):
    """Raised when a vsock operation fails."""

    code = "unavailable"
    retryable = True


class AddressError(VsockError):
    """Raised when a text or a number is not a vsock address."""

    code = "bad_address"
    retryable = False


class ConnectFailed(VsockError):
    """Raised when nobody answers at an address in time."""


class HandshakeError(VsockError):
    """Raised when the other side of a Unix socket doesn't speak hybrid vsock."""

    code = "malformed"
    retryable = False


class ListenFailed(VsockError):
    """Raised when an address can't be listened on."""

    code = "cannot_listen"
    retryable = False
