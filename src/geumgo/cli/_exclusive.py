"""One command at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geumgo._base import GeumgoError

__all__ = ("exclusive",)


@contextmanager
def exclusive(folder: Path, what: str, *, fix: str) -> Iterator[None]:
    """Hold `folder`, which is made when needed, so that no second `what` works in it.

    The lock lies on the folder itself and ends with the process, whatever ends it.

    Raises:
        GeumgoError: somebody holds it (``in_use``), or it can't be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GeumgoError(f"{folder} can't be made: {error.strerror}", code="unwritable") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GeumgoError(f"{what} is running in {folder} already", fix=fix, code="in_use") from None
        except OSError:  # a file system without locks, such as some network's
            pass
        yield
    finally:
        os.close(lock)
