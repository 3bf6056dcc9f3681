"""Which measured configuration an image holds, so that nobody releases a key to another than he looked at."""

from __future__ import annotations

from geumgo.image import cpio
from geumgo.image._errors import ImageError
from geumgo.image._layout import SectionType
from geumgo.image._source import Window
from geumgo.image._unpack import ROOTFS
from geumgo.image.eif import Eif
from geumgo.image.enclave_image import CONFIGURATION

__all__ = ("MAX_CONFIGURATION", "check_configuration", "configuration_of")

MAX_CONFIGURATION = 1 << 20
"""Bytes of the file that are read: as many as the program inside accepts."""

_NAME = f"{ROOTFS}/{CONFIGURATION}"


def configuration_of(eif: Eif) -> bytes:
    """Return the bytes of ``/etc/geumgo/measured.json`` in the image's application ramdisks.

    Raises:
        ImageError: there is none, or what a program would find there can't be told from the archives alone:
            the file stands there twice, is a link, or lies below one.
    """
    found: tuple[Window, cpio.Entry] | None = None
    for index in range(1, len(eif.of_kind(SectionType.RAMDISK))):
        ramdisk = eif.ramdisk(index)
        for entry in cpio.read(ramdisk):
            if entry.name == _NAME:
                if found is not None or entry.kind is not cpio.Kind.FILE or entry.link is not None:
                    raise _ambiguous()
                found = ramdisk, entry
            elif _NAME.startswith(f"{entry.name}/") and entry.kind is not cpio.Kind.DIRECTORY:
                raise _ambiguous()
    if found is None:
        raise ImageError(
            f"the image has no /{CONFIGURATION}",
            fix="Build it with `geumgo image build --configuration`.",
            code="no_configuration",
        )
    ramdisk, entry = found
    if entry.size > MAX_CONFIGURATION:
        raise ImageError(f"/{CONFIGURATION} of the image is over {MAX_CONFIGURATION} bytes", code="too_large")
    return bytes(ramdisk.read_at(entry.offset, entry.size))


def check_configuration(eif: Eif, configuration: bytes) -> None:
    """Check that the image holds exactly this measured configuration.

    It says nothing about the image's code: who wants to know that builds the image himself and compares PCRs.

    Raises:
        ImageError: ``other_configuration``; or as `configuration_of`.
    """
    if configuration_of(eif) != configuration:
        raise ImageError(
            "the image holds another measured configuration than this file",
            why="Its operations, callers and keys are not the ones that stand here.",
            fix="Build the image around this file, or name the file that it was built around.",
            code="other_configuration",
        )


def _ambiguous() -> ImageError:
    return ImageError(
        f"/{CONFIGURATION} of the image is not one plain file",
        why="What the program inside reads there may be something else than what is shown.",
        code="other_configuration",
    )
