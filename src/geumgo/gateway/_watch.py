"""Looks at <runtime>/*/enclave.json. Polling, not inotify: docs/adr/0031-gateway-polls.md."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from geumgo.api import JsonLog
from geumgo.gateway._enclave_file import EnclaveFile, EnclaveFileError

__all__ = ("FolderWatch",)

MAX_FOLDERS = 256
"""Folders that are looked at; a node has room for a few enclaves."""

FILE_NAME = "enclave.json"


class FolderWatch:
    """Remembers what the managers' files said and reads those that changed.

    Args:
        runtime_dir: the folder that managers and gateway share; it may come later.
        only: names of the enclaves that are this gateway's; empty for all.
        log: where a file that can't be used is named.
    """

    def __init__(self, runtime_dir: Path, *, only: Collection[str] = (), log: JsonLog) -> None:
        self._directory = runtime_dir
        self._only = frozenset(only)
        self._log = log
        self._signatures: dict[str, tuple[int, int, int]] = {}
        self._files: dict[str, EnclaveFile] = {}

    def look(self) -> Mapping[str, EnclaveFile]:
        """Return what the files say now, by the enclave's name; what can't be read says nothing.

        Costs a directory listing and a stat for each enclave, some 50 µs.
        """
        signatures: dict[str, tuple[int, int, int]] = {}
        for name in self._names():
            path = self._directory / name / FILE_NAME
            try:
                status = path.stat()
            except OSError:
                continue
            # Managers replace the file, so a new content is a new inode even within one tick of the clock.
            signatures[name] = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._signatures.get(name) != signatures[name]:
                self._read(name, path)
        for name in self._signatures.keys() - signatures.keys():
            self._files.pop(name, None)
        self._signatures = signatures
        return dict(self._files)

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries if _usable(entry.name)]
        except OSError:
            return []
        return sorted(name for name in names if not self._only or name in self._only)[:MAX_FOLDERS]

    def _read(self, name: str, path: Path) -> None:
        try:
            self._files[name] = EnclaveFile.read(path, name)
        except EnclaveFileError as error:
            self._files.pop(name, None)
            self._log.warning("enclave_file_unusable", enclave=name, problem=error.what)


def _usable(name: str) -> bool:
    """Return whether a folder's name is one that can be shown: managers take lower-case letters and digits only."""
    return name.isprintable() and not name.startswith(".")
