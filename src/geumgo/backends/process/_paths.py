"""Names in an enclave's runtime folder."""

from __future__ import annotations

__all__ = ("LOCK_FILE", "VSOCK_SOCKET")

LOCK_FILE = "launcher.lock"
VSOCK_SOCKET = "vsock.sock"
"""The enclave's hybrid vsock socket; what the enclave dials arrives at `vsock.sock_<port>`."""
