"""The program inside an enclave, put together: configuration, security module, server, start, end."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geumgo._base import GeumgoError
from geumgo.enclave._access import Access
from geumgo.enclave._attester import Attester
from geumgo.enclave._clock import TrustedClock
from geumgo.enclave._control import ControlLink
from geumgo.enclave._dispatch import Dispatcher
from geumgo.enclave._errors import ConfigurationError
from geumgo.enclave._events import exception_name, word
from geumgo.enclave._keystore import KeyService, KeyStore
from geumgo.enclave._limits import MAX_CONFIGURATION_BYTES, Limits
from geumgo.enclave._log import EventLog
from geumgo.enclave._quiet import hush, watch_loop
from geumgo.enclave._server import Server
from geumgo.enclave._startup import Lifecycle, Recipient, become_ready
from geumgo.enclave._workers import Workers
from geumgo.enclave.app import Enclave
from geumgo.enclave.context import PolicyCache, Services
from geumgo.keys import KmsClient, MeasuredConfiguration
from geumgo.nitro import NsmClient, open_nsm
from geumgo.vsock import ENCLAVE_PORT
from geumgo.vsock.provider import Accepting, provider

if TYPE_CHECKING:
    from geumgo.channel import Settings
    from geumgo.keys import KmsSettings

__all__ = (
    "CONFIGURATION_PATH",
    "DEFAULT_APP",
    "SWITCH_INTERVAL",
    "EnclaveProgram",
    "load_apps",
    "main",
    "read_configuration",
)

CONFIGURATION_PATH = "etc/geumgo/measured.json"
"""Where the measured configuration lies, below the image's root."""
SWITCH_INTERVAL = 0.001
"""Seconds that a computing thread may keep the loop waiting; Python's own 0.005 doubles the median latency."""
DEFAULT_APP = "geumgo.enclave.operations:app"
"""What runs where no program is named."""


def read_configuration(root: Path) -> MeasuredConfiguration:
    """Return the image's measured configuration.

    Raises:
        GeumgoError: it isn't there or can't be trusted.
    """
    try:
        with open(root / CONFIGURATION_PATH, "rb") as file:
            data = file.read(MAX_CONFIGURATION_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"the image has no readable /{CONFIGURATION_PATH} ({error.strerror})",
            fix="Build the image with `geumgo image build` from a pool's configuration.",
            code="configuration_missing",
        ) from None
    return MeasuredConfiguration.from_json(data)


def load_apps(names: Sequence[str]) -> Enclave:
    """Return one program with the operations of all `module:attribute` names.

    Raises:
        ConfigurationError: a name has another shape, or doesn't lead to an :class:`Enclave`.
    """
    whole = Enclave()
    for name in names or (DEFAULT_APP,):
        module, colon, attribute = name.partition(":")
        if not colon or not module or not attribute:
            raise ConfigurationError(
                f"{name!r} does not name a program", fix="Write module:app.", code="program_missing"
            )
        try:
            app = getattr(importlib.import_module(module), attribute, None)
        except GeumgoError:
            raise
        except Exception as error:  # whatever an application's module does when it is imported
            raise ConfigurationError(
                f"{module!r} can't be imported ({type(error).__name__})", code="program_missing"
            ) from None
        if not isinstance(app, Enclave):
            raise ConfigurationError(
                f"{name!r} is no geumgo.enclave.Enclave",
                fix="Write `app = Enclave()` in the module.",
                code="program_missing",
            )
        whole.include(app)
    return whole


