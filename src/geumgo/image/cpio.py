"""newc archives, the format of Linux ramdisks: a writer that gives the same bytes everywhere, a reader
that trusts nothing.

Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. An entry is a 110-byte header of
ASCII hex, a name that ends in NUL, padding to 4 bytes, the data, padding to 4 bytes; `TRAILER!!!` ends it.
"""

from __future__ import annotations

import binascii
import enum
import os
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from geumgo.image._errors import CpioError
from geumgo.image._source import BytesSource, Data, FileSource, Source, Window, chunks

__all__ = (
    "MAX_ENTRIES",
    "MAX_NAME",
    "Archive",
    "Entry",
    "Kind",
    "Node",
    "check_name",
    "content",
    "default_mtime",
    "names",
    "read",
)

MAGIC = b"070701"
HEADER_SIZE = 110
_FIELDS = struct.Struct(">13I")
TRAILER = "TRAILER!!!"
BLOCK = 512
"""Archives are padded to this, as `cpio` does; Linux needs 4 when several follow each other."""
MAX_NAME = 4096
"""PATH_MAX: Linux ignores entries with longer names, other readers don't."""
MAX_COMPONENT = 255
"""NAME_MAX of every file system of Linux."""
MAX_DEPTH = 128
"""Folders in each other; deeper trees exist in attacks on `rm -r` only."""
MAX_ENTRIES = 200_000
"""Several times a full distribution's container image; the table of names stays under 100 MB."""
MAX_FILE = 0xFFFF_FFFF
"""The header has eight hex digits for a size."""
DEFAULT_MTIME = 1_735_689_600
"""2025-01-01T00:00:00Z, where nobody sets SOURCE_DATE_EPOCH."""


class Kind(enum.Enum):
    """What an entry is."""

    FILE = stat.S_IFREG
    DIRECTORY = stat.S_IFDIR
    SYMLINK = stat.S_IFLNK
    CHARACTER = stat.S_IFCHR
    BLOCK = stat.S_IFBLK
    FIFO = stat.S_IFIFO
    SOCKET = stat.S_IFSOCK


@dataclass(frozen=True, slots=True)
class Node:
    """One file, folder or symbolic link to be written.

    Attributes:
        kind: `FILE`, `DIRECTORY` or `SYMLINK`.
        mode: permission bits.
        data: a file's content, or a link's target.
        uid: owner.
        gid: group.
        link: equal for the names of one hard-linked file, which then is in the archive once; None for others.
    """

    kind: Kind
    mode: int = 0o755
    data: Data | Path | Window = b""
    uid: int = 0
    gid: int = 0
    link: int | None = None

    def source(self) -> Source:
        """Return the content; a file is opened.

        Raises:
            ImageError: the file can't be read.
        """
        if isinstance(self.data, Path):
            return FileSource(self.data)
        return self.data if isinstance(self.data, Window) else BytesSource(self.data)

    @classmethod
    def file(cls, data: Data | Path | Window, *, executable: bool = False) -> Node:
        """Return a file with mode 0755 or 0644."""
        return cls(Kind.FILE, 0o755 if executable else 0o644, data)

    @classmethod
    def directory(cls) -> Node:
        """Return a folder with mode 0755."""
        return cls(Kind.DIRECTORY, 0o755)

    @classmethod
    def symlink(cls, target: str) -> Node:
        """Return a symbolic link."""
        return cls(Kind.SYMLINK, 0o777, os.fsencode(target))


def default_mtime(environment: Mapping[str, str]) -> int:
    """Return the time stamp of every entry, seconds since 1970: SOURCE_DATE_EPOCH, or a constant.

    Raises:
        CpioError: SOURCE_DATE_EPOCH is not a number that the format can hold.
    """
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return DEFAULT_MTIME
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFF_FFFF):
        raise CpioError(
            f"SOURCE_DATE_EPOCH is {text[:40]!r}, not seconds since 1970 that fit 32 bits",
            code="bad_source_date_epoch",
        )
    return int(text)


