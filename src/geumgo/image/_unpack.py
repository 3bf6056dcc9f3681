"""A ramdisk's entries as files on this machine, so that nothing lands or points outside the folder.

The folder is new and ours, so no other user can put a link into our way. Inside, an entry's parents are
folders that this archive made; symbolic links come last, and each is rewritten so that it resolves below the
root: first the target is made normal (no `..` after a name), then leading `..` are cut off at the root.
Chains of such links stay inside, because each starts at its own real folder and none climbs after a name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geumgo.image import cpio
from geumgo.image._errors import CpioError, ImageError
from geumgo.image._layout import SectionType
from geumgo.image._source import Source, chunks
from geumgo.image.eif import Eif, read_eif

__all__ = ("ROOTFS", "Unpacked", "parse_lines", "unpack", "unpack_archives")

ROOTFS = "rootfs"
"""Where ramdisk 1 keeps the application's root file system (nitro.md §1.8)."""
MAX_LINES_SIZE = 1 << 18
"""`cmd` and `env` are read into memory; execve's own limit for both is of this order."""
MAX_TARGET = 4095
"""A symbolic link's target on Linux."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An application's ramdisks as files.

    Attributes:
        root: the root file system.
        cmd: what to run, `cmd[0]` as the program sees it inside the root.
        env: its environment.
        skipped: device nodes, pipes and sockets, which only root may make.
    """

    root: Path
    cmd: tuple[str, ...]
    env: Mapping[str, str]
    skipped: tuple[str, ...]


def unpack(eif: Eif | Path, directory: Path) -> Unpacked:
    """Unpack the application's ramdisks (all but the first) into `directory`.

    Makes `directory/rootfs`, `directory/cmd` and `directory/env`.

    Args:
        eif: an image that was read, or its path.
        directory: a folder that does not exist yet, or is empty.

    Raises:
        CpioError: a ramdisk is malformed, compressed, or lacks `rootfs`, `cmd` or `env`.
        ImageError: the folder can't be written, or isn't empty.
    """
    if isinstance(eif, Path):
        eif = read_eif(eif)
    count = len(eif.of_kind(SectionType.RAMDISK))
    if count < 2:
        raise CpioError(
            "the image has no application ramdisk", why=f"It has {count} ramdisks; the second is it."
        )
    skipped = unpack_archives([eif.ramdisk(index) for index in range(1, count)], directory, root=ROOTFS)
    root = directory / ROOTFS
    if not root.is_dir() or root.is_symlink():
        raise CpioError(f"the application ramdisk has no folder {ROOTFS!r}")
    cmd = parse_lines(_small_file(directory / "cmd"))
    if not cmd:
        raise CpioError("the application ramdisk's 'cmd' names no program")
    env = {}
    for line in parse_lines(_small_file(directory / "env")):
        name, equals, value = line.partition("=")
        if not name or not equals:
            raise CpioError("a line of the application ramdisk's 'env' is not NAME=value")
        env[name] = value
    return Unpacked(root=root, cmd=cmd, env=env, skipped=skipped)


