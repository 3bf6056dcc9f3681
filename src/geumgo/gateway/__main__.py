"""`python -m geumgo.gateway`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from geumgo._base import GeumgoError, forbid_core_dumps
from geumgo.api import ApiSettings, configure_logging, settings_from_environment
from geumgo.gateway._server import ServeOptions, serve
from geumgo.gateway._settings import GatewaySettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, serve, return the exit status."""
    options, level = _parse(arguments)
    forbid_core_dumps()  # it holds requests, those to open operations in clear
    try:
        api = settings_from_environment(ApiSettings, "GEUMGO_API_", os.environ)
        settings = settings_from_environment(GatewaySettings, "GEUMGO_GATEWAY_", os.environ)
        log = configure_logging("gateway", level=level)
        try:
            import uvloop
        except ImportError:
            return asyncio.run(serve(options, api, settings, log))
        return uvloop.run(serve(options, api, settings, log))
    except GeumgoError as error:
        print(error.diagnostics(), file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> tuple[ServeOptions, str]:
    parser = argparse.ArgumentParser(
        prog="geumgo gateway",
        description="Serve the enclave API for all enclaves whose managers write into a folder.",
        epilog="Limits and times are set in the environment, as GEUMGO_API_* and GEUMGO_GATEWAY_*.",
    )
    parser.add_argument("--runtime-dir", type=Path, required=True, help="folder of <name>/enclave.json")
    parser.add_argument("--http", type=_endpoint, metavar="HOST:PORT", help="HTTP on this address")
    parser.add_argument("--grpc", type=_endpoint, metavar="HOST:PORT", help="gRPC on this address")
    parser.add_argument("--unix", type=Path, metavar="PATH", help="HTTP on this Unix socket")
    parser.add_argument(
        "--enclave", action="append", default=[], metavar="NAME", help="only these (repeatable)"
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        type=_weight,
        metavar="NAME=W",
        help="share of calls (default 1)",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    given = parser.parse_args(arguments)
    if given.http is None and given.grpc is None and given.unix is None:
        parser.error("give at least one of --http, --grpc and --unix")
    options = ServeOptions(
        runtime_dir=given.runtime_dir,
        http=given.http,
        grpc=given.grpc,
        unix=given.unix,
        only=tuple(given.enclave),
        weights=dict(given.weight),
    )
    return options, given.log_level


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def _weight(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not name or not 0 < weight < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=W with W over 0")
    return name, weight


if __name__ == "__main__":
    raise SystemExit(main())
