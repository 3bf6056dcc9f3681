"""Sandbox (a): namespaces of its own, and the image as the only file system. No /proc, no host file.

Everything happens as an ordinary user in a new user namespace: a launcher that is root gives that up
before. Then the mounts need no privilege on the host, and being root or not makes no difference.
"""

from __future__ import annotations

import os
import socket

from geumgo.backends.process import _linux as linux

__all__ = ("enter", "settle")

INNER_ID = 65534
"""User and group inside; not 0, so that exec leaves no capabilities."""
_DEVICES = ("null", "zero", "urandom")
_HOST_NAME = "enclave"


def enter() -> None:
    """Move this process into new namespaces; its children will be in the new PID namespace.

    Raises:
        OSError: not allowed here.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = (
        linux.CLONE_NEWUSER
        | linux.CLONE_NEWNS
        | linux.CLONE_NEWPID
        | linux.CLONE_NEWNET
        | linux.CLONE_NEWIPC
        | linux.CLONE_NEWUTS
    )
    try:
        linux.unshare(flags | linux.CLONE_NEWCGROUP)
    except OSError:  # a kernel without cgroup namespaces; nothing shows cgroups inside anyway
        linux.unshare(flags)
    linux.write_text("/proc/self/setgroups", "deny")
    linux.write_text("/proc/self/uid_map", f"{INNER_ID} {uid} 1")
    linux.write_text("/proc/self/gid_map", f"{INNER_ID} {gid} 1")


def settle(root: str) -> None:
    """Make `root` this process's whole file system, read-only, and give up all capabilities.

    Raises:
        OSError: not allowed here.
    """
    socket.sethostname(_HOST_NAME)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(root, root, None, linux.MS_BIND | linux.MS_REC)
    os.chdir(root)
    _devices()
    linux.pivot_root(".", ".")
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")
    kept = linux.mount_flags("/")
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", "/", None, flags | kept)
    linux.drop_bounding_set()
    linux.drop_capabilities()


def _devices() -> None:
    """Put three devices of the host into a /dev of our own. An image without a /dev folder gets none."""
    try:
        folder = os.open("dev", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    os.close(folder)
    options = "mode=755,size=4k,nr_inodes=8"
    linux.mount("none", "dev", "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, options)
    for name in _DEVICES:
        os.close(os.open(f"dev/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        linux.mount(f"/dev/{name}", f"dev/{name}", None, linux.MS_BIND)
    linux.mount(
        "none", "dev", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.mount_flags("dev")
    )
