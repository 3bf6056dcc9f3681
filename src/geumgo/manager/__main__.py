"""`python -m geumgo.manager`: the sidecar's program."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge

from geumgo._base import GeumgoError, SystemClock, forbid_core_dumps
from geumgo.api import (
    ApiSettings,
    EdgeMetrics,
    HttpServer,
    JsonLog,
    configure_logging,
    settings_from_environment,
)
from geumgo.backends import EnclaveSpec, launcher
from geumgo.manager._backend import OneEnclave
from geumgo.manager._control import ControlHandler, EnvironmentCredentials, FileCredentials
from geumgo.manager._egress import Destination, Egress, load_allowlist, parse_destination
from geumgo.manager._state_file import EnclaveState, StateFile
from geumgo.manager._supervisor import Supervisor

DRAIN_SECONDS = 10.0
"""For requests under way at a stop; the enclave's own end comes after, all within Kubernetes' 30 s."""
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options; argparse ends the process with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="geumgo manager",
        description="Launch one enclave, supervise it, and serve its API to the pod.",
        epilog="Example: geumgo manager --eif enclave.eif --name app --runtime-dir /run/geumgo --memory 512 --cpus 2",
    )
    add = parser.add_argument
    add("--eif", type=Path, required=True, help="enclave image file")
    add("--name", default="enclave", help="the enclave's name; its files go to RUNTIME_DIR/NAME")
    add("--runtime-dir", type=Path, default=Path("/run/geumgo"))
    add("--backend", default="process", help="what launches it")
    add("--memory", type=int, default=512, metavar="MIB")
    add("--cpus", type=int, default=2)
    add(
        "--enclave-cid",
        type=int,
        default=_environment_cid(),
        help="vsock CID (default: ENCLAVE_CID or random)",
    )
    add("--listen", metavar="HOST:PORT", help="also serve the API on this address")
    add(
        "--egress",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="destination that the enclave may reach",
    )
    add("--egress-config", type=Path, help="allowlist in the YAML of AWS's vsock-proxy")
    add("--credentials-file", type=Path, help="AWS credentials as JSON (default: AWS_* variables)")
    add("--debug", action="store_true", help="console on; the measurements in evidence are zero")
    add("--nsm-state", type=Path, help="process backend: folder of the software NSM's keys")
    add("--sandbox", choices=("auto", "namespaces", "landlock"), default="auto", help="process backend")
    add("--unsandboxed", action="store_true", help="process backend: no sandbox; measurements are zero")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.name):
        parser.error("--name takes lower-case letters, digits, '-' and '.', at most 63")
    return options


def _environment_cid() -> int | None:
    value = os.environ.get("ENCLAVE_CID", "")
    return int(value) if value.isascii() and value.isdigit() else None


async def run(options: argparse.Namespace, log: JsonLog) -> None:
    """Supervise until SIGTERM or SIGINT, then drain and stop the enclave."""
    folder: Path = options.runtime_dir / options.name
    folder.mkdir(parents=True, exist_ok=True)
    state_file = StateFile(folder / "enclave.json", SystemClock())
    metrics = EdgeMetrics()
    restarts = Gauge("geumgo_enclave_restarts", "Deaths of the enclave so far", registry=metrics.registry)
    up = Gauge("geumgo_enclave_ready", "1 while the enclave runs and has its key", registry=metrics.registry)
    events = Counter(
        "geumgo_enclave_events", "Events that the enclave logged", ("level",), registry=metrics.registry
    )

    def report(code: str, level: str = "info", **fields: object) -> None:
        {"info": log.info, "warn": log.warning, "error": log.error}[level](
            code, enclave=options.name, **fields
        )

    def event(entry: Mapping[str, Any]) -> None:
        events.labels(entry["level"]).inc()
        report("enclave_log", entry["level"], event_code=entry["code"], fields=entry["fields"])

    def publish(state: EnclaveState) -> None:
        restarts.set(state.restarts)
        state_file.write(state)

    egress = Egress(_allowed(options))
    metrics_of(egress, metrics)
    credentials = (
        FileCredentials(options.credentials_file) if options.credentials_file else EnvironmentCredentials()
    )
    supervisor = Supervisor(
        launcher(options.backend, **_launcher_options(options)),
        EnclaveSpec(
            name=options.name,
            eif=options.eif,
            cid=options.enclave_cid,
            memory_mib=options.memory,
            cpus=options.cpus,
            debug=options.debug,
            runtime_dir=folder,
        ),
        handler=ControlHandler(egress=egress, credentials=credentials, event=event),
        publish=publish,
        report=report,
    )
    backend = OneEnclave(supervisor)
    up.set_function(lambda: 1.0 if backend.ready() is None else 0.0)
    settings = settings_from_environment(ApiSettings, "GEUMGO_API_", os.environ)
    server = HttpServer(backend, settings=settings, metrics=metrics, log=log)
    ready: dict[str, object] = {"ready": True, "name": options.name, "socket": str(folder / "enclave.sock")}
    await server.listen_unix(folder / "enclave.sock")
    if options.listen:
        place = parse_destination(options.listen)
        host, port = await server.listen_tcp(place.host, place.port)
        ready["http"] = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    supervising = asyncio.create_task(supervisor.run())
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    try:
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait((waiting, supervising), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        backend.draining = True
        await server.drain(DRAIN_SECONDS)
        supervisor.stop()
        await supervising
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
        await server.aclose()
        state_file.remove()
        log.flush()


def metrics_of(egress: Egress, metrics: EdgeMetrics) -> None:
    """Show the egress counters."""
    connections = Gauge("geumgo_egress_connections", "Open connections", registry=metrics.registry)
    connections.set_function(lambda: egress.open)
    refused = Gauge("geumgo_egress_refused", "Destinations that were refused", registry=metrics.registry)
    refused.set_function(lambda: egress.refused)
    carried = Gauge("geumgo_egress_bytes", "Bytes carried", ("direction",), registry=metrics.registry)
    carried.labels("out").set_function(lambda: egress.bytes_out)
    carried.labels("in").set_function(lambda: egress.bytes_in)


def _allowed(options: argparse.Namespace) -> frozenset[Destination]:
    allowed = frozenset(parse_destination(text) for text in options.egress)
    return allowed | load_allowlist(options.egress_config) if options.egress_config else allowed


def _launcher_options(options: argparse.Namespace) -> dict[str, object]:
    if options.backend != "process":
        return {}
    if options.nsm_state is None:
        raise GeumgoError(
            "the process backend needs --nsm-state", fix="Name a folder for its keys.", code="usage"
        )
    return {"nsm_state": options.nsm_state, "sandbox": options.sandbox, "unsandboxed": options.unsandboxed}


def main(arguments: list[str] | None = None) -> int:
    """Run the manager; exit codes: 0 stopped as asked, 1 failed with a message, 2 wrong usage."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    forbid_core_dumps()  # bodies are sealed, but nobody needs them on a disk
    log = configure_logging("manager", level=options.log_level)
    try:
        asyncio.run(run(options, log))
    except GeumgoError as error:
        log.flush()
        sys.stderr.write(error.diagnostics() + "\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
