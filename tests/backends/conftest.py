"""Real enclaves of the process backend: an image from this machine's Python, and a program that obeys tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geumgo import vsock
from geumgo.backends import EnclaveSpec
from geumgo.backends.process import ProcessEnclave, ProcessLauncher, probe
from geumgo.backends.process._seccomp import confined
from geumgo.backends.process._syscalls import this_machine
from geumgo.image import build_enclave_image

HERE = Path(__file__).parent
PORT = 7007
CONNECT_DEADLINE = 20.0

RunInside = Callable[..., Awaitable[Any]]
Launch = Callable[..., Awaitable[ProcessEnclave]]


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine may enter; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory(prefix="geumgo-tests-") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def build_image(output: Path, cache: Path, **options: Any) -> Path:
    files = {f"opt/geumgo/lib/{name}.py": HERE / "inside" / f"{name}.py" for name in ("probe_app", "attacks")}
    build_enclave_image(
        output=output,
        configuration=b"{}",
        cache=cache,
        host_files=True,
        app_files=files,
        **{"module": "probe_app", **options},
    )
    output.chmod(0o644)
    return output


@pytest.fixture(scope="session")
def cache(open_folder: Path) -> Path:
    return open_folder / "cache"


@pytest.fixture(scope="session")
def image(open_folder: Path, cache: Path) -> Path:
    return build_image(open_folder / "probe.eif", cache)


@pytest.fixture(scope="session")
def crashing_image(open_folder: Path, cache: Path) -> Path:
    return build_image(open_folder / "crash.eif", cache, module="no_such_module", env={"PROBE_CRASH": "1"})


@pytest.fixture(scope="session")
def broken_image(open_folder: Path, cache: Path) -> Path:
    """An image whose Python finds no library: it ends before anything of ours runs."""
    return build_image(open_folder / "broken.eif", cache, env={"PYTHONHOME": "/nonexistent"})


@pytest.fixture(scope="session")
def works() -> dict[str, str | None]:
    return probe()


@pytest.fixture(params=("namespaces", "landlock"))
def sandbox(request: pytest.FixtureRequest, works: dict[str, str | None]) -> str:
    if works[request.param] is not None:
        pytest.skip(f"this machine refuses the sandbox {request.param}: {works[request.param]}")
    return str(request.param)


@pytest.fixture
async def launch(image: Path, tmp_path: Path) -> AsyncIterator[Launch]:
    """Launch enclaves; they end with the test."""
    started: list[ProcessEnclave] = []

    async def start(name: str = "one", *, eif: Path = image, **options: Any) -> ProcessEnclave:
        how = {key: options.pop(key) for key in ("sandbox", "unsandboxed") if key in options}
        spec = {"cid": None, "memory_mib": 512, "cpus": 1, "debug": False, **options}
        launcher = ProcessLauncher(tmp_path / "nsm", **how)
        enclave = await launcher.launch(EnclaveSpec(name, eif, runtime_dir=tmp_path / name, **spec))
        started.append(enclave)
        return enclave

    yield start
    for enclave in started:
        await enclave.terminate(0)


@pytest.fixture
def run_inside() -> RunInside:
    """Run code in an enclave: `await run_inside(enclave, code, name=value)` returns its `result`."""

    async def run(enclave: ProcessEnclave, code: str, **arguments: Any) -> Any:
        return await ask(enclave.address(PORT), code, arguments)

    return run


async def ask(address: vsock.Address, code: str, arguments: dict[str, Any]) -> Any:
    sock = await _connect(address)
    loop = asyncio.get_running_loop()
    with sock:
        text = json.dumps({"code": code, "arguments": arguments}).encode()
        await loop.sock_sendall(sock, len(text).to_bytes(4, "big") + text)
        data = b""
        while chunk := await loop.sock_recv(sock, 1 << 16):
            data += chunk
    reply = json.loads(data[4:])
    assert "error" not in reply, reply["error"]
    return reply["result"]


async def _connect(address: vsock.Address) -> socket.socket:
    """Connect as soon as the program listens: the heartbeat comes before it."""
    async with asyncio.timeout(CONNECT_DEADLINE):
        while True:
            with contextlib.suppress(vsock.VsockError):
                return await vsock.connect(address)
            await asyncio.sleep(0.02)


@pytest.fixture
def allowed_numbers() -> list[int]:
    """The system call numbers that the confined list has a rule for."""
    machine = this_machine()
    assert machine is not None
    names = confined(pid=1, exec_fd=1, links=True)
    return [machine.numbers[name] for name in names if name in machine.numbers]


@pytest.fixture
def host(open_folder: Path) -> Iterator[dict[str, Any]]:
    """Things of the host that anybody may use, for an enclave to try; checked to be as they were afterwards."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o777)
    (folder / "file").write_text("host secret")
    (folder / "file").chmod(0o666)
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o777)
    (folder / "link").symlink_to("file")
    path = folder / "socket"
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stream.bind(str(path))
    path.chmod(0o777)
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = f"geumgo-test-{os.getpid()}"
    abstract.bind("\0" + name)
    tcp = socket.create_server(("127.0.0.1", 0))
    for one in (stream, abstract, tcp):
        one.setblocking(False)
    victim = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    before = _snapshot(folder)
    yield {
        "file": str(folder / "file"),
        "folder": str(folder),
        "program": str(folder / "program"),
        "socket": str(path),
        "abstract": name,
        "port": tcp.getsockname()[1],
        "pids": [victim.pid, os.getpid()],
    }
    assert _snapshot(folder) == before
    assert victim.poll() is None
    victim.communicate()
    for one in (stream, abstract):
        with pytest.raises(BlockingIOError):
            one.recv(1)
        one.close()
    with pytest.raises(BlockingIOError):
        tcp.accept()
    tcp.close()


