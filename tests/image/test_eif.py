"""Reading and writing EIFs: nitro.md §1.1 to §1.4."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geumgo.image import (
    Architecture,
    Eif,
    EifError,
    EifHeader,
    ImageError,
    Part,
    SectionType,
    measure,
    read_eif,
    write_eif,
)
from geumgo.image._layout import unpack_section_header

EMPTY_PCR2 = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)


def repaired(data: bytes) -> bytes:
    """Put the right CRC into a changed image."""
    crc = zlib.crc32(data[0x224:], zlib.crc32(data[:0x220]))
    return data[:0x220] + struct.pack(">I", crc) + data[0x224:]


def assembled(*sections: tuple[int, bytes], version: int = 4, gap: bytes = b"", **fields: int) -> bytes:
    """An image written by hand, as wrong as one likes."""
    offsets, sizes, body = [], [], b""
    for kind, data in sections:
        body += gap
        offsets.append(548 + len(body))
        sizes.append(len(data))
        body += struct.pack(">HHQ", kind, fields.get("section_flags", 0), len(data)) + data
    head = struct.pack(">4sHHQQHH", b".eif", version, fields.get("flags", 0), 1 << 30, 2, 0, len(sections))
    head += struct.pack(">32Q", *offsets, *[0] * (32 - len(offsets)))
    head += struct.pack(">32Q", *sizes, *[0] * (32 - len(sizes)))
    return repaired(head + bytes(8) + body)


K, C, R, S, M = ((1, b"kernel"), (2, b"cmdline"), (3, b"ramdisk"), (4, b"\x80"), (5, b"{}"))


# Published and derived values


@pytest.mark.parametrize("source", ["bytes", "file"])
def test_derived_vector(known_values: dict[str, Any], tmp_path: Path, source: str) -> None:
    derived = known_values["derived_eif"]
    made = [Part(SectionType(item["type"]), item["data"].encode()) for item in derived["sections"]]
    path = tmp_path / "derived.eif"
    written = write_eif(path, made)
    data = path.read_bytes()
    assert len(data) == derived["file_size"]
    assert hashlib.sha256(data).hexdigest() == derived["sha256"]
    eif = read_eif(data if source == "bytes" else path)
    assert list(eif.header.offsets) == derived["offsets"]
    assert list(eif.header.sizes) == derived["sizes"]
    assert f"{eif.header.crc:08x}" == derived["crc32_hex"]
    assert eif.warnings == ()
    measured = measure(eif)
    assert measured == written
    assert (measured.pcr0, measured.pcr1, measured.pcr2) == tuple(derived[f"pcr{n}"] for n in range(3))
    assert measured.pcr8 is None
    header = derived["header"]
    assert (eif.header.version, eif.header.flags) == (header["version"], header["flags"])
    assert (eif.header.default_memory, eif.header.default_cpus) == (
        header["default_mem"],
        header["default_cpus"],
    )


def test_one_ramdisk_has_the_well_known_pcr2() -> None:
    assert measure(read_eif(assembled(K, C, M, R))).pcr2 == EMPTY_PCR2


def test_measurement_is_over_data_in_file_order_only() -> None:
    def extended(data: bytes) -> str:
        return hashlib.sha384(bytes(48) + hashlib.sha384(data).digest()).hexdigest()

    measured = measure(read_eif(assembled(K, C, M, (3, b"a"), (3, b"b"), (3, b"c"))))
    assert measured.pcr0 == extended(b"kernelcmdlineabc")
    assert measured.pcr1 == extended(b"kernelcmdlinea")
    assert measured.pcr2 == extended(b"bc")
    assert measure(read_eif(assembled(C, K, M))).pcr0 == extended(b"cmdlinekernel")
    other = measure(read_eif(assembled(K, C, (5, b'{"other":1}'), (3, b"a"), (3, b"b"), (3, b"c"))))
    assert other == measured


def test_measurements_as_json_and_as_registers() -> None:
    measured = measure(read_eif(assembled(K, C, M, R)))
    assert measured.to_json() == {
        "HashAlgorithm": "Sha384 { ... }",
        "PCR0": measured.pcr0,
        "PCR1": measured.pcr1,
        "PCR2": measured.pcr2,
    }
    assert measured.pcrs() == {n: bytes.fromhex(getattr(measured, f"pcr{n}")) for n in range(3)}


# The header


@pytest.mark.parametrize("size", [0, 547, 549, 550])
def test_header_needs_its_exact_size(size: int) -> None:
    with pytest.raises(EifError):
        EifHeader.parse(assembled(K, C, M).ljust(size)[:size])


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_section_header_needs_its_exact_size(size: int) -> None:
    with pytest.raises(EifError):
        unpack_section_header(struct.pack(">HHQ", 1, 0, 5).ljust(size)[:size])


@given(
    st.integers(0, 4),
    st.integers(0, 0xFFFF),
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=2, max_size=32),
    st.integers(0, 2**32 - 1),
)
def test_header_round_trip(version: int, flags: int, table: list[tuple[int, int]], crc: int) -> None:
    header = EifHeader(
        version=version,
        flags=flags,
        default_memory=1,
        default_cpus=2,
        offsets=tuple(offset for offset, _ in table),
        sizes=tuple(size for _, size in table),
        crc=crc,
        reserved=3,
        unused=4,
    )
    assert EifHeader.parse(header.to_bytes()) == header
    assert header.architecture is Architecture(flags & 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: b"EIF." + d[4:], "not an EIF"),
        (lambda d: d[:4] + b"\0\5" + d[6:], "version 5"),
        (lambda d: d[:0x1A] + b"\0\1" + d[0x1C:], "1 sections"),
        (lambda d: d[:0x1A] + b"\0\x21" + d[0x1C:], "33 sections"),
        (lambda d: d[:0x1A] + b"\xff\xff" + d[0x1C:], "65535 sections"),
        (lambda d: d[:-1], "past the end"),
        (lambda d: d[:548], "past the end"),
        # the second section starts inside the first
        (lambda d: d[:0x24] + struct.pack(">Q", 549) + d[0x2C:], "before the end"),
        (lambda d: d[:0x1C] + struct.pack(">Q", 0) + d[0x24:], "before the end"),
        (lambda d: d[:0x1C] + struct.pack(">Q", 2**64 - 1) + d[0x24:], "past the end"),
        (lambda d: d[:0x11C] + struct.pack(">Q", 2**64 - 13) + d[0x124:], "past the end"),
        (lambda d: d[:0x11C] + struct.pack(">Q", 5) + d[0x124:], "by its own header"),
        (lambda d: d[:552] + struct.pack(">Q", 5) + d[560:], "by its own header"),
        (lambda d: d[:548] + b"\0\0" + d[550:], "type 0"),
        (lambda d: d[:548] + b"\0\6" + d[550:], "type 6"),
    ],
)
def test_wrong_headers(change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(EifError, match=words):
        read_eif(repaired(change(assembled(K, C, M, R))))


@pytest.mark.parametrize("size", [0, 1, 547])
def test_less_than_a_header(size: int) -> None:
    with pytest.raises(EifError, match="at least 548"):
        read_eif(assembled(K, C, M)[:size])


@pytest.mark.parametrize(
    ("sections", "version", "words"),
    [
        ((C, M), 4, "exactly one kernel"),
        ((K, K, C, M), 4, "exactly one kernel"),
        ((K, M), 4, "exactly one cmdline"),
        ((K, C, C, M), 4, "exactly one cmdline"),
        ((K, C, R), 4, "metadata"),
        ((K, C, M, M), 4, "at most one metadata"),
        ((K, C, M, S, S), 4, "at most one signature"),
        ((K, C, M), 3, "version 3 has no metadata"),
        ((K, C, S), 2, "version 2 has no signature"),
        ((R, K, C, M), 4, "ramdisk precedes"),
        ((K, C, M, (4, bytes(32769))), 4, "32768 is the limit"),
    ],
)
def test_wrong_compositions(sections: tuple[tuple[int, bytes], ...], version: int, words: str) -> None:
    with pytest.raises(EifError, match=words):
        read_eif(assembled(*sections, version=version))


@pytest.mark.parametrize(
    ("sections", "version"), [((K, C), 2), ((K, C, R, S), 3), ((K, C, M), 4), ((K, C, M, *[R] * 29), 4)]
)
def test_right_compositions(sections: tuple[tuple[int, bytes], ...], version: int) -> None:
    eif = read_eif(assembled(*sections, version=version))
    assert [(section.kind, section.size) for section in eif.sections] == [(k, len(d)) for k, d in sections]
    assert eif.header.version == version
    assert (eif.metadata is None) == (version < 4)


# What is unusual but can boot


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (assembled(K, C, M, R, gap=b"\0" * 3), "3 bytes before section 0"),
        (repaired(assembled(K, C, M, R) + b"more"), "4 bytes follow"),
        (assembled(K, C, M, flags=0x10), "unknown flags 0x0010 in the header"),
        (assembled(K, C, M, section_flags=1), "section 0 has unknown flags"),
        (repaired(assembled(K, C, M)[:0x18] + b"\0\1" + assembled(K, C, M)[0x1A:]), "should be zero"),
        (repaired(assembled(K, C, M)[:0x114] + b"\1" * 8 + assembled(K, C, M)[0x11C:]), "should be zero"),
        (repaired(assembled(K, C, M)[:0x21C] + b"\1" * 4 + assembled(K, C, M)[0x220:]), "should be zero"),
    ],
)
def test_unusual_files_are_read_and_named(data: bytes, words: str) -> None:
    eif = read_eif(data)
    assert any(words in warning for warning in eif.warnings)
    assert (
        measure(eif).pcr1
        == measure(read_eif(assembled(K, C, M, *([R] if len(eif.sections) > 3 else [])))).pcr1
    )


# The CRC


@given(data=st.data())
@settings(max_examples=60)
def test_any_changed_byte_is_noticed(data: st.DataObject, small_bytes: bytes) -> None:
    at = data.draw(st.integers(0, len(small_bytes) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(small_bytes)
    changed[at] ^= flip
    with pytest.raises(EifError):
        read_eif(bytes(changed))


def test_wrong_crc_has_its_own_code_and_can_be_looked_past(small_bytes: bytes) -> None:
    changed = small_bytes[:-600] + bytes([small_bytes[-600] ^ 1]) + small_bytes[-599:]
    with pytest.raises(EifError) as caught:
        read_eif(changed)
    assert caught.value.code == "bad_eif_crc"
    assert read_eif(changed, check_crc=False).crc is None


def test_crc_is_zlibs_over_all_but_itself(small_bytes: bytes) -> None:
    eif = read_eif(small_bytes)
    assert eif.crc == zlib.crc32(small_bytes[0x224:], zlib.crc32(small_bytes[:0x220])) == eif.header.crc


# Garbage


def everything(eif: Eif) -> None:
    """All that a caller may ask of an image that was read."""
    measure(eif)
    assert eif.cmdline is not None
    assert eif.metadata is None or isinstance(eif.metadata, bytes)
    assert eif.kernel.size >= 0
    ends = [section.offset + section.size for section in eif.sections]
    assert ends == sorted(ends)
    assert ends[-1] <= eif.source.size


@given(st.binary(max_size=700))
@example(b".eif" + bytes(544))
def test_garbage_never_leaks_a_foreign_error(data: bytes) -> None:
    for candidate in (data, b".eif\0\4" + data, repaired(data.ljust(560, b"\0"))):
        with contextlib.suppress(ImageError):
            everything(read_eif(candidate))


@given(data=st.data())
@settings(max_examples=150)
def test_mutated_tables_never_leak_a_foreign_error(data: st.DataObject, small_bytes: bytes) -> None:
    changed = bytearray(small_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.sampled_from(["header", "sections", "anywhere"]))
        if where == "sections":
            offsets = EifHeader.parse(small_bytes[:548]).offsets
            at = data.draw(st.sampled_from(offsets)) + data.draw(st.integers(0, 11))
        else:
            at = data.draw(st.integers(0, 547 if where == "header" else len(small_bytes) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    for at in (0x1C, 0x11C):
        if data.draw(st.booleans()):
            slot = at + 8 * data.draw(st.integers(0, 5))
            value = data.draw(st.sampled_from([0, 1, 547, 548, len(changed), 2**31, 2**63, 2**64 - 1]))
            changed[slot : slot + 8] = struct.pack(">Q", value)
    cut = data.draw(st.integers(0, len(changed)))
    for candidate in (bytes(changed), bytes(changed[:cut])):
        with contextlib.suppress(ImageError):
            everything(read_eif(repaired(candidate) if len(candidate) >= 548 else candidate))


def test_memory_does_not_follow_what_the_file_says(tmp_path: Path) -> None:
    """A sparse gigabyte is measured with a few chunks of memory; cmdline and metadata that large are refused."""
    path = tmp_path / "large.eif"
    size = 1 << 30
    head = bytearray(assembled((1, b""), C, M))
    struct.pack_into(">Q", head, 0x11C, size)
    struct.pack_into(">QQ", head, 0x24, 560 + size, 560 + size + 19)
    with path.open("wb") as file:
        file.write(head[:548] + struct.pack(">HHQ", 1, 0, size))
        file.seek(560 + size)
        file.write(head[560:])
    tracemalloc.start()
    eif = read_eif(path, check_crc=False)
    for offset in range(0, 8 << 20, 1 << 20):
        eif.kernel.read_at(offset, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert eif.kernel.size == size
    assert peak < 8 << 20


def test_large_cmdline_and_metadata_are_not_read() -> None:
    eif = read_eif(assembled(K, (2, bytes(1 << 17)), (5, bytes(2 << 20))))
    for what in ("cmdline", "metadata"):
        with pytest.raises(EifError) as caught:
            getattr(eif, what)
        assert caught.value.code == "too_large"


# Sources


def test_unreadable_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ImageError) as caught:
            read_eif(path)
        assert caught.value.code == "image_unreadable"


def test_a_file_that_shrinks_is_an_error_not_a_crash(small: Path) -> None:
    eif = read_eif(small)
    os.truncate(small, 600)
    with pytest.raises(ImageError) as caught:
        measure(eif)
    assert caught.value.code == "image_unreadable"


def test_ramdisk_numbers(small: Path) -> None:
    eif = read_eif(small)
    assert eif.ramdisk(1).size % 512 == 0
    for number in (-1, 2):
        with pytest.raises(EifError):
            eif.ramdisk(number)


# Writing


def test_writing_is_all_or_nothing(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    class Growing:
        size = 5

        def chunks(self) -> Iterator[bytes]:
            yield b"123"
            yield b"45678"

    path = tmp_path / "out.eif"
    path.write_bytes(b"before")
    with pytest.raises(EifError, match="changed its size"):
        write_eif(path, [*make_parts(), Part(SectionType.RAMDISK, Growing())])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_refuses_what_reading_would(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    complete = make_parts()
    for wrong in (complete[:2], complete[1:], [complete[3], *complete[:3]], [*complete, *[complete[4]] * 28]):
        with pytest.raises(EifError):
            write_eif(tmp_path / "out.eif", wrong)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError) as caught:
        write_eif(tmp_path / "file" / "out.eif", make_parts())
    assert caught.value.code == "image_unwritable"
    with pytest.raises(ImageError):
        write_eif(tmp_path / "out.eif", [Part(SectionType.KERNEL, tmp_path / "absent"), *make_parts()[1:]])


def test_files_sections_and_content_give_the_same_bytes(tmp_path: Path, small: Path) -> None:
    eif = read_eif(small)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"KERNEL")
    again = [Part(SectionType.KERNEL, kernel), *(Part(s.kind, eif.data(s)) for s in eif.sections[1:])]
    write_eif(tmp_path / "again.eif", again)
    assert (tmp_path / "again.eif").read_bytes() == small.read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_mode_follows_the_umask(tmp_path: Path, make_parts: Callable[..., list[Part]], umask: int) -> None:
    before = os.umask(umask)
    try:
        write_eif(tmp_path / "out.eif", make_parts())
    finally:
        os.umask(before)
    assert (tmp_path / "out.eif").stat().st_mode & 0o777 == 0o666 & ~umask


def test_architecture_is_a_flag(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    write_eif(tmp_path / "arm.eif", make_parts(), architecture=Architecture.AARCH64, default_cpus=4)
    header = read_eif(tmp_path / "arm.eif").header
    assert (header.flags, header.default_cpus, header.architecture.machine) == (1, 4, "aarch64")
    assert Architecture.of_machine("arm64") is Architecture.AARCH64
    assert Architecture.of_machine("amd64") is Architecture.X86_64
    with pytest.raises(EifError):
        Architecture.of_machine("riscv64")
