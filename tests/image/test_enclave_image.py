"""The project's own image, really built: from the locked base where the network allows, and from this machine's files.

Ring 2: real apt, pip, dynamic loader and Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import geumgo
from geumgo.image import (
    BANNER,
    CONFIGURATION,
    BuildError,
    BuiltImage,
    Unavailable,
    Unpacked,
    _rooms,
    build_enclave_image,
    cpio,
    describe,
    loader_command,
    measure,
    read_eif,
    replace_byte,
    unpack,
)
from geumgo.image._cache import default_cache

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

CONFIGURATION_BYTES = b'{"version":1,"pool":"test"}'
APP = b"import msgspec\nprint('app', msgspec.json.encode([1]).decode())\n"


def build(output: Path, cache: Path, *, host_files: bool | None) -> BuiltImage:
    return build_enclave_image(
        output=output,
        configuration=CONFIGURATION_BYTES,
        app_files={"opt/geumgo/lib/app_for_test.py": APP},
        cache=cache,
        host_files=host_files,
    )


@pytest.fixture(scope="module", autouse=True)
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Geumgo's sources as they are now: someone may be editing them while this runs."""
    folder = copied_package(tmp_path_factory.mktemp("snapshot"), Path(geumgo.__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rooms, "PACKAGE", folder / "geumgo")
        yield folder


def loudly(reason: str) -> None:
    line = f"THE LOCKED BASE WAS NOT TESTED, only this machine's files: {reason}"
    print(f"\n{'!' * len(line)}\n{line}\n{'!' * len(line)}", file=sys.__stderr__)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """The image from the locked base; the user's own cache saves the download."""
    output = tmp_path_factory.mktemp("locked") / "enclave.eif"
    try:
        return build(output, default_cache(os.environ), host_files=False)
    except Unavailable as error:
        loudly(error.diagnostics())
        pytest.skip(f"the locked base can't be had here: {error.what} {error.why}")


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """The image from this machine's files."""
    folder = tmp_path_factory.mktemp("fallback")
    return build(folder / "enclave.eif", folder / "cache", host_files=True)


@pytest.fixture(params=["locked", "fallback"])
def built(request: pytest.FixtureRequest) -> BuiltImage:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every user may enter."""
    folder = tmp_path_factory.mktemp("open")
    for path in (folder, *folder.parents):
        if path == Path("/tmp") or path.owner() != "root":
            break
        if not path.stat().st_mode & 1:
            path.chmod(path.stat().st_mode | 0o011)
    return folder


def outside_environment(found: Unpacked) -> dict[str, str]:
    """The image's environment for a program that sees the root as a folder."""
    home = ":".join(f"{found.root}{part}" for part in found.env["PYTHONHOME"].split(":"))
    return {**found.env, "PYTHONHOME": home, "PYTHONPATH": f"{found.root}{found.env['PYTHONPATH']}"}


def as_nobody() -> None:
    """Run as an ordinary user where we are root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


PROBE = """
import sys, os, json
import asyncio, ssl, hashlib, ctypes, zoneinfo, decimal, csv, uuid, socket, struct, zlib
import cryptography.x509, cryptography.hazmat.primitives.hpke, msgspec, cbor2
import geumgo._base, geumgo.codec.cbor
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
X25519PrivateKey.generate().public_key().public_bytes_raw()
async def go():
    await asyncio.sleep(0)
    return hashlib.sha384(b"x").hexdigest()
asyncio.run(go())
ssl.create_default_context()
root = os.environ["ROOT"]
files = {m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
maps = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line and ".so" in line}
stale = [m.__name__ for m in list(sys.modules.values())
         if getattr(m, "__cached__", None) and not os.path.exists(m.__cached__)]
print(json.dumps({
    "outside": sorted(f for f in files | maps if not f.startswith(root)),
    "stale": stale, "uid": os.getuid(), "version": sys.version_info[:2],
}))
"""


def test_it_runs_from_its_folder_as_an_ordinary_user(built: BuiltImage, open_folder: Path) -> None:
    found = unpack(built.path, open_folder / "image")
    (open_folder / "image").chmod(0o755)
    command = [*loader_command(found.root, found.cmd[0]), "-B", "-c", PROBE]
    done = subprocess.run(
        command,
        env={**outside_environment(found), "ROOT": str(found.root)},
        cwd="/",
        preexec_fn=as_nobody,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outside"] == []
    assert answer["stale"] == []
    assert answer["uid"] != 0
    assert not list(found.root.rglob("*.pyc.*"))


def test_layout(built: BuiltImage) -> None:
    eif = read_eif(built.path)
    assert measure(eif) == built.measurements
    assert eif.warnings == ()
    entries = cpio.names(cpio.read(eif.ramdisk(1)))
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    assert {entry.mode for entry in entries.values() if entry.kind is cpio.Kind.FILE} == {0o644, 0o755}
    assert len({entry.mtime for entry in entries.values()}) == 1
    assert {f"rootfs/{name}" for name in (BANNER, CONFIGURATION, "opt/geumgo/lib/app_for_test.py")} <= set(
        entries
    )
    rooms = {name.split("/")[5] for name in entries if name.startswith("rootfs/opt/geumgo/lib/geumgo/")}
    assert rooms >= {"_base", "codec", "enclave"}
    assert not rooms & {"gateway", "manager", "testing", "client", "api", "image", "cli", "backends"}
    sources = [name for name in entries if name.startswith("rootfs/opt/geumgo/lib/") and name.endswith(".py")]
    compiled = {name for name in entries if name.endswith(".pyc")}
    assert len(sources) > 100
    for name in sources:
        folder, _, base = name.rpartition("/")
        assert any(made.startswith(f"{folder}/__pycache__/{base[:-3]}.cpython-") for made in compiled), name


def test_command_and_configuration(built: BuiltImage, tmp_path: Path) -> None:
    found = unpack(built.path, tmp_path / "image")
    assert found.cmd[1:] == ("-B", "-m", "geumgo.enclave")
    assert found.env["PYTHONPATH"] == "/opt/geumgo/lib"
    assert (found.root / CONFIGURATION).read_bytes() == CONFIGURATION_BYTES
    assert (found.root / BANNER).read_text().count("\n") >= 3
    (code,) = (found.root / "opt/geumgo/lib/__pycache__").glob("app_for_test.*.pyc")
    head = code.read_bytes()[:16]
    assert head[4:8] == b"\1\0\0\0"  # PEP 552: hash-based, not checked
    assert b"/opt/geumgo/lib/app_for_test.py" in code.read_bytes()
    assert os.fsencode(tmp_path) not in code.read_bytes()


def test_every_library_and_module_can_be_loaded(built: BuiltImage, tmp_path: Path) -> None:
    """What the image's extension modules need is in the image: each is opened by the image's own loader."""
    found = unpack(built.path, tmp_path / "image")
    loader = loader_command(found.root, found.cmd[0])
    for path in found.root.rglob("*.so"):
        if path.read_bytes()[:4] != b"\x7fELF":
            continue
        done = subprocess.run(
            [*loader[:4], "--list", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{path}: {done.stderr}"
        assert "not found" not in done.stdout, f"{path}: {done.stdout}"


def test_no_link_is_dangling(locked: BuiltImage, tmp_path: Path) -> None:
    root = unpack(locked.path, tmp_path / "image").root
    assert [path for path in root.rglob("*") if path.is_symlink() and not path.exists()] == []


def test_what_tables_say(locked: BuiltImage, fallback: BuiltImage) -> None:
    assert not locked.this_machine_only
    assert locked.notes == ("not bootable: it was built without a kernel",)
    assert not describe(locked.path).this_machine_only
    assert fallback.this_machine_only
    assert any("PCRs hold on this machine only" in note for note in fallback.notes)
    assert "PCRs hold on this machine only" in describe(fallback.path).notes
    assert read_cmd(locked).startswith("/usr/bin/python3.11\n")


def read_cmd(built: BuiltImage) -> str:
    eif = read_eif(built.path)
    entry = cpio.names(cpio.read(eif.ramdisk(1)))["cmd"]
    return bytes(eif.ramdisk(1).read_at(entry.offset, entry.size)).decode()


def test_size(locked: BuiltImage) -> None:
    assert locked.size < 80_000_000
    assert locked.path.stat().st_size == locked.size


def test_one_byte_of_the_banner(locked: BuiltImage, tmp_path: Path) -> None:
    changed = replace_byte(locked.path, tmp_path / "changed.eif", BANNER)
    assert changed.pcr0 != locked.measurements.pcr0
    assert changed.pcr1 == locked.measurements.pcr1
    assert changed.pcr2 != locked.measurements.pcr2


def test_unpacking_is_quick(locked: BuiltImage, tmp_path: Path) -> None:
    started = time.process_time()
    unpack(locked.path, tmp_path / "image")
    assert time.process_time() - started < 3.0  # 0.4 s on an idle machine


def test_a_cached_build_is_quick_and_the_same(locked: BuiltImage, tmp_path: Path) -> None:
    started = time.process_time()
    again = build(tmp_path / "again.eif", default_cache(os.environ), host_files=False)
    assert time.process_time() - started < 5.0  # 0.4 s on an idle machine
    assert again.measurements == locked.measurements
    assert again.path.read_bytes() == locked.path.read_bytes()


BUILD = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[5:]
from geumgo.image import build_enclave_image
built = build_enclave_image(
    output=Path(sys.argv[1]), configuration=b'{"version":1,"pool":"test"}', cache=Path(sys.argv[2]),
    app_files={"opt/geumgo/lib/app_for_test.py": Path(sys.argv[3])}, host_files=sys.argv[4] == "host",
)
print(built.measurements.pcr0)
"""


def copied_package(folder: Path, source: Path) -> Path:
    """A copy of Geumgo's sources, made in another order and with other modes and times."""
    names = sorted((path for path in source.rglob("*") if "__pycache__" not in path.parts), reverse=True)
    for path in names:
        target = folder / "geumgo" / path.relative_to(source)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)
            os.utime(target, (1, 1))
    return folder


