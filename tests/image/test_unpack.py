"""Unpacking: nothing lands, and no link points, outside the folder."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.image import CpioError, ImageError, Part, SectionType, read_eif, unpack, write_eif
from geumgo.image._source import BytesSource
from geumgo.image._unpack import parse_lines, unpack_archives
from geumgo.image.cpio import Archive, Node


def header(name: bytes, *, mode: int = 0o100644, size: int = 0, nlink: int = 1, inode: int = 1) -> bytes:
    fields = (inode, mode, 0, 0, nlink, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + name + b"\0"
    return head + bytes(-len(head) % 4)


def entry(name: bytes, data: bytes = b"", **fields: int) -> bytes:
    return header(name, size=len(data), **fields) + data + bytes(-len(data) % 4)


LINK, FOLDER = 0o120777, 0o040755
TRAILER = header(b"TRAILER!!!")


def unpacked(directory: Path, *entries: bytes, root: str = "") -> tuple[str, ...]:
    return unpack_archives([BytesSource(b"".join(entries) + TRAILER)], directory, root=root)


def inside(directory: Path) -> None:
    """Every link resolves below the folder; every file is one of ours."""
    real = directory.resolve()
    for parent, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(parent, name)
            with contextlib.suppress(RuntimeError, OSError):  # a loop of links leads nowhere
                assert path.resolve().is_relative_to(real), (path, os.readlink(path))


# An image


def test_an_image(small: Path, tmp_path: Path) -> None:
    found = unpack(small, tmp_path / "out")
    assert found.root == tmp_path / "out" / "rootfs"
    assert found.cmd == ("/bin/app", "-v")
    assert found.env == {"A": "1", "PATH": "/bin"}
    assert found.skipped == ()
    assert (found.root / "lib" / "app").read_text() == "#!/bin/sh\necho hello\n"
    assert stat.S_IMODE((found.root / "bin/app").stat().st_mode) == 0o755
    assert stat.S_IMODE((found.root / "etc/banner.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert unpack(read_eif(small.read_bytes()), tmp_path / "again").cmd == found.cmd


def test_modes_do_not_depend_on_the_umask(small: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        root = unpack(small, tmp_path / "out").root
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "bin").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "bin/app").stat().st_mode) == 0o755


def test_several_application_ramdisks(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    more = Archive({"rootfs/more": Node.file(b"m")}, mtime=0)
    write_eif(tmp_path / "two.eif", [*make_parts(), Part(SectionType.RAMDISK, more)])
    root = unpack(tmp_path / "two.eif", tmp_path / "out").root
    assert (root / "more").read_bytes() == b"m"
    assert (root / "bin/app").exists()


def image_of(tmp_path: Path, parts: list[Part], ramdisk: bytes) -> Path:
    write_eif(tmp_path / "x.eif", [*parts[:4], Part(SectionType.RAMDISK, ramdisk)])
    return tmp_path / "x.eif"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "no folder 'rootfs'"),
        ([entry(b"rootfs", mode=FOLDER)], "no file 'cmd'"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", b"/x\n")], "no file 'env'"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", b"\n\n"), entry(b"env")], "names no program"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", b"/x\n"), entry(b"env", b"A\n")], "NAME=value"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", b"/x\n"), entry(b"env", b"=1\n")], "NAME=value"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", b"/x\0y\n"), entry(b"env")], "NUL"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", b"/etc/passwd", mode=LINK), entry(b"env")], "'cmd'"),
        ([entry(b"rootfs", mode=FOLDER), entry(b"cmd", bytes(300_000)), entry(b"env")], "over"),
        ([entry(b"rootfs", b"etc", mode=LINK), entry(b"etc", mode=FOLDER)], "no folder 'rootfs'"),
        ([entry(b"rootfs", b"file")], "no folder 'rootfs'"),
    ],
)
def test_ramdisks_that_lack_something(
    tmp_path: Path, make_parts: Callable[..., list[Part]], entries: list[bytes], words: str
) -> None:
    path = image_of(tmp_path, make_parts(), b"".join(entries) + TRAILER)
    with pytest.raises(CpioError, match=words):
        unpack(path, tmp_path / "out")


def test_no_application_ramdisk_or_a_compressed_one(
    tmp_path: Path, make_parts: Callable[..., list[Part]]
) -> None:
    write_eif(tmp_path / "one.eif", make_parts()[:4])
    with pytest.raises(CpioError, match="no application ramdisk"):
        unpack(tmp_path / "one.eif", tmp_path / "out")
    path = image_of(tmp_path, make_parts(), b"\x1f\x8b\x08\0" + bytes(100))
    with pytest.raises(CpioError, match="not an uncompressed"):
        unpack(path, tmp_path / "out")


def test_the_folder_must_be_empty(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "there").touch()
    with pytest.raises(ImageError, match="not empty"):
        unpack(small, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError) as caught:
        unpack(small, tmp_path / "file")
    assert caught.value.code == "image_unwritable"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ()),
        (b"\n", ()),
        (b"a", ("a",)),
        (b"a\n", ("a",)),
        (b"a\nb c\n", ("a", "b c")),
        (b"a\n\nb\n", ("a", "", "b")),
    ],
)
def test_lines(data: bytes, expected: tuple[str, ...]) -> None:
    assert parse_lines(data) == expected


# Paths


@pytest.mark.parametrize(
    "entries",
    [
        [entry(b"a", b"x"), entry(b"a/b", b"y")],
        [entry(b"a", b"/tmp", mode=LINK), entry(b"a/b", b"y")],
        [entry(b"a", b"..", mode=LINK), entry(b"a/b", mode=FOLDER)],
        [entry(b"a", b"1"), entry(b"a", b"2")],
        [entry(b"a", b"/etc/passwd", mode=LINK), entry(b"a", b"2")],
        [entry(b"a", b"2"), entry(b"a", b"/etc/passwd", mode=LINK)],
        [entry(b"a", mode=FOLDER), entry(b"a", b"/etc", mode=LINK)],
        [entry(b"a", b"/etc", mode=LINK), entry(b"a", mode=FOLDER)],
        [entry(b"a", b"", mode=LINK)],
        [entry(b"a", b"x" * 4096, mode=LINK)],
        [entry(b"a", b"x\0y", mode=LINK)],
        [entry(b".", b"1")],
        [entry(b"a", mode=0o020666), entry(b"a/b", b"1")],
    ],
)
def test_entries_that_are_refused(tmp_path: Path, entries: list[bytes]) -> None:
    with pytest.raises(CpioError):
        unpacked(tmp_path / "out", *entries)
    inside(tmp_path / "out")
    assert not (tmp_path / "b").exists()


def test_folders_may_come_twice_and_parents_may_be_missing(tmp_path: Path) -> None:
    unpacked(tmp_path / "out", entry(b"d/e/f", b"1"), entry(b"d", mode=0o040500), entry(b"d", mode=0o040711))
    assert (tmp_path / "out/d/e/f").read_bytes() == b"1"
    assert stat.S_IMODE((tmp_path / "out/d").stat().st_mode) == 0o711


def test_modes_are_made_safe_for_this_machine(tmp_path: Path) -> None:
    """No set-user-id; what others may write is a folder like /tmp only; and we can delete it all again."""
    given = {"s": 0o106755, "f": 0o100666, "z": 0o100000, "d": 0o041000, "w": 0o046777, "t": 0o041777}
    unpacked(tmp_path / "out", *(entry(name.encode(), mode=mode) for name, mode in given.items()))
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in given}
    assert modes == {"s": 0o755, "f": 0o644, "z": 0o600, "d": 0o1700, "w": 0o755, "t": 0o1777}


def test_devices_pipes_and_sockets_are_left_out_and_named(tmp_path: Path) -> None:
    kinds = {b"c": 0o020666, b"b": 0o060666, b"p": 0o010666, b"s": 0o140666}
    skipped = unpacked(tmp_path / "out", *(entry(name, mode=mode) for name, mode in kinds.items()))
    assert skipped == ("c", "b", "p", "s")
    assert list((tmp_path / "out").iterdir()) == []


# Hard links


def test_hard_links_with_the_data_first_or_last(tmp_path: Path) -> None:
    same = {"nlink": 2, "inode": 9}
    unpacked(
        tmp_path / "out",
        entry(b"a", b"data", **same),
        entry(b"b", b"", **same),
        entry(b"c", b"", nlink=2, inode=10),
        entry(b"d", b"later", nlink=2, inode=10),
        entry(b"e", b"alone", nlink=1, inode=9),
    )
    out = tmp_path / "out"
    assert {name: (out / name).read_bytes() for name in "abcde"} == {
        "a": b"data",
        "b": b"data",
        "c": b"later",
        "d": b"later",
        "e": b"alone",
    }
    assert (out / "a").samefile(out / "b")
    assert not (out / "a").samefile(out / "e")


def test_inode_numbers_of_another_archive_are_others(tmp_path: Path) -> None:
    one = entry(b"a", b"1", nlink=2, inode=9) + TRAILER
    other = entry(b"b", b"2", nlink=2, inode=9) + TRAILER
    unpack_archives([BytesSource(one), BytesSource(other)], tmp_path / "out")
    assert (tmp_path / "out/a").read_bytes() == b"1"


# Symbolic links


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("rootfs/a", "b", "b"),
        ("rootfs/a", "/b/c", "b/c"),
        ("rootfs/x/y/a", "/b", "../../b"),
        ("rootfs/x/y/a", "/x/b", "../b"),
        ("rootfs/x/y/a", "../z", "../z"),
        ("rootfs/a", "../../../etc/passwd", "etc/passwd"),
        ("rootfs/x/a", "/../../etc/passwd", "../etc/passwd"),
        ("rootfs/a", "/", "."),
        ("rootfs/x/a", "/", ".."),
        ("rootfs/a", ".", "."),
        ("rootfs/x/a", "..", ".."),
        ("rootfs/x/a", "./b//c/./d", "b/c/d"),
        ("rootfs/x/a", "b/../c", "c"),
        ("a", "/etc/passwd", "etc/passwd"),
        ("a", "../up", "up"),
    ],
)
def test_targets_mean_the_same_inside(tmp_path: Path, name: str, target: str, expected: str) -> None:
    unpacked(tmp_path / "out", entry(name.encode(), target.encode(), mode=LINK), root="rootfs")
    assert os.readlink(tmp_path / "out" / name) == expected


def test_a_link_may_not_climb_out_of_another(tmp_path: Path) -> None:
    with pytest.raises(CpioError, match="climbs"):
        unpacked(
            tmp_path / "out",
            entry(b"x/y/z", b"/", mode=LINK),
            entry(b"l", b"x/y/z/../../etc", mode=LINK),
        )


COMPONENT = st.sampled_from(["a", "b", "c", "..", ".", ""])
TARGET = st.builds(
    lambda parts, absolute: ("/" if absolute else "") + "/".join(parts),
    st.lists(COMPONENT, min_size=1, max_size=6),
    st.booleans(),
)
NAME = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)


@given(
    st.dictionaries(NAME, st.one_of(TARGET, st.none()), min_size=1, max_size=8), st.sampled_from(["", "a"])
)
@settings(max_examples=200, deadline=None)
def test_no_chain_of_links_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, str | None], root: str
) -> None:
    entries = [
        entry(name.encode(), b"file") if target is None else entry(name.encode(), target.encode(), mode=LINK)
        for name, target in tree.items()
    ]
    # Deep below the temporary folder, so that `..` has somewhere real to go.
    out = tmp_path_factory.mktemp("links") / "deep" / "deeper" / "out"
    with contextlib.suppress(ImageError):
        unpacked(out, *entries, root=root)
    inside(out)


# Faults, size, speed


def test_disk_full_is_an_error_of_ours(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geumgo.image._unpack.os.write", full)
    with pytest.raises(ImageError, match="No space left"):
        unpack(small, tmp_path / "out")


def test_thousands_of_files_take_well_under_a_second_of_cpu(tmp_path: Path) -> None:
    nodes = {f"rootfs/d{n % 50}/f{n}": Node.file(bytes([n % 256]) * 8000) for n in range(5000)}
    data = Archive(nodes, mtime=0).to_bytes()
    started = time.process_time()
    unpack_archives([BytesSource(data)], tmp_path / "out")
    assert time.process_time() - started < 3.0  # 0.5 s on an idle machine
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "out")) == 5000


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_mutated_archives_never_leak_a_foreign_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    changed = bytearray(
        b"".join(
            [
                entry(b"d", mode=FOLDER),
                entry(b"d/f", b"file", nlink=2, inode=5),
                entry(b"d/g", nlink=2, inode=5),
                entry(b"d/l", b"/d/../f", mode=LINK),
                TRAILER,
            ]
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(
            st.sampled_from(b"0123456789af/.\0lx")
        )
    out = tmp_path_factory.mktemp("mutated") / "out"
    with contextlib.suppress(ImageError):
        unpack_archives([BytesSource(bytes(changed))], out)
    inside(out)
