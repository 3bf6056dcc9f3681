"""newc archives: the writer's bytes, and a reader that meets garbage."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geumgo.image import CpioError, ImageError, cpio
from geumgo.image.cpio import Archive, Entry, Kind, Node

NODES = {
    "b/file": Node.file(b"content"),
    "b/run": Node.file(b"#!/bin/sh\n", executable=True),
    "a-b": Node.file(b""),
    "a/link": Node.symlink("../b/file"),
    "empty": Node.directory(),
}


def header(
    name: bytes, *, mode: int = 0o100644, size: int = 0, nlink: int = 1, inode: int = 1, **other: int
) -> bytes:
    fields = (
        inode,
        mode,
        0,
        0,
        nlink,
        other.get("mtime", 0),
        size,
        0,
        0,
        0,
        0,
        other.get("name_size", len(name) + 1),
        0,
    )
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + name + b"\0"
    return head + bytes(-len(head) % 4)


def entry(name: bytes, data: bytes = b"", **fields: int) -> bytes:
    return header(name, size=fields.pop("size", len(data)), **fields) + data + bytes(-len(data) % 4)


TRAILER = header(b"TRAILER!!!")


# The writer


def test_golden_bytes() -> None:
    data = Archive({"f": Node.file(b"x")}, mtime=1).to_bytes()
    expected = (
        b"070701" b"00000001" b"000081A4" b"00000000" b"00000000" b"00000001" b"00000001" b"00000001"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000002" b"00000000" b"f\0" b"x\0\0\0"
        b"070701" b"00000000" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000" b"TRAILER!!!\0\0\0\0"
    )  # fmt: skip
    assert data == expected.ljust(512, b"\0")


def test_order_parents_inodes_and_size() -> None:
    archive = Archive(NODES, mtime=5)
    assert archive.names == ("a", "a/link", "a-b", "b", "b/file", "b/run", "empty")
    data = archive.to_bytes()
    assert len(data) == archive.size
    found = list(cpio.read(data))
    assert [item.name for item in found] == list(archive.names)
    assert {item.mtime for item in found} == {5}
    assert {(item.uid, item.gid) for item in found} == {(0, 0)}
    modes = {item.name: item.mode for item in found}
    assert modes == {
        "a": 0o755,
        "a/link": 0o777,
        "a-b": 0o644,
        "b": 0o755,
        "b/file": 0o644,
        "b/run": 0o755,
        "empty": 0o755,
    }
    assert [int(data[at + 6 : at + 14], 16) for at in _headers(data)][:-1] == list(range(1, 8))


def _headers(data: bytes) -> list[int]:
    return [at for at in range(0, len(data), 4) if data[at : at + 6] == b"070701"]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_gnu_cpio_reads_it(tmp_path: Path) -> None:
    data = Archive(NODES, mtime=5).to_bytes()
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True).stdout
    assert listed.decode().split() == list(Archive(NODES, mtime=5).names)


def test_input_order_does_not_matter() -> None:
    backwards = dict(reversed(NODES.items()))
    assert Archive(NODES, mtime=5).to_bytes() == Archive(backwards, mtime=5).to_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a\0b",
        "TRAILER!!!",
        "x" * 256,
        "a/" * 200 + "a",
        "/".join(["y" * 200] * 21),
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(CpioError):
        Archive({name: Node.file(b"")}, mtime=0)


def test_content_in_what_is_no_folder() -> None:
    for kind in (Node.file(b""), Node.symlink("b")):
        with pytest.raises(CpioError, match="not a folder"):
            Archive({"a": kind, "a/b": Node.file(b"")}, mtime=0)


def test_files_on_disk_large_and_small(tmp_path: Path) -> None:
    nodes, contents = {}, {}
    for size in (0, 1, 65535, 65536, (1 << 20) - 1, (1 << 20) + 1, 3 << 20):
        contents[f"f{size}"] = os.urandom(size)
        (tmp_path / f"f{size}").write_bytes(contents[f"f{size}"])
        nodes[f"f{size}"] = Node.file(tmp_path / f"f{size}")
    in_memory = {name: Node.file(data) for name, data in contents.items()}
    assert Archive(nodes, mtime=0).to_bytes() == Archive(in_memory, mtime=0).to_bytes()
    assert all(len(chunk) <= 3 << 20 for chunk in Archive(nodes, mtime=0).chunks())


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1234")
    archive = Archive({"f": Node.file(path)}, mtime=0)
    path.write_bytes(b"12345")
    with pytest.raises(CpioError, match="changed"):
        archive.to_bytes()
    path.unlink()
    with pytest.raises(ImageError):
        archive.to_bytes()
    with pytest.raises(CpioError):
        Archive({"f": Node.file(path)}, mtime=0)


def test_too_large_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(CpioError, match="4 GiB"):
        Archive({"f": Node.file(path)}, mtime=0)


def test_source_date_epoch() -> None:
    assert cpio.default_mtime({}) == cpio.default_mtime({"SOURCE_DATE_EPOCH": ""}) == 1_735_689_600
    assert cpio.default_mtime({"SOURCE_DATE_EPOCH": "17"}) == 17
    for wrong in ("-1", "x", "1.5", "4294967296", "1" * 5000, "١٢", " 5"):
        with pytest.raises(CpioError) as caught:
            cpio.default_mtime({"SOURCE_DATE_EPOCH": wrong})
        assert caught.value.code == "bad_source_date_epoch"


COMPONENT = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12).filter(
    lambda text: text not in (".", "..")
)
NAME = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join).filter(lambda name: name != cpio.TRAILER)
NODE = st.one_of(
    st.builds(lambda d, x: Node.file(d, executable=x), st.binary(max_size=40), st.booleans()),
    st.builds(Node.symlink, COMPONENT),
    st.just(Node.directory()),
)


@given(st.dictionaries(NAME, NODE, max_size=8), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_round_trip(nodes: dict[str, Node], mtime: int) -> None:
    try:
        archive = Archive(nodes, mtime=mtime)
    except CpioError:
        return
    data = archive.to_bytes()
    assert len(data) == archive.size
    found = cpio.names(cpio.read(data))
    assert set(nodes) <= set(found)
    for name, node in nodes.items():
        back = found[name]
        assert (back.kind, back.mode, back.mtime) == (node.kind, node.mode, mtime)
        assert data[back.offset : back.offset + back.size] == bytes(
            node.source().read_at(0, node.source().size)
        )


# The reader


def test_other_writers_forms() -> None:
    data = (
        entry(b".", mode=0o040755, nlink=3)
        + entry(b"./x", b"1")
        + entry(b"y/z", b"2", mode=0o104755, mtime=9)
    )
    found = list(cpio.read(data + TRAILER))
    assert [(item.name, item.kind) for item in found] == [
        (".", Kind.DIRECTORY),
        ("x", Kind.FILE),
        ("y/z", Kind.FILE),
    ]
    assert found[2].mode == 0o4755


def test_archives_in_a_row_are_one() -> None:
    one, other = entry(b"a", b"1") + TRAILER, entry(b"b", b"2") + TRAILER
    for padding in (b"", bytes(4), bytes(512)):
        assert [item.name for item in cpio.read(one + padding + other + bytes(100))] == ["a", "b"]
    with pytest.raises(CpioError, match="multiple of 4"):
        list(cpio.read(one + bytes(2) + other))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(512),
        b"070701",
        entry(b"a", b"1"),
        entry(b"a", b"1")[:-3],
        b"070707" + entry(b"a")[6:] + TRAILER,
        b"070702" + entry(b"a")[6:] + TRAILER,
        b"\x1f\x8b" + bytes(600),
        entry(b"a", b"1", size=2**32 - 1) + TRAILER,
        header(b"a", name_size=0) + TRAILER,
        header(b"a", name_size=1) + TRAILER,
        header(b"a", name_size=2**32 - 1) + TRAILER,
        header(b"a", name_size=4097) + bytes(5000) + TRAILER,
        header(b"ab\0c") + TRAILER,
        header(b"abc", name_size=2) + TRAILER,
        entry(b"/etc/passwd", b"1") + TRAILER,
        entry(b"../x", b"1") + TRAILER,
        entry(b"a/../../x", b"1") + TRAILER,
        entry(b"a//x", b"1") + TRAILER,
        entry(b"./../x", b"1") + TRAILER,
        entry(b"x/", b"1") + TRAILER,
        entry(b"", b"1") + TRAILER,
        entry(b"a", b"1", mode=0) + TRAILER,
        entry(b"a", b"1", mode=0o170644) + TRAILER,
        entry(b"a", b"1", mode=0o040755) + TRAILER,
        entry(b"a", b"1", mode=0o020644) + TRAILER,
        entry(b"TRAILER!!!", b"data"),
        entry(b"a") + TRAILER + b"garbage",
        entry(b"a")[:10] + b"-0000001" + entry(b"a")[18:] + TRAILER,
        entry(b"a")[:14] + b"0x0081a4" + entry(b"a")[22:] + TRAILER,
        entry(b"a")[:14] + b" 00081a4" + entry(b"a")[22:] + TRAILER,
        entry(b"a")[:14] + b"0_0081a4" + entry(b"a")[22:] + TRAILER,
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(CpioError):
        list(cpio.read(data))


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "MAX_ENTRIES", 3)
    data = b"".join(entry(b"f%d" % n) for n in range(4)) + TRAILER
    with pytest.raises(CpioError, match="more than 3"):
        list(cpio.read(data))
    with pytest.raises(CpioError, match="limit of 3"):
        Archive({f"f{n}": Node.file(b"") for n in range(4)}, mtime=0)


@given(st.binary(max_size=400))
@example(header(b"a" * 40))
def test_garbage_never_leaks_a_foreign_error(data: bytes) -> None:
    for candidate in (data, entry(b"a", b"12") + data, b"070701" + data):
        with contextlib.suppress(ImageError):
            assert all(isinstance(item, Entry) for item in cpio.read(candidate))


@given(data=st.data())
@settings(max_examples=150)
def test_mutated_archives_never_leak_a_foreign_error(data: st.DataObject) -> None:
    changed = bytearray(Archive(NODES, mtime=5).to_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.sampled_from(_headers(bytes(changed)) or [0])) + data.draw(st.integers(0, 127))
        changed[at % len(changed)] = data.draw(st.sampled_from(b"0123456789abcdefABCDEF/.\0xX-_ "))
    cut = data.draw(st.integers(0, len(changed)))
    for candidate in (bytes(changed), bytes(changed[:cut])):
        try:
            for item in cpio.read(candidate):
                assert item.offset + item.size <= len(candidate)
                assert not item.name.startswith("/")
                assert ".." not in item.name.split("/")
        except ImageError:
            pass


def test_names_occur_once_unless_folders() -> None:
    folder = entry(b"d", mode=0o040755)
    assert set(cpio.names(cpio.read(folder + folder + TRAILER))) == {"d"}
    with pytest.raises(CpioError, match="twice"):
        cpio.names(cpio.read(entry(b"a", b"1") + entry(b"a", b"2") + TRAILER))
    with pytest.raises(CpioError, match="twice"):
        cpio.names(cpio.read(folder + entry(b"d", b"2") + TRAILER))


def test_names_that_are_not_utf8() -> None:
    (found,) = cpio.read(entry(b"\xff\xfe", b"1") + TRAILER)
    assert os.fsencode(found.name) == b"\xff\xfe"
    again = Archive({found.name: Node.file(b"1")}, mtime=0).to_bytes()
    assert b"\xff\xfe\0" in again
    assert stat.S_ISREG(found.kind.value)