def build_elsewhere(
    folder: Path,
    blobs: Path,
    kind: str,
    *,
    prepare: Callable[[], None] | None,
    path: Sequence[str],
    **env: str,
) -> str:
    """Build in a process of its own with only the downloads shared; return the image's SHA-256."""
    folder.mkdir(parents=True)
    (folder / "app.py").write_bytes(APP)
    if blobs.is_dir():
        shutil.copytree(blobs, folder / "cache" / "blobs")
    done = subprocess.run(
        [
            *(sys.executable, "-X", "utf8", "-c", BUILD),
            *(str(folder / "out.eif"), str(folder / "cache"), str(folder / "app.py"), kind, *path),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **env},
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return hashlib.sha256((folder / "out.eif").read_bytes()).hexdigest()


def under_another_umask() -> None:
    os.umask(0o077)


@pytest.mark.parametrize("kind", ["locked", "host"])
def test_the_same_bytes_elsewhere(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, snapshot: Path
) -> None:
    """Base and byte code are made anew under another umask, folder, home, locale, zone, seed, source order."""
    if kind == "locked":
        request.getfixturevalue("locked")  # downloads, or says why not
    blobs = default_cache(os.environ) / "blobs" if kind == "locked" else tmp_path / "none"
    copy = copied_package(tmp_path / "copy", snapshot / "geumgo")
    one = build_elsewhere(
        tmp_path / "a",
        blobs,
        kind,
        prepare=None,
        path=[str(snapshot)],
        HOME=str(tmp_path),
        LC_ALL="C",
        TZ="UTC",
    )
    other = build_elsewhere(
        tmp_path / "a much longer folder name" / "b",
        blobs,
        kind,
        prepare=under_another_umask,
        path=[str(copy)],
        HOME="/nonexistent",
        LC_ALL="C.UTF-8",
        TZ="Asia/Seoul",
        PYTHONHASHSEED="7",
        LANGUAGE="ko",
        SOURCE_DATE_EPOCH="1735689600",
    )
    assert one == other


def test_without_a_mirror_this_machines_files_are_taken(fallback: BuiltImage, tmp_path: Path) -> None:
    shutil.copytree(fallback.path.parent / "cache", tmp_path / "cache")
    environment = {"GEUMGO_DEBIAN_MIRROR": "http://127.0.0.1:9/debian"}
    told: list[str] = []
    built = build_enclave_image(
        output=tmp_path / "x.eif",
        configuration=CONFIGURATION_BYTES,
        app_files={"opt/geumgo/lib/app_for_test.py": APP},
        cache=tmp_path / "cache",
        environment=environment,
        progress=lambda step, done, total: told.append(step),
    )
    assert built.this_machine_only
    assert built.why_this_machine
    assert built.measurements == fallback.measurements
    assert any("this machine's files" in step for step in told)
    with pytest.raises(Unavailable):
        build_enclave_image(
            output=tmp_path / "y.eif",
            configuration=b"",
            cache=tmp_path / "cache",
            environment=environment,
            host_files=False,
        )
    assert not (tmp_path / "y.eif").exists()


def test_an_application_that_is_not_python(fallback: BuiltImage, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="not valid Python") as caught:
        build_enclave_image(
            output=tmp_path / "x.eif",
            configuration=b"",
            app_files={"opt/geumgo/lib/wrong.py": b"def"},
            cache=fallback.path.parent / "cache",
            host_files=True,
        )
    assert "opt/geumgo/lib/wrong.py" in caught.value.why
    assert not (tmp_path / "x.eif").exists()


def test_changes_of_the_application_are_measured(fallback: BuiltImage, tmp_path: Path) -> None:
    shutil.copytree(fallback.path.parent / "cache", tmp_path / "cache")
    other = build_enclave_image(
        output=tmp_path / "x.eif",
        configuration=CONFIGURATION_BYTES + b" ",
        app_files={"opt/geumgo/lib/app_for_test.py": APP},
        cache=tmp_path / "cache",
        host_files=True,
    )
    assert other.measurements.pcr0 != fallback.measurements.pcr0
    assert other.measurements.pcr1 == fallback.measurements.pcr1
