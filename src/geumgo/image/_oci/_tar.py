"""A tar reader for layers that strangers made: in order, no seeking, nothing large in memory, nothing guessed.

Formats: POSIX.1-2017 pax interchange format, and GNU tar's manual, appendix "Tar Internals" (long names,
sparse files in the old form and as pax 0.0, 0.1 and 1.0). Python's own reader takes a damaged header for the
end of the archive and extended headers of any size, so it can't be used here.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass

from geumgo.image._errors import BuildError
from geumgo.image._oci._limits import MAX_EXTENSION, MAX_SPARSE
from geumgo.image._oci._streams import ByteStream
from geumgo.image._source import CHUNK, Data

__all__ = ("TarEntry", "TarKind", "TarReader")

BLOCK = 512
_ZEROS = bytes(CHUNK)
_SCHILY = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_SPARSE = b"GNU.sparse."
_MEANINGFUL = (b"path", b"linkpath", b"size", b"uid", b"gid", _SCHILY, _LIBARCHIVE, _SPARSE)
_MAX_NUMBER = (1 << 63) - 1

_Pieces = list[tuple[int, int]]


class TarKind(enum.Enum):
    """What a header describes."""

    FILE = b"0"
    LINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry.

    Attributes:
        name: as it is in the archive: not checked.
        kind: what it is.
        mode: permission bits, with set-user-id, set-group-id and sticky.
        uid: owner.
        gid: group.
        size: bytes of the file, holes included.
        link: the target of a symbolic or hard link: not checked.
        device: major and minor number.
        attributes: names of extended attributes.
        offset: where in the stream the data begins.
        sparse: whether the file has holes, so that its data isn't in one piece.
    """

    name: str
    kind: TarKind
    mode: int
    uid: int
    gid: int
    size: int
    link: str
    device: tuple[int, int]
    attributes: tuple[str, ...]
    offset: int
    sparse: bool


