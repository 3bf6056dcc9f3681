"""Enclave Image Files, version 4 (nitro.md §1): read, write, measure.

Two readers of the same bytes must never see different images, so what is ambiguous is refused: sections
that overlap, a table that is not in file order or that disagrees with the section headers. What the
hypervisor accepts and a sequential reader would stumble over (gaps, trailing bytes) is named in
`Eif.warnings`.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from geumgo.image._errors import EifError, ImageError
from geumgo.image._layout import (
    CRC_OFFSET,
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    HEADER_SIZE,
    MAX_SECTIONS,
    MAX_SIGNATURE_SIZE,
    SECTION_HEADER_SIZE,
    VERSION,
    Architecture,
    EifHeader,
    SectionType,
    pack_section_header,
    unpack_section_header,
)
from geumgo.image._measure import Measurements, Measurer
from geumgo.image._signature import Signature, parse_signature
from geumgo.image._source import BytesSource, Data, FileSource, Source, Window, chunks

__all__ = ("MAX_METADATA_SIZE", "Content", "Eif", "Part", "Section", "measure", "read_eif", "write_eif")

MAX_METADATA_SIZE = 1 << 20
"""Metadata that is read into memory; AWS's tool allows 4 KiB of one's own besides a `docker inspect`."""
MAX_CMDLINE_SIZE = 1 << 16
"""Command lines that are read into memory; Linux itself stops at 2 or 4 KiB."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a file: its kind and where its data lies."""

    kind: SectionType
    flags: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Eif:
    """An image that was read and found well-formed.

    Attributes:
        header: the first 548 bytes.
        sections: in file order.
        source: the bytes.
        crc: CRC-32 as computed; None where the caller did not want it checked.
        warnings: what is unusual, one sentence each.
    """

    header: EifHeader
    sections: tuple[Section, ...]
    source: Source = field(repr=False)
    crc: int | None
    warnings: tuple[str, ...]

    def of_kind(self, kind: SectionType) -> tuple[Section, ...]:
        """Return the sections of one kind, in file order."""
        return tuple(section for section in self.sections if section.kind is kind)

    def data(self, section: Section) -> Window:
        """Return a section's data as a source of its own."""
        return Window(self.source, section.offset, section.size)

    def ramdisk(self, index: int) -> Window:
        """Return the data of ramdisk `index` (0 is the bootstrap, 1 the application).

        Raises:
            EifError: there are fewer ramdisks.
        """
        ramdisks = self.of_kind(SectionType.RAMDISK)
        if not 0 <= index < len(ramdisks):
            raise EifError(f"the image has {len(ramdisks)} ramdisks, no number {index}")
        return self.data(ramdisks[index])

    @property
    def kernel(self) -> Window:
        """Return the kernel."""
        return self.data(self.of_kind(SectionType.KERNEL)[0])

    @property
    def cmdline(self) -> bytes:
        """Return the kernel's command line."""
        return self._small(SectionType.CMDLINE, MAX_CMDLINE_SIZE)

    @property
    def metadata(self) -> bytes | None:
        """Return the metadata section's JSON; None in versions before 4."""
        return (
            self._small(SectionType.METADATA, MAX_METADATA_SIZE)
            if self.of_kind(SectionType.METADATA)
            else None
        )

    @property
    def signature(self) -> Signature | None:
        """Return the signature section, parsed but not verified; None for an image that isn't signed."""
        if not self.of_kind(SectionType.SIGNATURE):
            return None
        return parse_signature(self._small(SectionType.SIGNATURE, MAX_SIGNATURE_SIZE))

    def _small(self, kind: SectionType, limit: int) -> bytes:
        section = self.of_kind(kind)[0]
        if section.size > limit:
            raise EifError(
                f"the {kind.name.lower()} section has {section.size} bytes; at most {limit} are read",
                code="too_large",
            )
        return bytes(self.source.read_at(section.offset, section.size))


class Content(Protocol):
    """Data of a known size that is produced while it is written."""

    @property
    def size(self) -> int:
        """Return how many bytes `chunks` yields."""
        ...

    def chunks(self) -> Iterable[Data]:
        """Yield the bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One section to be written: bytes, a file, another image's section, or content made on the way."""

    kind: SectionType
    data: Data | Path | Source | Content