def _snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for entry in sorted(folder.iterdir()):
        status = entry.lstat()
        content = entry.read_bytes() if entry.is_file() else b""
        found[entry.name] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns, content)
    return found


ORDINARY_USER = 31337
"""Some user of this machine that is not root; no such account need exist."""


class Driven:
    """A driver process: `told` is what it said about its enclave."""

    def __init__(self, process: subprocess.Popen[bytes], told: dict[str, Any]) -> None:
        self.process = process
        self.told = told


Drive = Callable[..., Driven]


@pytest.fixture
def drive(image: Path, open_folder: Path) -> Iterator[Drive]:
    """Launch an enclave from another process: `drive(refuse="namespaces", user=True, sandbox="auto")`."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*, refuse: str = "", user: bool = False, under: tuple[str, ...] = (), **order: Any) -> Driven:
        folder = Path(tempfile.mkdtemp(dir=open_folder))
        python, environment = sys.executable, dict(os.environ)
        options: dict[str, Any] = {}
        if user:
            python, environment = _python_for_others()
            if os.geteuid() == 0:
                os.chown(folder, ORDINARY_USER, ORDINARY_USER)
                options = {"user": ORDINARY_USER, "group": ORDINARY_USER, "extra_groups": ()}
                environment["HOME"] = str(folder)
        command = [
            python,
            str(HERE / "driver.py"),
            json.dumps({"eif": str(image), "folder": str(folder), **order}),
        ]
        if refuse:
            command = [python, str(HERE / "refuse.py"), refuse, *command]
        process = subprocess.Popen(
            [*under, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
            **options,
        )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the driver ended with {process.wait()}"
        return Driven(process, json.loads(line))

    yield start
    for process in running:
        process.communicate(timeout=30)


def _python_for_others() -> tuple[str, dict[str, str]]:
    """Return a Python of our version that another user may run, and an environment with our packages."""
    sources = Path(__file__).parents[2] / "src"
    packages = [place for place in sys.path if place.endswith("site-packages")]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join((str(sources), *packages)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    real = Path(os.path.realpath(sys.executable))
    for candidate in (real, Path(f"/usr/bin/python3.{sys.version_info.minor}")):
        folders = (*candidate.parents, sources, *sources.parents, *map(Path, packages))
        with contextlib.suppress(OSError):
            if candidate.exists() and all(place.stat().st_mode & 0o001 for place in folders):
                return str(candidate), environment
    if os.geteuid() != 0:
        return sys.executable, environment
    pytest.skip("no Python of this version that an ordinary user may run")
