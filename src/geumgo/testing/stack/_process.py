"""One child process of the stack: started with a ready line, found again by its number and start time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from geumgo._base import GeumgoError

__all__ = ("Process", "StackError", "Starting", "start")

READY_TIMEOUT = 30.0
"""Seconds that a process may take to say that it is ready."""
MAX_READY_LINE = 64 << 10


class StackError(GeumgoError):
    """Raised when a part of the local stack can't be started, found or stopped."""

    code = "stack"


@dataclass(frozen=True, slots=True)
class Process:
    """A running part. Process numbers are used again, so the start time belongs to the identity."""

    name: str
    role: str
    pid: int
    started: int
    log: str

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        with contextlib.suppress(ChildProcessError, OSError):
            os.waitpid(self.pid, os.WNOHANG)
        return _start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, grace: float = 30.0) -> None:
        """End it: first politely, after `grace` seconds for good. Returns when it is gone."""
        self.signal(signal.SIGTERM)
        if not self.gone(grace):
            self.signal(signal.SIGKILL)
            self.gone(5.0)

    def gone(self, timeout: float) -> bool:
        """Wait until it has ended; False if it has not after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        try:
            handle = os.pidfd_open(self.pid)
        except (OSError, AttributeError):
            return not self.alive
        try:
            while self.alive:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                select.select([handle], [], [], left)
            return True
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Starting:
    """A part that has not said yet that it is ready."""

    process: Process
    output: IO[bytes]

    def ready(self) -> Mapping[str, Any]:
        """Wait for its ready line (one JSON object), once, and return it.

        Raises:
            StackError: it ended or said nothing in time, and is gone; the message has the end of its log.
        """
        with self.output:
            line = _read_line(self.output.fileno(), READY_TIMEOUT)
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if isinstance(said, dict):
            return said
        self.process.stop(0.0)
        log = Path(self.process.log)
        raise StackError(
            f"{self.process.name} did not start", why=_tail(log), fix=f"The whole log is in {log}."
        )


def start(
    name: str, role: str, module: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str]
) -> Starting:
    """Start `python -m module arguments` detached."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    assert child.stdout is not None
    # The child outlives this object on purpose; whoever stops the stack reaps it.
    child.returncode = 0
    started = _start_time(child.pid) or 0  # 0: it has ended already
    return Starting(Process(name, role, child.pid, started, str(log)), child.stdout)


def _read_line(descriptor: int, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_READY_LINE:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            break
        part = os.read(descriptor, 4096)
        if not part:
            break
        line += part
    return line


def _start_time(pid: int) -> int | None:
    """Return the start time in clock ticks since boot, None where there is no such live process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _tail(log: Path, lines: int = 8) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
