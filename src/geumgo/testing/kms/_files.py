"""Files of the state folder: written whole, with the mode that they are to have from the first byte on."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from geumgo._base import GeumgoError

__all__ = ("FolderError", "check_private", "write_file")


class FolderError(GeumgoError):
    """Raised when others can change what lies in a folder for keys."""

    code = "bad_state"


def check_private(folder: Path) -> None:
    """Refuse a folder in which somebody else could put files before us.

    Raises:
        FolderError: it is another user's, or others may write to it.
    """
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise FolderError(
            f"{folder} belongs to another user", fix="Give a folder of your own: keys will lie in it."
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FolderError(f"others may write to {folder}", fix=f"Run: chmod go-rwx {folder}")


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file so that it is there as a whole or as it was, also after a crash."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
