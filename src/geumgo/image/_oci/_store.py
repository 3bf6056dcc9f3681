"""Where an image's files are: a folder, or a tar archive that is read where it lies."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any, Protocol

from geumgo.image import cpio
from geumgo.image._errors import BuildError, CpioError
from geumgo.image._oci._limits import MAX_JSON, Limits
from geumgo.image._oci._spool import Spool
from geumgo.image._oci._streams import ByteStream, unpacked
from geumgo.image._oci._tar import TarKind, TarReader
from geumgo.image._source import FileSource, Source, Window, chunks

__all__ = ("Store", "open_store", "parse_json", "read_json")

_ARCHIVE_LIMIT = 1 << 44
"""Bytes of an archive file: it is on this disk already, so that this only stops nonsense."""


class Store(Protocol):
    """Files by relative name."""

    def open(self, name: str) -> Source | None:
        """Return a file; None where there is none."""
        ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> Source | None:
        path = self._path / _plain(name)
        return FileSource(path) if path.exists() else None


class _Archive:
    def __init__(self, source: Source, limits: Limits, what: str) -> None:
        self._source = source
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        stream = _Positioned(source, what)
        kept = 0
        for entry in TarReader(stream, what=what, limit=limits.headers):
            name = posixpath.normpath(entry.name)
            kept += len(name) + len(entry.link)
            if kept > limits.names:
                raise BuildError(f"{what} has names of over {limits.names} bytes", code="too_large")
            if entry.kind is TarKind.FILE and not entry.sparse:
                self._files[name] = (entry.offset, entry.size)
                self._links.pop(name, None)
            elif entry.kind in (TarKind.SYMLINK, TarKind.LINK):
                # Docker stored a layer that several images share once, and linked to it.
                folder = posixpath.dirname(name) if entry.kind is TarKind.SYMLINK else ""
                self._links[name] = posixpath.normpath(posixpath.join(folder, entry.link))
                self._files.pop(name, None)

    def open(self, name: str) -> Source | None:
        name = _plain(name)
        place = self._files.get(self._links.get(name, name))
        return None if place is None else Window(self._source, *place)


class _Positioned(ByteStream):
    """A source as a stream whose files are passed over without being read."""

    __slots__ = ("_source",)

    def __init__(self, source: Source, what: str) -> None:
        super().__init__(chunks(source), limit=_ARCHIVE_LIMIT, what=what)
        self._source = source

    def skip(self, count: int) -> None:
        to = self.position + count
        if to > self._source.size:
            raise BuildError(f"{self._what} ends in the middle of an entry", code="bad_layer")
        self._parts, self._part, self._at = (
            chunks(self._source, to, self._source.size - to),
            memoryview(b""),
            0,
        )
        self.position = to


def open_store(path: Path, spool: Spool, limits: Limits) -> Store:
    """Open an image layout or a `docker save` archive, as a folder or a tar file, which may be compressed.

    Raises:
        BuildError: it is neither.
        ImageError: it can't be read.
    """
    if path.is_dir():
        return _Folder(path)
    source: Source = FileSource(path)
    what = path.name
    parts = chunks(source)
    plain = unpacked(source, parts, what)
    if plain is not parts:
        source = spool.add(plain)
    return _Archive(source, limits, what)


def read_json(store: Store, name: str) -> dict[str, Any] | list[Any] | None:
    """Return a file's JSON; None where there is no such file.

    Raises:
        BuildError: it is too large or malformed.
    """
    source = store.open(name)
    if source is None:
        return None
    if source.size > MAX_JSON:
        raise BuildError(f"{name} has {source.size} bytes; {MAX_JSON} is the limit", code="too_large")
    return parse_json(bytes(source.read_at(0, source.size)), name)


def parse_json(data: bytes, what: str) -> dict[str, Any] | list[Any]:
    """Return an object or a list.

    Raises:
        BuildError: it is something else.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BuildError(f"{what} is not JSON", code="bad_oci_image") from None
    if not isinstance(value, dict | list):
        raise BuildError(f"{what} is neither a JSON object nor a list", code="bad_oci_image")
    return value


def _plain(name: str) -> str:
    name = posixpath.normpath(name)
    try:
        cpio.check_name(name)
    except (CpioError, UnicodeError):
        raise BuildError("the image names a file of its own by no plain relative path") from None
    return name
