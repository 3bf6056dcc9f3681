"""Putting an image together: from a folder, or from nodes that a caller laid out."""

from __future__ import annotations

import json
import os
import platform
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geumgo
from geumgo.image import cpio
from geumgo.image._bootstrap import DEFAULT_CMDLINE, NO_KERNEL, bootable, bootstrap_archive, check_kernel
from geumgo.image._errors import BuildError
from geumgo.image._layout import Architecture, SectionType
from geumgo.image._measure import Measurements
from geumgo.image._progress import WHOLE, Progress, silent
from geumgo.image._source import FileSource
from geumgo.image._unpack import ROOTFS
from geumgo.image.eif import MAX_METADATA_SIZE, Part, read_eif, write_eif

__all__ = ("Boot", "BuiltImage", "build_from_directory", "build_from_nodes", "directory_nodes")

THIS_MACHINE_ONLY = "PCRs hold on this machine only"
"""What every table says of an image that has files of the machine it was built on."""
THIS_MACHINE_KEY = "geumgo.this_machine_only"
"""The custom metadata that tells it of an image."""
EMPTY_FOLDERS = ("dev", "proc", "run", "sys", "tmp", "var")
"""Mount points and folders that the init or programs expect (nitro.md §1.8)."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What starts before the application.

    Attributes:
        architecture: what kernel and programs run on.
        kernel: bzImage or Image; None for an image that can't boot.
        init: first program; None for an image that can't boot.
        cmdline: kernel's command line; nitro-cli's where None.
        modules: kernel modules for the bootstrap ramdisk.
    """

    architecture: Architecture
    kernel: Path | None = None
    init: Path | None = None
    cmdline: str | None = None
    modules: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image that was written.

    Attributes:
        path: the EIF.
        measurements: its PCRs.
        size: bytes.
        bootable: whether a kernel and an init are in it.
        reason: why it isn't bootable; empty where it is.
        this_machine_only: whether files of this machine are in it, so that its PCRs hold nowhere else.
        why_this_machine: why the locked base could not be had; empty where it was.
        left_out: what the source had and a ramdisk can't hold, or an enclave must not have, a line each.
    """

    path: Path
    measurements: Measurements
    size: int
    bootable: bool
    reason: str
    this_machine_only: bool = False
    why_this_machine: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what every table that shows this image must say."""
        found = [] if self.bootable else [f"not bootable: {self.reason}"]
        if self.this_machine_only:
            found.append(THIS_MACHINE_ONLY + (f": {self.why_this_machine}" if self.why_this_machine else ""))
        if self.left_out:
            more = "" if len(self.left_out) == 1 else f", and {len(self.left_out) - 1} more"
            found.append(f"left out: {self.left_out[0]}{more}")
        return tuple(found)


