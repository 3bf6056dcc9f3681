"""Reading another process's memory on Linux: /proc/<pid>/smaps and /proc/<pid>/mem (proc(5))."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geumgo.testing.leaks._errors import LeakSearchError

__all__ = ("Region", "descendants", "read_regions", "regions")

CHUNK = 16 << 20
"""Bytes of a region that are read at a time."""

_UNMAPPED = (errno.EIO, errno.EFAULT)
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) [0-9a-f]+ \S+ [0-9]+ *(.*)")
_KERNEL = ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]")
"""The kernel's own pages in every process; some can't be read, none hold data of the process."""


@dataclass(frozen=True, slots=True)
class Region:
    """A mapping of a process that may hold what it wrote.

    Attributes:
        start, end: addresses.
        name: the mapped file, `[heap]` and the like, or `anonymous`.
    """

    start: int
    end: int
    name: str


def regions(pid: int) -> list[Region]:
    """Return the mappings of `pid` that hold anything but unchanged bytes of their file.

    Raises:
        LeakSearchError: ``process_gone`` or ``memory_unreadable``.
    """
    try:
        text = Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape")
    except OSError as error:
        raise _unreadable(pid, error) from None
    found: list[Region] = []
    head: re.Match[str] | None = None
    for line in text.splitlines():
        if matched := _HEAD.fullmatch(line):
            head = matched
            shared, written = matched[3][3] == "s", 0
        elif head is not None:
            name, _, value = line.partition(":")
            if name in ("Anonymous", "Swap") or (shared and name == "Rss"):
                written += int(value.split()[0])
            elif name == "VmFlags":
                if written and head[4] not in _KERNEL:
                    found.append(Region(int(head[1], 16), int(head[2], 16), head[4] or "anonymous"))
                head = None
    if not found:
        raise LeakSearchError(f"process {pid} has ended", code="process_gone")
    return found


def read_regions(pid: int) -> Iterator[tuple[Region, bytes]]:
    """Yield the memory of `pid`, its regions one after the other, while it runs on.

    What it unmaps meanwhile is left out.

    Raises:
        LeakSearchError: ``process_gone`` or ``memory_unreadable``.
    """
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(pid, error) from None
    try:
        for region in regions(pid):
            data = bytearray()
            while (at := region.start + len(data)) < region.end:
                try:
                    part = os.pread(memory, min(CHUNK, region.end - at), at)
                except OSError as error:
                    if error.errno not in _UNMAPPED:
                        raise _unreadable(pid, error) from None
                    break
                if not part:
                    break
                data += part
            yield region, bytes(data)
    finally:
        os.close(memory)


def descendants(pid: int) -> list[int]:
    """Return the processes that `pid` started, directly or not, as far as they run."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        born = children.get(waiting.pop(), [])
        found += born
        waiting += born
    return found


def _unreadable(pid: int, error: OSError) -> LeakSearchError:
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return LeakSearchError(f"process {pid} has ended", code="process_gone")
    return LeakSearchError(
        f"the memory of process {pid} can't be read: {error.strerror}",
        why="Nothing was searched, so nothing is known.",
        fix="Search as root or with CAP_SYS_PTRACE; as the same user where kernel.yama.ptrace_scope is 0.",
        code="memory_unreadable",
    )
