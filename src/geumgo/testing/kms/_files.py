"""Files of the state folder: written whole, with the mode that they are to have from the first byte on."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("write_file",)


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file so that it is there as a whole or as it was, also after a crash."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
