"""Serves a software NSM over the one socket that an enclave gets to it."""

from __future__ import annotations

import socket

from geumgo.nitro.messages import MAX_REQUEST_SIZE
from geumgo.testing.nsm.software import SoftwareNsm

__all__ = ("serve_nsm",)


def serve_nsm(nsm: SoftwareNsm, sock: socket.socket) -> None:
    """Answer requests on a SOCK_SEQPACKET socket until the other side closes; blocks, so give it a thread.

    A packet is a request, whatever its bytes; the response to it is one packet. The socket is closed at
    the end.
    """
    with sock:
        while True:
            try:
                # One byte more than allowed, so that a longer packet is seen to be too long.
                request = sock.recv(MAX_REQUEST_SIZE + 1)
                if not request:
                    return
                sock.sendall(nsm.handle(request))
            except OSError:
                return  # the enclave died, or the launcher closed the socket to end this