def read_eif(image: Path | str | Data, *, check_crc: bool = True) -> Eif:
    """Read an image from a file or from bytes.

    Memory: the header's few kilobytes and one chunk, whatever the sizes in the file say.

    Args:
        image: path, or the bytes themselves.
        check_crc: whether a wrong CRC is an error; False is for tools that describe damaged files.

    Raises:
        EifError: the bytes are not one well-formed image, or its CRC is wrong (`bad_eif_crc`).
        ImageError: the file can't be read.
    """
    source: Source = FileSource(Path(image)) if isinstance(image, str | Path) else BytesSource(image)
    if source.size < HEADER_SIZE:
        raise EifError(f"an EIF has at least {HEADER_SIZE} bytes, this has {source.size}")
    header = EifHeader.parse(bytes(source.read_at(0, HEADER_SIZE)))
    sections, warnings = _read_sections(source, header)
    _check_composition(header, sections)
    crc = None
    if check_crc:
        crc = _crc(source)
        if crc != header.crc:
            raise EifError(
                f"the image is damaged: its CRC is {header.crc:08x}, its bytes have {crc:08x}",
                fix="Build or copy the image again.",
                code="bad_eif_crc",
            )
    return Eif(header=header, sections=sections, source=source, crc=crc, warnings=warnings)


def _read_sections(source: Source, header: EifHeader) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    warnings = []
    if header.flags & ~1:
        warnings.append(f"unknown flags {header.flags:#06x} in the header")
    if header.reserved or header.unused or header.spare:
        warnings.append("header fields that should be zero are not")
    sections = []
    end = HEADER_SIZE
    for number, (offset, size) in enumerate(zip(header.offsets, header.sizes, strict=True)):
        if offset < end:
            raise EifError(f"section {number} starts at {offset}, before the end of what precedes it ({end})")
        if offset + SECTION_HEADER_SIZE + size > source.size:
            raise EifError(f"section {number} reaches past the end of the file")
        kind, flags, stated = unpack_section_header(bytes(source.read_at(offset, SECTION_HEADER_SIZE)))
        if stated != size:
            raise EifError(f"section {number} has {stated} bytes by its own header, {size} by the table")
        if offset > end:
            warnings.append(f"{offset - end} bytes before section {number} belong to no section")
        if flags:
            warnings.append(f"section {number} has unknown flags {flags:#06x}")
        sections.append(Section(kind, flags, offset + SECTION_HEADER_SIZE, size))
        end = offset + SECTION_HEADER_SIZE + size
    if end < source.size:
        warnings.append(f"{source.size - end} bytes follow the last section")
    return tuple(sections), tuple(warnings)


def _check_composition(header: EifHeader, sections: Sequence[Section]) -> None:
    kinds = [section.kind for section in sections]
    for kind in (SectionType.KERNEL, SectionType.CMDLINE):
        if kinds.count(kind) != 1:
            raise EifError(f"an image has exactly one {kind.name.lower()}, this has {kinds.count(kind)}")
    for kind, since in ((SectionType.SIGNATURE, 3), (SectionType.METADATA, 4)):
        if kinds.count(kind) > 1:
            raise EifError(f"an image has at most one {kind.name.lower()} section")
        if kind in kinds and header.version < since:
            raise EifError(f"EIF version {header.version} has no {kind.name.lower()} section")
    if header.version >= 4 and SectionType.METADATA not in kinds:
        raise EifError("an image of version 4 needs a metadata section")
    if SectionType.RAMDISK in kinds and kinds.index(SectionType.RAMDISK) < kinds.index(SectionType.KERNEL):
        raise EifError("a ramdisk precedes the kernel")
    for section in sections:
        if section.kind is SectionType.SIGNATURE and section.size > MAX_SIGNATURE_SIZE:
            raise EifError(
                f"the signature section has {section.size} bytes; {MAX_SIGNATURE_SIZE} is the limit"
            )


def _crc(source: Source) -> int:
    crc = zlib.crc32(source.read_at(0, CRC_OFFSET))
    for chunk in chunks(source, CRC_OFFSET + 4, source.size - CRC_OFFSET - 4):
        crc = zlib.crc32(chunk, crc)
    return crc