class Archive:
    """An archive to be written: sorted names, inode numbers in that order, one time stamp.

    Missing parent folders are added with mode 0755. The size is known before a byte is written. Of several
    names of one file the first has the content, which both Linux and GNU cpio read.

    Args:
        nodes: name (relative, `/` between components) to node.
        mtime: seconds since 1970 for every entry.

    Raises:
        CpioError: a name that a reader would refuse, or something inside what isn't a folder.
    """

    def __init__(self, nodes: Mapping[str, Node], *, mtime: int) -> None:
        complete: dict[str, Node] = {}
        for name, node in nodes.items():
            check_name(name)
            parent = name.rpartition("/")[0]
            while parent:
                if parent in nodes:
                    if nodes[parent].kind is not Kind.DIRECTORY:
                        raise CpioError(f"{name!r} lies in {parent!r}, which is not a folder")
                    break
                if parent in complete:
                    break
                complete[parent] = Node.directory()
                parent = parent.rpartition("/")[0]
            complete[name] = node
        if len(complete) > MAX_ENTRIES:
            raise CpioError(f"{len(complete)} entries are more than the limit of {MAX_ENTRIES}")
        # By components, so that a folder's content follows it directly ("a", "a/b", "a-b").
        self._nodes = sorted(complete.items(), key=lambda item: os.fsencode(item[0]).split(b"/"))
        self._inodes: list[tuple[int, int]] = []
        self._sources = self._content()
        self._mtime = mtime
        size = 0
        for (name, _), source in zip(self._nodes, self._sources, strict=True):
            if source[0] > MAX_FILE:
                raise CpioError(f"{name!r} has {source[0]} bytes; a ramdisk's file can't have 4 GiB")
            size += _padded(HEADER_SIZE + len(os.fsencode(name)) + 1) + _padded(source[0])
        size += _padded(HEADER_SIZE + len(TRAILER) + 1)
        self._unpadded = size
        self._size = size + -size % BLOCK

    def _content(self) -> list[tuple[int, Source | Path]]:
        """Return what each entry carries, and note its inode and how many names that has."""
        counts = Counter(node.link for _, node in self._nodes if node.link is not None)
        first: dict[int, int] = {}
        found = []
        for inode, (_, node) in enumerate(self._nodes, 1):
            if node.link is None:
                self._inodes.append((inode, 2 if node.kind is Kind.DIRECTORY else 1))
                found.append(_source(node.data))
                continue
            found.append(_source(b"" if node.link in first else node.data))
            self._inodes.append((first.setdefault(node.link, inode), counts[node.link]))
        return found

    @property
    def size(self) -> int:
        """Return how many bytes the archive has."""
        return self._size

    @property
    def names(self) -> tuple[str, ...]:
        """Return the entries' names, sorted."""
        return tuple(name for name, _ in self._nodes)

    def chunks(self) -> Iterator[Data]:
        """Yield the archive, small pieces joined.

        Raises:
            CpioError: a file has another size than when the archive was laid out.
            ImageError: a file can't be read.
        """
        pending = bytearray()
        entries = zip(self._nodes, self._sources, self._inodes, strict=True)
        for (name, node), (size, data), (inode, nlink) in entries:
            pending += _header(
                name,
                node.kind.value | node.mode,
                size,
                inode=inode,
                nlink=nlink,
                mtime=self._mtime,
                owner=(node.uid, node.gid),
            )
            if isinstance(data, Path):
                source = FileSource(data)
                if source.size != size:
                    raise CpioError(f"{data} changed while the image was written")
                for chunk in chunks(source):
                    if len(pending) + len(chunk) > 1 << 20:
                        yield pending
                        pending = bytearray()
                    pending += chunk
                source.close()
            elif size < 1 << 16:
                pending += data.read_at(0, size)
            else:
                yield pending
                yield from chunks(data)
                pending = bytearray()
            pending += bytes(-size % 4)
            if len(pending) >= 1 << 20:
                yield pending
                pending = bytearray()
        pending += _header(TRAILER, 0, 0, inode=0, nlink=1, mtime=0)
        yield pending + bytes(self._size - self._unpadded)

    def to_bytes(self) -> bytes:
        """Return the archive in one piece."""
        return b"".join(self.chunks())


def _source(data: Data | Path | Window) -> tuple[int, Source | Path]:
    if isinstance(data, Path):
        try:
            return data.stat().st_size, data
        except OSError as error:
            raise CpioError(f"{data} can't be read: {error.strerror}") from None
    if isinstance(data, Window):
        return data.size, data
    return len(data), BytesSource(data)


def _padded(size: int) -> int:
    return size + -size % 4


def _header(
    name: str, mode: int, size: int, *, inode: int, nlink: int, mtime: int, owner: tuple[int, int] = (0, 0)
) -> bytes:
    raw = os.fsencode(name)
    fields = (inode, mode, *owner, nlink, mtime, size, 0, 0, 0, 0, len(raw) + 1, 0)
    head = MAGIC + b"".join(b"%08X" % value for value in fields) + raw + b"\0"
    return head + bytes(-len(head) % 4)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive that was read.

    Attributes:
        name: relative, normalised, without empty, `.` and `..` components; "." for the root.
        kind: what it is.
        mode: permission bits, with set-user-id, set-group-id and sticky.
        uid: owner.
        gid: group.
        mtime: seconds since 1970.
        size: bytes of data.
        offset: where its data starts in the archive.
        link: equal for the names of one hard-linked file; None where there is one name.
    """

    name: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    offset: int
    link: tuple[int, int, int] | None


def check_name(name: str) -> None:
    """Check a normalised name.

    Raises:
        CpioError: it is absolute, empty, too long or deep, or has an empty, `.` or `..` component.
    """
    raw = os.fsencode(name)
    if len(raw) >= MAX_NAME:
        raise CpioError(f"a name of {len(raw)} bytes is over the limit of {MAX_NAME}")
    components = name.split("/")
    if len(components) > MAX_DEPTH:
        raise CpioError(f"a name with {len(components)} components is over the limit of {MAX_DEPTH}")
    for component in components:
        if component in ("", ".", "..") or "\0" in component:
            raise CpioError(f"the name {name[:200]!r} is not a plain relative path")
        if len(os.fsencode(component)) > MAX_COMPONENT:
            raise CpioError(f"a component of {name[:200]!r} is over {MAX_COMPONENT} bytes")
    if name == TRAILER:
        raise CpioError(f"{TRAILER} can't be a file's name")


def read(source: Source | Data) -> Iterator[Entry]:
    """Yield the entries of an uncompressed archive; concatenated archives are read through, as Linux does.

    Only headers and names are read; memory does not depend on what the archive says.

    Raises:
        CpioError: anything that is not a well-formed archive, or a name that isn't a plain relative path.
        ImageError: the source can't be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        source = BytesSource(source)
    reader = _Headers(source)
    offset, count = 0, 0
    while True:
        found = reader.entry(offset)
        if found is None:
            following = reader.skip_zeros(offset)
            if following is None:
                raise CpioError("the archive ends without its trailer")
            raise CpioError(f"there is no archive entry at {offset}")
        name, entry, following = found
        if name == TRAILER:
            if entry.size:
                raise CpioError("the trailer has data")
            start = reader.skip_zeros(following)
            if start is None:
                return
            if start % 4:
                raise CpioError(f"an archive starts at {start}, which is not a multiple of 4")
            offset = start
            continue
        count += 1
        if count > MAX_ENTRIES:
            raise CpioError(f"more than {MAX_ENTRIES} entries")
        yield entry
        offset = following