def unpack_archives(sources: Sequence[Source], directory: Path, *, root: str = "") -> tuple[str, ...]:
    """Unpack archives over each other into `directory`; return the names of entries that were left out.

    Args:
        sources: uncompressed newc archives.
        directory: a folder that does not exist yet, or is empty.
        root: the folder, relative to `directory`, that absolute links below it mean by `/`.

    Raises:
        CpioError: malformed archives, duplicate names, entries inside what is no folder.
        ImageError: the folder can't be written, or isn't empty.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ImageError(f"{directory} is not empty", fix="Give a folder that does not exist yet.")
        return _Unpacker(directory, root).run(sources)
    except OSError as error:
        raise ImageError(
            f"the ramdisk can't be unpacked into {directory}: {error.strerror}", code="image_unwritable"
        ) from None


class _Unpacker:
    def __init__(self, directory: Path, root: str) -> None:
        self._base = os.fspath(directory)
        self._root = root
        self._kinds: dict[str, cpio.Kind] = {}
        self._links: list[tuple[str, str]] = []
        self._hard: dict[tuple[int, tuple[int, int, int]], str] = {}
        self._skipped: list[str] = []

    def run(self, sources: Sequence[Source]) -> tuple[str, ...]:
        for number, source in enumerate(sources):
            if source.size >= 6 and bytes(source.read_at(0, 6)) != cpio.MAGIC:
                raise CpioError(
                    f"application ramdisk {number + 1} is not an uncompressed newc archive",
                    fix="Build the image without compression (nitro-cli does so by default).",
                )
            for entry in cpio.read(source):
                self._entry(entry, source, number)
        for name, target in self._links:
            os.symlink(self._inside(name, target), f"{self._base}/{name}")
        return tuple(self._skipped)

    def _entry(self, entry: cpio.Entry, source: Source, number: int) -> None:
        name, kind = entry.name, entry.kind
        if name == ".":
            if kind is not cpio.Kind.DIRECTORY:
                raise CpioError("the archive's root is not a folder")
            return
        known = self._kinds.get(name)
        if known is not None and not (known is cpio.Kind.DIRECTORY and kind is cpio.Kind.DIRECTORY):
            raise CpioError(f"{name[:200]!r} occurs twice")
        self._parents(name)
        self._kinds[name] = kind
        path = f"{self._base}/{name}"
        if kind is cpio.Kind.DIRECTORY:
            if known is None:
                os.mkdir(path, 0o700)
            os.chmod(path, _folder_mode(entry.mode))
        elif kind is cpio.Kind.FILE:
            self._file(path, entry, source, number)
        elif kind is cpio.Kind.SYMLINK:
            if not 0 < entry.size <= MAX_TARGET:
                raise CpioError(f"the link {name[:200]!r} has a target of {entry.size} bytes")
            target = os.fsdecode(bytes(source.read_at(entry.offset, entry.size)))
            if "\0" in target:
                raise CpioError(f"the link {name[:200]!r} has a NUL in its target")
            self._links.append((name, target))
        else:
            self._skipped.append(name)

    def _parents(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if not parent:
            return
        kind = self._kinds.get(parent)
        if kind is None:
            self._parents(parent)
            self._kinds[parent] = cpio.Kind.DIRECTORY
            os.mkdir(f"{self._base}/{parent}", 0o700)
            os.chmod(f"{self._base}/{parent}", 0o755)
        elif kind is not cpio.Kind.DIRECTORY:
            raise CpioError(f"{name[:200]!r} lies in {parent[:200]!r}, which is not a folder")

    def _file(self, path: str, entry: cpio.Entry, source: Source, number: int) -> None:
        first = None if entry.link is None else self._hard.get((number, entry.link))
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        if first is not None:
            os.link(first, path)
            if not entry.size:  # only one of the names carries the data
                return
            flags |= os.O_TRUNC
        else:
            flags |= os.O_CREAT | os.O_EXCL
            if entry.link is not None:
                self._hard[number, entry.link] = path
        fd = os.open(path, flags, 0o600)
        try:
            for chunk in chunks(source, entry.offset, entry.size):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            os.fchmod(fd, entry.mode & 0o755 | 0o600)
        finally:
            os.close(fd)

    def _inside(self, name: str, target: str) -> str:
        """Return a relative target that means what `target` means to a program whose root is ours."""
        folder = name.split("/")[:-1]
        below = self._root.split("/") if self._root and (name + "/").startswith(self._root + "/") else []
        place = folder[len(below) :]
        resolved: list[str] = [] if target.startswith("/") else list(place)
        for component in target.split("/"):
            if component in ("", "."):
                continue
            if component != "..":
                resolved.append(component)
                continue
            if resolved:
                before = "/".join([*below, *resolved])
                if self._kinds.get(before) is cpio.Kind.SYMLINK:
                    raise CpioError(f"the link {name[:200]!r} climbs out of another link")
                resolved.pop()
        shared = 0
        while shared < min(len(place), len(resolved)) and place[shared] == resolved[shared]:
            shared += 1
        relative = [".."] * (len(place) - shared) + resolved[shared:]
        return "/".join(relative) or "."


def _folder_mode(mode: int) -> int:
    """Return a folder's mode here: open to others' files only where nobody can remove another's, like /tmp."""
    return (mode & 0o1777 if mode & 0o1000 else mode & 0o755) | 0o700


def parse_lines(data: bytes) -> tuple[str, ...]:
    """Return the lines of a `cmd` or `env` file (one argument or NAME=value each).

    Raises:
        CpioError: a NUL, which no argument can have.
    """
    if b"\0" in data:
        raise CpioError("'cmd' and 'env' can't have a NUL")
    text = os.fsdecode(data)
    return tuple(text.removesuffix("\n").split("\n")) if text.strip("\n") else ()


def _small_file(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            data = file.read(MAX_LINES_SIZE + 1)
        if len(data) > MAX_LINES_SIZE:
            raise CpioError(f"{path.name!r} is over {MAX_LINES_SIZE} bytes", code="too_large")
        return data
    raise CpioError(f"the application ramdisk has no file {path.name!r}")