def measure(eif: Eif) -> Measurements:
    """Return the PCRs that the hypervisor will hold for this image; one pass over the file.

    Raises:
        EifError: the signature section can't be parsed.
    """
    measurer = Measurer()
    for section in eif.sections:
        measurer.section(section.kind)
        if section.kind in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK):
            for chunk in chunks(eif.source, section.offset, section.size):
                measurer.update(chunk)
    signature = eif.signature
    return measurer.finish(None if signature is None else signature.certificate)


def write_eif(
    path: Path,
    parts: Sequence[Part],
    *,
    architecture: Architecture = Architecture.X86_64,
    default_memory: int = DEFAULT_MEMORY,
    default_cpus: int = DEFAULT_CPUS,
    version: int = VERSION,
    pcr0: str | None = None,
) -> Measurements:
    """Write an image and return its measurements; sections follow each other without gaps.

    The file appears under its name when it is complete, or not at all.

    Args:
        path: where; an existing file is replaced.
        parts: the sections in file order.
        architecture: what the kernel runs on.
        default_memory: bytes for an enclave whose launcher names none.
        default_cpus: vCPUs for an enclave whose launcher names none.
        version: of the format.
        pcr0: what PCR0 must turn out to be, hex, because something was signed over it; None for any.

    Raises:
        EifError: a composition that no reader accepts, content whose size changed meanwhile, or another PCR0
            than expected (`image_changed`).
        ImageError: the file can't be written.
    """
    if len(parts) > MAX_SECTIONS:
        raise EifError(f"an image has at most {MAX_SECTIONS} sections, these are {len(parts)}")
    contents = [(part.kind, *_content(part.data)) for part in parts]
    offsets, end = [], HEADER_SIZE
    for _, size, _ in contents:
        offsets.append(end)
        end += SECTION_HEADER_SIZE + size
    header = EifHeader(
        version=version,
        flags=int(architecture),
        default_memory=default_memory,
        default_cpus=default_cpus,
        offsets=tuple(offsets),
        sizes=tuple(size for _, size, _ in contents),
        crc=0,
    )
    _check_composition(
        header,
        [Section(kind, 0, offset, size) for (kind, size, _), offset in zip(contents, offsets, strict=True)],
    )
    certificate = None
    measurer = Measurer()
    try:
        with _Replacement(path) as file:
            file.write(header.to_bytes())
            crc = zlib.crc32(header.to_bytes()[:CRC_OFFSET])
            for kind, size, stream in contents:
                section_header = pack_section_header(kind, size)
                file.write(section_header)
                crc = zlib.crc32(section_header, crc)
                measurer.section(kind)
                kept = bytearray() if kind is SectionType.SIGNATURE else None
                written = 0
                for chunk in stream:
                    file.write(chunk)
                    crc = zlib.crc32(chunk, crc)
                    measurer.update(chunk)
                    written += len(chunk)
                    if kept is not None:
                        kept += chunk
                if written != size:
                    raise EifError(f"the {kind.name.lower()} changed its size while it was written")
                if kept is not None:
                    certificate = parse_signature(bytes(kept)).certificate
            measured = measurer.finish(certificate)
            if pcr0 is not None and measured.pcr0 != pcr0:
                raise EifError("the image changed while it was copied", code="image_changed")
            file.seek(0)
            file.write(replace(header, crc=crc).to_bytes())
            file.commit()
    except OSError as error:
        raise ImageError(f"{path} can't be written: {error.strerror}", code="image_unwritable") from None
    return measured


def _content(data: Data | Path | Source | Content) -> tuple[int, Iterable[Data]]:
    if isinstance(data, bytes | bytearray | memoryview):
        data = BytesSource(data)
    elif isinstance(data, Path):
        data = FileSource(data)
    if isinstance(data, BytesSource | FileSource | Window):
        return data.size, chunks(data)
    if hasattr(data, "chunks"):
        return data.size, data.chunks()
    return data.size, chunks(data)


class _Replacement:
    """A file that takes its name only when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        self._name = Path(name)
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(fd, 0o666 & ~umask)
        self._file = os.fdopen(fd, "wb", buffering=1 << 20)

    def __enter__(self) -> _Replacement:
        return self

    def write(self, data: Data) -> None:
        self._file.write(data)

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def commit(self) -> None:
        self._file.close()
        self._name.replace(self._path)

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._name.unlink(missing_ok=True)
