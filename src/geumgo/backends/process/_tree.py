"""The image as a folder: where it is unpacked, and how its own Python is started from there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from geumgo.backends._api import LaunchFailed

__all__ = (
    "IMAGE_LINK",
    "INIT_FOLDER",
    "Tree",
    "choose_folder",
    "clear",
    "describe",
    "make_readable",
    "place_init_files",
    "reachable",
    "remove",
)

INIT_FOLDER = "run/geumgo-init"
"""Where `cmd` and `env` of ramdisk 1 lie for the init, below the image's root."""
IMAGE_LINK = "image"
"""In the runtime folder: points at where the image is unpacked, so that the next launcher can clear up."""
FOLDER_PREFIX = "geumgo-image-"
_MEMORY = Path("/dev/shm")
_PLENTY = 8  # times the image, so that a small machine's memory isn't spent on it
_PYTHON = re.compile(r"python3(\.[0-9]+)?\Z", re.ASCII)
_MACHINES = {62: "x86_64", 183: "aarch64"}
_PT_INTERP = 3
_MAX_PROGRAM_HEADERS = 64  # an interpreter has a dozen
_MAX_INTERP = 256
_MAX_ELF_SIZE = 1 << 40  # an offset above is none
_MAX_LIBRARY_LIST = 16 << 10


@dataclass(frozen=True, slots=True)
class Tree:
    """An unpacked image.

    Attributes:
        root: the image's root file system on this machine.
        python: the image's Python, as the image sees it (`/usr/bin/python3.11`).
        loader: the dynamic loader that this Python asks for, relative to `root`; None if it needs none.
        libraries: folders of shared libraries, relative to `root`.
        cmd: what the image runs.
        env: the environment it runs in.
        module: whether `cmd` is that Python with a module or script: one process is init and program then.
    """

    root: Path
    python: str
    loader: str | None
    libraries: tuple[str, ...]
    cmd: tuple[str, ...]
    env: Mapping[str, str]
    module: bool


def describe(root: Path, cmd: tuple[str, ...], env: Mapping[str, str], *, machine: str) -> Tree:
    """Find the image's Python and what it needs.

    Raises:
        LaunchFailed: there is none, or it is for another machine.
    """
    root = Path(os.path.realpath(root))
    own = _PYTHON.match(os.path.basename(cmd[0])) is not None and _inside(root, cmd[0]) is not None
    python = cmd[0] if own else _search(root)
    if python is None:
        raise LaunchFailed(
            "the image has no Python",
            why="The process backend starts the program by geumgo.enclave.init, which the image's Python runs.",
            fix="Build the image with `geumgo image build`, or launch it with the microvm backend.",
            code="image_has_no_python",
        )
    found = _inside(root, python)
    assert found is not None
    loader = _loader(found, machine)
    inside = None if loader is None else _inside(root, loader)
    if loader is not None and inside is None:
        raise LaunchFailed(f"the image lacks its dynamic loader {loader}", code="image_incomplete")
    return Tree(
        root=root,
        python="/" + str(found.relative_to(root)),
        loader=None if inside is None else str(inside.relative_to(root)),
        libraries=tuple(_library_folders(root, machine)),
        cmd=cmd,
        env=env,
        module=own and len(cmd) > 1 and cmd[1] != "-c",
    )


def _inside(root: Path, path: str) -> Path | None:
    """Return the regular file that `path` means to the image, by its own real name; None if there is none."""
    found = Path(os.path.realpath(root / path.lstrip("/")))
    return found if found.is_relative_to(root) and found.is_file() else None


def _search(root: Path) -> str | None:
    for folder in ("usr/bin", "usr/local/bin", "bin"):
        with contextlib.suppress(OSError):
            names = sorted(name for name in os.listdir(root / folder) if _PYTHON.match(name))
            for name in names:
                if _inside(root, f"{folder}/{name}") is not None:
                    return f"/{folder}/{name}"
    return None


def _loader(program: Path, machine: str) -> str | None:
    """Return the path in the ELF file's PT_INTERP; None for a static program."""
    with program.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            raise LaunchFailed("the image's Python is no 64-bit ELF program", code="image_has_no_python")
        built_for = _MACHINES.get(int.from_bytes(header[18:20], "little"), "another machine")
        if built_for != machine:
            raise LaunchFailed(
                f"the image is for {built_for}, this machine is {machine}", code="unsupported_architecture"
            )
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        malformed = LaunchFailed("the image's Python is a malformed ELF program", code="image_has_no_python")
        if size < 56 or count > _MAX_PROGRAM_HEADERS or offset > _MAX_ELF_SIZE:
            raise malformed
        for number in range(count):
            file.seek(offset + number * size)
            entry = file.read(56)
            if len(entry) == 56 and struct.unpack_from("<I", entry)[0] == _PT_INTERP:
                where, _, _, length = struct.unpack_from("<QQQQ", entry, 8)
                if where > _MAX_ELF_SIZE:
                    raise malformed
                file.seek(where)
                name = file.read(min(length, _MAX_INTERP)).partition(b"\0")[0]
                return os.fsdecode(name)
    return None