class TarReader:
    """Yields entries; `data` gives the current one's content until the next is asked for.

    Args:
        stream: the archive.
        what: what errors call it.
        limit: entries, at most.
    """

    def __init__(self, stream: ByteStream, *, what: str, limit: int) -> None:
        self._stream = stream
        self._what = what
        self.left = limit
        self._stored = 0  # bytes of the current entry's data, not yet read
        self._padding = 0
        self._pieces: _Pieces | None = None
        self._size = 0

    def __iter__(self) -> Iterator[TarEntry]:
        """Yield the entries.

        Raises:
            BuildError: anything that isn't a well-formed archive, or more than is allowed.
        """
        long_name: bytes | None = None
        long_link: bytes | None = None
        records: list[tuple[bytes, bytes]] = []
        while True:
            header = self._header()
            if header is None:
                if long_name is not None or long_link is not None or records:
                    raise self._bad("ends after an extended header")
                return
            self.left -= 1
            if self.left < 0:
                raise BuildError(f"{self._what} has too many entries", code="too_large")
            flag, size = header[156:157], self._number(header[124:136])
            if flag in (b"L", b"K"):
                text = self._extension(size).rstrip(b"\0")
                if flag == b"L":
                    long_name = text
                else:
                    long_link = text
            elif flag in (b"x", b"X"):
                if records:
                    raise self._bad("has two extended headers for one entry")
                records = self._records(self._extension(size))
            elif flag == b"g":
                self._global(self._records(self._extension(size)))
            else:
                yield self._entry(header, long_name, long_link, records)
                self._stream.skip(self._stored + self._padding)
                self._stored = self._padding = 0
                long_name, long_link, records = None, None, []

    def data(self) -> Iterator[Data]:
        """Yield the current file's content, holes as zeros; once."""
        if self._pieces is None:
            yield from self._take(self._stored)
            return
        at = 0
        for offset, count in self._pieces:
            yield from _zeros(offset - at)
            yield from self._take(count)
            at = offset + count
        yield from _zeros(self._size - at)

    def _take(self, count: int) -> Iterator[Data]:
        while count:
            part = self._stream.part(min(count, CHUNK))
            if not part:
                raise self._bad("ends in the middle of a file")
            count -= len(part)
            self._stored -= len(part)
            yield part

    def _bad(self, how: str) -> BuildError:
        return BuildError(f"{self._what} is no well-formed tar archive: it {how}", code="bad_layer")

    def _header(self) -> bytes | None:
        """Return the next header; None at the end, which is a block of zeros or no more bytes."""
        header = self._stream.read(BLOCK)
        if not header or (not header.strip(b"\0") and len(header) == BLOCK):
            return None
        if len(header) < BLOCK:
            raise self._bad("ends in the middle of a header")
        blank = header[:148] + b" " * 8 + header[156:]
        # Old programs added the bytes as signed ones.
        sums = (sum(blank), sum(byte - 256 if byte > 127 else byte for byte in blank))
        if self._number(header[148:156]) not in sums:
            raise self._bad("has a header with a wrong checksum")
        return header

    def _number(self, field: bytes) -> int:
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
            if field[0] & 0x40 or value > _MAX_NUMBER:
                raise self._bad("has a number that is negative or too large")
            return value
        text = field.partition(b"\0")[0].strip(b" ")
        if not text:
            return 0
        if text.strip(b"01234567"):
            raise self._bad("has a header field that is no number")
        return int(text, 8)

    def _decimal(self, text: bytes) -> int:
        # pax allows fractions for times only, and a sign nowhere that matters here.
        if not text.isdigit() or len(text) > 19 or int(text) > _MAX_NUMBER:
            raise self._bad("has an extended header with something else than a number")
        return int(text)

    def _extension(self, size: int) -> bytes:
        if size > MAX_EXTENSION:
            raise BuildError(
                f"{self._what} has an extended header of {size} bytes; {MAX_EXTENSION} is the limit",
                code="too_large",
            )
        data = self._stream.read(size)
        if len(data) < size:
            raise self._bad("ends in an extended header")
        self._stream.skip(-size % BLOCK)
        return data

    def _records(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Return the records of a pax header, each "LENGTH KEY=VALUE" and a line feed."""
        found = []
        at = 0
        while at < len(data) and data[at]:
            blank = data.find(b" ", at, at + 20)
            digits = data[at:blank] if blank > 0 else b""
            if not digits.isdigit():
                raise self._bad("has an extended header without a length")
            end = at + int(digits)
            key, equals, value = data[blank + 1 : end - 1].partition(b"=")
            if end > len(data) or end <= blank or data[end - 1 : end] != b"\n" or not equals or not key:
                raise self._bad("has an extended header with a malformed record")
            found.append((key, value))
            at = end
        return found

    def _global(self, records: list[tuple[bytes, bytes]]) -> None:
        # Docker and containerd skip global headers, others obey them: one with a meaning is refused.
        for key, _ in records:
            if key.startswith(_MEANINGFUL):
                raise self._bad("names or sizes files by a global header, which not every reader obeys")

    def _entry(
        self,
        header: bytes,
        long_name: bytes | None,
        long_link: bytes | None,
        listed: list[tuple[bytes, bytes]],
    ) -> TarEntry:
        records = {key: value for key, value in listed if value}
        flag = header[156:157]
        name = header[:100].partition(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        name = records.get(_SPARSE + b"name") or records.get(b"path") or long_name or name
        link = records.get(b"linkpath") or long_link or header[157:257].partition(b"\0")[0]
        old_sparse = flag == b"S"
        if flag in (b"\0", b"7") or old_sparse:
            flag = b"5" if flag == b"\0" and name.endswith(b"/") else b"0"
        try:
            kind = TarKind(flag)
        except ValueError:
            raise self._bad(f"has an entry of the unknown type {flag!r}") from None
        if b"\0" in name or b"\0" in link:
            raise self._bad("has a name with a NUL")
        # Other kinds have no data, whatever their header says (Go's archive/tar does the same).
        stored = self._number(header[124:136])
        if b"size" in records:
            stored = self._decimal(records[b"size"])
        self._stored = stored if kind is TarKind.FILE else 0
        self._padding = -self._stored % BLOCK
        self._size, self._pieces = self._stored, None
        if kind is TarKind.FILE and old_sparse:
            self._old_sparse(header)
        elif kind is TarKind.FILE and any(key.startswith(_SPARSE) for key in records):
            self._pax_sparse(records, listed)
        return TarEntry(
            name=os.fsdecode(name),
            kind=kind,
            mode=self._number(header[100:108]) & 0o7777,
            uid=self._owner(records.get(b"uid"), header[108:116]),
            gid=self._owner(records.get(b"gid"), header[116:124]),
            size=self._size,
            link=os.fsdecode(link),
            device=(self._number(header[329:337]), self._number(header[337:345]))
            if kind in (TarKind.CHARACTER, TarKind.BLOCK)
            else (0, 0),
            attributes=_attributes(records),
            offset=self._stream.position,
            sparse=self._pieces is not None,
        )

    def _owner(self, record: bytes | None, field: bytes) -> int:
        value = self._number(field) if record is None else self._decimal(record)
        if value > 0xFFFF_FFFF:
            raise self._bad("has an owner that does not fit 32 bits")
        return value

    def _old_sparse(self, header: bytes) -> None:
        """Read the map of GNU's type S: four pieces in the header, more in blocks before the data."""
        pieces = [self._piece(header[at : at + 24]) for at in range(386, 482, 24) if header[at]]
        more = header[482]
        while more:
            block = self._stream.read(BLOCK)
            if len(block) < BLOCK:
                raise self._bad("ends in the map of a sparse file")
            pieces += [self._piece(block[at : at + 24]) for at in range(0, 504, 24) if block[at]]
            self._count(len(pieces))
            more = block[504]
        self._sparse(pieces, self._number(header[483:495]))

    def _piece(self, field: bytes) -> tuple[int, int]:
        return self._number(field[:12]), self._number(field[12:])

    def _pax_sparse(self, records: dict[bytes, bytes], listed: list[tuple[bytes, bytes]]) -> None:
        version = records.get(_SPARSE + b"major", b"0"), records.get(_SPARSE + b"minor", b"0")
        size = records.get(_SPARSE + b"realsize") or records.get(_SPARSE + b"size")
        if size is None or version not in ((b"0", b"0"), (b"0", b"1"), (b"1", b"0")):
            raise self._bad("has a sparse file of an unknown form")
        if version[0] == b"1":
            numbers = self._leading_map()
        elif _SPARSE + b"map" in records:
            texts = records[_SPARSE + b"map"].split(b",")
            self._count(len(texts) // 2)
            numbers = [self._decimal(text) for text in texts]
        else:
            keys = (_SPARSE + b"offset", _SPARSE + b"numbytes")
            pairs = [(key, value) for key, value in listed if key in keys]
            self._count(len(pairs) // 2)
            if any(key != keys[index % 2] for index, (key, _) in enumerate(pairs)):
                raise self._bad("has the map of a sparse file in disorder")
            numbers = [self._decimal(value) for _, value in pairs]
        if len(numbers) % 2:
            raise self._bad("has half a piece in the map of a sparse file")
        self._sparse(list(zip(numbers[::2], numbers[1::2], strict=True)), self._decimal(size))

    def _leading_map(self) -> list[int]:
        """Read the map of form 1.0: decimal lines in front of the data, padded to a block."""
        buffer = bytearray()
        count: int | None = None
        numbers: list[int] = []
        while count is None or len(numbers) < 2 * count:
            line, feed, rest = bytes(buffer).partition(b"\n")
            if feed:
                buffer = bytearray(rest)
                number = self._decimal(line)
                if count is None:
                    count = number
                    self._count(count)
                else:
                    numbers.append(number)
                continue
            if len(buffer) > 20 or self._stored < BLOCK:
                raise self._bad("has a malformed map of a sparse file")
            buffer += self._stream.read(BLOCK)
            self._stored -= BLOCK
        return numbers

    def _count(self, pieces: int) -> None:
        if pieces > MAX_SPARSE:
            raise BuildError(f"{self._what} has a sparse file in over {MAX_SPARSE} pieces", code="too_large")

    def _sparse(self, pieces: _Pieces, size: int) -> None:
        at = 0
        for offset, count in pieces:
            if offset < at or offset + count > size:
                raise self._bad("has a sparse file whose pieces overlap or pass its end")
            at = offset + count
        if sum(count for _, count in pieces) != self._stored:
            raise self._bad("has a sparse file whose map and data differ in size")
        self._pieces, self._size = pieces, size


def _attributes(records: dict[bytes, bytes]) -> tuple[str, ...]:
    found = set()
    for key in records:
        for prefix in (_SCHILY, _LIBARCHIVE):
            if key.startswith(prefix):
                found.add(os.fsdecode(key.removeprefix(prefix)))
    return tuple(sorted(found))


def _zeros(count: int) -> Iterator[Data]:
    while count > 0:
        yield _ZEROS[: min(count, CHUNK)]
        count -= CHUNK
