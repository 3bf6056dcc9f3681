"""What the program may use up: rlimits and CPUs always, a memory cgroup where one can be made."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from geumgo.backends.process import _linux as linux

__all__ = ("MAX_DESCRIPTORS", "Cgroup", "Usage", "choose_cpus", "descriptor_limit", "set_limits")

MAX_DESCRIPTORS = 4096
"""Descriptors of the program inside: its connections, at most; the hard limit where that is lower."""
MAX_THREADS = 256
"""Threads of the program, counted in its own user namespace; without one the memory limit bounds them."""
_STACK = 8 << 20  # Linux's usual stack, also of each thread
_ADDRESS_SPACE_SLACK = 4 << 30  # reservations that hold no memory: allocator arenas, files mapped to be read
_PREFIX = "geumgo-"
_CORE = 1
"""Bytes of core dump. Not 0: the kernel ignores that where core_pattern is a pipe, and takes 1 for "never"."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one enclave gets.

    Attributes:
        memory: bytes of private memory.
        cpus: CPUs that it may run on.
    """

    memory: int
    cpus: tuple[int, ...]


def choose_cpus(count: int, seed: int) -> tuple[int, ...]:
    """Return `count` of the CPUs that this process may use, spread by `seed` over several enclaves."""
    allowed = sorted(os.sched_getaffinity(0))
    start = seed % len(allowed)
    return tuple(sorted((allowed[start:] + allowed[:start])[: max(1, count)]))


def descriptor_limit() -> int:
    """Return the program's descriptor limit; the descriptor of that number must be left to place one above it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard - 1)


def set_limits(usage: Usage, *, own_user_namespace: bool) -> None:
    """Limit this process. Last before exec: it may open no further descriptors then.

    Raises:
        OSError: a limit can't be set.
    """
    os.sched_setaffinity(0, usage.cpus)
    limits = {
        resource.RLIMIT_CORE: _CORE,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_DATA: usage.memory,
        resource.RLIMIT_AS: usage.memory + _ADDRESS_SPACE_SLACK,
        resource.RLIMIT_STACK: _STACK,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NOFILE: descriptor_limit(),
    }
    if own_user_namespace:
        limits[resource.RLIMIT_NPROC] = MAX_THREADS
    for which, wanted in limits.items():
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


class Cgroup:
    """A cgroup of this enclave's own, below the launcher's. It is removed when the enclave has ended."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders

    @property
    def made(self) -> bool:
        """Whether memory is limited by it."""
        return bool(self._folders)

    @classmethod
    def create(cls, name: str, usage: Usage, *, proc: Path = Path("/proc/self/cgroup")) -> Cgroup:
        """Make one where that is allowed; otherwise return one that does nothing."""
        folders = []
        for folder, limits in _places(proc, usage):
            _sweep(folder)
            group = folder / f"{_PREFIX}{name}-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            try:
                for file, value in limits.items():
                    linux.write_text(f"{group}/{file}", value)
            except OSError:  # the controller isn't ours to use here
                with contextlib.suppress(OSError):
                    group.rmdir()
                continue
            folders.append(group)
        return cls(tuple(folders))

    def add(self, pid: int) -> None:
        """Move a process in, before it runs anything."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                linux.write_text(f"{folder}/cgroup.procs", str(pid))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process for this group's memory limit."""
        for folder in self._folders:
            for file in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    lines = (folder / file).read_text().split("\n")
                    if any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines):
                        return True
        return False

    def remove(self) -> None:
        """Remove it; nothing runs in it any more."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _sweep(folder: Path) -> None:
    """Remove what launchers left that were killed. An occupied cgroup can't be removed."""
    with contextlib.suppress(OSError):
        for group in folder.glob(f"{_PREFIX}*-*"):
            pid = group.name.rpartition("-")[2]
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    group.rmdir()


def _places(proc: Path, usage: Usage) -> list[tuple[Path, dict[str, str]]]:
    """Return our own cgroup folders, and what to write into a new one there."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    memory, places = str(usage.memory), []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        path = path.lstrip("/")
        if ".." in path.split("/"):
            continue  # our cgroup lies outside of what this container sees
        if not controllers:
            for base in (root, root / "unified"):
                if (base / path / "cgroup.procs").exists():
                    places.append((base / path, {"memory.max": memory, "memory.swap.max": "0"}))
        elif "memory" in controllers.split(","):
            places.append((root / "memory" / path, {"memory.limit_in_bytes": memory}))
    return places
