"""File contents on their way from layers to the ramdisk: one temporary file without a name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from geumgo.image._errors import BuildError, ImageError
from geumgo.image._source import Data, Window

__all__ = ("Spool",)


class Spool:
    """Bytes that were written one after the other and can be read anywhere; a source.

    It lies in the folder where the image goes, since the temporary folder may be memory.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ImageError(
                f"{folder} can't take a temporary file: {error.strerror}", code="image_unwritable"
            ) from None
        self._size = 0
        self._limit = limit

    @property
    def size(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def add(self, parts: Iterable[Data]) -> Window:
        """Append bytes, and return them as a source.

        Raises:
            BuildError: more than the limit.
            ImageError: the disk is full.
        """
        start = self._size
        try:
            for part in parts:
                view = memoryview(part)
                if self._size + len(view) > self._limit:
                    raise BuildError(
                        f"the image's files have more than {self._limit} bytes", code="too_large"
                    )
                self._size += len(view)
                while view:
                    view = view[os.write(self._file.fileno(), view) :]
        except OSError as error:
            raise ImageError(
                f"the temporary file can't be written: {error.strerror}", code="image_unwritable"
            ) from None
        return Window(self, start, self._size - start)

    def read_at(self, offset: int, count: int) -> Data:
        """Return exactly `count` bytes from `offset`."""
        found = b""
        try:
            while len(found) < count:
                part = os.pread(self._file.fileno(), count - len(found), offset + len(found))
                if not part:
                    raise ImageError("the temporary file is shorter than what was written")
                found += part
        except OSError as error:
            raise ImageError(f"the temporary file can't be read: {error.strerror}") from None
        return found

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
