"""The gateway's process: edges, signals, drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geumgo.api import ApiSettings, ByteBudget, EdgeMetrics, HttpServer, JsonLog
from geumgo.api.grpc_edge import GrpcServer
from geumgo.gateway._gateway import Gateway
from geumgo.gateway._settings import GatewaySettings

__all__ = ("ServeOptions", "serve")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where a gateway listens and which enclaves are its own."""

    runtime_dir: Path
    http: tuple[str, int] | None
    grpc: tuple[str, int] | None
    unix: Path | None
    only: tuple[str, ...]
    weights: Mapping[str, float]


async def serve(options: ServeOptions, api: ApiSettings, settings: GatewaySettings, log: JsonLog) -> int:
    """Serve until SIGTERM or SIGINT, then drain; return the exit status.

    A second signal ends the delay before the drain. Prints one JSON line to stdout once all edges listen.

    Raises:
        ListenError: an address can't be bound.
    """
    stop = [asyncio.Event(), asyncio.Event()]
    _on_signals(stop)
    metrics = EdgeMetrics()
    budget = ByteBudget(api.max_bytes)
    gateway = Gateway(
        options.runtime_dir,
        only=options.only,
        weights=options.weights,
        settings=settings,
        metrics=metrics,
        log=log,
    )
    async with gateway:
        http = HttpServer(gateway, settings=api, metrics=metrics, log=log, budget=budget)
        grpc = None
        ready: dict[str, object] = {"event": "listening", "server": "gateway", "pid": os.getpid()}
        try:
            if options.http is not None:
                ready["http"] = _address(*await http.listen_tcp(*options.http))
            if options.unix is not None:
                await http.listen_unix(options.unix)
                ready["unix"] = str(options.unix)
            if options.grpc is not None:
                grpc = GrpcServer(gateway, settings=api, metrics=metrics, log=log, budget=budget)
                ready["grpc"] = _address(*await grpc.listen_tcp(*options.grpc))
            print(json.dumps(ready), flush=True)
            log.info(
                "listening", **{key: value for key, value in ready.items() if key not in ("event", "server")}
            )
            await stop[0].wait()
            gateway.draining = True
            http.begin_drain()
            if grpc is not None:
                await grpc.begin_drain()
            log.info("draining", delay=settings.drain_delay, timeout=settings.drain_timeout)
            await _either(stop[1], settings.drain_delay)
            drains = [http.drain(settings.drain_timeout)]
            if grpc is not None:
                drains.append(grpc.drain(settings.drain_timeout))
            answered = all(await asyncio.gather(*drains))
            (log.info if answered else log.warning)("stopped", all_answered=answered)
        finally:
            await http.aclose()
            if grpc is not None:
                await grpc.aclose()
            log.flush()
    return 0


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _on_signals(stop: list[asyncio.Event]) -> None:
    def signalled() -> None:
        stop[1 if stop[0].is_set() else 0].set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
