"""What differs between two images, in words: header, sections, and files of ramdisks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from geumgo.image import cpio
from geumgo.image._errors import ImageError
from geumgo.image._layout import SectionType
from geumgo.image._source import CHUNK, Source
from geumgo.image.eif import Eif

__all__ = ("diff",)


def diff(one: Eif, other: Eif) -> Iterator[str]:
    """Yield one sentence for each difference; nothing where the images are the same bytes.

    Raises:
        ImageError: an image can't be read.
    """
    yield from _header(one, other)
    kinds = [[section.kind.name.lower() for section in eif.sections] for eif in (one, other)]
    if kinds[0] != kinds[1]:
        yield f"sections: {', '.join(kinds[0])} became {', '.join(kinds[1])}"
    for kind in SectionType:
        pairs = zip(one.of_kind(kind), other.of_kind(kind), strict=False)
        for number, (first, second) in enumerate(pairs):
            a, b = one.data(first), other.data(second)
            at = _first_difference(a, b)
            if at is None:
                continue
            if kind is SectionType.RAMDISK:
                yield from _ramdisks(number, a, b, at)
            elif kind is SectionType.CMDLINE:
                old, new = (eif.cmdline.decode(errors="replace") for eif in (one, other))
                yield f"cmdline: {old!r} became {new!r}"
            else:
                yield f"{kind.name.lower()}: {_bytes(a, b, at)}"


def _header(one: Eif, other: Eif) -> Iterator[str]:
    for what in ("version", "flags", "default_memory", "default_cpus", "reserved", "unused"):
        a, b = getattr(one.header, what), getattr(other.header, what)
        if a != b:
            yield f"header: {what.replace('_', ' ')} {a} became {b}"
    for a, b in ((one.warnings, other.warnings), (other.warnings, one.warnings)):
        for warning in a:
            if warning not in b:
                yield f"{'first' if a is one.warnings else 'second'} image only: {warning}"


def _ramdisks(number: int, a: Source, b: Source, at: int) -> Iterator[str]:
    try:
        one, other = cpio.names(cpio.read(a)), cpio.names(cpio.read(b))
    except ImageError:
        yield f"ramdisk {number}: {_bytes(a, b, at)} (not both are uncompressed archives)"
        return
    found = False
    for name in sorted(one.keys() | other.keys()):
        where = f"ramdisk {number}, {name}"
        if name not in other:
            yield f"{where}: only in the first"
        elif name not in one:
            yield f"{where}: only in the second"
        else:
            for words in _entries(one[name], other[name], a, b):
                found = True
                yield f"{where}: {words}"
            continue
        found = True
    if list(one) != list(other) and one.keys() == other.keys():
        found = True
        yield f"ramdisk {number}: the same entries in another order"
    if not found:
        yield f"ramdisk {number}: inode numbers, devices or padding ({_bytes(a, b, at)})"


def _entries(one: cpio.Entry, other: cpio.Entry, a: Source, b: Source) -> Iterator[str]:
    if one.kind is not other.kind:
        yield f"{one.kind.name.lower()} became {other.kind.name.lower()}"
        return
    if one.mode != other.mode:
        yield f"mode {one.mode:04o} became {other.mode:04o}"
    if (one.uid, one.gid) != (other.uid, other.gid):
        yield f"owner {one.uid}:{one.gid} became {other.uid}:{other.gid}"
    if one.mtime != other.mtime:
        yield f"time {_time(one.mtime)} became {_time(other.mtime)}"
    first, second = cpio.content(a, one), cpio.content(b, other)
    at = _first_difference(first, second)
    if at is not None:
        yield _bytes(first, second, at)


def _bytes(a: Source, b: Source, at: int) -> str:
    sizes = f"{a.size} bytes" if a.size == b.size else f"{a.size} bytes became {b.size}"
    return f"content differs from byte {at} on ({sizes})"


def _first_difference(a: Source, b: Source) -> int | None:
    """Return where two sources first differ; None where they are equal."""
    shared = min(a.size, b.size)
    for offset in range(0, shared, CHUNK):
        count = min(CHUNK, shared - offset)
        first, second = bytes(a.read_at(offset, count)), bytes(b.read_at(offset, count))
        if first != second:
            return offset + next(at for at in range(count) if first[at] != second[at])
    return shared if a.size != b.size else None


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
