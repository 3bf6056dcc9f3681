"""What the enclave image's base is made of: lock, cache, apt's sources, ELF files, pruning, rooms."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.image import (
    Architecture,
    BuildError,
    ImageError,
    LockError,
    Unavailable,
    _debian,
    _locked,
    _prune,
    _wheels,
    loader_command,
)
from geumgo.image._cache import Cache, default_cache, hash_file
from geumgo.image._debian import mirror_of
from geumgo.image._elf import Elf, parse_elf
from geumgo.image._rooms import ROOMS, room_nodes
from geumgo.image._run import end_programs, run
from geumgo.image._source import FileSource
from geumgo.image.cpio import Kind, Node
from geumgo.image.lock import Locked, read_lock

# The lock


@pytest.mark.parametrize("architecture", list(Architecture))
def test_the_lock_that_comes_with_geumgo(architecture: Architecture) -> None:
    lock = read_lock(architecture)
    assert (lock.suite, lock.component, lock.python) == ("bookworm", "main", "3.11")
    names = {package.name for package in lock.packages}
    assert {"libc6", "libssl3", "python3.11-minimal", "libpython3.11-stdlib"} <= names
    assert {wheel.name for wheel in lock.wheels} == {"cryptography", "cbor2", "msgspec", "cffi"}
    hashes = [item.sha256 for item in (*lock.packages, *lock.wheels)]
    assert len(set(hashes)) == len(hashes)
    assert lock.debian_architecture == {"x86_64": "amd64", "aarch64": "arm64"}[architecture.machine]


GOOD = """
version = 1
[base]
suite = "bookworm"
component = "main"
python = "3.11"
[x86_64]
packages = [{ name = "a", version = "1:2-3+b~4", sha256 = "%s" }]
wheels = []
""" % ("0" * 64)


def test_a_small_lock() -> None:
    lock = read_lock(Architecture.X86_64, GOOD)
    assert lock.packages == (Locked("a", "1:2-3+b~4", "0" * 64),)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        ("version = 1", ""),
        ("version = 1", "version ="),
        ("[x86_64]", "[mips]"),
        ("[base]", "[bass]"),
        ('"bookworm"', '"book worm"'),
        ('"bookworm"', "7"),
        ('"main"', '"main\\n"'),
        ('name = "a"', 'name = "-a"'),
        ('name = "a"', 'name = "a b"'),
        ('"1:2-3+b~4"', '"1 2"'),
        ("0" * 64, "0" * 63),
        ("0" * 64, "G" * 64),
        ("sha256", "md5"),
        ("wheels = []", "wheels = 7"),
        ("wheels = []", "wheels = [7]"),
        ("wheels = []", ""),
        ("packages = [{", "packages = [{ more = 1, "),
    ],
)
def test_malformed_locks(old: str, new: str) -> None:
    with pytest.raises(LockError):
        read_lock(Architecture.X86_64, GOOD.replace(old, new))


@given(st.text(max_size=80))
def test_garbage_is_no_lock(text: str) -> None:
    for candidate in (text, GOOD + text):
        with contextlib.suppress(LockError):
            read_lock(Architecture.X86_64, candidate)


# The cache


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = {"HOME": str(tmp_path)}
    assert default_cache({**home, "XDG_CACHE_HOME": "/c"}) == Path("/c/geumgo")
    assert default_cache(home) == tmp_path / ".cache/geumgo"
    assert default_cache({**home, "XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache/geumgo"
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(BuildError, match="no folder for the cache"):
        default_cache({"HOME": str(tmp_path / "file")})


def test_blobs_are_checked_each_time(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    sha256 = hash_file(file)
    assert cache.blob(sha256) is None
    assert cache.add_blob(file) == sha256
    found = cache.blob(sha256)
    assert found is not None
    assert found.read_bytes() == b"content"
    found.write_bytes(b"damaged")
    assert cache.blob(sha256) is None
    assert not found.exists()


def test_built_archives_are_checked_and_forgotten(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.built("key") is None
    path = cache.add_built("key", iter([b"ar", b"chive"]))
    assert cache.built("key") == path
    assert path.read_bytes() == b"archive"
    path.write_bytes(b"damaged")
    assert cache.built("key") is None
    old = cache.add_built("old", iter([b"x"]))
    os.utime(old, (1, 1))
    recent = cache.add_built("recent", iter([b"x"]))
    os.utime(recent, (time.time() - 86400,) * 2)
    cache.add_built("new", iter([b"y"]))
    assert cache.built("old") is None
    assert cache.built("recent") == recent
    assert recent.stat().st_mtime > time.time() - 3600
    assert not list((tmp_path / "cache").glob("work-*"))


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with Cache(folder).scratch() as first:
        with Cache(folder).scratch() as second:
            assert first.is_dir()
            assert second.is_dir()
        assert not second.exists()
        (folder / "work-killed" / "root").mkdir(parents=True)
        (folder / "work-link").symlink_to(first)
        with Cache(folder).scratch():
            assert first.is_dir()
            assert not (folder / "work-killed").exists()
    assert [path.name for path in folder.iterdir()] == ["work-link"]


def test_unwritable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="can't be written"), Cache(tmp_path / "file" / "c").scratch():
        pass


# Sources of apt

DEB822 = """\
Types: deb
# comment
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main

Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: trixie
  trixie-updates