class _Headers:
    """Reads headers through one buffer, so that a small file costs no system call."""

    AHEAD = 1 << 16

    def __init__(self, source: Source) -> None:
        self._source = source
        self._size = source.size
        self._start = 0
        self._buffer: Data = b""

    def _bytes(self, offset: int, count: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + count > len(self._buffer):
            if offset + count > self._size:
                raise CpioError(f"the archive ends inside the entry at {offset}")
            self._start = offset
            self._buffer = self._source.read_at(offset, min(max(self.AHEAD, count), self._size - offset))
            at = 0
        return bytes(self._buffer[at : at + count])

    def skip_zeros(self, offset: int) -> int | None:
        """Return where the next byte that is not zero lies; None at the end."""
        while offset < self._size:
            part = self._bytes(offset, min(4096, self._size - offset))
            rest = part.lstrip(b"\0")
            if rest:
                return offset + len(part) - len(rest)
            offset += len(part)
        return None

    def entry(self, offset: int) -> tuple[str, Entry, int] | None:
        """Return raw name, entry and the next entry's offset; None where no entry starts here."""
        if offset + HEADER_SIZE > self._size or self._bytes(offset, 6) != MAGIC:
            return None
        head = self._bytes(offset, HEADER_SIZE)
        try:
            # Strict, where int() would take signs, blanks, underscores and 0x.
            values = _FIELDS.unpack(binascii.unhexlify(head[6:]))
        except binascii.Error:
            raise CpioError(f"the header at {offset} has something else than hex digits") from None
        inode, mode, uid, gid, nlink, mtime, size, major, minor, _, _, name_size, _ = values
        if not 2 <= name_size <= MAX_NAME:
            raise CpioError(f"the entry at {offset} has a name of {name_size} bytes; the limit is {MAX_NAME}")
        data_offset = _padded(offset + HEADER_SIZE + name_size)
        raw = self._bytes(offset + HEADER_SIZE, name_size)
        if raw[-1] or b"\0" in raw[:-1]:
            raise CpioError(f"the name of the entry at {offset} does not end with its only NUL")
        end = data_offset + size
        if end > self._size:
            raise CpioError(f"the data of the entry at {offset} reaches past the end of the archive")
        name = os.fsdecode(raw[:-1])
        if name == TRAILER:
            return name, Entry(name, Kind.FILE, 0, 0, 0, 0, size, data_offset, None), _padded(end)
        name = name.removeprefix("./") if name != "./" else "."
        if name != ".":
            check_name(name)
        try:
            kind = Kind(stat.S_IFMT(mode))
        except ValueError:
            raise CpioError(f"{name[:200]!r} is of no known kind (mode {mode:#o})") from None
        if size and kind not in (Kind.FILE, Kind.SYMLINK):
            raise CpioError(f"{name[:200]!r} is a {kind.name.lower()} and has data")
        link = (major, minor, inode) if kind is Kind.FILE and nlink > 1 else None
        entry = Entry(name, kind, stat.S_IMODE(mode), uid, gid, mtime, size, data_offset, link)
        return name, entry, _padded(end)


def content(archive: Source, entry: Entry) -> Window:
    """Return an entry's data as a source of its own."""
    return Window(archive, entry.offset, entry.size)


def names(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return the entries by name.

    Raises:
        CpioError: a name occurs twice, unless both are folders (builders write a folder again).
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in found and not (
            entry.kind is Kind.DIRECTORY and found[entry.name].kind is Kind.DIRECTORY
        ):
            raise CpioError(f"{entry.name[:200]!r} occurs twice")
        found[entry.name] = entry
    return found
