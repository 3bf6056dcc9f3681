"""The demo is told to end, is killed, or meets another one: nothing stays behind, nothing is in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

TAG = "GEUMGO_TEST_TAG"


class Runs:
    """Starts demos in one folder and finds what they started, by a variable that all of them inherit."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.output = folder / "demo"
        self.runtime = runtime
        self.tag = f"{TAG}={uuid.uuid4()}"
        name, _, value = self.tag.partition("=")
        self.environment = {**os.environ, name: value, "XDG_RUNTIME_DIR": str(runtime), "COLUMNS": "80"}

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "geumgo.cli", "demo", "--output", str(self.output)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
            # A shell starts what runs in its background with Ctrl-C ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def left(self) -> list[str]:
        """Return the command lines of processes that carry the tag, and of programs that they launched."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if self.tag.encode() in variables and words:
                found.append(words)
        return found

    def programs(self) -> list[Path]:
        """Return the processes inside the enclaves that have been launched."""
        states = [json.loads(path.read_text()) for path in self.runtime.glob("geumgo/*/*/enclave.json")]
        return [Path(f"/proc/{state['pid']}") for state in states if state.get("pid")]


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path, tmp_path_factory.mktemp("r"))
    yield runs
    assert runs.left() == []
    assert not list(runs.runtime.glob("geumgo/*")), "the runtime folder is removed, too"


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the demo never said {text!r}")


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("1/7", signal.SIGINT),
        ("2/7", signal.SIGTERM),
        ("3/7", signal.SIGINT),
        ("6/7", signal.SIGHUP),
    ],
)
def test_told_to_end(runs: Runs, step: str, number: signal.Signals) -> None:
    process = runs.start()
    read_until(process, step)
    process.send_signal(number)
    process.send_signal(number)  # impatience does not disturb the clean-up
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, rest
    assert rest.count("stopping …") == 1
    assert "Traceback" not in rest
    assert not (runs.output / "summary.json").exists()


def test_killed_and_started_again(runs: Runs) -> None:
    first = runs.start()
    read_until(first, "5/7")
    programs = runs.programs()
    assert len(programs) == 2
    first.kill()
    first.communicate()
    assert len(runs.left()) > 4, "the parts run on"
    second = runs.start()
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert json.loads((runs.output / "summary.json").read_text())["records"] == 10_000
    assert not any(program.exists() for program in programs)


def test_a_second_demo_in_the_folder_is_refused(runs: Runs) -> None:
    first = runs.start()
    read_until(first, "2/7")
    second = runs.start()
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another demo is running in" in said
    assert "--output" in said
    assert first.poll() is None
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert (runs.output / "summary.json").is_file()


def test_other_files_in_the_folder_stay(runs: Runs) -> None:
    runs.output.mkdir()
    (runs.output / "mine.txt").write_text("mine")
    (runs.output / "summary.json").write_text("old")
    process = runs.start()
    read_until(process, "1/7")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (runs.output / "mine.txt").read_text() == "mine"
    assert not (runs.output / "summary.json").exists()
