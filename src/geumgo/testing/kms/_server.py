"""Serve the emulator over HTTPS (uvicorn)."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from geumgo._base import Clock, SystemClock
from geumgo.attestation import TrustRoots
from geumgo.testing.kms._app import ACCOUNT, REGION, StateError, create_app
from geumgo.testing.kms._identities import ADMIN_FILE, PARENT_FILE
from geumgo.testing.kms._tls import CA_FILE, prepare_tls

__all__ = ("serve",)

MAX_CONNECTIONS = 256
"""Connections at a time, each of some 100 KiB with TLS; enclaves and tests have a handful."""

KEEP_ALIVE = 30
"""Seconds that an idle connection stays."""


GRACE = 5
"""Seconds that calls in progress get when the emulator is told to stop; each takes milliseconds."""


def print_ready(ready: dict[str, Any]) -> None:
    """Print the ready line, one JSON object, to stdout."""
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


async def serve(
    port: int,
    state_dir: Path,
    *,
    roots: TrustRoots,
    bind: str = "127.0.0.1",
    hosts: Sequence[str] = (),
    clock: Clock | None = None,
    account: str = ACCOUNT,
    region: str = REGION,
    on_ready: Callable[[dict[str, Any]], None] = print_ready,
) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled.

    Args:
        port: TCP port; 0 for any that is free.
        state_dir: keys, credentials, certificate authority.
        roots: see `create_app`.
        bind: address to listen on.
        hosts: further names for the server certificate, which always has localhost, 127.0.0.1 and ::1.
        clock, account, region: see `create_app`.
        on_ready: told the endpoint and the files once connections are accepted.

    Raises:
        StateError: the folder or the address can't be used.
    """
    clock = clock or SystemClock()
    app = create_app(state_dir, roots=roots, clock=clock, account=account, region=region)
    listener = None
    try:
        listener = _listen(bind, port)
        certificate = prepare_tls(state_dir, hosts=hosts, clock=clock)
        config = uvicorn.Config(
            app,
            ssl_certfile=certificate,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
        state = state_dir.resolve()
        name = "localhost" if bind in ("127.0.0.1", "::1", "0.0.0.0", "::") else bind
        server = _Server(
            config,
            lambda: on_ready(
                {
                    "ready": True,
                    "endpoint": f"https://{name}:{listener.getsockname()[1]}",
                    "region": region,
                    "account": account,
                    "ca": str(state / CA_FILE),
                    "credentials": str(state / ADMIN_FILE),
                    "parent_credentials": str(state / PARENT_FILE),
                }
            ),
        )
        await server.serve(sockets=[listener])
    finally:
        if listener is not None:
            listener.close()
        app.state.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A polite end of TLS waits half a minute for clients that keep idle connections and do not read.
        for connection in list(self.server_state.connections):
            cycle, transport = getattr(connection, "cycle", None), getattr(connection, "transport", None)
            if transport is not None and (cycle is None or cycle.response_complete):
                transport.abort()
        await super().shutdown(sockets)


def _listen(bind: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:  # the resolver would take it modulo 65536
        raise StateError(f"{port} is not a port", code="bad_address")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise StateError(
            f"can't listen on {bind}:{port} ({error})",
            fix="Choose another --port, or 0 for any.",
            code="bad_address",
        ) from None
    return listener
