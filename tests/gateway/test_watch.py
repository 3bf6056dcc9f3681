from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geumgo.api import JsonLog
from geumgo.gateway._watch import MAX_FOLDERS, FolderWatch


class Folder:
    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self._log_path = log
        self._file = log.open("wb")
        self.log = JsonLog(self._file.fileno())

    def write(self, name: str, **fields: Any) -> None:
        content = {"version": 1, "name": name, "state": "running", "address": "vsock:16:7007", **fields}
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "new").write_text(json.dumps(content))
        (folder / "new").replace(folder / "enclave.json")

    def logged(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [json.loads(line) for line in self._log_path.read_bytes().splitlines()]

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "runtime", tmp_path / "log")
    yield made
    made.close()


def states(watch: FolderWatch) -> dict[str, str]:
    return {name: file.state for name, file in watch.look().items()}


def test_files_come_change_and_go(folder: Folder) -> None:
    watch = FolderWatch(folder.path, log=folder.log)
    assert states(watch) == {}
    folder.write("a")
    folder.write("b", state="starting")
    assert states(watch) == {"a": "running", "b": "starting"}
    folder.write("b")
    assert states(watch) == {"a": "running", "b": "running"}
    (folder.path / "a" / "enclave.json").unlink()
    assert states(watch) == {"b": "running"}
    folder.write("a")
    assert states(watch) == {"a": "running", "b": "running"}


def test_a_change_within_one_tick_of_the_clock_is_seen(folder: Folder) -> None:
    watch = FolderWatch(folder.path, log=folder.log)
    folder.write("a", state="running")
    path = folder.path / "a" / "enclave.json"
    os.utime(path, ns=(1, 1))
    assert states(watch) == {"a": "running"}
    folder.write("a", state="stopped")  # as many letters
    os.utime(path, ns=(1, 1))
    assert states(watch) == {"a": "stopped"}


def test_only_those_named(folder: Folder) -> None:
    watch = FolderWatch(folder.path, only=("b",), log=folder.log)
    folder.write("a")
    folder.write("b")
    assert states(watch) == {"b": "running"}


def test_a_broken_file_says_nothing_and_is_named_once(folder: Folder) -> None:
    watch = FolderWatch(folder.path, log=folder.log)
    folder.write("a")
    folder.write("b")
    assert states(watch) == {"a": "running", "b": "running"}
    (folder.path / "a" / "enclave.json").write_text("{broken")
    for _ in range(3):
        assert states(watch) == {"b": "running"}
    (line,) = folder.logged()
    assert (line["event"], line["enclave"]) == ("enclave_file_unusable", "a")
    folder.write("a")
    assert states(watch) == {"a": "running", "b": "running"}


def test_other_things_in_the_folder_are_left_alone(folder: Folder) -> None:
    watch = FolderWatch(folder.path, log=folder.log)
    folder.write("a")
    folder.write(".hidden")
    (folder.path / "file").write_text("x")
    (folder.path / "empty").mkdir()
    assert states(watch) == {"a": "running"}
    assert folder.logged() == []


def test_the_number_of_folders_is_bounded(folder: Folder) -> None:
    folder.path.mkdir()
    for number in range(MAX_FOLDERS + 5):
        (folder.path / f"{number:04}").mkdir()
    folder.write("zzz")
    assert FolderWatch(folder.path, log=folder.log).look() == {}
