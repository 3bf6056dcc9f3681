"""An image's sections as files."""

from __future__ import annotations

import os
from pathlib import Path

from geumgo.image._errors import ImageError
from geumgo.image._layout import SectionType
from geumgo.image._source import chunks
from geumgo.image.eif import Eif

__all__ = ("extract",)

_NAMES = {
    SectionType.KERNEL: "kernel",
    SectionType.CMDLINE: "cmdline",
    SectionType.SIGNATURE: "signature.cbor",
    SectionType.METADATA: "metadata.json",
}


def extract(eif: Eif, directory: Path) -> tuple[Path, ...]:
    """Write each section's data to a file in `directory`, and return the files in file order.

    Files are called `kernel`, `cmdline`, `metadata.json`, `signature.cbor`, `ramdisk0.cpio`, …; none that
    exists is overwritten.

    Raises:
        ImageError: a file exists or can't be written.
    """
    written: list[Path] = []
    ramdisks = 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for section in eif.sections:
            name = _NAMES.get(section.kind)
            if name is None:
                name = f"ramdisk{ramdisks}.cpio"
                ramdisks += 1
            path = directory / name
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(fd, "wb") as file:
                for chunk in chunks(eif.source, section.offset, section.size):
                    file.write(chunk)
            written.append(path)
    except OSError as error:
        raise ImageError(
            f"{error.filename or directory} can't be written: {error.strerror}", code="image_unwritable"
        ) from None
    return tuple(written)
