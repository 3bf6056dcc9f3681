"""Building from a folder: layout, what can't be held, and the same bytes whatever the surroundings."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geumgo.image import (
    Architecture,
    BuildError,
    BuiltImage,
    CpioError,
    Part,
    SectionType,
    bootable,
    build_from_directory,
    cpio,
    measure,
    read_eif,
    unpack,
    write_eif,
)
from geumgo.image._bootstrap import NO_INIT, NO_KERNEL

BZIMAGE = bytes(0x202) + b"HdrS" + bytes(100)
ARM_IMAGE = bytes(0x38) + b"ARM\x64" + bytes(100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/app").write_text("#!/bin/sh\n")
    (folder / "bin/app").chmod(0o700)
    (folder / "고객.txt").write_text("가")
    (folder / "secret").write_text("s")
    (folder / "secret").chmod(0o4600)
    (folder / "etc").symlink_to("/bin")
    return folder


def build(root: Path, output: Path, **options: Any) -> BuiltImage:
    return build_from_directory(
        root, **{"cmd": ["/bin/app"], "env": {"B": "2", "A": "1"}, "output": output, **options}
    )


def test_layout(root: Path, tmp_path: Path) -> None:
    built = build(root, tmp_path / "x.eif", name="demo", version="3", metadata={"team": "privacy"})
    eif = read_eif(built.path)
    kinds = [section.kind for section in eif.sections]
    order = [
        SectionType.KERNEL,
        SectionType.CMDLINE,
        SectionType.METADATA,
        SectionType.RAMDISK,
        SectionType.RAMDISK,
    ]
    assert kinds == order
    assert eif.warnings == ()
    assert measure(eif) == built.measurements
    assert built.size == built.path.stat().st_size
    application = cpio.names(cpio.read(eif.ramdisk(1)))
    assert {name for name in application if "/" not in name} == {"cmd", "env", "rootfs"}
    expected = ("dev", "run", "sys", "var", "proc", "tmp", "bin/app", "고객.txt")
    assert {f"rootfs/{name}" for name in expected} <= set(application)
    assert {name: application[f"rootfs/{name}"].mode for name in ("bin/app", "secret", "bin", "tmp")} == {
        "bin/app": 0o755,
        "secret": 0o644,
        "bin": 0o755,
        "tmp": 0o1777,
    }
    bootstrap = cpio.names(cpio.read(eif.ramdisk(0)))
    assert set(bootstrap) == {"dev", "init"}
    assert all(entry.size == 0 or entry.kind is not cpio.Kind.DIRECTORY for entry in application.values())
    metadata = json.loads(eif.metadata or b"")
    assert (metadata["ImageName"], metadata["ImageVersion"]) == ("demo", "3")
    assert metadata["CustomMetadata"] == {"team": "privacy"}
    assert metadata["BuildMetadata"]["BuildTime"] == "2025-01-01T00:00:00Z"
    found = unpack(eif, tmp_path / "out")
    assert found.cmd == ("/bin/app",)
    assert list(found.env.items()) == [("A", "1"), ("B", "2")]
    assert (found.root / "고객.txt").read_text() == "가"
    assert os.readlink(found.root / "etc") == "bin"


def test_metadata_is_not_measured(root: Path, tmp_path: Path) -> None:
    one = build(root, tmp_path / "1.eif", name="one").measurements
    assert build(root, tmp_path / "2.eif", name="other", version="9").measurements == one


def test_command_and_environment_are_measured(root: Path, tmp_path: Path) -> None:
    one = build(root, tmp_path / "1.eif").measurements
    for changed in ({"cmd": ["/bin/app", "-x"]}, {"env": {}}):
        other = build(root, tmp_path / "2.eif", **changed).measurements
        assert other.pcr0 != one.pcr0
        assert other.pcr2 != one.pcr2
        assert other.pcr1 == one.pcr1


def test_source_date_epoch(root: Path, tmp_path: Path) -> None:
    one = build(root, tmp_path / "1.eif", environment={})
    other = build(root, tmp_path / "2.eif", environment={"SOURCE_DATE_EPOCH": "1000"})
    assert one.measurements != other.measurements
    assert {entry.mtime for entry in cpio.read(read_eif(other.path).ramdisk(1))} == {1000}
    assert b"1970-01-01T00:16:40Z" in (read_eif(other.path).metadata or b"")


BUILD = """
import sys
from pathlib import Path
from geumgo.image import build_from_directory
build_from_directory(Path(sys.argv[1]), cmd=["/bin/app"], env={"A": "1"}, output=Path(sys.argv[2]), name="n")
"""


def test_surroundings_do_not_matter(root: Path, tmp_path: Path) -> None:
    """Another folder, creation order, umask, time zone, locale, home, hash seed: the same bytes."""
    copy = tmp_path / "elsewhere" / "copy"
    (copy / "bin").mkdir(parents=True)
    os.symlink("/bin", copy / "etc")
    for name in ("secret", "고객.txt", "bin/app"):
        (copy / name).write_bytes((root / name).read_bytes())
        (copy / name).chmod(0o777 if name == "bin/app" else 0o640)
        os.utime(copy / name, (5, 5))
    seeds = {
        "TZ": ("UTC", "Asia/Seoul"),
        "LC_ALL": ("C", "C.UTF-8"),
        "HOME": ("/", "/tmp"),
        "PYTHONHASHSEED": ("1", "2"),
    }
    digests = []
    for number, folder in enumerate((root, copy)):
        output = tmp_path / f"{number}.eif"
        subprocess.run(
            [sys.executable, "-X", "utf8", "-c", BUILD, str(folder), str(output)],
            check=True,
            cwd=("/", tmp_path)[number],
            umask=(0o022, 0o077)[number],
            env={name: values[number] for name, values in seeds.items()},
        )
        digests.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert digests[0] == digests[1]


# Kernel and init


def test_without_kernel_and_init_the_sections_say_so(root: Path, tmp_path: Path) -> None:
    built = build(root, tmp_path / "x.eif")
    assert not built.bootable
    assert built.notes == ("not bootable: it was built without a kernel",)
    eif = read_eif(built.path)
    kernel = bytes(eif.kernel.read_at(0, eif.kernel.size))
    assert kernel == NO_KERNEL
    assert b"NOT BOOTABLE" in kernel.decode("ascii").encode()
    ramdisk = eif.ramdisk(0)
    assert NO_INIT in bytes(ramdisk.read_at(0, ramdisk.size))


def test_with_both_it_is_bootable(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(BZIMAGE)
    (tmp_path / "init").write_bytes(b"\x7fELF...")
    (tmp_path / "nsm.ko").write_bytes(b"module")
    options = {"kernel": tmp_path / "bzImage", "architecture": Architecture.X86_64}
    built = build(root, tmp_path / "x.eif", **options)
    assert (built.bootable, built.reason) == (False, "it was built without an init")
    modules = [tmp_path / "nsm.ko"]
    built = build(
        root, tmp_path / "x.eif", **options, init=tmp_path / "init", modules=modules, cmdline=" quiet\n"
    )
    assert (built.bootable, built.reason, built.notes) == (True, "", ())
    eif = read_eif(built.path)
    assert eif.cmdline == b"quiet"
    bootstrap = cpio.names(cpio.read(eif.ramdisk(0)))
    assert {name: entry.mode for name, entry in bootstrap.items()} == {
        "dev": 0o755,
        "init": 0o755,
        "nsm.ko": 0o755,
    }


def test_wrong_kernels_and_inits(root: Path, tmp_path: Path) -> None:
    (tmp_path / "arm").write_bytes(ARM_IMAGE)
    (tmp_path / "text").write_bytes(b"text")
    with pytest.raises(BuildError, match="not an x86_64 bzImage"):
        build(root, tmp_path / "x.eif", kernel=tmp_path / "arm", architecture=Architecture.X86_64)
    with pytest.raises(BuildError, match="neither an ELF"):
        build(root, tmp_path / "x.eif", init=tmp_path / "text")
    init = tmp_path / "init"
    init.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(BuildError, match="are called init"):
        build(root, tmp_path / "x.eif", init=init, modules=[init])
    build(root, tmp_path / "x.eif", kernel=tmp_path / "arm", init=init, architecture=Architecture.AARCH64)
    assert bootable(read_eif(tmp_path / "x.eif")) == (True, "")


def archive(**nodes: cpio.Node) -> cpio.Archive:
    return cpio.Archive(nodes, mtime=0)


@pytest.mark.parametrize(
    ("ramdisks", "expected"),
    [
        ([], "it has no ramdisk"),
        ([archive(x=cpio.Node.file(b""))], "its bootstrap ramdisk has no init"),
        ([archive(init=cpio.Node.file(b"\x7fELF"))], "its init is not a program"),
        ([archive(init=cpio.Node.file(b"text", executable=True))], "its init is not a program"),
        ([archive(init=cpio.Node.file(b"", executable=True))], "its init is not a program"),
        ([archive(init=cpio.Node.file(b"\x7fELF", executable=True))], ""),
        ([archive(init=cpio.Node.symlink("sbin/init"))], ""),
        ([b"\x1f\x8b compressed"], ""),
        ([b"garbage"], "its bootstrap ramdisk can't be read: there is no archive entry at 0"),
        ([b""], "its bootstrap ramdisk can't be read: the archive ends without its trailer"),
    ],
)
def test_whether_others_images_can_boot(
    tmp_path: Path, make_parts: Callable[..., list[Part]], ramdisks: list[Any], expected: str
) -> None:
    sections = [*make_parts(kernel=BZIMAGE)[:3], *(Part(SectionType.RAMDISK, data) for data in ramdisks)]
    write_eif(tmp_path / "x.eif", sections)
    assert bootable(read_eif(tmp_path / "x.eif")) == (not expected, expected)


# What can't be built


def test_things_that_no_image_holds(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(BuildError, match="pipe"):
        build(root, tmp_path / "x.eif")
    (root / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s"))
        with pytest.raises(BuildError, match="socket"):
            build(root, tmp_path / "x.eif")
    assert not (tmp_path / "x.eif").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cmd": []}, "absolute path"),
        ({"cmd": ["app"]}, "absolute path"),
        ({"cmd": ["/bin/app", "a\nb"]}, "line break"),
        ({"cmd": ["/bin/app", "a\0b"]}, "line break"),
        ({"env": {"A": "x\ny"}}, "line break"),
        ({"env": {"": "x"}}, "name of a variable"),
        ({"env": {"A=B": "x"}}, "name of a variable"),
        ({"metadata": {"x": object()}}, "not JSON"),
        ({"metadata": {"x": "y" * (2 << 20)}}, "limit"),
        ({"metadata": {"x": float("nan")}}, "not JSON"),
    ],
)
def test_arguments_that_are_refused(root: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        build(root, tmp_path / "x.eif", **options)
    assert not (tmp_path / "x.eif").exists()


def test_folders_that_are_refused(root: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", root / "secret"):
        with pytest.raises(BuildError, match="not a folder"):
            build(folder, tmp_path / "x.eif")
    with pytest.raises(CpioError):
        build(root, tmp_path / "x.eif", environment={"SOURCE_DATE_EPOCH": "tomorrow"})


def test_progress(root: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build(root, tmp_path / "x.eif", progress=lambda step, done, total: told.append((step, done, total)))
    assert told[-1][1:] == (100, 100)
    assert all(0 <= done <= total for _, done, total in told)