def build_from_directory(
    root: Path,
    *,
    cmd: Sequence[str],
    env: Mapping[str, str],
    output: Path,
    kernel: Path | None = None,
    init: Path | None = None,
    cmdline: str | None = None,
    modules: Sequence[Path] = (),
    architecture: Architecture | None = None,
    name: str = "",
    version: str = "",
    metadata: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> BuiltImage:
    """Build an image whose root file system is a folder's content.

    The same content gives the same bytes: owners become 0, modes 0755 or 0644, time stamps one constant.

    Args:
        root: the folder.
        cmd: program and arguments; the program by its absolute path.
        env: its environment.
        output: where the EIF goes.
        kernel: bzImage or Image; an image without one can't boot.
        init: first program; an image without one can't boot.
        cmdline: kernel's command line; nitro-cli's where None.
        modules: kernel modules for the bootstrap ramdisk.
        architecture: what the programs run on; this machine's where None.
        name: for the metadata; the folder's name where empty.
        version: for the metadata.
        metadata: CustomMetadata.
        environment: may have SOURCE_DATE_EPOCH; the process's own where None.
        progress: told how far it is.

    Raises:
        BuildError: the folder holds what a ramdisk can't, or `cmd` or `env` can't be written as lines.
        ImageError: a file can't be read or written.
    """
    return build_from_nodes(
        directory_nodes(root),
        cmd=cmd,
        env=env,
        output=output,
        boot=Boot(
            kernel=kernel,
            init=init,
            cmdline=cmdline,
            modules=tuple(modules),
            architecture=architecture or Architecture.of_machine(platform.machine()),
        ),
        name=name or root.absolute().name,
        version=version,
        metadata=metadata,
        environment=environment,
        progress=progress,
    )


def directory_nodes(root: Path) -> dict[str, cpio.Node]:
    """Return a folder's content as nodes by relative name; symbolic links stay links.

    Raises:
        BuildError: it is no folder, or holds a device, pipe or socket.
    """
    nodes: dict[str, cpio.Node] = {}
    if not root.is_dir():
        raise BuildError(f"{root} is not a folder")
    pending = [("", root)]
    try:
        while pending:
            prefix, folder = pending.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = f"{prefix}{entry.name}"
                    mode = entry.stat(follow_symlinks=False).st_mode
                    if stat.S_ISDIR(mode):
                        nodes[name] = cpio.Node.directory()
                        pending.append((f"{name}/", Path(entry.path)))
                    elif stat.S_ISLNK(mode):
                        nodes[name] = cpio.Node.symlink(os.readlink(entry.path))
                    elif stat.S_ISREG(mode):
                        nodes[name] = cpio.Node.file(Path(entry.path), executable=bool(mode & 0o111))
                    else:
                        raise BuildError(f"{entry.path} is a device, pipe or socket; an image can't hold it")
    except OSError as error:
        raise BuildError(f"{error.filename or root} can't be read: {error.strerror}") from None
    return nodes


def build_from_nodes(
    nodes: Mapping[str, cpio.Node],
    *,
    cmd: Sequence[str],
    env: Mapping[str, str],
    output: Path,
    boot: Boot,
    name: str,
    version: str,
    metadata: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    this_machine: str | None = None,
    beside: Mapping[str, cpio.Node] | None = None,
    progress: Progress = silent,
) -> BuiltImage:
    """Build an image whose root file system is `nodes`; see `build_from_directory`.

    Args:
        this_machine: why files of this machine are among the nodes; None where none are.
        beside: files for the init, beside `cmd` and `env`, outside the root file system.
    """
    if not cmd or not cmd[0].startswith("/"):
        raise BuildError(
            "the command must start with a program's absolute path",
            why="The init of AWS's tool does not search for a relative one (nitro.md §1.8).",
        )
    mtime = cpio.default_mtime(os.environ if environment is None else environment)
    application = {f"{ROOTFS}/{folder}": cpio.Node.directory() for folder in EMPTY_FOLDERS}
    application[f"{ROOTFS}/tmp"] = cpio.Node(cpio.Kind.DIRECTORY, 0o1777)
    application.update((f"{ROOTFS}/{inside}", node) for inside, node in nodes.items())
    application[ROOTFS] = cpio.Node.directory()
    application["cmd"] = cpio.Node.file(_lines("cmd", cmd))
    application["env"] = cpio.Node.file(_lines("env", [f"{key}={env[key]}" for key in sorted(env)]))
    application.update(beside or {})
    for key in env:
        if not key or "=" in key:
            raise BuildError(f"{key!r} can't be the name of a variable")
    if boot.kernel is not None and (problem := check_kernel(FileSource(boot.kernel), boot.architecture)):
        raise BuildError(f"{boot.kernel} can't be the kernel: {problem}")
    cmdline = (DEFAULT_CMDLINE[boot.architecture] if boot.cmdline is None else boot.cmdline).strip()
    progress("writing the image", 0, WHOLE)
    measurements = write_eif(
        output,
        [
            Part(SectionType.KERNEL, boot.kernel or NO_KERNEL),
            Part(SectionType.CMDLINE, os.fsencode(cmdline)),
            Part(SectionType.METADATA, _metadata(name, version, mtime, metadata, this_machine)),
            Part(SectionType.RAMDISK, bootstrap_archive(boot.init, boot.modules, mtime=mtime)),
            Part(SectionType.RAMDISK, cpio.Archive(application, mtime=mtime)),
        ],
        architecture=boot.architecture,
    )
    can_boot, reason = bootable(read_eif(output, check_crc=False))
    progress("the image is written", 100, WHOLE)
    return BuiltImage(
        path=output,
        measurements=measurements,
        size=output.stat().st_size,
        bootable=can_boot,
        reason=reason,
        this_machine_only=this_machine is not None,
        why_this_machine=this_machine or "",
    )


def _lines(what: str, values: Sequence[str]) -> bytes:
    for value in values:
        if "\n" in value or "\0" in value:
            raise BuildError(f"an entry of {what} has a line break or NUL, which the format can't hold")
    return b"".join(os.fsencode(value) + b"\n" for value in values)


def _metadata(
    name: str, version: str, mtime: int, custom: Mapping[str, Any] | None, this_machine: str | None
) -> bytes:
    """Return the metadata section's JSON (nitro.md §1.6): not measured, so nothing depends on it."""
    own = {} if this_machine is None else {THIS_MACHINE_KEY: True}
    value = {
        "ImageName": name,
        "ImageVersion": version,
        "BuildMetadata": {
            "BuildTime": _rfc3339(mtime),
            "BuildTool": "geumgo",
            "BuildToolVersion": geumgo.__version__,
            "OperatingSystem": "Linux",
            "KernelVersion": "",
        },
        "DockerInfo": None,
        "CustomMetadata": {**(custom or {}), **own} or None,
    }
    try:
        data = json.dumps(value, sort_keys=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BuildError(f"the metadata is not JSON ({type(error).__name__})") from None
    if len(data) > MAX_METADATA_SIZE:
        raise BuildError(
            f"the metadata has {len(data)} bytes; {MAX_METADATA_SIZE} is the limit", code="too_large"
        )
    return data


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
