"""What the dynamic loader reads of an ELF file: its interpreter, the libraries it needs, search paths.

Only little-endian 64-bit files (x86_64, aarch64) are understood; anything else is "not ELF" here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from geumgo.image._source import BytesSource, Data, Source

__all__ = ("Elf", "parse_elf")

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME = 1, 5, 10, 14
_LITTLE_64 = b"\x7fELF\x02\x01"
MAX_PROGRAM_HEADERS = 256
MAX_DYNAMIC = 1 << 16
MAX_STRINGS = 32 << 20
"""Large C++ and Rust libraries have string tables of a few megabytes."""


@dataclass(frozen=True, slots=True)
class Elf:
    """One ELF file's dynamic facts.

    Attributes:
        interpreter: path of the dynamic loader; None for libraries and static programs.
        needed: names of the libraries that it wants.
        soname: its own name; None where it has none.
    """

    interpreter: str | None
    needed: tuple[str, ...]
    soname: str | None


def parse_elf(source: Source | Data) -> Elf | None:
    """Return what a 64-bit little-endian ELF file says; None for any other or damaged file."""
    if isinstance(source, bytes | bytearray | memoryview):
        source = BytesSource(source)
    if source.size < _HEADER.size or bytes(source.read_at(0, 6)) != _LITTLE_64:
        return None
    header = _HEADER.unpack(source.read_at(0, _HEADER.size))
    offset, entry_size, count = header[5], header[9], header[10]
    if (
        entry_size != _PROGRAM.size
        or count > MAX_PROGRAM_HEADERS
        or offset + count * entry_size > source.size
    ):
        return None
    segments = list(_PROGRAM.iter_unpack(source.read_at(offset, count * entry_size)))
    interpreter = None
    dynamic: list[tuple[int, int]] = []
    for kind, _, at, _, _, size, _, _ in segments:
        if at + size > source.size:
            continue
        if kind == _PT_INTERP and size <= 4096:
            interpreter = bytes(source.read_at(at, size)).rstrip(b"\0").decode(errors="replace")
        elif kind == _PT_DYNAMIC and size <= MAX_DYNAMIC * _DYNAMIC.size:
            dynamic = list(_DYNAMIC.iter_unpack(source.read_at(at, size - size % _DYNAMIC.size)))
    facts = {tag: value for tag, value in dynamic if tag in (_DT_STRTAB, _DT_STRSZ, _DT_SONAME)}
    strings = _strings(source, segments, facts.get(_DT_STRTAB), facts.get(_DT_STRSZ, 0))
    needed = tuple(_string(strings, value) for tag, value in dynamic if tag == _DT_NEEDED)
    soname = _string(strings, facts[_DT_SONAME]) if _DT_SONAME in facts else None
    return Elf(interpreter=interpreter, needed=needed, soname=soname)


def _strings(source: Source, segments: list[tuple[int, ...]], address: int | None, size: int) -> bytes:
    if address is None or size > MAX_STRINGS:
        return b""
    for kind, _, at, start, _, length, _, _ in segments:
        if kind == _PT_LOAD and start <= address and address + size <= start + length:
            where = at + address - start
            return bytes(source.read_at(where, size)) if where + size <= source.size else b""
    return b""


def _string(strings: bytes, at: int) -> str:
    return strings[at : strings.find(b"\0", at)].decode(errors="replace") if at < len(strings) else ""
