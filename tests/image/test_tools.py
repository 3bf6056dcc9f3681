"""Describing, comparing, taking apart and tampering with images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from geumgo.image import (
    Architecture,
    EifError,
    ImageError,
    Part,
    SectionType,
    cpio,
    describe,
    diff,
    extract,
    measure,
    read_eif,
    replace_byte,
    unpack,
    verify,
    write_eif,
)

Parts = Callable[..., list[Part]]


# describe, verify


def test_description(small: Path) -> None:
    found = verify(small, now_ms=0)
    shown = json.loads(json.dumps(found.to_json()))
    assert shown["EifVersion"] == 4
    assert shown["Measurements"] == measure(read_eif(small)).to_json()
    assert (shown["IsSigned"], shown["CheckCRC"]) == (False, True)
    assert "SignatureCheck" not in shown
    assert (shown["ImageName"], shown["ImageVersion"]) == ("t", "1")
    assert shown["Cmdline"] == "console=ttyS0"
    assert shown["Bootable"] is False
    assert shown["Notes"] == ["not bootable: its kernel is not an x86_64 bzImage"]
    assert [section["Type"] for section in shown["Sections"]] == [
        "kernel",
        "cmdline",
        "metadata",
        "ramdisk",
        "ramdisk",
    ]


def test_damaged_image_is_described_but_not_verified(small: Path) -> None:
    data = bytearray(small.read_bytes())
    data[-600] ^= 1
    small.write_bytes(data)
    found = describe(small)
    assert not found.crc_ok
    assert "damaged: the CRC is wrong" in found.notes
    assert found.to_json()["CheckCRC"] is False
    with pytest.raises(EifError) as caught:
        verify(small, now_ms=0)
    assert caught.value.code == "bad_eif_crc"


def test_unusual_image_is_described_but_not_verified(small: Path) -> None:
    import zlib

    data = small.read_bytes() + b"trailing"
    crc = zlib.crc32(data[0x224:], zlib.crc32(data[:0x220]))
    small.write_bytes(data[:0x220] + crc.to_bytes(4, "big") + data[0x224:])
    assert describe(small).warnings == ("8 bytes follow the last section",)
    with pytest.raises(EifError) as caught:
        verify(small, now_ms=0)
    assert caught.value.code == "unusual_eif"


@pytest.mark.parametrize("metadata", [b"", b"no JSON", b"[]", b'"x"', b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_wrong_metadata(tmp_path: Path, make_parts: Parts, metadata: bytes) -> None:
    parts = make_parts()
    parts[2] = Part(SectionType.METADATA, metadata)
    write_eif(tmp_path / "x.eif", parts)
    with pytest.raises(EifError):
        describe(tmp_path / "x.eif")


def test_metadata_is_flattened_as_nitro_cli_does(tmp_path: Path, make_parts: Parts) -> None:
    metadata = {
        "ImageName": "n",
        "ImageVersion": "v",
        "BuildMetadata": {"BuildTool": "nitro-cli"},
        "DockerInfo": None,
        "CustomMetadata": {"geumgo.this_machine_only": True, "team": "privacy"},
    }
    parts = make_parts()
    parts[2] = Part(SectionType.METADATA, json.dumps(metadata).encode())
    write_eif(tmp_path / "x.eif", parts)
    found = describe(tmp_path / "x.eif")
    assert found.metadata == {"BuildTool": "nitro-cli", "geumgo.this_machine_only": True, "team": "privacy"}
    assert found.this_machine_only
    assert "PCRs hold on this machine only" in found.notes


# diff


def words(tmp_path: Path, one: list[Part], other: list[Part]) -> list[str]:
    write_eif(tmp_path / "1.eif", one)
    write_eif(tmp_path / "2.eif", other)
    return list(diff(read_eif(tmp_path / "1.eif"), read_eif(tmp_path / "2.eif")))


def test_same_bytes_have_no_differences(tmp_path: Path, make_parts: Parts) -> None:
    assert words(tmp_path, make_parts(), make_parts()) == []


def test_files_of_ramdisks(tmp_path: Path, make_parts: Parts) -> None:
    other = make_parts(
        {
            "rootfs/etc/banner.txt": cpio.Node.file(b"Hello from Inside\n"),
            "rootfs/bin/app": cpio.Node.file(b"#!/bin/sh\necho hello\n"),
            "rootfs/new": cpio.Node.file(b""),
            "rootfs/lib": cpio.Node.directory(),
        }
    )
    assert words(tmp_path, make_parts(), other) == [
        "ramdisk 1, rootfs/bin/app: mode 0755 became 0644",
        "ramdisk 1, rootfs/etc/banner.txt: content differs from byte 11 on (18 bytes)",
        "ramdisk 1, rootfs/lib: symlink became directory",
        "ramdisk 1, rootfs/new: only in the second",
    ]
    backwards = words(tmp_path, other, make_parts())
    assert "ramdisk 1, rootfs/new: only in the first" in backwards


def test_times_and_order(tmp_path: Path, make_parts: Parts) -> None:
    nodes = {"cmd": cpio.Node.file(b"/x\n"), "env": cpio.Node.file(b"")}
    one, other = make_parts(), make_parts()
    one[4] = Part(SectionType.RAMDISK, cpio.Archive(nodes, mtime=0))
    other[4] = Part(SectionType.RAMDISK, cpio.Archive(nodes, mtime=86400))
    assert words(tmp_path, one, other) == [
        f"ramdisk 1, {name}: time 1970-01-01T00:00:00Z became 1970-01-02T00:00:00Z" for name in ("cmd", "env")
    ]
    data = cpio.Archive({"a": cpio.Node.file(b""), "b": cpio.Node.file(b"")}, mtime=0).to_bytes()
    one[4] = Part(SectionType.RAMDISK, data)
    other[4] = Part(SectionType.RAMDISK, data[112:224] + data[:112] + data[224:])
    assert words(tmp_path, one, other) == ["ramdisk 1: the same entries in another order"]
    other[4] = Part(SectionType.RAMDISK, data.replace(b"07070100000001", b"07070100000009"))
    assert words(tmp_path, one, other) == [
        "ramdisk 1: inode numbers, devices or padding (content differs from byte 13 on (512 bytes))"
    ]


def test_other_sections_and_the_header(tmp_path: Path, make_parts: Parts) -> None:
    other = make_parts(kernel=b"KERNEX")
    other[1] = Part(SectionType.CMDLINE, b"quiet")
    other[2] = Part(SectionType.METADATA, b"{}")
    other.append(Part(SectionType.RAMDISK, b"more"))
    write_eif(tmp_path / "1.eif", make_parts())
    write_eif(tmp_path / "2.eif", other, architecture=Architecture.AARCH64, default_cpus=4)
    found = list(diff(read_eif(tmp_path / "1.eif"), read_eif(tmp_path / "2.eif")))
    assert found == [
        "header: flags 0 became 1",
        "header: default cpus 2 became 4",
        "sections: kernel, cmdline, metadata, ramdisk, ramdisk became "
        "kernel, cmdline, metadata, ramdisk, ramdisk, ramdisk",
        "kernel: content differs from byte 5 on (6 bytes)",
        "cmdline: 'console=ttyS0' became 'quiet'",
        "metadata: content differs from byte 1 on (36 bytes became 2)",
    ]


def test_ramdisks_that_are_no_archives(tmp_path: Path, make_parts: Parts) -> None:
    one, other = make_parts(), make_parts()
    one[4], other[4] = Part(SectionType.RAMDISK, b"\x1f\x8b1"), Part(SectionType.RAMDISK, b"\x1f\x8b2")
    (found,) = words(tmp_path, one, other)
    assert "not both are uncompressed archives" in found


# extract


def test_extracted_sections_make_the_same_image(small: Path, tmp_path: Path) -> None:
    files = extract(read_eif(small), tmp_path / "parts")
    assert [path.name for path in files] == [
        "kernel",
        "cmdline",
        "metadata.json",
        "ramdisk0.cpio",
        "ramdisk1.cpio",
    ]
    kinds = [section.kind for section in read_eif(small).sections]
    write_eif(tmp_path / "again.eif", [Part(kind, path) for kind, path in zip(kinds, files, strict=True)])
    assert (tmp_path / "again.eif").read_bytes() == small.read_bytes()
    with pytest.raises(ImageError, match="File exists"):
        extract(read_eif(small), tmp_path / "parts")


# replace_byte


def test_one_changed_byte(small: Path, tmp_path: Path) -> None:
    before = measure(read_eif(small))
    changed = tmp_path / "changed.eif"
    after = replace_byte(small, changed, "/etc/banner.txt")
    assert measure(read_eif(changed)) == after
    assert after.pcr1 == before.pcr1
    assert after.pcr0 != before.pcr0
    assert after.pcr2 != before.pcr2
    one, other = small.read_bytes(), changed.read_bytes()
    assert len(one) == len(other)
    different = [at for at in range(len(one)) if one[at] != other[at]]
    assert all(0x220 <= at < 0x224 for at in different[:-1])
    root = unpack(changed, tmp_path / "out").root
    assert (root / "etc/banner.txt").read_text() == "hello from inside\n"
    assert list(diff(read_eif(small), read_eif(changed))) == [
        "ramdisk 1, rootfs/etc/banner.txt: content differs from byte 0 on (18 bytes)"
    ]


def test_which_byte_and_what_it_becomes(small: Path, tmp_path: Path) -> None:
    replace_byte(small, tmp_path / "c.eif", "etc/banner.txt", offset=5, value=0x21)
    assert (
        unpack(tmp_path / "c.eif", tmp_path / "c").root / "etc/banner.txt"
    ).read_text() == "Hello!from inside\n"
    replace_byte(small, tmp_path / "d.eif", "etc/banner.txt", offset=5)
    assert (
        unpack(tmp_path / "d.eif", tmp_path / "d").root / "etc/banner.txt"
    ).read_text() == "Hello#from inside\n"


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("etc/absent", {}),
        ("etc", {}),
        ("lib", {}),
        ("etc/banner.txt", {"offset": 18}),
        ("etc/banner.txt", {"offset": -1}),
        ("etc/banner.txt", {"value": ord("H")}),
        ("etc/banner.txt", {"value": 256}),
        ("etc/banner.txt", {"value": -1}),
    ],
)
def test_bytes_that_can_not_be_changed(
    small: Path, tmp_path: Path, file: str, options: dict[str, int]
) -> None:
    with pytest.raises(ImageError):
        replace_byte(small, tmp_path / "c.eif", file, **options)
    assert not (tmp_path / "c.eif").exists()
