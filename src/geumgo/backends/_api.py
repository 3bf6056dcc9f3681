"""What every launcher answers: one protocol, whether the enclave is hardware, a microVM or a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from geumgo._base import GeumgoError
from geumgo.vsock import Address

__all__ = (
    "BackendError",
    "EnclaveSpec",
    "Exit",
    "LaunchFailed",
    "Launcher",
    "RunningEnclave",
    "SandboxUnavailable",
    "UnknownBackend",
)


class BackendError(GeumgoError):
    """Raised when an enclave can't be launched or kept.

    BackendError
      ├─ UnknownBackend        no launcher has this name, or it does not take these options
      ├─ LaunchFailed          the image, the machine or the program inside stopped the launch
      └─ SandboxUnavailable    this machine allows none of the process backend's sandboxes
    """

    code = "backend"


class UnknownBackend(BackendError):
    """Raised when a launcher's name or an option is not known."""

    code = "unknown_backend"


class LaunchFailed(BackendError):
    """Raised when a launch does not get as far as the heartbeat."""

    code = "launch_failed"


class SandboxUnavailable(BackendError):
    """Raised when neither namespaces nor Landlock can confine the program."""

    code = "sandbox_unavailable"


@dataclass(frozen=True, slots=True)
class EnclaveSpec:
    """What to launch.

    Attributes:
        name: the enclave's name on this machine; letters, digits, `-`, `_`, `.`.
        eif: the image.
        cid: the vsock CID, or None for a random one of 31 bits.
        memory_mib: memory of the enclave, MiB.
        cpus: CPUs of the enclave.
        debug: console readable, measurements zero in evidence.
        runtime_dir: a folder for this enclave's sockets and files, made if absent (mode 0700).
        options: what only one backend knows; a key that it doesn't know is refused.
    """

    name: str
    eif: Path
    cid: int | None
    memory_mib: int
    cpus: int
    debug: bool
    runtime_dir: Path
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """How an enclave ended.

    Attributes:
        code: the program's exit code where it ended by itself and the backend learns it, else None.
        reason: one line, for a person.
    """

    code: int | None
    reason: str


class RunningEnclave(Protocol):
    """An enclave whose heartbeat came."""

    @property
    def enclave_id(self) -> str:
        """As hardware names enclaves: `i-<instance>-enc<16 hex digits>`."""
        ...

    @property
    def name(self) -> str:
        """The name it was launched under."""
        ...

    @property
    def cid(self) -> int:
        """Its vsock CID."""
        ...

    @property
    def pid(self) -> int:
        """The process on this machine whose end is the enclave's end."""
        ...

    @property
    def sandbox(self) -> str:
        """`hardware`, `microvm`, `namespaces`, `landlock` or `none`."""
        ...

    @property
    def measurements(self) -> Mapping[str, str]:
        """What the image measures to: `HashAlgorithm`, `PCR0`, `PCR1`, `PCR2`, and `PCR8` if signed."""
        ...

    @property
    def debug(self) -> bool:
        """Whether its evidence carries zeros for those."""
        ...

    def address(self, port: int) -> Address:
        """Return where to dial the enclave's `port`."""
        ...

    def console(self) -> AsyncIterator[bytes]:
        """Yield what the enclave prints; ends at once outside debug."""
        ...

    async def wait(self) -> Exit:
        """Wait for the enclave's end; the same answer each time."""
        ...

    async def terminate(self, grace: float) -> Exit:
        """End it: ask, wait up to `grace` seconds, then kill. Idempotent."""
        ...


class Launcher(Protocol):
    """Makes enclaves."""

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    async def launch(self, spec: EnclaveSpec) -> RunningEnclave:
        """Launch an enclave and wait for its heartbeat. Cancelling ends what was started.

        Raises:
            BackendError: it did not get as far as the heartbeat; nothing of it is left.
        """
        ...
