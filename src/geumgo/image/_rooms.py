"""Geumgo's own part of the image: the rooms that run inside an enclave, and nothing else of it."""

from __future__ import annotations

from pathlib import Path

import geumgo
from geumgo.image._errors import BuildError
from geumgo.image._locked import LIBRARY
from geumgo.image.cpio import Node

__all__ = ("ROOMS", "room_nodes")

ROOMS = ("_base", "attestation", "channel", "codec", "deid", "enclave", "keys", "nitro", "vsock")
"""`enclave` and what it may import; the parent's rooms are not in the image."""
PACKAGE = Path(geumgo.__file__).parent
"""Where this Geumgo lies."""
_DATA = frozenset({".py", ".pem", ".json", ".txt", ".csv"})
"""Source and data files; never byte code of another Python."""


def room_nodes(package: Path | None = None) -> dict[str, Node]:
    """Return the files of Geumgo's in-enclave rooms, by name inside the root file system.

    Args:
        package: folder of the `geumgo` package; this one where None.

    Raises:
        BuildError: a room is missing.
    """
    package = package or PACKAGE
    nodes = {f"{LIBRARY}/geumgo/__init__.py": Node.file((package / "__init__.py").read_bytes())}
    for room in ROOMS:
        if not (package / room / "__init__.py").is_file():
            raise BuildError(f"the room {room} of Geumgo is missing in {package}")
        for path in (package / room).rglob("*"):
            if path.suffix in _DATA and path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(package).as_posix()
                nodes[f"{LIBRARY}/geumgo/{name}"] = Node.file(path.read_bytes())
    return nodes
