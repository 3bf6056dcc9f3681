"""Change one byte of an image and repair its CRC: what an attacker on the way would do.

A tool for demonstrations and tests. The changed image is well-formed and runs; its PCRs tell.
"""

from __future__ import annotations

from pathlib import Path

from geumgo.image import cpio
from geumgo.image._errors import ImageError
from geumgo.image._layout import SectionType
from geumgo.image._measure import Measurements
from geumgo.image._source import Data, Source
from geumgo.image._unpack import ROOTFS
from geumgo.image.eif import Part, read_eif, write_eif

__all__ = ("replace_byte",)


def replace_byte(
    image: Path, output: Path, file: str, *, offset: int = 0, value: int | None = None
) -> Measurements:
    """Write a copy of `image` in which one byte of a file of the application's root file system differs.

    Args:
        image: an EIF.
        output: where the changed one goes.
        file: name inside the root file system, such as `opt/geumgo/BANNER.txt`.
        offset: which byte of the file.
        value: the new byte; where None, a letter changes its case and anything else becomes `#`.

    Returns:
        The changed image's measurements.

    Raises:
        ImageError: the image is signed (its signature would not hold), the application's first ramdisk has
            no such file or byte, or the byte is that already.
    """
    eif = read_eif(image)
    if eif.signature is not None:
        raise ImageError("a signed image can't be changed: its signature would not hold")
    ramdisk = eif.ramdisk(1)
    entry = cpio.names(cpio.read(ramdisk)).get(f"{ROOTFS}/{file.lstrip('/')}")
    if entry is None or entry.kind is not cpio.Kind.FILE:
        raise ImageError(f"the application ramdisk has no file {file!r}")
    if not 0 <= offset < entry.size:
        raise ImageError(f"{file!r} has {entry.size} bytes, no number {offset}")
    if value is not None and not 0 <= value <= 255:
        raise ImageError(f"a byte can't be {value}")
    old = bytes(ramdisk.read_at(entry.offset + offset, 1))
    new = _other(old) if value is None else bytes([value])
    if new == old:
        raise ImageError(f"byte {offset} of {file!r} is {value} already")
    changed = _Changed(ramdisk, entry.offset + offset, new)
    second = eif.of_kind(SectionType.RAMDISK)[1]
    return write_eif(
        output,
        [Part(section.kind, changed if section is second else eif.data(section)) for section in eif.sections],
        architecture=eif.header.architecture,
        default_memory=eif.header.default_memory,
        default_cpus=eif.header.default_cpus,
    )


def _other(byte: bytes) -> bytes:
    swapped = byte.swapcase()
    if swapped != byte:
        return swapped
    return b"#" if byte != b"#" else b"-"


class _Changed:
    """A source with one byte replaced."""

    def __init__(self, source: Source, at: int, byte: bytes) -> None:
        self._source = source
        self._at = at
        self._byte = byte

    @property
    def size(self) -> int:
        return self._source.size

    def read_at(self, offset: int, count: int) -> Data:
        data = self._source.read_at(offset, count)
        if not offset <= self._at < offset + count:
            return data
        at = self._at - offset
        return bytes(data[:at]) + self._byte + bytes(data[at + 1 :])