Components: main contrib
Signed-By: /k
"""


@pytest.mark.parametrize(
    ("environment", "sources", "expected"),
    [
        ({"GEUMGO_DEBIAN_MIRROR": "http://m/x"}, [DEB822], "http://m/x"),
        ({}, [DEB822], "http://mirror.example/debian"),
        ({}, ["deb http://a/debian bookworm main\n"], "http://a/debian"),
        ({}, ["# deb http://a/debian bookworm main\n"], None),
        ({}, ["deb [arch=amd64 signed-by=/k] https://a/debian/ sid contrib main # c\n"], "https://a/debian"),
        ({}, ["deb-src http://a/debian bookworm main\n"], None),
        ({}, ["deb http://a/debian bookworm contrib\n"], None),
        ({}, ["deb http://a/debian-security bookworm-security main\n"], None),
        ({}, ["deb http://a/ubuntu noble main universe\n"], None),
        ({}, ["deb http://a/ubuntu noble main\n", DEB822], "http://mirror.example/debian"),
        ({}, [DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")], None),
        ({}, [DEB822.replace("Types: deb deb-src", "Types: deb-src")], None),
        ({}, ["\n\n  \n:\n Continued: x\n"], None),
        ({}, [], None),
    ],
)
def test_mirror(environment: dict[str, str], sources: list[str], expected: str | None) -> None:
    assert mirror_of(environment, sources) == expected


@given(st.text(max_size=120))
def test_garbage_names_no_mirror(text: str) -> None:
    mirror_of({}, [text, f"Types: deb\n{text}"])


LOCK = read_lock(Architecture.X86_64, GOOD)


def test_no_apt_or_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    monkeypatch.setattr(_debian, "APT", tmp_path)
    if shutil.which("apt-get"):
        with pytest.raises(Unavailable, match="no mirror"):
            _debian.fetch_packages(LOCK, LOCK.packages, cache, {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no apt-get"):
        _debian.fetch_packages(LOCK, LOCK.packages, cache, {})


def test_what_is_in_the_cache_needs_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "a").write_bytes(b"package")
    sha256 = cache.add_blob(tmp_path / "a")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = _debian.fetch_packages(LOCK, [Locked("a", "1", sha256)], cache, {})
    assert found["a"].read_bytes() == b"package"


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand in for apt: `download` puts one file there; and what they were called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (folder / name).write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> {tmp_path}/calls\n"
            f'cat "$3" >> {tmp_path}/configuration\n'
            'case "$*" in *download*) printf served > a_1_amd64.deb;; esac\n'
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


def test_apt_is_called_in_a_folder_of_ours(stand_ins: Path) -> None:
    (stand_ins / "expected").write_bytes(b"served")
    package = Locked("a", "1:2", hash_file(stand_ins / "expected"))
    cache = Cache(stand_ins / "cache")
    mirror = {"GEUMGO_DEBIAN_MIRROR": "http://mirror.example/debian"}
    found = _debian.fetch_packages(LOCK, [package], cache, mirror)
    assert found["a"].read_bytes() == b"served"
    update, download = (stand_ins / "calls").read_text().splitlines()
    assert update.endswith("update")
    assert download.endswith("download a:amd64=1:2")
    for line in (stand_ins / "configuration").read_text().splitlines():
        if line.startswith("Dir::") and '""' not in line and "/dev/null" not in line:
            assert f'"{stand_ins}/cache/work-' in line
    assert not list((stand_ins / "cache").glob("work-*"))


def test_other_bytes_than_locked_are_refused(stand_ins: Path) -> None:
    mirror = {"GEUMGO_DEBIAN_MIRROR": "http://mirror.example/debian"}
    with pytest.raises(Unavailable, match="another SHA-256"):
        _debian.fetch_packages(LOCK, LOCK.packages, Cache(stand_ins / "cache"), mirror)


# Running others


def test_programs_that_fail(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="can't be run"):
        run([str(tmp_path / "absent")])
    with pytest.raises(BuildError, match="status 3") as caught:
        run(["sh", "-c", "echo reason >&2; exit 3"])
    assert caught.value.why == "reason"
    with pytest.raises(Unavailable, match="took longer"):
        run(["sleep", "30"], timeout=0.05, error=Unavailable)
    assert run(["cat"], given=b"input") == b"input"
    assert run(["/usr/bin/env"], environment={"A": "1"}, only=True) == b"A=1\n"


# ELF


def test_this_interpreter() -> None:
    path = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = parse_elf(FileSource(path))
    assert found is not None
    assert found.interpreter is not None
    assert found.interpreter.startswith("/lib")
    assert "libc.so.6" in found.needed
    assert found.soname is None
    libc = parse_elf(FileSource(Path(found.interpreter).resolve()))
    assert libc is not None
    assert libc.interpreter is None
    assert (libc.soname or "").startswith("ld-linux")


def test_what_is_no_elf_file() -> None:
    for data in (
        b"",
        b"\x7fELF",
        b"\x7fELF\x01\x01" + bytes(100),
        b"\x7fELF\x02\x02" + bytes(100),
        b"#!/bin/sh",
    ):
        assert parse_elf(data) is None
    assert parse_elf(b"\x7fELF\x02\x01" + bytes(58)) is None


@given(data=st.data())
def test_mutated_elf_files_never_leak_a_foreign_error(data: st.DataObject) -> None:
    changed = bytearray(ELF_START)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, min(len(changed), 1500) - 1))] = data.draw(st.integers(0, 255))
    found = parse_elf(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    assert found is None or isinstance(found, Elf)


def _elf_start() -> bytes:
    import _json

    path = getattr(_json, "__file__", None) or sys.executable
    return Path(path).resolve().read_bytes()[:200_000]


ELF_START = _elf_start()


def test_loader_command_needs_an_image_of_ours(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(ImageError):
        loader_command(tmp_path, "/bin/absent")
    (tmp_path / "bin/script").write_text("#!/bin/sh\n")
    with pytest.raises(ImageError, match="not a dynamically linked"):
        loader_command(tmp_path, "/bin/script")
    shutil.copy(Path(getattr(sys, "_base_executable", sys.executable)).resolve(), tmp_path / "bin/python")
    with pytest.raises(ImageError, match="lacks its dynamic loader"):
        loader_command(tmp_path, "/bin/python")
    elf = parse_elf(FileSource(tmp_path / "bin/python"))
    assert elf is not None
    assert elf.interpreter is not None
    loader = tmp_path / elf.interpreter.lstrip("/")
    loader.parent.mkdir(parents=True)
    loader.touch()
    with pytest.raises(ImageError, match=r"ld\.so\.conf"):
        loader_command(tmp_path, "/bin/python")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ld.so.conf").write_text("/lib/x\n/usr/lib/x\n")
    command = loader_command(tmp_path, "/bin/python")
    assert command[0] == str(loader)
    assert command[2:4] == ("--library-path", f"{tmp_path}/lib/x:{tmp_path}/usr/lib/x")
    assert command[4] == f"{tmp_path}/bin/python"


# Packages and wheels


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_debian_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/a").write_text("program")
    (tree / "usr/bin/a").chmod(0o755)
    (tree / "usr/bin/b").symlink_to("/usr/bin/a")
    os.link(tree / "usr/bin/a", tree / "usr/bin/c")
    subprocess.run(["dpkg-deb", "-b", str(tree), str(tmp_path / "a.deb")], check=True, capture_output=True)
    nodes = _locked.package_nodes(tmp_path / "a.deb")
    assert {name: node.kind for name, node in nodes.items()} == {
        "usr": Kind.DIRECTORY,
        "usr/bin": Kind.DIRECTORY,
        "usr/bin/a": Kind.FILE,
        "usr/bin/b": Kind.SYMLINK,
        "usr/bin/c": Kind.FILE,
    }
    assert (nodes["usr/bin/a"].data, nodes["usr/bin/a"].mode) == (b"program", 0o755)
    assert (nodes["usr/bin/c"].data, nodes["usr/bin/b"].data) == (b"program", b"/usr/bin/a")
    (tmp_path / "no.deb").write_bytes(b"garbage")
    with pytest.raises(BuildError):
        _locked.package_nodes(tmp_path / "no.deb")


def tar_of(*members: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "absent"
            archive.addfile(member)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage" * 200,
        tar_of(("../up", tarfile.REGTYPE)),
        tar_of(("a/../../up", tarfile.REGTYPE)),
        tar_of(("dev/x", tarfile.CHRTYPE)),
        tar_of(("x", tarfile.LNKTYPE)),
    ],
)
def test_packages_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(_locked, "run", lambda *_, **__: data)
    with pytest.raises(ImageError):
        _locked.package_nodes(tmp_path / "x.deb")


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_wheel(tmp_path: Path) -> None:
    path = wheel(
        tmp_path / "w.whl", {"p/__init__.py": b"", "p/x.so": b"elf", "p-1.data/scripts/s": b"", "p/": b""}
    )
    nodes = _locked.wheel_nodes(path)
    assert {name: node.mode for name, node in nodes.items()} == {"p/__init__.py": 0o644, "p/x.so": 0o755}


def test_wheels_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.whl").write_bytes(b"garbage")
    for path in (
        tmp_path / "no.whl",
        tmp_path / "absent.whl",
        wheel(tmp_path / "up.whl", {"../up": b""}),
        wheel(tmp_path / "abs.whl", {"/etc/x": b""}),
    ):
        with pytest.raises(ImageError):
            _locked.wheel_nodes(path)
    monkeypatch.setattr(_locked, "MAX_UNPACKED", 10)
    with pytest.raises(BuildError, match="more than 10 bytes"):
        _locked.wheel_nodes(wheel(tmp_path / "big.whl", {"a": b"12345678901"}))


def test_pip_is_found_somewhere(tmp_path: Path) -> None:
    command = _wheels.find_pip(tmp_path)
    assert run([*command, "--version"]).startswith(b"pip ")


def test_pip_out_of_a_wheel_finds_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Debian's pip looks for the system's file at its import, and fails where there is none.
    main = b"""if __package__ == "": sys.path.insert(0, __file__[:-len("/pip/__main__.py")])"""
    files = {
        "pip/__init__.py": b"",
        "pip/__main__.py": b"import sys\n%s\nfrom pip import _session\nprint(_session.used, *sys.argv[1:])"
        % main,
        "pip/_session.py": b"from pip._vendor import certifi; used = certifi.where()",
        "pip/_vendor/__init__.py": b"",
        "pip/_vendor/certifi/__init__.py": b"from .core import where",
        "pip/_vendor/certifi/core.py": b"def where(): return '/the/system'",
        "pip/_vendor/certifi/cacert.pem": b"certificates",
    }
    pip = wheel(tmp_path / "pip-1-py3-none-any.whl", files)
    monkeypatch.setattr(_wheels, "SYSTEM_CERTIFICATES", tmp_path / "absent")
    said = run([*_wheels._run_wheel(pip, tmp_path), "download", "x"]).decode().split()
    assert said == [str(tmp_path / "cacert.pem"), "download", "x"]
    assert (tmp_path / "cacert.pem").read_bytes() == b"certificates"
    monkeypatch.setattr(_wheels, "SYSTEM_CERTIFICATES", pip)
    assert run([*_wheels._run_wheel(pip, tmp_path), "download"]).decode().split() == [
        "/the/system",
        "download",
    ]
    # A distribution that takes the bundle out of the wheel has its own way to the system's.
    bare = wheel(tmp_path / "bare.whl", {name: data for name, data in files.items() if "cacert" not in name})
    monkeypatch.setattr(_wheels, "SYSTEM_CERTIFICATES", tmp_path / "absent")
    assert run([*_wheels._run_wheel(bare, tmp_path), "download"]).decode().split() == [
        "/the/system",
        "download",
    ]


# Programs


def test_programs_can_be_ended(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    failed: list[BuildError] = []

    def build() -> None:
        try:
            # A child of the program, too: apt has its own.
            run(["sh", "-c", 'sleep 600 & echo > "$0"; wait', str(reached)])
        except BuildError as error:
            failed.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    reached.read_bytes()
    end_programs()
    thread.join(20)
    assert not thread.is_alive()
    assert "sh failed with status -15" in failed[0].what
    end_programs()


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(BuildError, match="longer than 0 s"):
        run(["sleep", "600"], timeout=0.05)
    with pytest.raises(BuildError, match="can't be run: No such file"):
        run(["/no/such/program"])


# Pruning


def test_what_stays_and_what_goes() -> None:
    stays = [
        "usr/lib/python3.11/asyncio/__init__.py",
        "usr/lib/python3.11/_sysconfigdata__x86_64-linux-gnu.py",
        "usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        "usr/lib/x86_64-linux-gnu/libssl.so.3",
        "lib/x86_64-linux-gnu/libc.so.6",
        "usr/share/doc/libc6/copyright",
        "usr/bin/python3.11",
        "opt/geumgo/lib/cryptography/hazmat/bindings/_rust.abi3.so",
        "opt/geumgo/lib/_cffi_backend.cpython-311-x86_64-linux-gnu.so",
        "opt/geumgo/lib/msgspec-0.22.0.dist-info/licenses/LICENSE",
    ]
    goes = [
        "usr/lib/python3.11/test/test_os.py",
        "usr/lib/python3.11/idlelib/idle.py",
        "usr/lib/python3.11/tkinter/__init__.py",
        "usr/lib/python3.11/ensurepip/__init__.py",
        "usr/lib/python3.11/lib2to3/pgen2/driver.py",
        "usr/lib/python3.11/sitecustomize.py",
        "usr/lib/python3.11/json/__pycache__/decoder.cpython-311.pyc",
        "usr/share/man/man1/python3.11.1.gz",
        "usr/share/doc/libc6/changelog.gz",
        "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
        "etc/python3.11/sitecustomize.py",
        "var/lib/x",
        "opt/geumgo/lib/cbor2/__init__.pyi",
        "opt/geumgo/lib/cffi/api.py",
        "opt/geumgo/lib/msgspec-0.22.0.dist-info/RECORD",
    ]
    assert [name for name in stays if not _prune.wanted(name)] == []
    assert [name for name in goes if _prune.wanted(name)] == []


def test_libraries_without_theirs_dangling_links_and_empty_folders_go() -> None:
    library = Node.file(ELF_START if len(ELF_START) < 200_000 else b"")
    nodes = {
        "lib/x/libfoo.so.1": Node.file(b"no ELF"),
        "lib/x/libfoo.so": Node.symlink("libfoo.so.1"),
        "lib/x/libbar.so": Node.symlink("/lib/x/libfoo.so"),
        "lib/x/libbaz.so": Node.symlink("../absent"),
        "usr/share/man": Node.directory(),
        "usr/share/man/page": Node.file(b""),
        "usr": Node.directory(),
        "lib": Node.directory(),
        "lib/x": Node.directory(),
        "lib/x/needs.so": library,
    }
    kept = _prune.prune(nodes)
    assert {"lib", "lib/x", "lib/x/libfoo.so.1", "lib/x/libfoo.so", "lib/x/libbar.so"} <= set(kept)
    assert not {"usr", "usr/share/man", "lib/x/libbaz.so"} & set(kept)
    elf = parse_elf(library.source())
    if elf is not None and elf.needed:
        assert "lib/x/needs.so" not in kept


# Rooms


def test_only_rooms_that_run_inside(tmp_path: Path) -> None:
    names = set(room_nodes())
    rooms = {name.split("/")[4] for name in names if name.count("/") > 4 or not name.endswith(".py")}
    assert {name.removeprefix("opt/geumgo/lib/geumgo/").split("/")[0] for name in names} == {
        "__init__.py",
        *ROOMS,
    }
    assert not {"gateway", "manager", "image", "testing", "client", "cli"} & rooms
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)
    with pytest.raises((BuildError, OSError)):
        room_nodes(tmp_path)
