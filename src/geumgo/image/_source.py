"""Random access to bytes that may be larger than memory should be: a file by `pread`, or bytes at hand.

Not `mmap`: a file that another process shortens would end ours with SIGBUS.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from geumgo.image._errors import ImageError

__all__ = ("CHUNK", "BytesSource", "Data", "FileSource", "Source", "Window", "chunks")

CHUNK = 1 << 20
"""Bytes read at a time: large enough that hashing dominates, small enough to be a constant."""

Data = bytes | bytearray | memoryview


class Source(Protocol):
    """Bytes with a known size that can be read anywhere."""

    @property
    def size(self) -> int:
        """Return how many bytes there are."""
        ...

    def read_at(self, offset: int, count: int) -> Data:
        """Return exactly `count` bytes from `offset`; raise `ImageError` when they are not there."""
        ...


class BytesSource:
    """Bytes that are in memory already."""

    __slots__ = ("_view",)

    def __init__(self, data: Data) -> None:
        self._view = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        """Return how many bytes there are."""
        return len(self._view)

    def read_at(self, offset: int, count: int) -> Data:
        """Return a view of `count` bytes from `offset`."""
        if offset < 0 or count < 0 or offset + count > len(self._view):
            raise ImageError(
                f"bytes {offset}..{offset + count} are outside the {len(self._view)} bytes given"
            )
        return self._view[offset : offset + count]


class FileSource:
    """A file, opened once, so that what is measured and what is unpacked is one inode."""

    __slots__ = ("_fd", "_size", "path")

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self.path = path
        try:
            # Non-blocking, because opening a pipe would wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            facts = os.fstat(self._fd)
        except OSError as error:
            raise ImageError(f"{path} can't be read: {error.strerror}", code="image_unreadable") from None
        if not stat.S_ISREG(facts.st_mode):
            raise ImageError(f"{path} is not a regular file", code="image_unreadable")
        self._size = facts.st_size

    @property
    def size(self) -> int:
        """Return the size that the file had when it was opened."""
        return self._size

    def read_at(self, offset: int, count: int) -> Data:
        """Return exactly `count` bytes from `offset`."""
        if offset < 0 or count < 0 or offset + count > self._size:
            raise ImageError(f"bytes {offset}..{offset + count} are outside {self.path} ({self._size} bytes)")
        try:
            data = os.pread(self._fd, count, offset)
            while len(data) < count:  # a signal, or 2 GiB and more in one call
                more = os.pread(self._fd, count - len(data), offset + len(data))
                if not more:
                    raise ImageError(f"{self.path} became shorter while it was read", code="image_unreadable")
                data += more
        except OSError as error:
            raise ImageError(
                f"{self.path} can't be read: {error.strerror}", code="image_unreadable"
            ) from None
        return data

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class Window:
    """A part of a source, itself a source."""

    __slots__ = ("_offset", "_size", "_source")

    def __init__(self, source: Source, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > source.size:
            raise ImageError(
                f"bytes {offset}..{offset + size} are outside the {source.size} bytes that there are"
            )
        self._source = source
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        """Return how many bytes the part has."""
        return self._size

    def read_at(self, offset: int, count: int) -> Data:
        """Return exactly `count` bytes from `offset` of the part."""
        if offset < 0 or count < 0 or offset + count > self._size:
            raise ImageError(
                f"bytes {offset}..{offset + count} are outside the {self._size} bytes that there are"
            )
        return self._source.read_at(self._offset + offset, count)


def chunks(source: Source, offset: int = 0, size: int | None = None) -> Iterator[Data]:
    """Yield `size` bytes from `offset`, at most `CHUNK` at a time; to the end where `size` is None."""
    end = source.size if size is None else offset + size
    while offset < end:
        count = min(CHUNK, end - offset)
        yield source.read_at(offset, count)
        offset += count
