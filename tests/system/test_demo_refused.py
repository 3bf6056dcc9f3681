"""The demo where a container's profile refuses sandboxes: it takes the one that is left, or says what to enable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geumgo.backends import SandboxUnavailable, process

REFUSE = Path(__file__).resolve().parents[1] / "backends" / "refuse.py"


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")  # a socket's path must be short


def run(refused: str, runtime: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geumgo.cli", *words]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, str(REFUSE), refused, *command],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def test_without_namespaces_it_takes_landlock_by_itself(tmp_path: Path, runtime: Path) -> None:
    if process.probe()["landlock"] is not None:
        pytest.skip("no Landlock here")
    done = run("namespaces", runtime, "demo", "--output", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert (summary["sandbox"], summary["records"]) == ("landlock", 10_000)
    assert (summary["changed_image"], summary["reidentify_refused"]) == ("AccessDenied", "forbidden")


@pytest.mark.parametrize("command", ["demo --output", "up --state"])
def test_without_any_it_stops_at_once_and_says_what_to_enable(
    tmp_path: Path, runtime: Path, command: str
) -> None:
    began = time.monotonic()
    done = run("namespaces,landlock", runtime, *command.split(), str(tmp_path / "out"))
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    said = " ".join(done.stderr.split())
    for words in ("allows no sandbox", "sandbox_unavailable", "seccomp profile", "sysctl", "--unsandboxed"):
        assert words in said
    assert "1/7" not in done.stdout
    assert not list((tmp_path / "out").iterdir()), "nothing was begun"


def test_asking_for_one_sandbox() -> None:
    for name, refused in process.probe().items():
        if refused is None:
            process.require(name)
            process.require("auto")
        else:
            with pytest.raises(SandboxUnavailable, match="no sandbox"):
                process.require(name)
    with pytest.raises(SandboxUnavailable, match="'foo'"):
        process.require("foo")
