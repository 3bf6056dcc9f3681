"""The manager's side: starts a launcher process and follows it. Imports neither image nor NSM code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.backends._api import BackendError, EnclaveSpec, Exit, LaunchFailed, SandboxUnavailable
from geumgo.backends._heartbeat import heartbeat_address, wait_for_heartbeat
from geumgo.backends.process import _tree
from geumgo.backends.process._order import (
    MAX_LINE,
    Ended,
    Event,
    Failed,
    Measured,
    Order,
    Started,
    Terminate,
    decode_event,
    encode,
)
from geumgo.backends.process._paths import VSOCK_SOCKET
from geumgo.vsock import Address

__all__ = ("HEARTBEAT_TIMEOUT", "ProcessEnclave", "ProcessLauncher")

HEARTBEAT_TIMEOUT = 60.0
"""Seconds from the order to the heartbeat. It takes about one; a loaded machine is given time."""
KILL_AFTER = 5.0
"""Seconds over the grace after which the launcher process itself is killed, and the program with it."""
MAX_CONSOLE_TAIL = 2048
"""Bytes of the console that a failed launch in debug shows."""
MAX_CONSOLE_QUEUE = 64
"""Chunks of 64 KiB of the console that wait for a reader; then the oldest go."""
_OPTIONS = frozenset(("heartbeat_timeout", "instance_id", "region", "role_arn"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z", re.ASCII)
_FIRST_CID, _CIDS = 16, (1 << 31) - 16


class ProcessLauncher:
    """Launches an EIF's root file system as a sandboxed process of this machine.

    It shows the flow, not the hardware's isolation; `docs/process-sandbox.md` says what it holds against.

    Args:
        nsm_state: folder of the software NSM's root key, which stands where hardware would.
        sandbox: `auto` (the best that works), `namespaces` or `landlock`.
        unsandboxed: no sandbox at all; evidence carries zeros, so that no key policy admits it.
    """

    name = "process"

    def __init__(self, nsm_state: Path, *, sandbox: str = "auto", unsandboxed: bool = False) -> None:
        self._nsm_state = Path(nsm_state)
        self._sandbox = sandbox
        self._unsandboxed = unsandboxed

    async def launch(self, spec: EnclaveSpec) -> ProcessEnclave:
        """Launch an enclave and wait for its heartbeat. Cancelling ends what was started.

        `spec.options` may have `heartbeat_timeout` (seconds), `instance_id`, `role_arn` and `region`.

        Raises:
            SandboxUnavailable: this machine allows no sandbox.
            LaunchFailed: anything else; the message has the reason, in debug with the console's last lines.
        """
        order, timeout = self._order(spec)
        uds = Path(order.runtime_dir) / VSOCK_SOCKET
        try:
            uds.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            listener = await vsock.listen(heartbeat_address(uds))
        except vsock.VsockError as error:
            code = "in_use" if isinstance(error, vsock.ListenFailed) else error.code
            raise LaunchFailed(error.what, why=error.why, fix=error.fix, code=code) from None
        except OSError as error:
            raise LaunchFailed(f"{uds.parent} can't be made ({error.strerror})") from None
        try:
            enclave = await ProcessEnclave.start(spec, order, uds)
            try:
                await enclave.until_heartbeat(listener, timeout)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(enclave.terminate(0)))
                raise
        finally:
            listener.close()
        return enclave

    def _order(self, spec: EnclaveSpec) -> tuple[Order, float]:
        unknown = spec.options.keys() - _OPTIONS
        if unknown or not _NAME.match(spec.name):
            raise LaunchFailed(
                f"the process backend does not know the option {sorted(unknown)[0]!r}"
                if unknown
                else "an enclave's name is letters, digits, '-', '_' and '.', at most 64",
                code="bad_spec",
            )
        if spec.memory_mib < 1 or spec.cpus < 1:
            raise LaunchFailed("an enclave needs memory and a CPU", code="bad_spec")
        try:
            timeout = float(spec.options.get("heartbeat_timeout", HEARTBEAT_TIMEOUT))
        except ValueError:
            raise LaunchFailed("heartbeat_timeout is not a number of seconds", code="bad_spec") from None
        order = Order(
            name=spec.name,
            eif=os.path.abspath(spec.eif),
            runtime_dir=os.path.abspath(spec.runtime_dir),
            nsm_state=os.path.abspath(self._nsm_state),
            cid=_FIRST_CID + secrets.randbelow(_CIDS) if spec.cid is None else spec.cid,
            memory_mib=spec.memory_mib,
            cpus=spec.cpus,
            debug=spec.debug,
            sandbox=self._sandbox,
            unsandboxed=self._unsandboxed,
            role_arn=spec.options.get("role_arn", ""),
            instance_id=spec.options.get("instance_id", ""),
            region=spec.options.get("region", ""),
        )
        return order, timeout


class ProcessEnclave:
    """A launcher process and the program that it runs. Made by :class:`ProcessLauncher`.

    Attributes:
        refused: why a better sandbox was not had; empty if it was.
        cgroup: whether a cgroup limits its memory besides the rlimits.
    """

    def __init__(
        self, spec: EnclaveSpec, order: Order, uds: Path, process: asyncio.subprocess.Process
    ) -> None:
        self.name = spec.name
        self.debug = spec.debug
        self.cid = order.cid
        self.enclave_id = ""
        self.pid = 0
        self.sandbox = ""
        self.refused = ""
        self.cgroup = False
        self.measurements: Mapping[str, str] = {}
        self._uds = uds
        self._process = process
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._failed: Failed | None = None
        self._stopping = False
        self._console: _Console | None = None
        self._following = loop.create_task(self._follow())

    @classmethod
    async def start(cls, spec: EnclaveSpec, order: Order, uds: Path) -> ProcessEnclave:
        """Start the launcher process and give it its order."""
        console_read, console_write = os.pipe() if spec.debug else (-1, -1)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "geumgo.backends.process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(console_write,) if spec.debug else (),
                # Ctrl-C on a terminal is the manager's to act on; the enclave ends after its requests.
                start_new_session=True,
                limit=MAX_LINE,
            )
        except OSError as error:
            if spec.debug:
                os.close(console_read)
            raise LaunchFailed(f"the launcher process can't be started ({error.strerror})") from None
        finally:
            if spec.debug:
                os.close(console_write)
        order = msgspec.structs.replace(order, console_fd=console_write)
        enclave = cls(spec, order, uds, process)
        if spec.debug:
            enclave._console = await _Console.open(console_read)
        assert process.stdin is not None
        process.stdin.write(encode(order))
        return enclave

    def __repr__(self) -> str:
        state = "ended" if self._following.done() else self.sandbox or "starting"
        return f"<ProcessEnclave {self.name} cid {self.cid} pid {self.pid} {state}>"

    def address(self, port: int) -> Address:
        """Return where to dial the enclave's `port`."""
        return Address.hybrid(self._uds, port)

    async def console(self) -> AsyncIterator[bytes]:
        """Yield what the program prints, from the start as far as it is kept; ends at once outside debug."""
        if self._console is not None:
            async for chunk in self._console.chunks():
                yield chunk

    async def wait(self) -> Exit:
        """Wait for the enclave's end; the same answer each time."""
        return await asyncio.shield(self._following)

    async def terminate(self, grace: float) -> Exit:
        """End it: SIGTERM if the program handles that, SIGKILL after `grace` seconds. Idempotent."""
        self._stopping = True
        stdin = self._process.stdin
        if stdin is not None and not self._following.done():
            with contextlib.suppress(OSError, RuntimeError):
                stdin.write(encode(Terminate(grace)))
            try:
                async with asyncio.timeout(grace + KILL_AFTER):
                    await self.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        return await self.wait()

    async def until_heartbeat(self, listener: vsock.Listener, timeout: float) -> None:
        """Wait until the program has answered for itself and the image is measured.

        Raises:
            BackendError: it ended first, or did not in time.
        """
        alive = asyncio.create_task(self._alive(listener))
        try:
            await asyncio.wait((alive, self._following), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            beaten = alive.done()
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)
        if self._following.done():
            raise self._error(self._following.result())
        if not beaten:
            raise LaunchFailed(
                f"no heartbeat within {timeout:g} s",
                why=self._tail(),
                fix="Give it more memory or time (option heartbeat_timeout); with debug its console is shown.",
                code="no_heartbeat",
                retryable=True,
            )
        alive.result()

    async def _alive(self, listener: vsock.Listener) -> None:
        await wait_for_heartbeat(listener)
        await asyncio.shield(self._ready)

    def _error(self, ended: Exit) -> BackendError:
        failed = self._failed
        if failed is None:
            return LaunchFailed(
                f"the enclave ended before its heartbeat: {ended.reason}",
                why=self._tail(),
                fix="" if self.debug else "Launch it with debug to see its console.",
                code="ended_early",
            )
        kind = SandboxUnavailable if failed.kind == "sandbox" else LaunchFailed
        return kind(
            failed.what,
            why=failed.why or self._tail(),
            fix=failed.fix,
            code=failed.code,
            retryable=failed.retryable,
        )

    def _tail(self) -> str:
        if self._console is None:
            return ""
        text = self._console.tail().decode("utf-8", "replace").strip()
        return f"Its console ends with:\n{text}" if text else "Its console is empty."

    async def _follow(self) -> Exit:
        """Read events until the launcher process has ended."""
        stdout = self._process.stdout
        assert stdout is not None
        last: Ended | None = None
        with contextlib.suppress(ValueError, GeumgoError):
            while line := await stdout.readline():
                event = decode_event(line)
                last = event if isinstance(event, Ended) else last
                self._take(event)
        code = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._console is not None:
            await self._console.finish()
        _tree.clear(self._uds.parent)  # if the launcher could not; the program is dead with it
        if self._failed is not None:
            return Exit(None, self._failed.what)
        if last is not None:
            return Exit(last.code, "terminated" if self._stopping and last.code is None else last.reason)
        return Exit(None, "terminated" if self._stopping else f"the launcher process ended ({code})")

    def _take(self, event: Event) -> None:
        match event:
            case Started():
                self.pid, self.sandbox = event.pid, event.sandbox
                self.refused, self.cgroup = event.refused, event.cgroup
            case Measured():
                self.enclave_id, self.measurements = event.enclave_id, event.measurements
                if not self._ready.done():
                    self._ready.set_result(None)
            case Failed():
                self._failed = event


class _Console:
    """What a debug enclave prints: read always, so that it never blocks; kept up to a limit."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self._reader = reader
        self._transport = transport
        self._kept: deque[bytes] = deque(maxlen=MAX_CONSOLE_QUEUE)
        self._last = b""
        self._more = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(cls, fd: int) -> _Console:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
        )
        return cls(reader, transport)

    async def _read(self) -> None:
        while chunk := await self._reader.read(1 << 16):
            self._kept.append(chunk)
            self._last = (self._last + chunk)[-MAX_CONSOLE_TAIL:]
            self._more.set()
        self._transport.close()

    def tail(self) -> bytes:
        """Return the last bytes that were printed."""
        return self._last

    async def finish(self) -> None:
        """Wait until everything that was printed has been read."""
        await self._task
        self._more.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield chunks until the end; one reader at a time."""
        while True:
            while self._kept:
                yield self._kept.popleft()
            if self._task.done():
                return
            self._more.clear()
            await self._more.wait()
