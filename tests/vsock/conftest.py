"""Short socket paths, both event loops, and an AF_VSOCK stand-in that touches no host address."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from geumgo.vsock import _dial, _listen


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test of this folder on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's name, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="gv") as path:
        yield Path(path)


@pytest.fixture
def vsock_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let sockets that the code means to be AF_VSOCK be Unix sockets in a folder."""

    class StandIn(socket.socket):
        def _path(self, address: tuple[int, int]) -> str:
            cid, port = address
            assert cid in (3, 16, 0xFFFFFFFF)
            return str(folder / f"port{port}")

        def connect(self, address: Any) -> None:
            super().connect(self._path(address))

        def bind(self, address: Any) -> None:
            super().bind(self._path(address))

        def accept(self) -> tuple[socket.socket, Any]:
            sock, _ = super().accept()
            return sock, (16, 1234)

    def make() -> socket.socket:
        sock = StandIn(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock

    monkeypatch.setattr(_dial, "vsock_socket", make)
    monkeypatch.setattr(_listen, "vsock_socket", make)
    return folder
