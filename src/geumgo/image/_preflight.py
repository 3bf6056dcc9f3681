"""What a launch would fail with, told before it: memory, limits of the format, what can't boot, signatures.

Memory (nitro.md §2.3, §2.8). AWS's launcher wants four times the image. Linux itself keeps the ramdisks until
they are unpacked, and gives the root file system that they are unpacked into half of its memory at most, so
an image whose ramdisks are compressed may need more than the rule says. An enclave has at least 64 MiB, and
gets memory in pieces of 2 MiB.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geumgo._base import SystemClock
from geumgo.image import cpio
from geumgo.image._bootstrap import bootable
from geumgo.image._errors import EifError, ImageError
from geumgo.image._layout import MAX_SECTIONS, SectionType
from geumgo.image._measure import Measurements
from geumgo.image._signature import check_dates, check_signature
from geumgo.image._source import Source, chunks
from geumgo.image.eif import Eif, measure, read_eif

__all__ = ("Finding", "Need", "memory_needed", "preflight")

MIB = 1 << 20
RATIO = 4
"""AWS's `ENCLAVE_MEMORY_EIF_SIZE_RATIO`; below it, nitro-cli ends with E26."""
MIN_MEMORY = 64 * MIB
MEMORY_STEP = 2 * MIB
"""The smallest hugepage."""
PAGE = 4096
MAX_UNPACKED = 16 << 30
"""Where counting a compressed ramdisk stops, since a small file can expand to anything: half a minute's work."""
MAX_CMDLINE = 2047
"""COMMAND_LINE_SIZE of Linux for both architectures is 2048, with the NUL at the end; it cuts what is longer."""
SOON_MS = 30 * 24 * 3600 * 1000
"""How long before a certificate's end it is worth a word."""

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a launch would stumble over.

    Attributes:
        code: stable, for programs.
        fatal: whether the launch fails; false for what only deserves a look.
        what: what is the matter, with the numbers.
        fix: what to do.
    """

    code: str
    fatal: bool
    what: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return the keys that the command line prints."""
        return {"Code": self.code, "Fatal": self.fatal, "What": self.what, "Fix": self.fix}


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that an image needs.

    Attributes:
        size: bytes of the image.
        unpacked: bytes of its ramdisks' files, in whole pages; a lower bound where `unknown` says why.
        unknown: why a ramdisk can't be counted; empty where all are.
    """

    size: int
    unpacked: int
    unknown: str = ""

    @property
    def by_rule(self) -> int:
        """Return four times the image, bytes."""
        return RATIO * self.size

    @property
    def by_content(self) -> int:
        """Return the image and twice what its ramdisks unpack to, bytes."""
        return self.size + 2 * self.unpacked

    @property
    def mib(self) -> int:
        """Return the MiB to give an enclave."""
        need = max(self.by_rule, self.by_content, MIN_MEMORY)
        return -(-need // MEMORY_STEP) * MEMORY_STEP // MIB


def memory_needed(eif: Eif) -> Need:
    """Return the memory that an enclave with this image needs; a compressed ramdisk is unpacked to count it."""
    unpacked, unknown = 0, ""
    for index, section in enumerate(eif.of_kind(SectionType.RAMDISK)):
        try:
            unpacked += _unpacked(eif.data(section))
        except ImageError as error:
            unpacked += section.size
            unknown = unknown or f"ramdisk {index} can't be counted: {error.what}"
    return Need(eif.source.size, unpacked, unknown)


def _unpacked(ramdisk: Source) -> int:
    if ramdisk.size >= 2 and bytes(ramdisk.read_at(0, 2)) == _GZIP:
        return _inflated(ramdisk)
    return sum(-(-entry.size // PAGE) * PAGE for entry in cpio.read(ramdisk))


def _inflated(ramdisk: Source) -> int:
    """Return what a gzip file expands to, one chunk of memory at a time."""
    total, inflater = 0, zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks(ramdisk):
            rest = bytes(chunk)
            while rest and not inflater.eof:
                total += len(inflater.decompress(rest, MIB))
                rest = inflater.unconsumed_tail
                if total > MAX_UNPACKED:
                    raise EifError(f"it unpacks to more than {MAX_UNPACKED >> 30} GiB", code="too_large")
    except zlib.error:
        raise EifError("its gzip data is damaged") from None
    if not inflater.eof:
        raise EifError("its gzip data ends too early")
    return total


def preflight(
    image: Path | Eif, memory_mib: int | None = None, *, boots: bool = True, now_ms: int | None = None
) -> tuple[Finding, ...]:
    """Return what a launch of this image would stumble over; nothing is launched.

    Args:
        image: the file, or one that was read.
        memory_mib: what the enclave would get; None for the default that the image names.
        boots: false for the process backend, which needs neither kernel nor memory for one.
        now_ms: time of the launch, milliseconds since 1970; None for now.

    Raises:
        EifError: the image is malformed or damaged.
        ImageError: it can't be read.
    """
    eif = read_eif(image) if isinstance(image, Path) else image
    found = [
        Finding("unusual_eif", True, f"the image is unusual: {text}", "Build the image again.")
        for text in eif.warnings
    ]
    if boots:
        found += _memory(memory_needed(eif), eif.header.default_memory // MIB, memory_mib)
        can_boot, reason = bootable(eif)
        if not can_boot:
            fix = "Build it with --kernel and --init; the process backend runs it as it is."
            found.append(Finding("not_bootable", True, f"the image can't boot: {reason}", fix))
        found += _cmdline(eif.cmdline)
    else:
        found += _for_process(eif)
    found += _signature(eif, measure(eif), SystemClock().now_ms() if now_ms is None else now_ms)
    return tuple(found)


def _memory(need: Need, default: int, given: int | None) -> list[Finding]:
    found = []
    if need.unknown:
        found.append(
            Finding(
                "unpacked_size_unknown",
                False,
                f"{need.unknown}; the memory needed may be more than {need.mib} MiB",
                "Build the image with uncompressed ramdisks, as nitro-cli does.",
            )
        )
    memory = default if given is None else given
    if memory >= need.mib:
        return found
    whose = f"the image's default of {memory} MiB" if given is None else f"{memory} MiB"
    size = f"{need.size / MIB:.1f} MiB"
    if need.by_content > max(need.by_rule, MIN_MEMORY):
        why = f"the image of {size} unpacks to {need.unpacked / MIB:.1f} MiB, half of memory at most"
    elif need.by_rule > MIN_MEMORY:
        why = f"an enclave needs {RATIO} times its image, which has {size}"
    else:
        why = f"an enclave has at least {MIN_MEMORY // MIB} MiB"
    fix = f"Give the enclave {need.mib} MiB or more, or make the image smaller."
    return [*found, Finding("memory", True, f"{whose} is not enough: {why}", fix)]


def _cmdline(cmdline: bytes) -> list[Finding]:
    if len(cmdline) > MAX_CMDLINE:
        what = f"the kernel's command line has {len(cmdline)} bytes, Linux takes {MAX_CMDLINE}"
        return [Finding("cmdline_too_long", True, what, "Build the image with a shorter --cmdline.")]
    if b"\0" in cmdline or b"\n" in cmdline:
        what = "the kernel's command line has a NUL or a line break in it"
        return [Finding("cmdline_malformed", True, what, "Build the image with one line and no NUL.")]
    return []


def _for_process(eif: Eif) -> list[Finding]:
    ramdisks = eif.of_kind(SectionType.RAMDISK)
    if len(ramdisks) < 2:
        what = f"the process backend runs the second ramdisk, and the image has {len(ramdisks)}"
        return [Finding("no_application", True, what, "Build the image with its application in a ramdisk.")]
    if any(bytes(eif.data(part).read_at(0, min(2, part.size))) == _GZIP for part in ramdisks[1:]):
        what = "the application's ramdisk is compressed, which the process backend does not unpack"
        return [Finding("compressed", True, what, "Build the image with uncompressed ramdisks.")]
    return []


def _signature(eif: Eif, measured: Measurements, now_ms: int) -> list[Finding]:
    signature = eif.signature
    if signature is None:
        if len(eif.sections) < MAX_SECTIONS:
            return []
        what = f"the image has {MAX_SECTIONS} sections, so that none is left for a signature"
        return [Finding("no_room_for_signature", False, what, "Build it with fewer ramdisks to sign it.")]
    try:
        certificate = check_signature(signature, measured.pcr0)
        check_dates(certificate, now_ms)
    except EifError as error:
        return [Finding(error.code, True, error.what, "Sign the image again: geumgo image sign.")]
    try:
        check_dates(certificate, now_ms + SOON_MS)
    except EifError:
        end = certificate.not_valid_after_utc.isoformat()
        what = f"the signing certificate expires at {end}; no enclave starts from this image after that"
        return [Finding("certificate_expires_soon", False, what, "Sign the image with a newer one by then.")]
    return []
