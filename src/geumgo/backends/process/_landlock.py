"""Landlock: this process and what it executes see only what lies below one folder, and only to read it.

Every right that the running kernel knows is handled, that is: denied, unless the one rule allows it. Which
ones those are is found by asking for each alone, so a backport or a newer kernel needs no table here.
Landlock has no word on stat, chmod, utime, Unix sockets with a path and the like: the seccomp list has.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from geumgo.backends.process._linux import call

__all__ = ("Handled", "abi", "confine", "handled")

_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FS_BITS = 17
"""Rights on files that this code knows: EXECUTE … MAKE_SYM (ABI 1), REFER (2), TRUNCATE (3), IOCTL_DEV (5),
RESOLVE_UNIX. A later one may be about reading, which the rule would then have to allow."""
_NET_BITS = 2
"""BIND_TCP, CONNECT_TCP (ABI 4)."""
_SCOPE_BITS = 2
"""Abstract Unix sockets, signals (ABI 6)."""
_VERSION_FLAG = 1
_PATH_BENEATH = 1


@dataclass(frozen=True, slots=True)
class Handled:
    """What the kernel lets Landlock deny, as bit masks."""

    files: int
    network: int
    scopes: int


def abi() -> int:
    """Return the kernel's Landlock ABI version.

    Raises:
        OSError: there is no Landlock (ENOSYS), it is off at boot (EOPNOTSUPP), or a filter denies it (EPERM).
    """
    return call("landlock_create_ruleset", None, 0, _VERSION_FLAG)


def _ruleset(rights: Handled) -> int:
    """Return a ruleset descriptor. The structure is only as long as it must be, for older kernels."""
    fields = [rights.files, rights.network, rights.scopes]
    while len(fields) > 1 and not fields[-1]:
        fields.pop()
    attribute = struct.pack(f"={len(fields)}Q", *fields)
    return call("landlock_create_ruleset", attribute, len(attribute), 0)


def handled() -> Handled:
    """Return every right that the running kernel takes.

    Raises:
        OSError: as :func:`abi`.
    """
    abi()

    def known(rights: Handled) -> bool:
        try:
            os.close(_ruleset(rights))
        except OSError:
            return False
        return True

    files = sum(1 << bit for bit in range(_FS_BITS) if known(Handled(1 << bit, 0, 0)))
    network = sum(1 << bit for bit in range(_NET_BITS) if known(Handled(files, 1 << bit, 0)))
    scopes = sum(1 << bit for bit in range(_SCOPE_BITS) if known(Handled(files, 0, 1 << bit)))
    return Handled(files, network, scopes)


def confine(folder: int) -> None:
    """Confine this thread for good to reading and executing below the open `folder`.

    Needs no_new_privs.

    Raises:
        OSError: the kernel refuses.
    """
    rights = handled()
    ruleset = _ruleset(rights)
    try:
        allowed = (_EXECUTE | _READ_FILE | _READ_DIR) & rights.files
        rule = struct.pack("=Qi", allowed, folder)
        call("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
