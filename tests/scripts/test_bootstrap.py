"""The script that makes `.venv`: from whatever pip there is, and only when it must."""

from __future__ import annotations

import fcntl
import importlib.util
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, at work in a checkout with spaces in its name."""
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "a checkout"
    (root / "requirements").mkdir(parents=True)
    (root / "requirements" / "all.txt").write_text("cbor2==6.2.1 --hash=sha256:00\n")
    (root / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "VENV", root / ".venv")
    monkeypatch.setattr(module, "PYTHON", root / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "WORK", root / "build" / "bootstrap")
    return module


@pytest.fixture
def pip(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip was called with, in place of a pip."""
    calls: list[list[str]] = []

    def run(command: list[str], **others: object) -> int:
        calls.append(command)
        return 0

    monkeypatch.setattr(bootstrap, "find_pip", lambda: ["pip"])
    monkeypatch.setattr(bootstrap, "run", run)
    return calls


def test_the_second_call_does_nothing(bootstrap: ModuleType, pip: list[list[str]]) -> None:
    assert bootstrap.main("all") == 0
    assert [call[:2] for call in pip] == [["pip", "install"]] * 2
    assert "--require-hashes" in pip[0]
    assert "--no-index" in pip[1]
    assert bootstrap.main("all") == 0
    assert len(pip) == 2
    (bootstrap.ROOT / "requirements" / "all.txt").write_text("cbor2==6.2.2 --hash=sha256:00\n")
    assert bootstrap.main("all") == 0
    assert len(pip) == 4


def test_a_failure_is_said_and_tried_again(
    bootstrap: ModuleType,
    pip: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as context:
        context.setattr(bootstrap, "run", lambda command, **others: 1)
        assert bootstrap.main("all") == 1
    assert "PIP_INDEX_URL" in capsys.readouterr().err
    assert bootstrap.main("all") == 0
    assert len(pip) == 2


def test_what_an_interrupted_pip_left_is_not_trusted(bootstrap: ModuleType, pip: list[list[str]]) -> None:
    assert bootstrap.main("all") == 0
    half = bootstrap.VENV / "lib" / "half"
    half.touch()
    assert bootstrap.main("all") == 0
    assert half.exists()
    (bootstrap.VENV / bootstrap.UNFINISHED).touch()
    assert bootstrap.main("all") == 0
    assert not half.exists()
    assert bootstrap.is_installed("all")


def test_two_at_once(bootstrap: ModuleType, pip: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap.WORK.mkdir(parents=True)
    with (bootstrap.WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=bootstrap.main, args=("all",))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert pip == []
        bootstrap.install("all")
    thread.join(20)
    assert not thread.is_alive()
    assert len(pip) == 2, "the second found everything there"
    assert "waiting for another make" in capsys.readouterr().out


def test_no_pip_anywhere(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(bootstrap.ROOT))
    assert bootstrap.main("all") == 1
    assert "apt-get install python3-pip" in capsys.readouterr().err


def test_an_old_python_is_told_so(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 10, 9))
    assert bootstrap.main("all") == 1
    assert "Python 3.10.9 is too old" in capsys.readouterr().err


def test_a_venv_that_was_moved_or_lost_its_python_is_made_again(
    bootstrap: ModuleType, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bootstrap.main("all") == 0
    assert bootstrap.venv_is_usable()
    # The programs in a venv begin with their interpreter's whole path.
    moved = bootstrap.ROOT.rename(bootstrap.ROOT.with_name("moved"))
    monkeypatch.setattr(bootstrap, "ROOT", moved)
    monkeypatch.setattr(bootstrap, "VENV", moved / ".venv")
    monkeypatch.setattr(bootstrap, "PYTHON", moved / ".venv" / "bin" / "python")
    assert not bootstrap.venv_is_usable()
    assert bootstrap.main("all") == 0
    assert bootstrap.venv_is_usable()
    assert len(pip) == 4
    for name in ("python", "python3", Path(sys.executable).name):
        (moved / ".venv" / "bin" / name).unlink(missing_ok=True)
        (moved / ".venv" / "bin" / name).symlink_to(moved / "gone")
    assert bootstrap.main("all") == 0
    assert bootstrap.venv_is_usable()


def test_a_venv_of_another_tool_is_kept(bootstrap: ModuleType) -> None:
    venv.EnvBuilder(with_pip=False, symlinks=True).create(bootstrap.VENV)
    facts = bootstrap.VENV / "pyvenv.cfg"
    facts.write_text("\n".join(line for line in facts.read_text().splitlines() if "command" not in line))
    assert bootstrap.venv_is_usable()


def test_pip_out_of_debians_wheel_gets_the_wheels_certificates(bootstrap: ModuleType) -> None:
    # Debian's pip looks for the system's file at its import, and fails where there is none.
    files = {
        "pip/__init__.py": "",
        "pip/__main__.py": "import sys; from pip import _session; print(_session.used, *sys.argv[1:])",
        "pip/_session.py": "from pip._vendor import certifi; used = open(certifi.where()).read()",
        "pip/_vendor/__init__.py": "",
        "pip/_vendor/certifi/__init__.py": "from .core import where",
        "pip/_vendor/certifi/core.py": "def where(): return '/the/system'",
        "pip/_vendor/certifi/cacert.pem": "certificates",
    }
    bootstrap.WORK.mkdir(parents=True)
    wheel = bootstrap.WORK / "pip-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    bundle = bootstrap.certificates(wheel)
    command = [sys.executable, "-P", "-c", bootstrap.WITH_BUNDLE, str(wheel), str(bundle), "install", "x y"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "certificates install x y\n"
