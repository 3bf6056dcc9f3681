"""The launcher process while the program runs: broker, hybrid socket, software NSM, the program's end.

No byte of a connection passes through here: what the program dials or accepts is handed to it as the
connected socket itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.backends._api import SandboxUnavailable
from geumgo.backends.process._child import Child
from geumgo.backends.process._order import MAX_LINE, Ended, Event, Failed, decode_request
from geumgo.vsock.broker import BrokerError, BrokerServer

__all__ = ("DEFAULT_GRACE", "Host", "failure", "reap")

DEFAULT_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL where the launcher itself got a SIGTERM and nobody says how long."""
DIAL_TIMEOUT = 5.0
"""Seconds for a Unix socket of the parent whose backlog is full."""
_PARENTS = (vsock.CID_PARENT, vsock.VMADDR_CID_HOST)


@dataclass(slots=True)
class Host:
    """Serves one program until it ends.

    Attributes:
        child: the program.
        broker: the launcher's end of its vsock.
        uds: the enclave's hybrid vsock socket.
        prepare: called in a thread once the program is on its way; what it raises ends the program.
        tell: sends an event to the manager.
        explain: what may be added to the reason of a kill.
    """

    child: Child
    broker: socket.socket
    uds: Path
    prepare: Callable[[], None]
    tell: Callable[[Event], None]
    explain: Callable[[], str]
    _ending: asyncio.Task[None] | None = None

    async def run(self) -> Event:
        """Serve; return the last event."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.child.pidfd, _resolve, ended)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._terminate, DEFAULT_GRACE)
        broker = BrokerServer(self.broker, self._dial)
        server = vsock.HybridServer(self.uds, self._accept(broker))
        failed: Failed | None = None
        try:
            await server.start()
            failed = await self._until(ended, broker)
        except GeumgoError as error:
            failed = failure(error)
        finally:
            loop.remove_reader(self.child.pidfd)
            _kill(self.child)
            await server.close()
            await broker.aclose()
            if self._ending is not None:
                self._ending.cancel()
        code, reason = await loop.run_in_executor(None, reap, self.child)
        return failed or Ended(code, reason + self.explain())

    async def _until(self, ended: asyncio.Future[None], broker: BrokerServer) -> Failed | None:
        preparing = asyncio.create_task(asyncio.to_thread(self.prepare))
        commands = asyncio.create_task(self._commands())
        broken = asyncio.create_task(broker.wait_closed())
        waiting: set[asyncio.Future[None]] = {ended, preparing, commands, broken}
        try:
            while not ended.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if isinstance(error, BrokerError):
                        return Failed("broker", "the program inside broke the vsock protocol", why=error.what)
                    if error is not None:
                        return failure(error)
                if commands in done:
                    self._terminate(DEFAULT_GRACE)  # the manager is gone, or closed our input
        finally:
            for task in (commands, broken):
                task.cancel()
            # `prepare` can't be stopped; it is hashing at most, and its thread ends by itself.
            await asyncio.gather(commands, broken, preparing, return_exceptions=True)
        return None

    async def _commands(self) -> None:
        """Read the manager's lines; returns at the end of input."""
        reader = asyncio.StreamReader(limit=MAX_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
        )
        try:
            while line := await reader.readline():
                self._terminate(decode_request(line).grace)
        except ValueError:
            return  # a line over the limit: not our manager
        finally:
            transport.close()

    def _terminate(self, grace: float) -> None:
        """SIGTERM now, SIGKILL after `grace` seconds; a shorter grace may follow."""
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().create_task(self._end(max(0.0, grace)))

    async def _end(self, grace: float) -> None:
        with contextlib.suppress(OSError):
            if grace and handles_sigterm(self.child.pid):
                signal.pidfd_send_signal(self.child.pidfd, signal.SIGTERM)
                await asyncio.sleep(grace)
        _kill(self.child)

    def _accept(self, broker: BrokerServer) -> Callable[[int], Awaitable[vsock.HandOver | None]]:
        async def on_connect(port: int) -> vsock.HandOver | None:
            if port not in broker.ports:
                return None

            async def take(client: socket.socket) -> None:
                broker.offer(port, client, vsock.CID_PARENT)

            return take

        return on_connect

    async def _dial(self, cid: int, port: int) -> socket.socket:
        """Connect the program to its parent. Nobody else exists for it: no sibling, no host."""
        if cid not in _PARENTS:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                while True:
                    try:
                        sock.connect(f"{self.uds}_{port}")
                        return sock
                    except BlockingIOError:  # its backlog is full; there is nothing to wait on
                        await asyncio.sleep(0.01)
        except FileNotFoundError:
            sock.close()
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)) from None
        except BaseException:
            sock.close()
            raise


def failure(error: BaseException) -> Failed:
    """Return the event for an error; of a foreign one only its type."""
    if isinstance(error, GeumgoError):
        kind = "sandbox" if isinstance(error, SandboxUnavailable) else "launch"
        return Failed(error.code, error.what, error.why, error.fix, error.retryable, kind)
    return Failed("internal", f"the launcher process failed ({type(error).__name__})")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def handles_sigterm(pid: int) -> bool:
    """Whether the program has a handler: as process 1 of a namespace it would never notice without."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    except (OSError, ValueError):
        pass
    return False


def _kill(child: Child) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def reap(child: Child) -> tuple[int | None, str]:
    """Wait for the program's end and return its exit code, if it has one, and a line about it."""
    try:
        _, status = os.waitpid(child.pid, 0)
    except ChildProcessError:
        return None, "the program ended"
    finally:
        os.close(child.pidfd)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name if os.WTERMSIG(status) < 32 else os.WTERMSIG(status)
        return None, f"the program was ended by {name}"
    code = os.waitstatus_to_exitcode(status)
    return code, f"the program ended with code {code}"


def serve_in_thread(target: Callable[[], None]) -> None:
    """Run `target` beside the event loop until the process ends."""
    threading.Thread(target=target, daemon=True).start()
