"""Kernel, command line and the bootstrap ramdisk, and whether an image can boot.

Where no kernel or no init is given, their place holds plain text that says so: the image can still be
measured and run by the process backend, and nobody mistakes it for one that boots.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geumgo.image import cpio
from geumgo.image._errors import BuildError, ImageError
from geumgo.image._layout import Architecture, SectionType
from geumgo.image._source import FileSource, Source
from geumgo.image.eif import Eif

__all__ = ("DEFAULT_CMDLINE", "NO_INIT", "NO_KERNEL", "bootable", "bootstrap_archive", "check_kernel")

NO_KERNEL = (
    b"This is not a kernel. The image was built without one, so it is NOT BOOTABLE: it can be measured, and\n"
    b"run by Geumgo's process backend. Give --kernel and --init to build an image that boots.\n"
)
NO_INIT = (
    b"This is not a program. The image was built without an init, so it is NOT BOOTABLE: it can be measured,\n"
    b"and run by Geumgo's process backend. Give --kernel and --init to build an image that boots.\n"
)
DEFAULT_CMDLINE = {
    Architecture.X86_64: "reboot=k panic=30 pci=off nomodules console=ttyS0 i8042.noaux i8042.nomux"
    " i8042.nopnp i8042.dumbkbd random.trust_cpu=on",
    Architecture.AARCH64: "reboot=k panic=30 pci=off nomodules console=ttyS0 random.trust_cpu=on root=/dev/ram0",
}
"""What nitro-cli ships (nitro.md §1.8)."""

_BZIMAGE = (0x202, b"HdrS")
"""Linux `Documentation/arch/x86/boot.rst`: the header's magic."""
_ARM_IMAGE = (0x38, b"ARM\x64")
"""Linux `Documentation/arch/arm64/booting.rst`: the header's magic."""
_GZIP = b"\x1f\x8b"
_PROGRAMS = (b"\x7fELF", b"#!")


def bootstrap_archive(init: Path | None, modules: Sequence[Path], *, mtime: int) -> cpio.Archive:
    """Return ramdisk 0: `dev`, `init` and kernel modules such as `nsm.ko` (nitro.md §1.8).

    Raises:
        BuildError: `init` is no program, or two modules have one name.
    """
    nodes = {"dev": cpio.Node.directory()}
    if init is None:
        nodes["init"] = cpio.Node.file(NO_INIT)
    else:
        source = FileSource(init)
        start = bytes(source.read_at(0, min(4, source.size)))
        if not start.startswith(_PROGRAMS):
            raise BuildError(f"{init} is neither an ELF program nor a script; it can't be the init")
        nodes["init"] = cpio.Node.file(init, executable=True)
    for module in modules:
        if module.name in nodes:
            raise BuildError(f"two files of the bootstrap ramdisk are called {module.name}")
        nodes[module.name] = cpio.Node.file(module, executable=True)
    return cpio.Archive(nodes, mtime=mtime)


def check_kernel(source: Source, architecture: Architecture) -> str:
    """Return why these bytes can't be this architecture's kernel; an empty string where they can."""
    offset, magic = _BZIMAGE if architecture is Architecture.X86_64 else _ARM_IMAGE
    if source.size >= offset + len(magic) and bytes(source.read_at(offset, len(magic))) == magic:
        return ""
    if source.size == len(NO_KERNEL) and bytes(source.read_at(0, source.size)) == NO_KERNEL:
        return "it was built without a kernel"
    form = "bzImage" if architecture is Architecture.X86_64 else "Image"
    return f"its kernel is not an {architecture.machine} {form}"


def bootable(eif: Eif) -> tuple[bool, str]:
    """Return whether an image can boot, and if not, why; every tool that prints an image shows it.

    A compressed bootstrap ramdisk is taken to have an init: it is not unpacked to look.
    """
    reason = check_kernel(eif.kernel, eif.header.architecture)
    if reason:
        return False, reason
    if not eif.of_kind(SectionType.RAMDISK):
        return False, "it has no ramdisk"
    try:
        return _has_init(eif.ramdisk(0))
    except ImageError as error:
        return False, f"its bootstrap ramdisk can't be read: {error.what}"


def _has_init(ramdisk: Source) -> tuple[bool, str]:
    if ramdisk.size >= 2 and bytes(ramdisk.read_at(0, 2)) == _GZIP:
        return True, ""
    for entry in cpio.read(ramdisk):
        if entry.name != "init":
            continue
        if entry.kind is cpio.Kind.SYMLINK:
            return True, ""
        start = bytes(ramdisk.read_at(entry.offset, min(4, entry.size)))
        if entry.kind is cpio.Kind.FILE and entry.mode & 0o111 and start.startswith(_PROGRAMS):
            return True, ""
        if entry.size == len(NO_INIT):
            return False, "it was built without an init"
        return False, "its init is not a program"
    return False, "its bootstrap ramdisk has no init"
