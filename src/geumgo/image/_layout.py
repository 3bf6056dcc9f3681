"""The bytes of an EIF's header and section headers (nitro.md §1.1, §1.2); big-endian throughout."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from geumgo.image._errors import EifError

__all__ = (
    "CRC_OFFSET",
    "HEADER_SIZE",
    "MAX_SECTIONS",
    "MAX_SIGNATURE_SIZE",
    "SECTION_HEADER_SIZE",
    "Architecture",
    "EifHeader",
    "SectionType",
    "pack_section_header",
    "unpack_section_header",
)

MAGIC = b".eif"
VERSION = 4
HEADER_SIZE = 548
SECTION_HEADER_SIZE = 12
MAX_SECTIONS = 32
"""Slots in the header's tables."""
MIN_SECTIONS = 2
"""Kernel and command line."""
CRC_OFFSET = 0x220
MAX_SIGNATURE_SIZE = 32768
"""The format's own cap on the signature section."""
DEFAULT_MEMORY = 1 << 30
DEFAULT_CPUS = 2
"""What AWS's builder writes into the header."""

_HEADER = struct.Struct(">4sHHQQHH32Q32QII")
_SECTION = struct.Struct(">HHQ")


class SectionType(enum.IntEnum):
    """What a section holds."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


class Architecture(enum.IntEnum):
    """Bit 0 of the header's flags."""

    X86_64 = 0
    AARCH64 = 1

    @property
    def machine(self) -> str:
        """Return the name that `uname -m` prints."""
        return self.name.lower()

    @classmethod
    def of_machine(cls, machine: str) -> Architecture:
        """Return the architecture that `uname -m`, Debian or OCI calls `machine`."""
        names = {"x86_64": cls.X86_64, "amd64": cls.X86_64, "aarch64": cls.AARCH64, "arm64": cls.AARCH64}
        try:
            return names[machine]
        except KeyError:
            raise EifError(
                f"an EIF can't be for the architecture {machine!r}",
                fix="Use x86_64 or aarch64.",
                code="unsupported_architecture",
            ) from None


@dataclass(frozen=True, slots=True)
class EifHeader:
    """The 548 bytes at the start.

    Attributes:
        version: format version, at most 4.
        flags: bit 0 is the architecture.
        default_memory: bytes.
        default_cpus: vCPUs.
        offsets: where each section's header starts, from the start of the file.
        sizes: bytes of each section's data, without its header.
        crc: CRC-32 of the file without these four bytes.
        reserved: zero in every file seen so far.
        unused: zero in every file seen so far.
        spare: true where a table slot past the last section is not zero.
    """

    version: int
    flags: int
    default_memory: int
    default_cpus: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    crc: int
    reserved: int = 0
    unused: int = 0
    spare: bool = False

    @property
    def architecture(self) -> Architecture:
        """Return what the image runs on."""
        return Architecture(self.flags & 1)

    @classmethod
    def parse(cls, data: bytes) -> EifHeader:
        """Parse exactly `HEADER_SIZE` bytes.

        Raises:
            EifError: another length or magic, a version above 4, or a section count outside 2..32.
        """
        if len(data) != HEADER_SIZE:
            raise EifError(f"an EIF header has {HEADER_SIZE} bytes, these are {len(data)}")
        magic, version, flags, memory, cpus, reserved, count, *rest = _HEADER.unpack(data)
        if magic != MAGIC:
            raise EifError("this is not an EIF: it does not start with '.eif'")
        if version > VERSION:
            raise EifError(f"EIF version {version} is newer than {VERSION}, the newest known")
        if not MIN_SECTIONS <= count <= MAX_SECTIONS:
            raise EifError(f"the header says {count} sections; {MIN_SECTIONS} to {MAX_SECTIONS} are possible")
        offsets, sizes, unused, crc = rest[:32], rest[32:64], rest[64], rest[65]
        return cls(
            version=version,
            flags=flags,
            default_memory=memory,
            default_cpus=cpus,
            offsets=tuple(offsets[:count]),
            sizes=tuple(sizes[:count]),
            crc=crc,
            reserved=reserved,
            unused=unused,
            spare=any(offsets[count:]) or any(sizes[count:]),
        )

    def to_bytes(self) -> bytes:
        """Return the 548 bytes."""
        pad = (0,) * (MAX_SECTIONS - len(self.offsets))
        return _HEADER.pack(
            MAGIC,
            self.version,
            self.flags,
            self.default_memory,
            self.default_cpus,
            self.reserved,
            len(self.offsets),
            *self.offsets,
            *pad,
            *self.sizes,
            *pad,
            self.unused,
            self.crc,
        )


def pack_section_header(kind: SectionType, size: int) -> bytes:
    """Return the 12 bytes before a section's data."""
    return _SECTION.pack(kind, 0, size)


def unpack_section_header(data: bytes) -> tuple[SectionType, int, int]:
    """Return type, flags and size of data.

    Raises:
        EifError: another length than 12, or a type that is not 1..5.
    """
    if len(data) != SECTION_HEADER_SIZE:
        raise EifError(f"a section header has {SECTION_HEADER_SIZE} bytes, these are {len(data)}")
    kind, flags, size = _SECTION.unpack(data)
    try:
        return SectionType(kind), flags, size
    except ValueError:
        raise EifError(f"section type {kind} does not exist") from None