def _library_folders(root: Path, machine: str) -> Iterable[str]:
    """Yield what the image's /etc/ld.so.conf names, then where distributions have their libraries."""
    triplet = f"{machine}-linux-gnu"
    names = [f"lib/{triplet}", f"usr/lib/{triplet}", "lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib"]
    listed = _inside(root, "etc/ld.so.conf")
    if listed is not None:
        with listed.open(errors="replace") as file:
            lines = file.read(_MAX_LIBRARY_LIST).split("\n")
        names[:0] = [line.strip() for line in lines if line.startswith("/")]
    seen = set()
    for name in names:
        found = Path(os.path.realpath(root / name.lstrip("/")))
        if found.is_dir() and found.is_relative_to(root) and found not in seen:
            seen.add(found)
            yield str(found.relative_to(root))


def place_init_files(tree: Tree, unpacked: Path) -> None:
    """Copy `cmd`, `env` and `process`, which lie beside the root, to where the program can read them.

    No symbolic link of the image is followed: the folders are opened one by one.

    Raises:
        LaunchFailed: something else than a folder is in the way.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(tree.root, flags)
    try:
        for name in INIT_FOLDER.split("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folder)
            below = os.open(name, flags, dir_fd=folder)
            os.close(folder)
            folder = below
        for name in ("cmd", "env", "process"):
            if name == "process" and not (unpacked / name).exists():
                continue  # an image that AWS's tool made has none
            content = (unpacked / name).read_bytes()
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
    except OSError as error:
        raise LaunchFailed(
            f"the image can't take /{INIT_FOLDER} ({error.strerror})", code="image_incomplete"
        ) from None
    finally:
        os.close(folder)


def reachable(folder: Path, uid: int | None) -> bool:
    """Whether programs below `folder` can be executed by `uid` (None: by this process's own user)."""
    try:
        if os.statvfs(folder).f_flag & os.ST_NOEXEC or ":" in str(folder) or ";" in str(folder):
            return False  # the dynamic loader splits its list of folders at these
        if uid is None:
            return os.access(folder, os.X_OK)
        return all(os.stat(place).st_mode & stat.S_IXOTH for place in (folder, *folder.parents))
    except OSError:
        return False


def _free(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _temporary() -> tuple[Path, ...]:
    with contextlib.suppress(OSError):  # there is none that can be written
        return (Path(tempfile.gettempdir()),)
    return ()


def _home() -> tuple[Path, ...]:
    # Not Path.home(): a container's user may have no account, and no variable either.
    home = os.environ.get("HOME", "")
    return (Path(home),) if os.path.isabs(home) else ()


def choose_folder(runtime: Path, uid: int | None, size: int) -> Path:
    """Make a private folder to unpack an image of `size` bytes into.

    In memory where there is plenty: an enclave's root file system is in memory too, and making two thousand
    files takes a tenth of a second there, on some disks several. Else in `runtime`, if programs can run
    there, else in a temporary folder.

    Raises:
        LaunchFailed: nowhere on this machine.
    """
    others = (runtime, *_temporary(), Path("/var/tmp"), Path("/run"), *_home())
    memory = (_MEMORY,) if _free(_MEMORY) >= _PLENTY * size else ()
    for candidate in dict.fromkeys(Path(os.path.realpath(place)) for place in (*memory, *others)):
        if reachable(candidate, uid) and _free(candidate) >= size:
            with contextlib.suppress(OSError):
                folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=candidate))
                if uid is not None:
                    folder.chmod(0o711)
                return folder
    raise LaunchFailed(
        "there is no folder from which the image's programs can run",
        why=f"The runtime folder, the temporary folders and the home folder are mounted noexec, are closed to "
        f"the user that the enclave runs as, or have less than {size >> 20} MiB free.",
        fix="Set TMPDIR to a folder on a file system without noexec that others may search (chmod o+x).",
        code="no_place_for_image",
    )


def make_readable(folder: Path) -> None:
    """Let every user read what the image's owner may; nothing becomes writable."""
    folder.chmod(0o711)
    pending = [os.fspath(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    continue
                mode = entry.stat(follow_symlinks=False).st_mode
                wanted = mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6
                if wanted != mode:
                    os.chmod(entry.path, wanted & 0o7777)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def remove(folder: Path) -> None:
    """Remove a folder that :func:`choose_folder` made; anything else is left alone."""
    with contextlib.suppress(OSError):
        status = os.lstat(folder)
        if (
            folder.name.startswith(FOLDER_PREFIX)
            and stat.S_ISDIR(status.st_mode)
            and status.st_uid == os.geteuid()
        ):
            shutil.rmtree(folder, ignore_errors=True)


def clear(runtime: Path) -> None:
    """Remove the unpacked image that `runtime` points at, if there is one; nobody may be using it."""
    link = runtime / IMAGE_LINK
    with contextlib.suppress(OSError):
        remove(Path(os.readlink(link)))
        link.unlink()
