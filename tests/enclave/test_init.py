"""The init of the process backend: heartbeat, cmd and env, how the program is started."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.enclave import ConfigurationError, EnclaveError
from geumgo.enclave.init import (
    MAX_FILE,
    Program,
    apply_environment,
    heartbeat,
    parse_arguments,
    parse_environment,
    parse_process,
    python_program,
)
from geumgo.vsock import ConnectFailed

HERE = f"/usr/bin/python3.{sys.version_info.minor}"


class Parents:
    """Answers dials by CID: 'answer', 'silent', 'wrong', 'close' or None for refused."""

    def __init__(self, **behaviour: str | None) -> None:
        self.behaviour = {int(cid.removeprefix("cid")): how for cid, how in behaviour.items()}
        self.dialled: list[tuple[int, int, float]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self, cid: int, port: int, *, timeout: float = 10.0) -> socket.socket:
        self.dialled.append((cid, port, timeout))
        how = self.behaviour.get(cid)
        if how is None:
            raise ConnectFailed("refused")
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self.tasks.append(asyncio.create_task(self._serve(ours, how)))
        return theirs

    async def listen(self, port: int, *, backlog: int = 128):
        raise NotImplementedError

    async def _serve(self, sock: socket.socket, how: str) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            assert await loop.sock_recv(sock, 2) == b"\xb7"
            if how == "answer":
                await loop.sock_sendall(sock, b"\xb7")
            elif how == "wrong":
                await loop.sock_sendall(sock, b"\xb8")
            if how != "close":
                await loop.sock_recv(sock, 1)

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("behaviour", "cid"),
    [
        pytest.param({"cid3": "answer", "cid2": "answer"}, 3, id="the parent of Nitro first"),
        pytest.param({"cid2": "answer"}, 2, id="then the host"),
        pytest.param({"cid3": "wrong", "cid2": "answer"}, 2, id="another byte is no answer"),
        pytest.param({"cid3": "close", "cid2": "answer"}, 2, id="a closed connection is none"),
    ],
)
async def test_who_answers_is_the_parent(behaviour, cid):
    parents = Parents(**behaviour)
    assert await heartbeat(parents, deadline=10) == cid
    assert parents.dialled[0] == (3, 9000, 0.2)
    await parents.aclose()


async def test_dials_again_until_somebody_is_there():
    parents = Parents()
    task = asyncio.create_task(heartbeat(parents, deadline=10))
    while len(parents.dialled) < 3:
        await asyncio.sleep(0.01)
    parents.behaviour[2] = "answer"
    assert await task == 2
    assert [cid for cid, _, _ in parents.dialled[:4]] == [3, 2, 3, 2]
    await parents.aclose()


async def test_gives_up_at_the_deadline():
    began = time.monotonic()
    with pytest.raises(EnclaveError) as caught:
        await heartbeat(Parents(), deadline=0.3)
    assert caught.value.code == "no_parent"
    assert 0.25 < time.monotonic() - began < 5


def test_cmd_is_one_argument_a_line():
    assert parse_arguments(b"/bin/x\n-a\nb c\n") == ("/bin/x", "-a", "b c")
    for bad in (b"", b"\n", b"\xff\n", b"x" * (MAX_FILE + 1)):
        with pytest.raises(ConfigurationError):
            parse_arguments(bad)


def test_env_is_one_variable_a_line():
    assert parse_environment(b"A=1\nB=x=y\nC=\nA=2\n") == {"A": "2", "B": "x=y", "C": ""}
    for bad in (b"A\n", b"=1\n", b"A=\x00\n", b"\xff=1\n"):
        with pytest.raises(ConfigurationError):
            parse_environment(bad)


@given(st.binary(max_size=200))
def test_only_our_errors_come_out_of_bad_files(data):
    for parse in (parse_arguments, parse_environment):
        try:
            parse(data)
        except GeumgoError:
            continue


@pytest.mark.parametrize(
    ("command", "program"),
    [
        pytest.param([HERE, "-B", "-m", "geumgo.enclave"], Program("geumgo.enclave", None, ()), id="usual"),
        pytest.param(
            [HERE, "-m", "geumgo.enclave", "shop.app:app", "-m"],
            Program("geumgo.enclave", None, ("shop.app:app", "-m")),
            id="arguments of the module",
        ),
        pytest.param(["python3", "-BsE", "-X", "utf8", "-m", "x"], Program("x", None, ()), id="flags"),
        pytest.param(
            ["/usr/bin/python3", "/app/main.py", "a"], Program(None, "/app/main.py", ("a",)), id="script"
        ),
        pytest.param(["/usr/bin/python3.99", "-m", "x"], None, id="another Python"),
        pytest.param(["/usr/bin/python2", "-m", "x"], None, id="an old Python"),
        pytest.param(["/bin/sh", "-c", "x"], None, id="no Python"),
        pytest.param([HERE, "-c", "print()"], None, id="code on the command line"),
        pytest.param([HERE, "-"], None, id="standard input"),
        pytest.param([HERE, "-m"], None, id="no module"),
        pytest.param([HERE], None, id="nothing to run"),
    ],
)
def test_what_python_is_to_run(command, program):
    assert python_program(command) == program


def test_the_environment_is_the_images(tmp_path: Path):
    environment = {"GEUMGO_VSOCK_FD": "5", "LD_PRELOAD": "evil", "GEUMGO_ROOT": "/r", "GEUMGO_CMD": "c"}
    path = ["/already/opt/lib"]
    apply_environment(
        {"A": "1", "GEUMGO_VSOCK_FD": "9", "PYTHONPATH": "/opt/app:/opt/lib:rel:"},
        environment,
        tmp_path,
        path,
    )
    assert environment["A"] == "1"
    assert environment["GEUMGO_VSOCK_FD"] == "5"  # the launcher's, not the image's
    assert "LD_PRELOAD" not in environment
    assert "GEUMGO_CMD" not in environment
    assert path == [str(tmp_path / "opt/app"), str(tmp_path / "opt/lib"), "rel", "/already/opt/lib"]


def test_a_folder_that_is_on_the_path_stays_where_it_is(tmp_path: Path):
    path = ["first", str(tmp_path / "opt/lib")]
    apply_environment({"PYTHONPATH": "/opt/lib"}, {}, tmp_path, path)
    assert path == ["first", str(tmp_path / "opt/lib")]


PROBE = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "name": __name__, "a": os.environ.get("A"), "e": sorted(os.environ)}))
"""


