"""How a program of an unpacked image is started by the image's own dynamic loader.

The image's root file system need not be anybody's root: the loader is called by its path, told to read no
cache and to look for libraries in the image's folders (`/etc/ld.so.conf` of the image names them).
"""

from __future__ import annotations

from pathlib import Path

from geumgo.image._elf import parse_elf
from geumgo.image._errors import ImageError
from geumgo.image._source import FileSource

__all__ = ("LIBRARY_FOLDERS", "loader_command")

LIBRARY_FOLDERS = "etc/ld.so.conf"
"""One absolute folder a line, as seen inside the image."""


def loader_command(root: Path, program: str) -> tuple[str, ...]:
    """Return the command that runs `program` of the image unpacked at `root`; append its arguments.

    Args:
        root: the unpacked root file system.
        program: absolute path inside the image, such as `/usr/bin/python3.11`.

    Raises:
        ImageError: the image lacks the program or its loader, or has no `/etc/ld.so.conf`.
    """
    root = root.absolute()
    path = root / program.lstrip("/")
    elf = parse_elf(FileSource(path))
    if elf is None or elf.interpreter is None:
        raise ImageError(f"{program} in the image is not a dynamically linked program")
    loader = root / elf.interpreter.lstrip("/")
    if not loader.exists():
        raise ImageError(f"the image lacks its dynamic loader {elf.interpreter}")
    try:
        folders = (root / LIBRARY_FOLDERS).read_text().split()
    except OSError:
        raise ImageError(
            f"the image has no /{LIBRARY_FOLDERS}",
            why="Only images that Geumgo built can be run from a folder.",
        ) from None
    library_path = ":".join(f"{root}/{folder.lstrip('/')}" for folder in folders)
    return (str(loader), "--inhibit-cache", "--library-path", library_path, str(path))
