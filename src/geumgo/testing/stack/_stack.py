"""The parts of the stack, started one after the other, remembered in a file, stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from geumgo._base import user_folder
from geumgo.testing.stack._pool import StackPool
from geumgo.testing.stack._process import Process, StackError, start

__all__ = ("REFUSED", "Stack", "StackSettings", "default_state")

READY_TIMEOUT = 60.0
"""Seconds until every enclave has its key: launch, heartbeat, imports, key service."""
REFUSED = "access_denied"
"""What an enclave says of itself when the key service answered AccessDeniedException."""
MAX_LOG_TAIL = 1 << 20
"""Bytes of a manager's log that are searched for a failure: more than a minute's requests."""
MAX_SOCKET_PATH = 100
"""Characters of a Unix socket's path, less than Linux's 107, since names are appended."""


def default_state(name: str = "default") -> Path:
    """Return the folder of the stack that `geumgo up` starts."""
    return user_folder(os.environ, "XDG_STATE_HOME", ".local/state") / "geumgo" / name


@dataclass(frozen=True, slots=True)
class StackSettings:
    """How many of what, where.

    Attributes:
        state: keys, image, logs; kept between runs.
        runtime: sockets and `enclave.json` files; a short path, since Unix sockets need one.
        enclaves: managers with one enclave each.
        gateways: gateways on one port; enclave i belongs to gateway i modulo their number.
        sandbox: `auto`, `namespaces` or `landlock`.
    """

    state: Path
    runtime: Path
    enclaves: int = 2
    gateways: int = 2
    backend: str = "process"
    sandbox: str = "auto"
    unsandboxed: bool = False
    debug: bool = False
    memory_mib: int = 512
    cpus: int = 2

    @property
    def keyless(self) -> bool:
        """Whether evidence carries zeros for the PCRs, so that no enclave gets a key."""
        return self.debug or self.unsandboxed


@dataclass(slots=True)
class _Remembered:
    runtime: str
    backend: str
    processes: list[Process] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)


class Stack:
    """A stack under one state folder.

    Every part is remembered in the folder before it is waited for, so that whoever comes after a killed
    process finds it. One thread may stop a stack while another still starts it.
    """

    def __init__(self, settings: StackSettings, *, policies: tuple[str, ...] = ()) -> None:
        if len(str(settings.runtime)) > MAX_SOCKET_PATH - 30:
            raise StackError(
                f"{settings.runtime} is too long for Unix sockets",
                fix="Set XDG_RUNTIME_DIR to a folder of yours with a shorter path.",
            )
        self.settings = settings
        self._policies = policies
        self._file = settings.state / "stack.json"
        self._known = _Remembered(runtime=str(settings.runtime), backend=settings.backend)
        self._guard = threading.Lock()
        self._stopped = False
        with contextlib.suppress(OSError, ValueError):
            self._known.ports = dict(json.loads((settings.state / "ports.json").read_text()))

    @classmethod
    def load(cls, state: Path) -> Stack:
        """Return the stack that was started under `state`.

        Raises:
            StackError: none was.
        """
        try:
            content = json.loads((state / "stack.json").read_text())
            stack = cls(StackSettings(state, Path(content["runtime"]), backend=content["backend"]))
            stack._known.processes = [Process(**entry) for entry in content["processes"]]
        except FileNotFoundError:
            raise StackError(f"no stack was started under {state}", fix="Start one: geumgo up") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StackError(f"{state / 'stack.json'} can't be read ({type(error).__name__})") from None
        return stack

    @property
    def processes(self) -> tuple[Process, ...]:
        """All parts that were started, in the order of their start."""
        return tuple(self._known.processes)

    @property
    def pool(self) -> StackPool:
        """The stack's pool."""
        return StackPool(self.settings.state, f"https://localhost:{self.port('kms')}", self._policies)

    @property
    def address(self) -> str:
        """Where all gateways answer HTTP."""
        return f"http://127.0.0.1:{self.port('http')}"

    @property
    def nsm_state(self) -> Path:
        """The software NSM's keys; `root.pem` in it is the root to trust."""
        return self.settings.state / "nsm"

    def port(self, name: str) -> int:
        """Return the port of `kms`, `http` or `grpc`, chosen at first use and kept."""
        if name not in self._known.ports:
            with _reserved() as number:
                self._known.ports[name] = number
            # Kept between runs: the key service's address is measured, so another port is another pool.
            self.settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.settings.state / "ports.json").write_text(json.dumps(self._known.ports))
        return self._known.ports[name]

    def process(self, name: str) -> Process:
        """Return the part called `name`."""
        for process in self._known.processes:
            if process.name == name:
                return process
        names = ", ".join(process.name for process in self._known.processes)
        raise StackError(f"the stack has no part called {name}", fix=f"Its parts: {names}")

    def refuse_if_running(self) -> None:
        """Raise a StackError if a stack with this state folder runs already."""
        if not self._file.exists():
            return
        alive = [process.name for process in Stack.load(self.settings.state).processes if process.alive]
        if alive:
            raise StackError(
                f"a stack runs already under {self.settings.state}: {', '.join(alive)}",
                fix="Stop it first: geumgo down",
            )

    def start_kms(self) -> Process:
        """Start the KMS emulator."""
        arguments = ["--port", str(self.port("kms")), "--state", str(self.settings.state / "kms")]
        return self._start(
            "kms", "kms", "geumgo.testing.kms", [*arguments, "--nitro-root", str(self._nsm_root())]
        )

    def start_enclave(self, name: str, eif: Path) -> Process:
        """Start a manager that launches `eif`; returns when the manager answers, before the enclave does."""
        settings = self.settings
        arguments = [
            *("--eif", str(eif), "--name", name, "--runtime-dir", str(settings.runtime)),
            *("--backend", settings.backend, "--nsm-state", str(self.nsm_state)),
            *("--memory", str(settings.memory_mib), "--cpus", str(settings.cpus)),
            *("--sandbox", settings.sandbox),
            *("--egress", f"localhost:{self.port('kms')}"),
            *("--credentials-file", str(self.pool.credentials)),
            *(("--debug",) if settings.debug else ()),
            *(("--unsandboxed",) if settings.unsandboxed else ()),
        ]
        return self._start(name, "manager", "geumgo.manager", arguments)

    def start_gateway(self, name: str, enclaves: tuple[str, ...]) -> Process:
        """Start a gateway in front of the named enclaves; all gateways share their two ports."""
        arguments = [
            *("--runtime-dir", str(self.settings.runtime)),
            *("--http", f"127.0.0.1:{self.port('http')}", "--grpc", f"127.0.0.1:{self.port('grpc')}"),
            *(word for enclave in enclaves for word in ("--enclave", enclave)),
        ]
        return self._start(name, "gateway", "geumgo.gateway", arguments)

    def start_enclaves(self) -> list[str]:
        """Start all enclaves from the pool's image and return their names."""
        names = [f"enclave-{number}" for number in range(1, self.settings.enclaves + 1)]
        for name in names:
            self.start_enclave(name, self.pool.eif)
        return names

    def start_gateways(self, enclaves: list[str]) -> list[str]:
        """Start all gateways and return their names."""
        count = self.settings.gateways
        names = [f"gateway-{number}" for number in range(1, count + 1)]
        for number, name in enumerate(names):
            self.start_gateway(name, tuple(enclaves[number::count]))
        return names

    async def enclave_status(self, name: str) -> Mapping[str, Any]:
        """Return what the manager of `name` says of its enclave; empty where it does not answer."""
        path = self.settings.runtime / name / "enclave.sock"
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        try:
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=5
            ) as http:
                listed = (await http.get("/v1/enclaves")).json()
        except (httpx2.HTTPError, ValueError, OSError):
            return {}
        entries = listed.get("enclaves") if isinstance(listed, dict) else listed
        return entries[0] if isinstance(entries, list) and entries else {}

    async def wait_ready(self, names: list[str], timeout: float = READY_TIMEOUT) -> None:
        """Wait until each of the enclaves has its key; where PCRs are zero, until it was refused.

        Raises:
            StackError: one has not, or dies again and again; with what its manager says.
        """
        deadline = time.monotonic() + timeout
        for name in names:
            status: Mapping[str, Any] = {}
            while status.get("enclave_state") != "ready":
                if self.settings.keyless and status.get("reason") == REFUSED:
                    break
                status = await self.enclave_status(name)
                over = status.get("state") == "crash_loop" or time.monotonic() > deadline
                if over or not self.process(name).alive:
                    log = Path(self.process(name).log)
                    state = f"state {status.get('state')}, reason {status.get('reason')}"
                    raise StackError(
                        f"{name} did not become ready",
                        why=_launch_failure(log) or state,
                        fix=f"The whole log is in {log}.",
                    )
                await asyncio.sleep(0.05)

    def stop(self, *names: str) -> None:
        """Stop the named parts, or all, the last started first. A stack that was stopped starts no part again."""
        with self._guard:
            self._stopped = self._stopped or not names
            chosen = [p for p in reversed(self._known.processes) if not names or p.name in names]
        # Gateways drain while their enclaves still answer, enclaves end while the key service is there.
        for role in ("gateway", "manager", "kms"):
            group = [process for process in chosen if process.role == role]
            for process in group:
                process.signal(signal.SIGTERM)
            for process in group:
                process.stop()
                self._forget(process)
                _remove_runtime(Path(self._known.runtime, process.name))
        if not names:
            self._file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                Path(self._known.runtime).rmdir()

    def _nsm_root(self) -> Path:
        from geumgo.testing.nsm import NsmAuthority

        self.nsm_state.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = self.nsm_state / "root.pem"
        root.write_text(NsmAuthority.open(self.nsm_state).root_pem)
        return root

    def _start(self, name: str, role: str, module: str, arguments: list[str]) -> Process:
        log = self.settings.state / "logs" / f"{name}.log"
        with self._guard:
            if self._stopped:
                raise StackError(f"{name} was not started: the stack was stopped", code="stopped")
            for folder in (self.settings.state, self.settings.runtime):
                try:
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                except OSError as error:
                    raise StackError(f"{folder} can't be made: {error.strerror}") from None
            starting = start(name, role, module, arguments, log=log, environment={})
            self._known.processes.append(starting.process)
            self._save()
        try:
            starting.ready()
        except StackError:
            self._forget(starting.process)
            raise
        return starting.process

    def _forget(self, process: Process) -> None:
        with self._guard, contextlib.suppress(ValueError):  # somebody else may have
            self._known.processes.remove(process)
            self._save()

    def _save(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(asdict(self._known), indent=2))
        part.replace(self._file)


def _launch_failure(log: Path) -> str:
    """Return what a manager's log says last of a launch that failed; nothing where it says nothing."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LOG_TAIL))
        for line in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == "enclave_launch_failed":
                    return str(entry["message"])
    return ""


def _remove_runtime(folder: Path) -> None:
    """Remove what an ended part had in the runtime folder."""
    with contextlib.suppress(OSError):
        if any(entry.is_symlink() for entry in folder.iterdir()):
            return  # it was killed, and the link leads the next launcher to the unpacked image
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _reserved() -> Iterator[int]:
    """Yield a free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]
