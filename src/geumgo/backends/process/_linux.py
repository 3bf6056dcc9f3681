"""The system calls that the standard library lacks, by ctypes. Each raises `OSError` on failure.

Only the launcher process uses this, in one thread, before and between fork and exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from pathlib import Path

from geumgo.backends.process._syscalls import this_machine

__all__ = (
    "AT_EMPTY_PATH",
    "CAP_KILL",
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "LAST_CAPABILITY",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "Exec",
    "call",
    "close_on_exec_from",
    "drop_bounding_set",
    "drop_capabilities",
    "has_capability",
    "mount",
    "mount_flags",
    "no_new_privileges",
    "pivot_root",
    "prctl",
    "set_dumpable",
    "set_filter",
    "set_parent_death_signal",
    "set_subreaper",
    "umount",
    "unshare",
    "write_text",
)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
AT_EMPTY_PATH = 0x1000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_SECUREBITS, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 28, 36, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECUREBITS_LOCKED = 0xEF  # NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, all locked; KEEP_CAPS locked off
CAP_KILL = 5
LAST_CAPABILITY = 63
"""Capabilities fit 64 bits; numbers that the kernel lacks answer EINVAL."""
_CAPABILITY_V3 = 0x20080522
_CLOSE_RANGE_CLOEXEC = 4
_SECCOMP_SET_MODE_FILTER = 1

# What a bind remount must repeat, since a mount of another user namespace locks it: statvfs flag to MS flag.
_KEPT = {os.ST_NOSUID: MS_NOSUID, os.ST_NODEV: MS_NODEV, os.ST_NOEXEC: MS_NOEXEC}
_ATIME = {os.ST_NOATIME: 0x400, os.ST_NODIRATIME: 0x800, os.ST_RELATIME: 0x200000}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make the system call `name`; `bytes` are passed as pointers.

    Raises:
        OSError: it failed; ENOSYS where this machine has no table.
    """
    machine = this_machine()
    if machine is None or name not in machine.numbers:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(machine.numbers[name]), *converted))
    if result < 0:
        raise _failed(name)
    return result


def prctl(option: int, *arguments: int) -> int:
    """Make the system call prctl."""
    return call("prctl", option, *arguments, *(0,) * (4 - len(arguments)))


def unshare(flags: int) -> None:
    """Give this process new namespaces."""
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        raise _failed("unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Make the system call mount."""
    done = _libc.mount(
        source.encode(),
        target.encode(),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if data is None else data.encode(),
    )
    if done < 0:
        raise _failed(f"mount {target}")


def umount(target: str, flags: int) -> None:
    """Make the system call umount2."""
    if _libc.umount2(target.encode(), ctypes.c_int(flags)) < 0:
        raise _failed("umount2")


def mount_flags(path: str) -> int:
    """Return the flags of the mount that `path` is on, which a remount has to repeat."""
    found = os.statvfs(path).f_flag
    flags = 0
    for seen, flag in (_KEPT | _ATIME).items():
        if found & seen:
            flags |= flag
    return flags


def pivot_root(new: str, old: str) -> None:
    """Make the system call pivot_root."""
    call("pivot_root", new.encode(), old.encode())


def set_parent_death_signal(signal: int) -> None:
    """Have `signal` sent to this process when its parent ends. Forgotten when its user id changes."""
    prctl(_PR_SET_PDEATHSIG, signal)


def set_subreaper() -> None:
    """Become the parent of descendants whose own parent ends."""
    prctl(_PR_SET_SUBREAPER, 1)


def set_dumpable(on: bool) -> None:
    """Say whether this process's /proc files belong to it; changing user ids turns that off."""
    prctl(_PR_SET_DUMPABLE, int(on))


def no_new_privileges() -> None:
    """Make set-user-id programs and file capabilities ineffective from here on."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def has_capability(number: int) -> bool:
    """Whether this process holds a capability now."""
    header, data = struct.pack("=Ii", _CAPABILITY_V3, 0), ctypes.create_string_buffer(24)
    if _libc.capget(header, data) < 0:
        raise _failed("capget")
    (low,) = struct.unpack_from("=I", data.raw)
    return bool(low >> number & 1)


def drop_bounding_set() -> None:
    """Make it impossible to gain a capability again: empty bounding set, locked secure bits.

    Raises:
        OSError: this needs CAP_SETPCAP.
    """
    prctl(_PR_SET_SECUREBITS, _SECUREBITS_LOCKED)
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel knows no more of them
                raise
            break


def drop_capabilities() -> None:
    """Give up all capabilities that this process holds; anyone may."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", _CAPABILITY_V3, 0)
    if _libc.capset(header, bytes(24)) < 0:
        raise _failed("capset")


def close_on_exec_from(first: int) -> None:
    """Have every descriptor from `first` on closed by exec."""
    try:
        call("close_range", first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)
    except OSError:  # before Linux 5.11
        for fd in range(first, os.sysconf("SC_OPEN_MAX")):
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)


def set_filter(program: bytes) -> None:
    """Put a seccomp filter on this thread, for good. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: count, padding, pointer.
    description = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, description)


class Exec:
    """An execveat whose arguments are laid out beforehand: nothing is allocated at the call itself."""

    def __init__(self, fd: int, arguments: list[str], environment: dict[str, str]) -> None:
        self._fd = ctypes.c_long(fd)
        self._arguments = _array([os.fsencode(argument) for argument in arguments])
        self._environment = _array([os.fsencode(f"{k}={v}") for k, v in environment.items()])

    def __call__(self) -> None:
        """Start the program; returns only by raising."""
        machine = this_machine()
        if machine is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "execveat")
        _libc.syscall(
            ctypes.c_long(machine.numbers["execveat"]),
            self._fd,
            b"",
            self._arguments,
            self._environment,
            ctypes.c_long(AT_EMPTY_PATH),
        )
        raise _failed("execveat")


def _array(items: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(items) + 1))(*items, None)


def write_text(path: str, text: str) -> None:
    """Write a file of /proc or /sys in one call, as they require."""
    fd = os.open(Path(path), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