def run_init(
    tmp_path: Path, cmd: str, env: str = "", process: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run init's second half: no heartbeat, since there is no vsock here."""
    (tmp_path / "cmd").write_text(cmd)
    (tmp_path / "env").write_text(env)
    code = "import geumgo.enclave.init as i\nasync def beat(way): return 2\ni.heartbeat = beat\ni.main()"
    variables = {"GEUMGO_ROOT": str(tmp_path), "GEUMGO_CMD": str(tmp_path / "cmd")}
    variables["GEUMGO_PROCESS"] = str(tmp_path / "process")
    if process is not None:
        (tmp_path / "process").write_text(process)
    return subprocess.run(
        [sys.executable, "-P", "-c", code],  # as the launcher starts it
        env={**variables, "GEUMGO_ENV": str(tmp_path / "env"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_module_runs_in_the_same_process(tmp_path: Path):
    import json

    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/probe.py").write_text(PROBE)
    done = run_init(tmp_path, f"{HERE}\n-B\n-m\nprobe\nx\n", "A=1\nPYTHONPATH=/opt\n")
    told = json.loads(done.stdout)
    assert (told["argv"], told["name"], told["a"]) == (["x"], "__main__", "1")
    assert "PATH" not in told["e"]


def test_a_script_runs_below_the_images_root(tmp_path: Path):
    import json

    (tmp_path / "main.py").write_text(PROBE)
    assert json.loads(run_init(tmp_path, f"{HERE}\n/main.py\ny\n").stdout)["argv"] == ["y"]


def test_another_program_is_executed_where_that_is_allowed(tmp_path: Path):
    script = tmp_path / "run"
    script.write_text("#!/bin/sh\necho $1 $A\n")
    script.chmod(0o755)
    assert run_init(tmp_path, "/run\nhello\n", "A=b\n").stdout == "hello b\n"


def test_what_cannot_run_is_said(tmp_path: Path):
    done = run_init(tmp_path, "/nowhere\n")
    assert done.returncode == 1
    assert "command_not_runnable" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_init(tmp_path, "")
    assert "cmd is empty" in done.stderr


WORK = "WORKDIR=/work\nUID=101\nGID=102\nGROUPS=5,7\n"


@pytest.mark.parametrize("words", ["-m\nprobe", "probe.py", "/work/probe.py"])
def test_a_program_starts_in_its_working_folder(tmp_path: Path, words: str):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/beside.py").write_text("NAME = 'beside'\n")
    (tmp_path / "work/probe.py").write_text("import os, beside\nprint(os.getcwd(), beside.NAME)\n")
    done = run_init(tmp_path, f"{HERE}\n-B\n{words}\n", process=WORK)
    assert done.stdout.split() == [str(tmp_path / "work"), "beside"], done.stderr


def test_an_isolated_python_does_not_import_from_its_working_folder(tmp_path: Path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/beside.py").write_text("")
    (tmp_path / "work/probe.py").write_text("import beside\n")
    done = run_init(tmp_path, f"{HERE}\n-P\nprobe.py\n", process=WORK)
    assert "No module named 'beside'" in done.stderr


def test_a_missing_working_folder_is_told(tmp_path: Path):
    done = run_init(tmp_path, f"{HERE}\n-m\nprobe\n", process=WORK)
    assert done.returncode
    assert "working folder can't be entered" in done.stderr


def test_the_process_file():
    assert parse_process(WORK.encode()) == "/work"
    assert parse_process(b"GROUPS=\nGID=0\nUID=0\nWORKDIR=/") == "/"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "WORKDIR=/\nUID=0\nGID=0\n",
        WORK + "UID=0\n",
        WORK + "SHELL=/bin/sh\n",
        WORK + "nonsense\n",
        WORK.replace("/work", "work"),
        WORK.replace("/work", "/wo\0rk"),
        WORK.replace("101", "root"),
        WORK.replace("102", "-1"),
        WORK.replace("5,7", "5,"),
        WORK.replace("5,7", "5 7"),
        WORK.replace("/work", "/" + "w" * MAX_FILE),
    ],
)
def test_a_process_file_that_is_not_understood_starts_nothing(text: str):
    with pytest.raises(ConfigurationError):
        parse_process(text.encode())
