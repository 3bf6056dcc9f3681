"""`enclave.json`: what the manager tells the other containers of the pod, above all a gateway."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from geumgo._base import Clock

__all__ = ("EnclaveState", "State", "StateFile")


class State(StrEnum):
    """Where an enclave is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    CRASH_LOOP = "crash_loop"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EnclaveState:
    """The content of `enclave.json`; `address` is how a container that shares the folder dials it."""

    name: str
    state: State
    backend: str
    sandbox: str = ""
    cid: int | None = None
    port: int = 7007
    address: str | None = None
    debug: bool = False
    pid: int | None = None
    measurements: Mapping[str, str] | None = None
    restarts: int = 0
    reason: str | None = None


class StateFile:
    """Writes `enclave.json` so that a reader sees the old content or the new, never half of it."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    def write(self, state: EnclaveState) -> None:
        """Replace the file.

        Raises:
            OSError: it can't be written.
        """
        content = {"version": 1, **asdict(state), "updated_ms": self._clock.now_ms()}
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".enclave.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            # Other containers of the pod run as other users and share the folder.
            Path(name).chmod(0o644)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Take the file away: there is no enclave any more."""
        self.path.unlink(missing_ok=True)
