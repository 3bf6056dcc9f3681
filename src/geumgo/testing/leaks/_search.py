"""Many patterns at once, through much memory, in pure Python.

A regular expression with 100,000 alternatives is slow and so is an automaton in Python. Values of one kind
look alike, though: for each place of a window one expression lists the bytes that occur there in any
pattern, which the engine checks at some 50 MB/s; the few places where all agree are looked up in a table.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from geumgo.testing.leaks._errors import LeakSearchError
from geumgo.testing.leaks._memory import read_regions
from geumgo.testing.leaks._patterns import MIN_LENGTH, Pattern, patterns

__all__ = ("Finding", "Search")

BLOCK = 64 << 10
"""Bytes that are searched at a time, a few milliseconds' work. A changed byte costs one block's new search."""
WINDOW = 32
"""Bytes of a pattern that its expression looks at; the rest is compared only where these agree."""
MAX_FINDINGS = 100
"""Findings of one place: one is enough to know."""
MAX_SEEN = 1 << 20
"""Digests of searched blocks that are kept, some 100 MB of them: blocks of 64 GiB."""

_KINDS = {"hex": "hex", "base64": "base64"}
"""What is searched for in passes of its own: the more alike the patterns of a pass, the fewer places to look up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A value that was found where it must not be.

    Attributes:
        where: the process and mapping, the file, or the stream.
        offset: bytes from its beginning.
        value: the value's place in the list that was given; the value itself is not repeated.
        encoding: how it stands there.
    """

    where: str
    offset: int
    value: int
    encoding: str


class Search:
    """Looks for `values` in whatever encoding; see :func:`patterns`.

    Blocks of memory that were searched before without a finding are known by their digest, so that
    searching the same processes again and again costs little more than reading them.

    Args:
        values: what must not be found.
        min_length: characters of the shortest form that is looked for.

    Raises:
        LeakSearchError: ``value_too_short``.
    """

    def __init__(self, values: Iterable[str | bytes], *, min_length: int = MIN_LENGTH) -> None:
        by_kind: dict[str, list[Pattern]] = {}
        self._longest = 0
        for pattern in patterns(values, min_length=min_length):
            by_kind.setdefault(_KINDS.get(pattern.encoding[:6], "text"), []).append(pattern)
            self._longest = max(self._longest, len(pattern.data))
        self._groups = [_Group(group) for group in by_kind.values()]
        self._clean: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Search {sum(group.size for group in self._groups)} patterns>"

    def find(self, data: bytes | bytearray, where: str) -> list[Finding]:
        """Search `data`; `where` is what findings call it."""
        findings: list[Finding] = []
        overlap = max(0, self._longest - 1)
        for start in range(0, len(data), BLOCK):
            block = bytes(data[start : start + BLOCK + overlap])
            if not block.strip(b"\0"):
                continue
            digest = hashlib.blake2b(block, digest_size=16).digest()
            if digest in self._clean:
                continue
            found = [
                Finding(where, start + offset, pattern.value, pattern.encoding)
                for group in self._groups
                for offset, pattern in group.find(block)
                if offset < BLOCK
            ]
            findings += found
            if not found and len(self._clean) < MAX_SEEN:
                self._clean.add(digest)
            if len(findings) >= MAX_FINDINGS:
                break
        return findings[:MAX_FINDINGS]

    def memory(self, pid: int) -> list[Finding]:
        """Search what process `pid` has written to its memory, and what it shares with others.

        That is what a core dump would hold; mappings that equal their file are left out.

        Raises:
            LeakSearchError: ``process_gone``, or ``memory_unreadable`` with what to enable.
        """
        findings: list[Finding] = []
        for region, data in read_regions(pid):
            findings += self.find(data, f"process {pid} {region.name} at {region.start:#x}")
        return findings[:MAX_FINDINGS]

    def files(self, folder: Path) -> list[Finding]:
        """Search names and contents of all files below `folder`; links are not followed.

        Raises:
            LeakSearchError: ``file_unreadable``.
        """
        findings: list[Finding] = []
        failed: list[OSError] = []
        for place, folders, names in os.walk(folder, onerror=failed.append):
            for name in (*folders, *names):
                findings += self.find(os.fsencode(name), f"a name in {place}")
            for name in names:
                path = Path(place, name)
                try:
                    if stat.S_ISREG(path.lstat().st_mode):
                        findings += self.find(path.read_bytes(), str(path))
                except FileNotFoundError:
                    continue  # a running system replaces files
                except OSError as error:
                    failed.append(error)
        for failure in failed:
            if not isinstance(failure, FileNotFoundError):
                raise LeakSearchError(
                    f"{failure.filename} can't be searched: {failure.strerror}", code="file_unreadable"
                )
        return findings[:MAX_FINDINGS]

    def streams(self, recorded: Mapping[str, bytes | bytearray]) -> list[Finding]:
        """Search recorded byte streams, name → bytes, as :meth:`Tap.recorded` returns them."""
        return [finding for name, data in recorded.items() for finding in self.find(data, name)]


class _Group:
    """Patterns that are searched for in one pass."""

    def __init__(self, group: list[Pattern]) -> None:
        self.size = len(group)
        # Zeros fill most of a memory, so the engine must not stop at each: windows begin after leading ones.
        places = [(pattern, _zeros(pattern.data)) for pattern in group]
        self._window = min(WINDOW, *(len(pattern.data) - skip for pattern, skip in places))
        self._table: dict[bytes, list[tuple[Pattern, int]]] = {}
        for pattern, skip in places:
            key = pattern.data[skip : skip + self._window]
            self._table.setdefault(key, []).append((pattern, skip))
        classes = [_class(frozenset(key[place] for key in self._table)) for place in range(self._window)]
        self._places = re.compile(classes[0] + b"(?=" + b"".join(classes[1:]) + b")", re.DOTALL)

    def find(self, block: bytes) -> Iterable[tuple[int, Pattern]]:
        """Yield where in `block` which pattern begins."""
        for match in self._places.finditer(block):
            at = match.start()
            for pattern, skip in self._table.get(block[at : at + self._window], ()):
                if at >= skip and block.startswith(pattern.data, at - skip):
                    yield at - skip, pattern


def _zeros(data: bytes) -> int:
    """Return how many zeros `data` begins with; its last byte doesn't count."""
    return len(data) - 1 - len(data[:-1].lstrip(b"\0"))


def _class(present: frozenset[int]) -> bytes:
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(present)) + b"]"