class EnclaveProgram:
    """One enclave's program. Make it inside a running event loop.

    Args:
        app: the operations.
        configuration: the measured configuration, or the error that says why there is none to use: then
            the enclave serves `describe` only, so that a person learns the reason.
        nsm: the security module.
        limits: bounds.
        settings: bounds of channel connections.
        key_service: stands in for the AWS client that the configuration describes.
    """

    def __init__(
        self,
        app: Enclave,
        configuration: MeasuredConfiguration | GeumgoError,
        nsm: NsmClient,
        *,
        limits: Limits | None = None,
        settings: Settings | None = None,
        key_service: KeyService | None = None,
    ) -> None:
        self._began = time.monotonic()
        self._limits = limits = limits or Limits()
        self._clock = TrustedClock()
        self._workers = Workers(limits.threads, "work")
        self._processor = Workers(1, "compute")
        self._background: set[asyncio.Task[None]] = set()
        self._configuration: MeasuredConfiguration | None = None
        self.log = EventLog(self._clock, limits.log_queue)
        self.lifecycle = Lifecycle()
        self.prepared = asyncio.Event()
        """Set when the enclave is ready and what the first requests need is loaded."""
        access = None
        if isinstance(configuration, MeasuredConfiguration):
            try:
                access = Access(configuration, app.operations)
                self._configuration = configuration
            except GeumgoError as error:
                configuration = error
        if isinstance(configuration, GeumgoError):
            self.lifecycle.failed(word(configuration.code))
            self.log.emit("bad_configuration", reason=word(configuration.code))
        known = self._configuration
        self._attester = Attester(
            nsm,
            self._clock,
            pool=known.pool if known else "",
            configuration=known.digest() if known else bytes(48),
            limits=limits,
        )
        self._control = ControlLink(known.egress if known else (), limits, self._clock.now_ms)
        self._recipient = Recipient(self._attester)
        if key_service is None and known and known.kms:
            key_service = self._client(known.kms)
        self._keys = KeyStore(key_service, known.purposes if known else {}, limits, self.log)
        services = Services(
            self._clock, self._keys, self._workers, self._processor, PolicyCache(limits.policies), limits
        )
        self.server = Server(
            pool=known.pool if known else "",
            dispatcher=Dispatcher(access, self.lifecycle, services, self.log, self._raised)
            if access
            else None,
            operations={
                name: {"open": name in access.open, "idempotent": operation.idempotent}
                for name, operation in access.operations.items()
            }
            if access
            else {},
            attester=self._attester,
            control=self._control,
            lifecycle=self.lifecycle,
            log=self.log,
            limits=limits,
            settings=settings,
        )

    def __repr__(self) -> str:
        return f"<EnclaveProgram {self.lifecycle!r}>"

    def _client(self, kms: KmsSettings) -> KmsClient:
        return KmsClient(
            endpoint=kms.endpoint,
            region=kms.region,
            ca_pem=kms.ca or None,
            credentials=self._control.credentials,
            dial=self._control.dial,
            clock=self._clock,
            recipient=self._recipient,
            timeout=self._limits.kms,
        )

    def _raised(self, error: BaseException) -> None:
        if self._attester.debug:
            traceback.print_exception(error)

    async def run(self, listener: Accepting) -> int:
        """Serve until the parent asks for an end; return how many requests were cut off by then.

        Args:
            listener: where the parent's connections arrive.
        """
        watch_loop(asyncio.get_running_loop(), self.log, debug=self._attester.debug)
        self._start(self._keep_time())
        if self._configuration is not None:
            self._start(self._become_ready(self._configuration))
        serving = asyncio.create_task(self.server.serve(listener))
        stopping = asyncio.create_task(self.server.stopping.wait())
        self.log.emit(
            "started",
            milliseconds=int((time.monotonic() - self._began) * 1000),
            operations=len(self.server.describe()["operations"]),
            debug=self._attester.debug,
        )
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            listener.close()
            return await self.server.stop()
        finally:
            tasks = [serving, stopping, *self._background]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._keys.aclose()
            self._attester.close()
            self._workers.close()
            self._processor.close()

    def stop(self) -> None:
        """Ask for an end, as the parent does."""
        self.server.stopping.set()

    async def synchronise(self) -> None:
        """Set the clock before anything else; a module that fails is asked again later."""
        try:
            self.log.emit("clock_set", moved_ms=await self._attester.synchronise())
        except GeumgoError as error:
            self.log.emit("nsm_failed", reason=word(error.code))

    @property
    def debug(self) -> bool:
        """Whether the security module says that this is a debug enclave."""
        return self._attester.debug

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(self._watched(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _watched(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:
            self.log.emit("internal_error", place="background", exception=exception_name(error))

    async def _become_ready(self, configuration: MeasuredConfiguration) -> None:
        await become_ready(
            configuration=configuration,
            attester=self._attester,
            clock=self._clock,
            control=self._control,
            keys=self._keys,
            lifecycle=self.lifecycle,
            log=self.log,
            limits=self._limits,
        )
        # Before the first caller needs them: the engine's tables, and keys of purposes.
        if {"deidentify", "reidentify"} & configuration.operations.keys():
            await self._workers.run(importlib.import_module, "geumgo.deid")
        for purpose in configuration.purposes:
            try:
                await self._keys.purposes((purpose,))
            except GeumgoError:
                continue  # logged; asked for again when it is needed
        self.prepared.set()

    async def _keep_time(self) -> None:
        def moved(milliseconds: int) -> None:
            self.log.emit("clock_set", moved_ms=milliseconds)

        def failed(error: Exception) -> None:
            reason = error.code if isinstance(error, GeumgoError) else "internal"
            self.log.emit("nsm_failed", reason=word(reason))

        await self._attester.keep_time(moved, failed)


async def _serve(names: Sequence[str]) -> None:
    configuration: MeasuredConfiguration | GeumgoError
    app = Enclave()
    try:
        app = load_apps(names)
        configuration = read_configuration(Path(os.environ.get("GEUMGO_ROOT", "/")))
    except GeumgoError as error:
        configuration = error
    program = EnclaveProgram(app, configuration, NsmClient(open_nsm()))
    await program.synchronise()
    hush(debug=program.debug)
    sys.setswitchinterval(SWITCH_INTERVAL)
    if program.debug:
        program.log.watch = lambda code, fields: print(code, fields, file=sys.stderr, flush=True)
        if isinstance(configuration, GeumgoError):
            print(configuration.diagnostics(), file=sys.stderr, flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, program.stop)
    settling = asyncio.create_task(_settle(program))
    await program.run(await provider().listen(_port(os.environ.get("GEUMGO_ENCLAVE_PORT"))))
    settling.cancel()


async def _settle(program: EnclaveProgram) -> None:
    await program.prepared.wait()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections look at requests only


def _port(text: str | None) -> int:
    if text is None:
        return ENCLAVE_PORT
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 1 << 32:
        raise ConfigurationError("GEUMGO_ENCLAVE_PORT of the image's environment is no vsock port")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; `--schemas` prints what the operations take and give instead.

    Args:
        arguments: `module:app` names; those of `GEUMGO_APP` in the image's environment where there are none,
            and the built-in operations where that is empty too.

    Returns:
        The exit status: 0 after a graceful end, 1 after a failure at start.
    """
    names = list(sys.argv[1:] if arguments is None else arguments)
    if names[:1] == ["--schemas"]:
        return _print_schemas(names[1:])
    try:
        asyncio.run(_serve(names or os.environ.get("GEUMGO_APP", "").split()))
    except GeumgoError as error:
        # Before anything was served: this is about the image and the launcher.
        print(error.diagnostics(), file=sys.stderr)
        return 1
    return 0


def _print_schemas(names: Sequence[str]) -> int:
    import msgspec

    try:
        schemas = load_apps(names).schemas()
    except GeumgoError as error:
        print(error.diagnostics(), file=sys.stderr)
        return 1
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(schemas), indent=2).decode() + "\n")
    return 0
