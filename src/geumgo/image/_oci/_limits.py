"""How much a container image may ask of the machine that builds from it."""

from __future__ import annotations

from dataclasses import dataclass

from geumgo.image import cpio

__all__ = (
    "MAX_EXTENSION",
    "MAX_JSON",
    "MAX_LINKS",
    "MAX_SPARSE",
    "MAX_TARGET",
    "MAX_WALK",
    "ZSTD_WINDOW_LOG",
    "Limits",
)

MAX_JSON = 4 << 20
"""Bytes of an index, manifest or configuration: what registries take for a manifest."""
MAX_EXTENSION = 1 << 20
"""Bytes of one extended header: long names and attributes have a few KiB. It is read into memory."""
MAX_SPARSE = 1 << 16
"""Pieces of one sparse file; the map is in memory."""
MAX_TARGET = 4095
"""Bytes of a symbolic link's target on Linux."""
MAX_LINKS = 40
"""Symbolic links on one way, as in Linux."""
MAX_WALK = 1024
"""Components walked for one name, links included, so that links to links cost little."""
ZSTD_WINDOW_LOG = 27
"""128 MiB: what zstd itself takes without being asked; the only buffer that grows with a setting of the input."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts and sizes, each refused where it is passed.

    Attributes:
        layers: layers; Docker makes 127, overlayfs mounts 500.
        headers: entries of all layers, hidden ones included.
        entries: files, folders and links of the merged tree; what a ramdisk of ours takes.
        names: bytes of names, targets and attribute names kept in memory.
        paths: bytes of the merged tree's whole paths.
        layer_bytes: bytes of one unpacked layer.
        total_bytes: bytes of all unpacked layers, and of the temporary file; an enclave needs four times
            its image as memory, so that larger ones do not run anyway.
    """

    layers: int = 500
    headers: int = 1_000_000
    entries: int = cpio.MAX_ENTRIES
    names: int = 64 << 20
    paths: int = 128 << 20
    layer_bytes: int = 16 << 30
    total_bytes: int = 32 << 30
